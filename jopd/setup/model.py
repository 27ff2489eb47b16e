"""A model on its own: ``jopd.load(path)`` for logits, texts and parameters."""

import collections
import dataclasses
import functools
import sys
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopd.batches import asking
from jopd.data import decoding, sources
from jopd.data.dataset import Dataset, encode
from jopd.losses.heads import logits_of
from jopd.models import apart, decoder, hf
from jopd.models.decoder import DecoderConfig
from jopd.rollouts import strings
from jopd.rollouts.generate import advance, begin, join
from jopd.rollouts.records import Loop, Policy, Request
from jopd.rollouts.sampling import Filter
from jopd.setup import inputs

DTYPES = "auto", "float32", "bfloat16"
LOOK = 16  # draws after which texts are searched for a stop string
PIECE = 4  # draws after which a stream gives what was written


class Written(NamedTuple):
    """One continuation: ``ids`` as drawn, its end among them; ``text`` before a stop
    string; ``ended``: not only cut at its limit."""

    ids: list[int]
    text: str
    ended: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A language model and the tokenizer beside it; ``config`` is its shape."""

    path: str
    config: DecoderConfig
    tokenizer: Any

    @functools.cached_property
    def params(self) -> Any:
        """Parameters on the default device, read when they are first asked for."""
        _, params = hf.load(self.path, dtype=self.config.dtype)
        return jax.device_put(params)

    @functools.cached_property
    def _written_with(self) -> Any:
        """Parameters as ``_asked``'s policy reads them."""
        if apart.faster(self.config):
            return apart.parameters(self.params)
        return self.params

    def logits(self, ids) -> jax.Array:
        """f32[B, T, V] of token ids i32[B, T]; row t predicts token t + 1.

        All at once, for looking at: training never holds such an array. Rows are whole,
        without padding; another length compiles anew.

        Raises:
          ValueError: not rows of whole numbers, one that is no id of the model, or more
            than its positions.
        """
        ids = np.asarray(ids)
        if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
            raise ValueError(
                f"ids are {ids.dtype}{list(ids.shape)}; give whole numbers [rows, "
                "tokens], such as tokenizer([text])['input_ids'], rows of one length"
            )
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise ValueError(
                f"ids lie in {ids.min()} to {ids.max()}, those of {self.path} in 0 to "
                f"{self.config.vocab_size - 1}; use its tokenizer"
            )
        self._check_positions(ids.shape[1], 0)
        return _logits(decoder.Decoder(self.config), self.params, jnp.asarray(ids))

    def generate(
        self,
        texts: Sequence[str | list[dict]],
        *,
        samples: int = 1,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        chat: str = "auto",
        stop_strings: Sequence[str] = (),
    ) -> list[list[str]]:
        """``samples`` continuations of every text, one list for each.

        Args:
          texts: each a text, or a conversation, ``[{"role", "content"}, ...]``.
          temperature: 0 is greedy. ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 cut nothing.
          seed: of the random stream; rows have their own, whatever stands beside them.
          chat: "auto" uses the tokenizer's chat template where it has one; "always" or
            "never".
          stop_strings: texts end before the first of them, too; nothing is drawn on
            once all have.

        Raises:
          ValueError: one string in place of a list, one that cannot end a text, a text
            that cannot be tokenised, a conversation whose last turn is the assistant's
            or that its template refuses, or text and continuation exceed the positions.
        """
        if isinstance(texts, str):
            raise ValueError(f"texts={texts!r} is one string; give a list of them")
        self._check_ends(stop_strings)
        if not len(texts):
            return []
        filters = Filter(temperature, top_k, top_p, min_p)
        given = dict(seed=seed, ends=stop_strings, copies=samples)
        room = dict(limit=max_new_tokens, slots=max_new_tokens)
        found = self._written(self._encoded(texts, chat), filters, **given, **room)
        return [[one.text for one in row] for row in found]

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        samples: int = 1,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        stop_strings: Sequence[str] = (),
    ) -> list[list["Written"]]:
        """``generate`` from token ids, with the ids that were drawn.

        Arguments and errors are its; a prompt is read as it is, without a template.
        """
        self._check_ends(stop_strings)
        if not len(prompts):
            return []
        filters = Filter(temperature, top_k, top_p, min_p)
        given = dict(seed=seed, ends=stop_strings, copies=samples)
        # Many limits are asked of a server, and slots are what programs know.
        slots = 1 << max(max_new_tokens - 1, 15).bit_length()
        room = dict(limit=max_new_tokens, slots=slots)
        return self._written(self._given(prompts), filters, **given, **room)

    def _written(
        self, dataset: Dataset, filters: Filter, *, seed, ends, copies, limit, slots
    ) -> list[list["Written"]]:
        """``copies`` continuations of every prompt of a data set."""
        asked, policy = self._asked(dataset, filters, limit=limit, copies=copies)
        every = LOOK if ends else slots
        room = dict(max_new_tokens=slots, slots=slots, copies=copies)
        request = (self._written_with, asked, jax.random.key(seed), policy)
        looks = _looks(*request, self._ends(ends), every, **room)
        [loop] = collections.deque(looks, maxlen=1)
        rollout = jax.device_get(_join(asked, loop))
        whole = asking.responses(self.tokenizer, rollout)
        texts = [decoding.before_end(text, ends) for text in whole]
        starts, stops = rollout.prompt_length_B, rollout.length_B
        found = [
            Written(row[start:stop].tolist(), text, bool(ended) or text != uncut)
            for row, start, stop, text, ended, uncut in zip(
                rollout.tokens_BT, starts, stops, texts, rollout.finished_B, whole
            )
        ]
        prompts = [row[:start] for row, start in zip(rollout.tokens_BT, starts)]
        found = [
            self._without_rest(prompt, one, ends) if one.text != uncut else one
            for prompt, one, uncut in zip(prompts, found, whole, strict=True)
        ]
        return [found[i : i + copies] for i in range(0, len(found), copies)]

    def _without_rest(self, prompt, one: "Written", ends) -> "Written":
        """Without the tokens behind the one with which a stop string was whole."""
        for count in range(1, len(one.ids) + 1):
            text = decoding.text_of(self.tokenizer, prompt, one.ids[:count])
            if decoding.before_end(text, ends) != text:
                return one._replace(ids=one.ids[:count])
        return one

    def stream(
        self,
        text: str | list[dict],
        *,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        chat: str = "auto",
        stop_strings: Sequence[str] = (),
    ) -> Generator[str, None, bool]:
        """The text that ``generate([text])`` gives, in pieces as they are written.

        Arguments and errors are those of ``generate``; the latter come with the first
        piece. A piece is never half a character.

        Returns:
          Whether the text came to its end, not only to its limit (the value of
          ``yield from``).
        """
        self._check_ends(stop_strings)
        filters = Filter(temperature, top_k, top_p, min_p)
        dataset = self._encoded([text], chat)
        asked, policy = self._asked(dataset, filters, limit=max_new_tokens)
        room = dict(max_new_tokens=max_new_tokens, slots=max_new_tokens, copies=1)
        request = (self._written_with, asked, jax.random.key(seed), policy)
        prompt, shown = asked.tokens_BP[0, : asked.length_B[0]], 0
        for loop in _looks(*request, self._ends(stop_strings), PIECE, **room):
            drawn = np.asarray(loop.tokens_BL)[0, : int(loop.count_B[0])]
            whole = decoding.text_of(self.tokenizer, prompt, drawn)
            found = decoding.before_end(whole, stop_strings)
            ended = bool(loop.finished_B[0]) or found != whole
            if not ended and not loop.done_B[0]:
                found = decoding.settled(found, stop_strings)
            if len(found) > shown:
                yield found[shown:]
                shown = len(found)
        return ended

    def tokens(self, text: str | list[dict], *, chat: str = "auto") -> list[int]:
        """Ids of a text or a conversation as ``generate`` reads it; errors as there."""
        return self._encoded([text], chat).prompts[0].tolist()

    def _encoded(self, texts, chat: str) -> Dataset:
        rows = sources.examples([{"prompt": text} for text in texts])
        for one in rows:
            if one.solution is not None or one.reply is not None:
                raise ValueError(
                    "the last turn of a conversation is the assistant's, and nothing "
                    "is left to answer; end it with a turn of the user"
                )
        return encode(
            rows,
            tokenizer=self.tokenizer,
            max_prompt_tokens=sys.maxsize,  # positions are said apart
            max_response_tokens=1,
            chat_template=chat,
        )

    def _given(self, prompts) -> Dataset:
        """Prompts that are tokens already, ended as the chat template ends turns."""
        size = self.config.vocab_size
        for number, ids in enumerate(prompts):
            if not len(ids) or min(ids) < 0 or max(ids) >= size:
                shown = f"{min(ids)} to {max(ids)}" if len(ids) else "none"
                raise ValueError(
                    f"prompt {number} has ids {shown}; {self.path} reads at least one, "
                    f"of 0 to {size - 1}"
                )
        rows = [np.asarray(ids, np.int32) for ids in prompts]
        none, texts = [None] * len(rows), self.tokenizer.batch_decode(rows)
        names = [str(number) for number in range(len(rows))]
        flags = [False] * len(rows)
        return Dataset(
            rows, none, flags, none, texts, names, {}, turn_end=self._turn_end
        )

    @functools.cached_property
    def _turn_end(self) -> int | None:
        if self.tokenizer.chat_template is None:
            return None
        return self._encoded([[dict(role="user", content="?")]], "auto").turn_end

    def _asked(self, dataset: Dataset, filters: Filter, *, limit: int, copies: int = 1):
        """(request, policy) of ``copies`` continuations of every prompt."""
        longest = max(len(prompt) for prompt in dataset.prompts)
        self._check_positions(longest, limit)
        widths, rows = (
            (padded(longest, self.config.max_positions),),
            range(len(dataset)),
        )
        asked = asking.ask(dataset, rows, copies=copies, buckets=widths, limit=limit)
        known = self.tokenizer.get_vocab()
        own, turn_end = inputs.ends(self.tokenizer, [self.path]), {dataset.turn_end}
        policy = Policy(
            decoder.Decoder(self.config, apart=apart.faster(self.config)),
            stop_ids=tuple(sorted({*own, *turn_end} - {None})),
            vocabulary=min(self.config.vocab_size, max(known.values()) + 1),
            filters=filters,
        )
        return asked, policy

    def _check_ends(self, stop_strings) -> None:
        if isinstance(stop_strings, str):
            raise ValueError(f"stop_strings={stop_strings!r} is one; give a list")
        decoding.check_strings(self.tokenizer, stop_strings, "stop_strings")

    def _ends(self, stop_strings) -> strings.Ends:
        text_of = functools.partial(decoding.text_of, self.tokenizer)
        return strings.Ends(tuple(stop_strings), text_of)

    def _check_positions(self, given: int, new: int) -> None:
        room = self.config.max_positions
        if given + new > room:
            less = f"at most max_new_tokens={room - given} or " * (given < room)
            raise ValueError(
                f"a prompt of {given} tokens and max_new_tokens={new} exceed the "
                f"{room} positions of {self.path}; use {less}a shorter prompt"
            )


