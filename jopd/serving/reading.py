"""Log-probabilities of given tokens, of several rows at a time."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopd.losses.chunks import in_chunks
from jopd.losses.heads import logits_of
from jopd.models import decoder
from jopd.setup import config, experiment
from jopd.setup.model import Model, padded

ROWS = 16  # that are read at one time


class Read(NamedTuple):
    """What a model says of a row of T tokens; nothing is known of its first.

    Attributes:
      logp: f32[T - 1] of tokens 1 to T - 1, in nats.
      ids, logps: i32[T - 1, K] and f32[T - 1, K], the likeliest tokens at their places,
        the best first; or those that were asked for, in their order.
    """

    logp: np.ndarray
    ids: np.ndarray
    logps: np.ndarray


def read(
    model: Model,
    rows: Sequence[Sequence[int]],
    k: int = 0,
    asked: Sequence[np.ndarray] | None = None,
) -> list[Read]:
    """``Read`` of every row; ``k`` likeliest tokens at each place.

    Or, with ``asked``, the ids i32[T - 1, k] of each row: their log-probabilities.
    Logits exist for a chunk of tokens at a time. Few shapes: widths, rows and k are
    rounded up to powers of two.

    Raises:
      ValueError: a row without tokens, or longer than the model's positions.
    """
    room, size = model.config.max_positions, model.config.vocab_size
    for row in rows:
        if not 0 < len(row) <= room:
            raise ValueError(
                f"a text of {len(row)} tokens; {model.path} reads 1 to {room}"
            )
    found: dict[int, Read] = {}
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    most = min(1 << (k - 1).bit_length(), size) if k else 0
    for first in range(0, len(rows), ROWS):
        some = order[first : first + ROWS]
        width = padded(max(len(rows[i]) for i in some), room)
        tokens_BT = np.zeros((1 << (len(some) - 1).bit_length(), width), np.int32)
        length_B = np.zeros(len(tokens_BT), np.int32)
        wanted_BTK = None
        if asked is not None:
            wanted_BTK = np.zeros((len(tokens_BT), width - 1, most), np.int32)
        for b, i in enumerate(some):
            tokens_BT[b, : len(rows[i])], length_B[b] = rows[i], len(rows[i])
            if asked is not None:
                wanted_BTK[b, : len(rows[i]) - 1, :k] = asked[i]
        chunk = experiment.chunk_tokens(config.base_config(), size)
        given = model.params, tokens_BT, length_B, wanted_BTK
        answers = jax.device_get(
            _answers(decoder.Decoder(model.config), *given, k=most, chunk=chunk)
        )
        for b, i in enumerate(some):
            logp, ids, logps = (leaf[b, : len(rows[i]) - 1] for leaf in answers)
            found[i] = Read(logp, ids[:, :k], logps[:, :k])
    return [found[i] for i in range(len(rows))]


@functools.partial(jax.jit, static_argnames=("model", "k", "chunk"))
def _answers(model, params, tokens_BT, length_B, wanted_BTK, *, k: int, chunk: int):
    places_T = jnp.arange(tokens_BT.shape[1])
    positions_BT = jnp.broadcast_to(places_T, tokens_BT.shape)
    valid_BT = positions_BT < length_B[:, None]
    hidden_BTD, _ = model.apply(
        {"params": params}, tokens_BT, positions_BT, valid_BT, return_kv=False
    )
    head, cap = decoder.head(params), model.config.logit_cap

    def of_chunk(rows):
        hidden, token, wanted = rows
        logp = jax.nn.log_softmax(logits_of(hidden, head, cap), axis=-1)
        if wanted is None:
            logps, ids = jax.lax.top_k(logp, k)
        else:
            ids, logps = wanted, jnp.take_along_axis(logp, wanted, axis=-1)
        own = jnp.take_along_axis(logp, token[:, None], axis=-1)[:, 0]
        return own, ids, logps

    # The state at a token predicts the next.
    behind = hidden_BTD[:, :-1], tokens_BT[:, 1:], wanted_BTK
    return in_chunks(of_chunk, behind, valid_BT[:, 1:], chunk_tokens=chunk)
