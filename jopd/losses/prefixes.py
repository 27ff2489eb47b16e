"""What a model says of the next bytes, where its tokens are not the student's.

For a place of its text let p be the model's distribution over its own tokens. The
probability that the next one begins with the bytes x is

    mass(x) = sum_{u begins with x} p_u

Tokens are ranked by their bytes, so those that begin with x are an interval of ranks
(``data.pieces.Begins``). ``teachers.spans`` chains such masses to probabilities.
"""

import jax
import jax.numpy as jnp


def masses(
    logits: jax.Array,
    tokens: jax.Array,
    rank_V: jax.Array,
    lo: jax.Array,
    hi: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Log-masses of intervals of ranks, and of the token that stands there.

    Args:
      logits: f32[..., V].
      tokens: i32[...], the model's own next token.
      rank_V: i32, rank of every token, below 0 for those that are none.
      lo, hi: i32[..., K], intervals ``lo <= rank < hi``.

    Returns:
      f32[...] log p of ``tokens``, and f32[..., K] log-masses, -inf of an empty one.
    """
    logp = jax.nn.log_softmax(logits, axis=-1)
    own = jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]

    def of_one(bounds):
        low, high = bounds
        inside = (rank_V >= low[..., None]) & (rank_V < high[..., None])
        return jax.nn.logsumexp(jnp.where(inside, logp, -jnp.inf), axis=-1)

    # One interval after the other: each is as wide as the vocabulary.
    first = lambda x: jnp.moveaxis(x, -1, 0)
    mass = jax.lax.map(of_one, (first(lo), first(hi)))
    return own, jnp.moveaxis(mass, 0, -1)