def load(path: str, *, dtype: str = "float32") -> Model:
    """The model of a Hugging Face directory, a hub id, or ``demo:student|teacher``.

    Config, tokenizer and the headers of the weights are checked at once; weights are
    read when they are needed.

    Args:
      dtype: of the computation, "float32" or "bfloat16"; "auto" is what the model's
        ``config.json`` names, float16 as bfloat16.

    Raises:
      FileNotFoundError, ValueError: something is missing, unknown or damaged; names it.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown; use one of {', '.join(DTYPES)}")
    path = inputs.model_path(path)
    dtype = hf.dtype_named(path, dtype)
    config = dataclasses.replace(hf.check(path), dtype=dtype)
    return Model(path, config, inputs.load_tokenizer(path))


_begin = jax.jit(begin, static_argnames=("policy", "max_new_tokens", "slots", "copies"))
_advance = jax.jit(advance, static_argnames="policy", donate_argnames="loop")
_join = jax.jit(join)


def padded(longest: int, room: int) -> int:
    """The width of prompts: a power of two, 32 at least, or all positions there are.

    A conversation that grows asks for a new program only when it has doubled.
    """
    return min(max(1 << (longest - 1).bit_length(), 32), max(room, longest))


def _looks(
    params, asked: Request, key, policy: Policy, ends: strings.Ends, every: int, **room
) -> Iterator[Loop]:
    """The ``Loop`` of ``generate`` after each ``every`` draws, to a limit of ``room``.

    At each look the rows in whose text a string occurs are ended, so that nothing is
    drawn once all have; behind it they may hold what was drawn until then. The arrays
    of a loop are gone when the next is asked for.
    """
    yield (loop := _begin(params, asked, key, policy=policy, **room))
    while not np.array(loop.done_B).all():
        loop = _advance(params, asked, key, loop, loop.step + every, policy=policy)
        if ends.strings:
            loop = _ended(asked, loop, ends, every)
        yield loop


def _ended(asked: Request, loop: Loop, ends: strings.Ends, every: int) -> Loop:
    done_B = np.array(loop.done_B)
    tokens_BL, count_B = np.asarray(loop.tokens_BL), np.asarray(loop.count_B)
    for row in np.flatnonzero(~done_B):
        prompt = asked.tokens_BP[row, : asked.length_B[row]]
        drawn = tokens_BL[row, : count_B[row]]
        # What the last look saw, and the token that a row is begun with.
        done_B[row] = strings.ended(ends, prompt, drawn, every + 1)
    return loop._replace(done_B=jnp.asarray(done_B))


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: decoder.Decoder, params, ids_BT: jax.Array) -> jax.Array:
    positions_BT = jnp.broadcast_to(jnp.arange(ids_BT.shape[1]), ids_BT.shape)
    valid_BT = jnp.ones_like(ids_BT, bool)
    hidden_BTD, _ = model.apply(
        {"params": params}, ids_BT, positions_BT, valid_BT, return_kv=False
    )
    return logits_of(hidden_BTD, decoder.head(params), model.config.logit_cap)
