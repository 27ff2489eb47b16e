"""Token rows, the order they are visited in, and padded arrays.

    sources.read -> examples -> encode -> Dataset
    order(step) -> rows of the data set -> pad_prompts, gold_rows -> arrays

There is no iterator: which prompts a step sees is a pure function of the step, so the
position to checkpoint is the step itself.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jopd.data import chat
from jopd.data.sources import Example
from jopd.types import GOLD, Rollout

# Tokenizers of these families never add BOS by themselves once converted, while the
# models were trained with it.
BOS_FAMILIES = ("llama", "gemma")
CHAT_TEMPLATE = ("auto", "always", "never", "plain")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Token rows; every list has one entry per prompt.

    Attributes:
      prompts: i32[P] each, at least one token.
      solutions: i32[R] each, with their end where `finished`; None where there is none.
      finished: False where the solution was cut to the response limit, or dropped.
      answers: what verifiers compare with, or None.
      texts: the prompt as text, chat template applied, for samples and logs.
      ids: the rows' identifiers.
      dropped: how many rows lost what: ``prompt`` (whole row left out because the
        prompt was too long), ``solution`` (too long; the row stays as a prompt).
      fields: further columns of each row as text, see `sources.read`.
      unread: columns of the source that nothing is made of.
      notes: what was left out of some rows, each said once.
      dated: the chat template printed a day.
      turn_end: the token by which the chat template ends a turn; None without one.
    """

    prompts: list[np.ndarray]
    solutions: list[np.ndarray | None]
    finished: list[bool]
    answers: list[str | None]
    texts: list[str]
    ids: list[str]
    dropped: dict[str, int]
    fields: list[dict[str, str | None]] = dataclasses.field(default_factory=list)
    unread: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    dated: bool = False
    turn_end: int | None = None

    def __len__(self) -> int:
        return len(self.prompts)


def encode(
    examples: Sequence[Example],
    tokenizer,
    *,
    max_prompt_tokens: int,
    max_response_tokens: int,
    chat_template: str = "auto",
    template_kwargs: dict[str, Any] | None = None,
    system: str | None = None,
    add_bos: str = "auto",
    on_long_prompt: str = "error",
    on_long_solution: str = "drop",
    prefix_tokens: int = 0,
    date: str = "",
    ignored_keys: Sequence[str] = (),
) -> Dataset:
    """Tokenises prompts and gold solutions.

    Args:
      examples, tokenizer: what `read` returned; one of transformers.
      max_prompt_tokens, max_response_tokens: limits, EOS counts.
      chat_template: ``auto`` (if the tokenizer has one; without, several turns are an
        error), ``always`` (an error if it has none), ``never`` (the contents of the
        turns, a blank line between them), ``plain`` (each under its role's name).
      template_kwargs: for the template, such as ``{"enable_thinking": False}``.
      system: system turn put first, before rows that have none.
      add_bos: ``always``, ``never`` or ``auto``; never twice. With a chat template
        auto leaves BOS to the template. Without one it keeps what the tokenizer adds
        by itself, and adds BOS where the tokenizer's configuration has
        ``add_bos_token`` true, or leaves it open for a Llama or Gemma tokenizer:
        those models were trained with BOS.
      on_long_prompt: ``error``, ``drop`` (the row) or ``truncate_left``: BOS stays, and
        of what a template lays out the turns that `chat.shorten` keeps.
      on_long_solution: ``drop`` (the row stays as a prompt) or ``truncate`` (then
        without EOS and not `finished`).
      prefix_tokens: if positive, each text is a document: its first tokens, BOS not
        counted, are the prompt and the rest is the solution. No chat template.
      date: the day that a template prints, ``YYYY-MM-DD``; empty: today.
      ignored_keys: of turns, which the template may leave out.

    A solution is tokenised apart from its prompt, as a sampled response would stand,
    and ends as the chat template ends turns, else with the tokenizer's EOS.

    Raises:
      ValueError: unknown options; no rows left; a prompt too long or empty.
    """
    _check_option("chat_template", chat_template, CHAT_TEMPLATE)
    _check_option("add_bos", add_bos, ("auto", "always", "never"))
    _check_option("on_long_prompt", on_long_prompt, ("error", "drop", "truncate_left"))
    _check_option("on_long_solution", on_long_solution, ("drop", "truncate"))
    layout = chat.Layout(
        tokenizer=tokenizer,
        form=chat.form_of(tokenizer, chat_template, prefix_tokens),
        kwargs=dict(template_kwargs or {}),
        system=system,
        date=date,
        ignored=tuple(ignored_keys),
    )
    cut = on_long_prompt == "truncate_left" and not prefix_tokens
    limit = max_prompt_tokens if cut else None
    texts, prompts, replies = _laid_out(layout, examples, add_bos, limit)
    turn_end = chat.turn_end(layout)
    eos = _eos_id(tokenizer) if turn_end is None else turn_end
    usual = {eos, tokenizer.eos_token_id} - {None}
    if prefix_tokens:
        texts, prompts, golds = _documents(prompts, prefix_tokens, tokenizer)
    else:
        golds = _solution_ids(replies, tokenizer, usual)
    golds = _ended(golds, examples, usual, eos, set(tokenizer.added_tokens_decoder))
    columns = zip(examples, texts, prompts, golds, strict=True)
    limits = (max_prompt_tokens, max_response_tokens, on_long_prompt, on_long_solution)
    if on_long_prompt == "error":
        _check_lengths(examples, prompts, max_prompt_tokens)
    return dataclasses.replace(
        _collect(columns, tokenizer, *limits),
        unread=list(dict.fromkeys(name for one in examples for name in one.unread)),
        notes=layout.notes(),
        dated=layout.prints_date(),
        turn_end=turn_end,
    )


