"""What a model says of the next bytes, where its tokens are not the student's.

For a place of its text let p be the model's distribution over its own tokens. The
probability that the next one begins with the bytes x is

    mass(x) = sum_{u begins with x} p_u

Tokens in the order of their bytes have those that begin with x side by side, as an
interval of that order (``data.pieces.Begins``). ``teachers.spans`` chains such masses
to probabilities of a student's tokens.
"""

import jax
import jax.numpy as jnp

_BLOCK = 256  # tokens in order that are summed once for all intervals
_LEAST = 1.2e-38  # what float32 tells from 0


def masses(
    logits: jax.Array,
    tokens: jax.Array,
    order_N: jax.Array,
    lo: jax.Array,
    hi: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Log-masses of intervals, and of the token that stands there.

    Nothing is subtracted, so a small mass beside large ones is as exact as theirs.

    Args:
      logits: f32[..., V].
      tokens: i32[...], the model's own next token.
      order_N: i32, its tokens in order, without those that are none.
      lo, hi: i32[..., K], intervals ``lo <= n < hi`` of ``order_N``.

    Returns:
      f32[...] log p of ``tokens``, and f32[..., K] log-masses, -inf of an empty one, at
      least -87.3.
    """
    logp = jax.nn.log_softmax(logits, axis=-1)
    own = jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]
    p = jnp.exp(jnp.take(logp, order_N, axis=-1))
    size = order_N.shape[0] + -order_N.shape[0] % _BLOCK
    p = jnp.pad(p, [(0, 0)] * (p.ndim - 1) + [(0, size - p.shape[-1])])
    blocks = jnp.sum(p.reshape(*p.shape[:-1], -1, _BLOCK), axis=-1)

    # Whole blocks first <= i < last, and what lies before and behind them.
    first, last = -(-lo // _BLOCK), hi // _BLOCK
    number = jnp.arange(blocks.shape[-1])
    inside = (number >= first[..., None]) & (number < last[..., None])
    total = jnp.sum(jnp.where(inside, blocks[..., None, :], 0.0), axis=-1)
    split = jnp.minimum(first * _BLOCK, hi)
    total += _within(p, lo, lo, split)
    total += _within(p, last * _BLOCK, jnp.maximum(last * _BLOCK, split), hi)
    return own, jnp.where(lo < hi, jnp.log(jnp.maximum(total, _LEAST)), -jnp.inf)


def _within(p: jax.Array, start: jax.Array, lo: jax.Array, hi: jax.Array) -> jax.Array:
    """Sums of ``p`` over ``lo <= n < hi``, less than a block from ``start`` on."""
    place = start[..., None] + jnp.arange(_BLOCK)
    flat = jnp.minimum(place, p.shape[-1] - 1).reshape(*place.shape[:-2], -1)
    found = jnp.take_along_axis(p, flat, axis=-1).reshape(place.shape)
    inside = (place >= lo[..., None]) & (place < hi[..., None])
    return jnp.sum(jnp.where(inside, found, 0.0), axis=-1)
