"""A model on its own: ``jopd.load(path)`` for logits, texts and parameters."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopd.batches import collect
from jopd.data import decoding, sources
from jopd.data.dataset import encode
from jopd.losses.objective import logits_of
from jopd.models import decoder, hf
from jopd.models.decoder import DecoderConfig
from jopd.rollouts.generate import generate
from jopd.rollouts.sampling import Filter
from jopd.setup import inputs


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
        texts: Sequence[str],
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
          temperature: 0 is greedy. ``top_k`` 0, ``top_p`` 1, ``min_p`` 0 cut nothing.
          seed: of the random stream; rows have their own, whatever stands beside them.
          chat: "auto" uses the tokenizer's chat template where it has one; "always" or
            "never".
          stop_strings: texts end before the first of them, too.

        Raises:
          ValueError: one string in place of a list, one that cannot end a text, a text
            that cannot be tokenised, or text and continuation exceed the positions.
        """
        if isinstance(texts, str):
            raise ValueError(f"texts={texts!r} is one string; give a list of them")
        if isinstance(stop_strings, str):
            raise ValueError(f"stop_strings={stop_strings!r} is one; give a list")
        decoding.check_strings(self.tokenizer, stop_strings, "stop_strings")
        if not len(texts):
            return []
        dataset = encode(
            sources.examples([{"prompt": text} for text in texts]),
            tokenizer=self.tokenizer,
            max_prompt_tokens=self.config.max_positions,
            max_response_tokens=max_new_tokens,
            chat_template=chat,
        )
        longest = max(len(prompt) for prompt in dataset.prompts)
        self._check_positions(longest, max_new_tokens)
        rows, shape = range(len(texts)), dict(buckets=(longest,), limit=max_new_tokens)
        asked = collect.ask(dataset, rows, copies=samples, **shape)
        known = self.tokenizer.get_vocab()
        own, turn_end = inputs.ends(self.tokenizer, [self.path]), {dataset.turn_end}
        rolled = _generate(
            self.params,
            asked,
            jax.random.key(seed),
            model=decoder.Decoder(self.config),
            max_new_tokens=max_new_tokens,
            stop_ids=tuple(sorted({*own, *turn_end} - {None})),
            vocabulary=min(self.config.vocab_size, max(known.values()) + 1),
            filters=Filter(temperature, top_k, top_p, min_p),
            copies=samples,
        )
        written = collect.responses(self.tokenizer, rolled, stop_strings)
        return [written[i : i + samples] for i in range(0, len(written), samples)]

    def _check_positions(self, given: int, new: int) -> None:
        room = self.config.max_positions
        if given + new > room:
            raise ValueError(
                f"a prompt of {given} tokens and max_new_tokens={new} exceed the "
                f"{room} positions of {self.path}; use at most "
                f"max_new_tokens={max(room - given, 0)} or a shorter prompt"
            )


def load(path: str, *, dtype: str = "float32") -> Model:
    """The model of a Hugging Face directory, a hub id, or ``demo:student|teacher``.

    Config, tokenizer and the headers of the weights are checked at once; weights are
    read when they are needed.

    Raises:
      FileNotFoundError, ValueError: something is missing, unknown or damaged; names it.
    """
    path = inputs.model_path(path)
    config = dataclasses.replace(hf.check(path), dtype=dtype)
    return Model(path, config, inputs.load_tokenizer(path))


_STATIC = "model", "max_new_tokens", "stop_ids", "vocabulary", "filters", "copies"
_generate = jax.jit(generate, static_argnames=_STATIC)


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: decoder.Decoder, params, ids_BT: jax.Array) -> jax.Array:
    positions_BT = jnp.broadcast_to(jnp.arange(ids_BT.shape[1]), ids_BT.shape)
    valid_BT = jnp.ones_like(ids_BT, bool)
    hidden_BTD, _ = model.apply(
        {"params": params}, ids_BT, positions_BT, valid_BT, return_kv=False
    )
    return logits_of(hidden_BTD, decoder.head(params))
