"""From a config to tokenizers, prompts and buckets, each checked on the way in."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import transformers

from jopd.batches import collect
from jopd.data import dataset, rewards, sources, vocabulary
from jopd.data.dataset import Dataset
from jopd.teachers import peers, remote, roles

ASSETS = Path(__file__).parents[1] / "assets"
DEMO = "demo:"


def model_path(path: str) -> str:
    """``demo:student`` and ``demo:teacher`` are the bundled pair; else ``path``."""
    if path.startswith(DEMO):
        return str(ASSETS / path.removeprefix(DEMO))
    return os.path.expanduser(path)


def load_tokenizer(path: str):
    """The tokenizer beside a model.

    Raises:
      ValueError: there is none; names the directory.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(" :")
        raise ValueError(
            f"no tokenizer can be loaded from {path!r}: {reason}; put tokenizer.json "
            "and tokenizer_config.json beside the weights"
        ) from error


def has_tokenizer(path: str) -> bool:
    """Whether a local model directory carries its own tokenizer."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    return not os.path.isdir(path) or any(Path(path, n).exists() for n in names)


def read_examples(config) -> tuple[list[sources.Example], list[sources.Example]]:
    """Training rows and held-out rows."""
    c = config.data
    read = functools.partial(
        sources.read,
        prompt_column=c.prompt_column,
        answer_column=c.answer_column,
        solution_column=c.solution_column,
        answer_after=c.answer_after,
        fields=tuple(c.fields),
        separator=c.separator,
        seed=config.seed,
        levels=tuple(c.levels),
    )
    if c.path.startswith("task:"):
        train = read(c.path, split="train", count=c.size or 20_000)
        held = read(c.eval_path or c.path, split="validation", count=c.eval_rows)
    elif c.eval_path:
        train = read(c.path, split=c.split, limit=c.size or None)
        held = read(c.eval_path, split=c.split, limit=c.eval_rows)
    else:
        rows = read(c.path, split=c.split, limit=c.size or None)
        keep = max(len(rows) - c.eval_rows, len(rows) // 2)
        train, held = rows[:keep], rows[keep:]
        if not train or not held:
            raise ValueError(
                f"{c.path} has {len(rows)} rows: too few to hold any out for "
                "evaluation; give data.eval_path"
            )
    return train, held


def encode(config, tokenizer, examples, template_kwargs, *, limit: int) -> Dataset:
    """Rows tokenised under one role's template, prompts of at most ``limit`` tokens."""
    c = config.data
    document = c.path.removesuffix(".gz").endswith(".txt")
    long_solution = c.on_long_solution
    if long_solution == "auto":
        long_solution = "truncate" if document else "drop"
    return dataset.encode(
        examples,
        tokenizer=tokenizer,
        max_prompt_tokens=limit,
        max_response_tokens=config.rollout.max_new_tokens,
        chat_template=c.chat_template,
        template_kwargs=template_kwargs.to_dict(),
        system=c.system or None,
        add_bos=c.add_bos,
        on_long_prompt=c.on_long_prompt,
        on_long_solution=long_solution,
        prefix_tokens=c.prefix_tokens if document else 0,
    )


def student_data(config, tokenizer, examples) -> tuple[Dataset, Dataset]:
    """Training and held-out rows as the student reads them."""
    c = config.data
    train, held = (
        encode(
            config,
            tokenizer,
            part,
            c.student_template_kwargs,
            limit=c.max_prompt_tokens,
        )
        for part in examples
    )
    return train, held


def untemplated(config, tokenizer, like: Dataset) -> list[str]:
    """The prompts of ``like`` as plain text, for a server that has its own template."""
    plain = config.copy_and_resolve_references()
    with plain.unlocked():
        plain.data.chat_template = "never"
        plain.data.student_template_kwargs = {}
    raw, _ = student_data(plain, tokenizer, read_examples(plain))
    texts = dict(zip(raw.ids, raw.texts))
    return [texts[name] for name in like.ids]