def _laid_out(layout: chat.Layout, examples, add_bos: str, limit: int | None):
    """(texts, ids, replies); a conversation above ``limit`` is cut to it."""
    templated = layout.form == "template"
    template = str(layout.tokenizer.chat_template) if templated else ""
    chat.check_kwargs(layout.kwargs, template, "template_kwargs")
    names = [f"row {row} ({one.id!r})" for row, one in enumerate(examples)]
    pairs = [chat.lay_out(layout, *one) for one in zip(examples, names, strict=True)]
    texts, replies = (list(column) for column in zip(*pairs, strict=True))
    prompts = _prompt_ids(texts, layout.tokenizer, templated, add_bos)
    ids_of = lambda text: _prompt_ids([text], layout.tokenizer, templated, add_bos)[0]
    for row, one in enumerate(examples):
        too_long = limit is not None and len(prompts[row]) > limit
        if too_long and chat.has_turns(layout, one):
            how = (names[row], ids_of, limit)
            texts[row], prompts[row] = _shortened(layout, one, *how)
    return texts, prompts, replies


def _documents(rows: list[list[int]], prefix_tokens: int, tokenizer):
    """(texts, ids, the rest): the first tokens of each, BOS not counted."""
    cuts = [prefix_tokens + _leading_bos(ids, tokenizer) for ids in rows]
    rest = [ids[cut:] or None for ids, cut in zip(rows, cuts, strict=True)]
    rows = [ids[:cut] for ids, cut in zip(rows, cuts, strict=True)]
    return tokenizer.batch_decode(rows, skip_special_tokens=True), rows, rest


def _ended(golds, examples, usual: set[int], eos: int, added: set[int]) -> list:
    """Each solution with its end.

    One that ends in it already, as chats written out do, needs no second, and a reply
    laid out by the template ends, in an added token, as the template ends turns.
    """
    closed = [usual | (added if one.reply else set()) for one in examples]
    whole = lambda gold, ends: gold if ends & {*gold[-1:]} else [*gold, eos]
    return [
        None if gold is None else whole(gold, ends)
        for gold, ends in zip(golds, closed, strict=True)
    ]


def _check_option(name: str, value: Any, known: tuple) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; use one of {known}")


def _shortened(layout, example, where, ids_of, limit: int) -> tuple[str, list[int]]:
    """Text and ids of a conversation that is too long, cut by `chat.shorten`."""

    def made(one):
        text, _ = chat.lay_out(layout, one, where)
        return text, ids_of(text)

    layout.left_out.add("cut")
    fits = lambda one: len(made(one)[1]) <= limit
    return made(chat.shorten(example, fits, where))


