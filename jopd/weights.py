"""Where and how much a term counts: ``Scores -> f32[B, T]``, never differentiated.

The same signature serves advantages (``Term.advantage``): a per-token number computed
at scoring time that a policy-gradient signal multiplies. Functions here need not mask
or stop gradients; ``objective.weigh`` does both.
"""

import jax
import jax.numpy as jnp

from jopd.types import Scores


def log_ratio(scores: Scores, *, other: str = "teacher") -> jax.Array:
    """log other(y) - log student(y) at scoring time: the negated K1 estimate."""
    return scores.logp[other] - scores.logp["student"]


def first_tokens(scores: Scores, *, count: int) -> jax.Array:
    """1 on the first ``count`` response tokens, 0 after."""
    return (scores.position < count).astype(jnp.float32)


def entropy_above(
    scores: Scores, *, threshold: float, of: str = "teacher"
) -> jax.Array:
    """1 where the entropy (nats) of the named model is at least ``threshold``."""
    return (scores.entropy[of] >= threshold).astype(jnp.float32)


def log_ratio_above(
    scores: Scores, *, threshold: float, other: str = "teacher"
) -> jax.Array:
    """1 where log other(y) - log student(y) is at least ``threshold``."""
    return (log_ratio(scores, other=other) >= threshold).astype(jnp.float32)


def staleness(scores: Scores, *, decay: float) -> jax.Array:
    """decay ** age of the row, in updates since it was sampled; fresh rows weigh 1."""
    weight_B = jnp.float32(decay) ** scores.age.astype(jnp.float32)
    return jnp.broadcast_to(weight_B[:, None], scores.mask.shape)


def importance(
    scores: Scores, *, low: float = 0.0, high: float = float("inf")
) -> jax.Array:
    """student(y) / behavior(y) at scoring time, truncated to [low, high].

    Corrects replayed rows for signals that do not carry a ratio of their own.
    """
    ratio = jnp.exp(scores.logp["student"] - scores.behavior_logp)
    return jnp.clip(ratio, low, high)