def connect(config) -> remote.Client:
    """The text-only teacher of ``config.remote``, asked whether it is there.

    Raises:
      ConnectionError, ValueError: it is not, or not as the config says.
    """
    c = config.remote
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return remote.connect(
        c.url,
        c.model,
        api=c.api,
        key_env=c.key_env,
        concurrency=c.concurrency,
        timeout_seconds=c.timeout_seconds,
        retries=c.retries,
        per_request=c.per_request,
        cache_dir=c.cache_dir or os.path.join(base, "jopd", "remote"),
    )


def own_prompts(
    config, tokenizer, known: dict[str, roles.Teacher], examples, student: tuple
) -> dict[str, tuple[Dataset, Dataset]]:
    """Training and held-out rows of the teachers that read other prompts.

    Raises:
      ValueError: a context lacks its field, or the length limit kept other rows than
        it did for the student.
    """
    c = config.data
    kwargs = c.teacher_template_kwargs or c.student_template_kwargs
    longest = (
        c.max_context_tokens or c.max_prompt_tokens + config.rollout.max_new_tokens
    )
    found = {}
    for name, teacher in known.items():
        if roles.reads_peer(teacher):
            continue  # other prompts in every batch, see ``peer_prompts``
        if not teacher.context and (
            name == "reference" or kwargs == c.student_template_kwargs
        ):
            continue
        limit = longest if teacher.context else c.max_prompt_tokens
        parts = []
        for rows, ours in zip(examples, student, strict=True):
            if teacher.context:
                rows = roles.in_context(name, teacher.context, rows)
            theirs = encode(config, tokenizer, rows, kwargs, limit=limit)
            _check_same_rows(name, limit, c, ours, theirs)
            parts.append(theirs)
        found[name] = tuple(parts)
    return found


class PeerPrompts(NamedTuple):
    """What ``peers.make_annotate`` needs of a config and its data.

    Attributes:
      contexts: teacher name -> template.
      examples: training rows, in the order of the data set.
      encode: examples -> prompt tokens, as those teachers read them.
      widths: padded prompt lengths, ascending.
    """

    contexts: dict[str, str]
    examples: list[sources.Example]
    encode: Callable[[list[sources.Example]], list]
    widths: tuple[int, ...]


def peer_prompts(
    config, tokenizer, known: dict[str, roles.Teacher], examples, train: Dataset
) -> PeerPrompts | None:
    """For the teachers whose context has ``{peer}``; None if there are none.

    Raises:
      ValueError: a row lacks another field of a context.
    """
    contexts = {
        name: teacher.context
        for name, teacher in known.items()
        if roles.reads_peer(teacher)
    }
    if not contexts:
        return None
    c = config.data
    rows = peers.aligned(examples, train.ids)
    for name, context in contexts.items():
        roles.in_context(name, context, rows)
    kwargs = c.teacher_template_kwargs or c.student_template_kwargs

    def encode_prompts(rows):
        # Only the prompt is wanted, of any length: who asks counts what is too long.
        rows = [row._replace(solution=None) for row in rows]
        return encode(config, tokenizer, rows, kwargs, limit=sys.maxsize).prompts

    longest = (
        c.max_context_tokens or c.max_prompt_tokens + config.rollout.max_new_tokens
    )
    longest = max(longest, *(len(prompt) for prompt in train.prompts))
    return PeerPrompts(contexts, rows, encode_prompts, auto_buckets(longest, 8))


def _check_same_rows(name: str, limit: int, c, ours, theirs) -> None:
    if ours.ids != theirs.ids:
        key = (
            "max_prompt_tokens"
            if limit == c.max_prompt_tokens
            else "max_context_tokens"
        )
        raise ValueError(
            f"data.on_long_prompt={c.on_long_prompt!r} keeps {len(ours)} rows as the "
            f"student reads them and {len(theirs)} as {name!r} does, whose prompts may "
            f"have {limit} tokens; raise data.{key}"
        )