def _prompt_ids(texts, tokenizer, templated: bool, add_bos) -> list[list[int]]:
    rows = _tokenise(tokenizer, texts, add_special_tokens=not templated)
    # Some tokenizers end every text with EOS, but here a response follows the prompt.
    # Asked of an empty text: one of the data may end in the token's own characters.
    if not templated and tokenizer("")["input_ids"][-1:] == [tokenizer.eos_token_id]:
        rows = [row[:-1] for row in rows]
    bos = tokenizer.bos_token_id
    if add_bos == "always" and bos is None:
        raise ValueError("add_bos='always', but the tokenizer has no BOS; use 'auto'")
    if add_bos == "never":
        return [row[_leading_bos(row, tokenizer) :] for row in rows]
    if add_bos == "always" or (not templated and _wants_bos(tokenizer)):
        return [row if row[:1] == [bos] else [bos, *row] for row in rows]
    return rows


def _tokenise(tokenizer, texts: list[str], **options) -> list[list[int]]:
    """Token rows; a text with characters that a tokenizer lacks is named."""
    options["verbose"] = False  # texts longer than a model are cut here, not there
    try:
        return tokenizer(texts, **options)["input_ids"]
    except Exception as error:  # the class that tokenizers raises
        for row, text in enumerate(texts):
            try:
                tokenizer(text, **options)
            except Exception:
                raise ValueError(
                    f"row {row}: {text!r:.80} cannot be tokenised ({error}); take "
                    f"texts in the tokenizer's characters, or another tokenizer"
                ) from error
        raise


def _wants_bos(tokenizer) -> bool:
    configured = tokenizer.init_kwargs.get("add_bos_token")
    family = type(tokenizer).__name__.lower()
    return tokenizer.bos_token_id is not None and (
        configured is True
        or (configured is None and any(name in family for name in BOS_FAMILIES))
    )


def _leading_bos(ids: list[int], tokenizer) -> int:
    """1 if the row begins with BOS, else 0."""
    bos = tokenizer.bos_token_id
    return int(bos is not None and ids[:1] == [bos])


def _eos_id(tokenizer) -> int:
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no EOS; set its eos_token")
    return tokenizer.eos_token_id


def _solution_ids(texts, tokenizer, ends: set[int]) -> list[list[int] | None]:
    """Without the white space that templates and people write behind an end."""
    names = tuple(tokenizer.convert_ids_to_tokens(sorted(ends)))
    bare = [(text or "").rstrip() for text in texts]
    whole = [b if b.endswith(names) else t or "" for b, t in zip(bare, texts)]
    rows = _tokenise(tokenizer, whole, add_special_tokens=False)
    return [
        None if text is None else row for text, row in zip(texts, rows, strict=True)
    ]


def _check_lengths(examples, prompts, limit: int) -> None:
    """One error for all prompts that are too long, with the limit that suits them."""
    lengths = [len(prompt) for prompt in prompts]
    long = [row for row, length in enumerate(lengths) if length > limit]
    if long:
        raise ValueError(
            f"{len(long):,} of {len(lengths):,} prompts have more than "
            f"max_prompt_tokens={limit} tokens, the first of them row {long[0]} "
            f"({examples[long[0]].id!r}), the longest {max(lengths)}; set "
            f"max_prompt_tokens to {max(lengths)} (0: chosen from the data), or "
            f"on_long_prompt to 'drop' or 'truncate_left'"
        )


def _collect(columns, tokenizer, max_prompt, max_response, on_long_prompt, long_gold):
    """Applies the limits and gathers the columns of a `Dataset`."""
    data = Dataset([], [], [], [], [], [], {"prompt": 0, "solution": 0})
    for row, (example, text, prompt, gold) in enumerate(columns):
        if not prompt:
            raise ValueError(f"row {row} ({example.id!r}): the prompt has no tokens")
        if len(prompt) > max_prompt:
            data.dropped["prompt"] += on_long_prompt == "drop"
            if on_long_prompt == "drop":
                continue
            kept = prompt[: _leading_bos(prompt, tokenizer)]
            prompt = kept + prompt[len(prompt) - max_prompt + len(kept) :]
        fits = gold is None or len(gold) <= max_response
        if not fits:
            data.dropped["solution"] += long_gold == "drop"
            gold = gold[:max_response] if long_gold == "truncate" else None
        data.prompts.append(np.asarray(prompt, np.int32))
        data.solutions.append(None if gold is None else np.asarray(gold, np.int32))
        data.finished.append(fits)
        data.answers.append(example.answer)
        data.texts.append(text)
        data.ids.append(example.id)
        data.fields.append(example.fields)
    if not data.prompts:
        raise ValueError(
            f"the data set is empty: {data.dropped['prompt']} prompts were longer than "
            f"max_prompt_tokens={max_prompt}; raise it or add data"
        )
    return data


