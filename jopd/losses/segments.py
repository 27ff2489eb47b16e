"""Whether what early tokens teach agrees with what all do: gradients of segments.

A segment is the response tokens from one position to another. Terms are sums over
tokens with weights that are normalised already, so gradients of segments add up to that
of the whole, whatever the normaliser.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jopd.losses.objective import Weighed
from jopd.types import Rollout


def within(
    weighed: dict[str, Weighed], rollout: Rollout, low: jax.Array, high: jax.Array
) -> dict[str, Weighed]:
    """The same with weight 0 outside of response positions ``low`` to ``high - 1``."""
    place_T = jnp.arange(rollout.tokens_BT.shape[1])
    position_BT = place_T - rollout.prompt_length_B[:, None]
    inside_BT = (position_BT >= low) & (position_BT < high)
    return {
        name: one._replace(weight_BT=jnp.where(inside_BT, one.weight_BT, 0.0))
        for name, one in weighed.items()
    }


def cosines(
    gradient: Callable[[jax.Array, jax.Array], jax.Array], whole, edges: tuple[int, ...]
) -> jax.Array:
    """f32[n]: the cosine of ``whole`` and the gradient of what is before each edge.

        c_j = <g(0, e_j), g> / |g(0, e_j)| |g|,   0 where one of them is 0

    Args:
      gradient: ``(low, high) ->`` the gradient of that segment, a pytree.
      whole: g, of all tokens.
      edges: e_1 < ... < e_n. n backward passes, one after the other, and two trees of
        the student's size beside ``whole``.
    """

    def one(before, segment):
        before = jax.tree.map(jnp.add, before, gradient(*segment))
        return before, (_dot(before, whole), _dot(before, before))

    nothing = jax.tree.map(jnp.zeros_like, whole)
    segments = jnp.asarray((0, *edges[:-1])), jnp.asarray(edges)
    _, (dot_N, square_N) = jax.lax.scan(one, nothing, segments)
    scale_N = jnp.sqrt(square_N) * jnp.sqrt(_dot(whole, whole))
    return jnp.where(scale_N > 0, dot_N / jnp.where(scale_N > 0, scale_N, 1.0), 0.0)


def _dot(one, other) -> jax.Array:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    exact = lambda x: x.astype(jnp.float32).ravel()
    return jnp.sum(jnp.stack([jnp.dot(exact(a), exact(b)) for a, b in pairs]))