def auto_buckets(longest: int, step: int) -> tuple[int, ...]:
    """Half of the longest and the longest, rounded up: few shapes, little padding."""
    full = -(-longest // step) * step
    half = -(-full // (2 * step)) * step
    return (half, full) if full > 4 * step else (full,)


def pick_prompt_buckets(config, longest: int) -> tuple[int, ...]:
    """The padded prompt lengths of a config, ascending, or ones that fit the data."""
    asked = tuple(sorted(config.rollout.prompt_buckets))
    if asked and asked[-1] < longest:
        raise ValueError(
            f"rollout.prompt_buckets={asked}: a prompt has {longest} tokens; add a "
            f"bucket of at least {longest} or lower data.max_prompt_tokens"
        )
    return asked or auto_buckets(longest, 8)


def pick_verifier(config, *datasets: Dataset):
    """The verifier of a config; "auto" follows the data, None without answers.

    Raises:
      ValueError: a row lacks an answer; every row is verified, in training too.
    """
    name = config.eval.verifier
    answers = [answer for dataset in datasets for answer in dataset.answers]
    lacking = sum(answer is None for answer in answers)
    if name == "none" or (name == "auto" and lacking == len(answers)):
        return None
    if lacking:
        column = config.data.answer_column or "answer"
        raise ValueError(
            f"eval.verifier={name!r} needs answers, and column {column!r} of "
            f"{config.data.path} gives none in {lacking:,} of {len(answers):,} rows; "
            f"name the column in data.answer_column or set eval.verifier='none'"
        )
    if name == "auto":
        name = "arithmetic" if config.data.path.startswith("task:") else "math"
    return rewards.resolve(name)


def check_gold(config, mix: collect.Mix, train: Dataset) -> None:
    needed = mix.gold or mix.on_policy_probability < 1
    if needed and not any(solution is not None for solution in train.solutions):
        raise ValueError(
            f"the mix asks for gold rows, but no row of {config.data.path} has a "
            f"solution in column {config.data.solution_column or 'solution'!r} of at "
            f"most rollout.max_new_tokens={config.rollout.max_new_tokens} tokens; "
            "name the column in data.solution_column, raise the limit, or set "
            "mix.gold=0"
        )


def stop_ids(config, tokenizer) -> tuple[int, ...]:
    """End of sequence and the config's own stop ids; none with ``ignore_eos``."""
    if config.rollout.ignore_eos:
        return tuple(config.rollout.stop_ids)
    eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return tuple(sorted({*eos, *config.rollout.stop_ids}))


def check_tokenizers(tokenizer, paths: dict[str, str]) -> list[str]:
    """Every other model's tokenizer against the student's; returns warnings."""
    notes = []
    for name, path in paths.items():
        if name != "student" and path != paths["student"] and has_tokenizer(path):
            notes += vocabulary.compare_tokenizers(tokenizer, load_tokenizer(path))
    return notes


def shared_vocabulary(shapes, tokenizer) -> tuple[int, list[str]]:
    """Columns of logits kept in every model, and a note where that cuts one."""
    widths = {name: shape.vocab_size for name, shape in shapes.items()}
    shared = vocabulary.shared_vocab(widths["student"], min(widths.values()), tokenizer)
    cut = [f"{name} {width:,}" for name, width in widths.items() if width != shared]
    if not cut:
        return shared, []
    return shared, [f"heads cut to the {shared:,} shared columns ({', '.join(cut)})"]


def check_positions(
    shapes,
    total: int,
    own: dict,
    max_new_tokens: int,
    shown: PeerPrompts | None = None,
) -> None:
    """Every model must have a position for every token that it may read."""
    for name, shape in shapes.items():
        needed = total
        if name in own:
            longest = max(len(p) for part in own[name] for p in part.prompts)
            needed = longest + max_new_tokens
        if shown is not None and name in shown.contexts:
            needed = shown.widths[-1] + max_new_tokens
        if needed > shape.max_positions:
            raise ValueError(
                f"prompt and response together take up to {needed} positions, the "
                f"{name} has {shape.max_positions}; lower rollout.max_new_tokens or "
                "data.max_prompt_tokens (of a teacher that reads more: "
                "data.max_context_tokens)"
            )