def order(step: int, *, prompts_per_step: int, size: int, seed: int) -> np.ndarray:
    """Rows of the data set that one step visits: i64[prompts_per_step].

    The rows of all steps in a row are one stream of epochs, each a permutation of its
    own, so no row repeats within an epoch and an epoch may end in mid-step. A pure
    function of its arguments.
    """
    if step < 0 or size < 1 or prompts_per_step < 1:
        raise ValueError(
            f"step={step}, size={size}, prompts_per_step={prompts_per_step}: the step "
            f"must be at least 0, the others at least 1"
        )
    first = step * prompts_per_step
    epochs, rows = np.divmod(np.arange(first, first + prompts_per_step), size)
    visited = np.empty(prompts_per_step, np.int64)
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        visited[inside] = _permutation(size, seed, int(epoch))[rows[inside]]
    return visited


@functools.lru_cache(maxsize=3)  # streams of a run
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


def pad_prompts(
    prompts: Sequence[np.ndarray], *, buckets: Sequence[int], pad_id: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pads on the right to the smallest bucket that holds the longest prompt.

    Returns:
      i32[B, P] tokens and i32[B] lengths. Few buckets mean few compilations.
    """
    lengths = np.asarray([len(prompt) for prompt in prompts], np.int32)
    longest = int(lengths.max())
    fitting = [bucket for bucket in buckets if bucket >= longest]
    if not fitting:
        raise ValueError(
            f"a prompt of {longest} tokens exceeds the largest bucket of "
            f"{max(buckets)}; add a bucket or lower max_prompt_tokens"
        )
    return _pad(prompts, min(fitting), pad_id), lengths


def _pad(rows: Sequence[np.ndarray], width: int, pad_id: int) -> np.ndarray:
    padded = np.full((len(rows), width), pad_id, np.int32)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def gold_rows(
    dataset: Dataset, rows: Sequence[int], *, width: int, pad_id: int = 0
) -> Rollout:
    """Gold solutions in the form of sampled ones, in numpy.

    Source is GOLD, `behavior_logp_BT` 0 (nothing was drawn), age 0; the group of each
    is its row of the data set.

    Raises:
      ValueError: a row has no solution, or prompt and solution exceed `width`.
    """
    pairs = [(dataset.prompts[row], dataset.solutions[row]) for row in rows]
    for row, (prompt, solution) in zip(rows, pairs, strict=True):
        if solution is None:
            raise ValueError(
                f"row {row} ({dataset.ids[row]!r}) has no gold solution; choose among "
                f"rows that have one or raise max_response_tokens"
            )
        if len(prompt) + len(solution) > width:
            raise ValueError(
                f"row {row} ({dataset.ids[row]!r}): {len(prompt)} prompt and "
                f"{len(solution)} solution tokens exceed width={width}; raise it"
            )
    joined = [np.concatenate(pair) for pair in pairs]
    shape = (len(pairs), width)
    return Rollout(
        tokens_BT=_pad(joined, width, pad_id),
        prompt_length_B=np.asarray([len(prompt) for prompt, _ in pairs], np.int32),
        length_B=np.asarray([len(row) for row in joined], np.int32),
        finished_B=np.asarray([dataset.finished[row] for row in rows], bool),
        behavior_logp_BT=np.zeros(shape, np.float32),
        source_BT=np.full(shape, GOLD, np.int32),
        group_B=np.asarray(rows, np.int32),
        age_B=np.zeros(len(pairs), np.int32),
    )
