"""OPD+ (arXiv:2606.01039): the advantage that belongs to an f-divergence.

With u = other(y) / student(y) and f convex, f(1) = 0, the objective per token is
J = E_{y ~ student} f(u). Freezing f(u) as a reward forgets that u depends on the
student. Differentiating it too leaves one policy gradient with another advantage:

    divergence and its f                         | stopped, -f | corrected
    forward_kl: u ln u                           | -u ln u     | u
    reverse_kl: -ln u                            | ln u        | ln u - 1
    jsd: (u ln u - (1 + u) ln((1 + u) / 2)) / 2  | -f          | ln((1 + u) / 2) / 2

where corrected is -f(u) + u f'(u), and sum_v student(v) A(v) grad log student(v) is
exactly -grad J for it (equations 1 to 3, table 1). The stopped form has that only for
the reverse KL, whose two advantages differ by a constant. Never normalise the corrected
ones within a batch: their size is part of the gradient.

The student is the one at scoring time; on fresh rows that is the rollout policy.
"""

import math

import jax
import jax.numpy as jnp

from jopd.losses import weights
from jopd.types import Scores

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
# exp(80) and 80 times it are still finite in float32.
_LARGEST = 80.0


def corrected(
    scores: Scores,
    *,
    divergence: str = "forward_kl",
    bound: float = _LARGEST,
    other: str = "teacher",
) -> jax.Array:
    """Advantage -f(u) + u f'(u): the exact gradient in expectation.

    ``bound`` cuts ln u on both sides, in nats: the paper states none, a reproduction
    uses 6. Raises ValueError for a divergence that is not in ``DIVERGENCES``.
    """
    log_u = _log_u(scores, divergence, bound, other)
    if divergence == "forward_kl":
        return jnp.exp(log_u)
    if divergence == "reverse_kl":
        return log_u - 1.0
    return 0.5 * _log_mean(log_u)


def stopped(
    scores: Scores,
    *,
    divergence: str = "forward_kl",
    bound: float = _LARGEST,
    other: str = "teacher",
) -> jax.Array:
    """Advantage -f(u), the frozen reward: for comparison, see the module."""
    log_u = _log_u(scores, divergence, bound, other)
    if divergence == "reverse_kl":
        return log_u
    u = jnp.exp(log_u)
    if divergence == "forward_kl":
        return -u * log_u
    return -0.5 * (u * log_u - (1.0 + u) * _log_mean(log_u))


def _log_u(scores: Scores, divergence: str, bound: float, other: str) -> jax.Array:
    if divergence not in DIVERGENCES:
        raise ValueError(
            f"divergence={divergence!r} is unknown; use one of {', '.join(DIVERGENCES)}"
        )
    return weights.log_ratio(scores, other=other, bound=min(bound, _LARGEST))


def _log_mean(log_u: jax.Array) -> jax.Array:
    """ln((1 + u) / 2)."""
    return jnp.logaddexp(0.0, log_u) - math.log(2.0)
