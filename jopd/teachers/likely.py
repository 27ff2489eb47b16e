"""Log-probabilities of given tokens, and the likeliest ones at their places."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopd.losses.chunks import in_chunks
from jopd.losses.heads import logits_of
from jopd.models import decoder

APART = 0.05  # nats, in the mean; one model's sums in another order move less


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two sets of log-probabilities of the same tokens are one model's."""
    return one.shape == other.shape and bool(np.abs(one - other).mean() <= APART)


class Scores(NamedTuple):
    """Of tokens at places ``[...]``, in nats.

    Attributes:
      logp: f32[...], log-probabilities; nothing is known where they are above 0.
      ids, likely: i32[..., K] and f32[..., K], the likeliest tokens there, the best
        first, and their log-probabilities.
    """

    logp: np.ndarray
    ids: np.ndarray
    likely: np.ndarray


@functools.partial(jax.jit, static_argnames=("model", "k", "columns", "chunk"))
def scores(
    model: decoder.Decoder,
    params,
    tokens_BT: jax.Array,
    length_B: jax.Array,
    wanted_BTK: jax.Array | None = None,
    *,
    k: int,
    columns: int,
    chunk: int,
) -> Scores:
    """Of tokens 1 to T - 1 of every row; logits exist for ``chunk`` tokens at a time.

    Args:
      wanted_BTK: i32[B, T - 1, k], ids in the place of the likeliest.
      columns: of the head, that count.
    """
    places_T = jnp.arange(tokens_BT.shape[1])
    positions_BT = jnp.broadcast_to(places_T, tokens_BT.shape)
    valid_BT = positions_BT < length_B[:, None]
    hidden_BTD, _ = model.apply(
        {"params": params}, tokens_BT, positions_BT, valid_BT, return_kv=False
    )
    head, cap = decoder.head(params)[:columns], model.config.logit_cap

    def of_chunk(rows):
        hidden, token, wanted = rows
        logp = jax.nn.log_softmax(logits_of(hidden, head, cap), axis=-1)
        if wanted is None:
            likely, ids = jax.lax.top_k(logp, k)
        else:
            ids, likely = wanted, jnp.take_along_axis(logp, wanted, axis=-1)
        own = jnp.take_along_axis(logp, token[:, None], axis=-1)[:, 0]
        return Scores(own, ids, likely)

    # The state at a token predicts the next.
    behind = hidden_BTD[:, :-1], tokens_BT[:, 1:], wanted_BTK
    return in_chunks(of_chunk, behind, valid_BT[:, 1:], chunk_tokens=chunk)
