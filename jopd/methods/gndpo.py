"""GNDPO (arXiv:2606.09091): log-ratios as advantages relative to the whole batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jopd.losses import groups, weights
from jopd.types import Scores

# As the released code, so that a row far from its sampler cannot overflow.
_LARGEST = 10.0


def whitened(
    scores: Scores,
    *,
    bound: float = 5.0,
    center: bool = True,
    scale: bool = True,
    scope: str = "batch",
    other: str = "teacher",
) -> jax.Array:
    """A = (s - mean s) / sqrt(var s + 1e-8), s the log-ratio cut at +-bound.

    Mean and unbiased variance (n - 1) over the student tokens of the batch, or of a
    row's group or of the row (``scope``). ``center`` and ``scale`` may be switched off;
    without both and a bound it is ``log_ratio``, to the bit. Equal s, or a scope of one
    token, give 0. Centring turns tokens that are less bad than the mean into good ones.
    Raises ValueError for an unknown scope.
    """
    value_BT = weights.log_ratio(scores, other=other, bound=bound)
    if not center and not scale:
        return value_BT
    total = _total(scores, scope)
    count = total(jnp.ones_like(value_BT))
    mean = lambda values_BT: total(values_BT) / jnp.maximum(count, 1)
    # Twice: what a rounded mean leaves of equal values is no difference of theirs.
    apart_BT = value_BT - mean(value_BT)
    apart_BT = apart_BT - mean(apart_BT)
    variance = total(jnp.square(apart_BT)) / jnp.maximum(count - 1, 1)
    differ = (count > 1) & (variance > 1e-12 * mean(jnp.square(value_BT)))
    found_BT = apart_BT if center else value_BT
    if scale:
        found_BT = found_BT / jnp.sqrt(variance + 1e-8)
    return jnp.where(differ, found_BT, 0.0)


def sequence_ratio(
    scores: Scores,
    *,
    low: float = 0.2,
    high: float = 0.2,
    bound: float = 5.0,
    center: bool = True,
    scale: bool = True,
    scope: str = "batch",
    other: str = "teacher",
) -> jax.Array:
    """GSPO's ratio of a row as a weight, for rollouts that several updates use.

        s = exp(mean_t log student(y_t) - log behavior(y_t)),  over student tokens

    and 0 where its clip stops the gradient: s > 1 + high and A > 0, s < 1 - low and
    A < 0, with A ``whitened`` of the same arguments. Scores are those of the very
    update, so with the signal ``score_function`` the gradient is s A grad log student,
    that of the released code.
    """
    drift_BT = scores.logp["student"] - scores.behavior_logp
    drift_B = groups.row_mean(drift_BT, groups.student_tokens(scores))
    ratio = jnp.exp(jnp.minimum(drift_B, _LARGEST))[:, None]
    whitening = dict(bound=bound, center=center, scale=scale, scope=scope)
    advantage_BT = whitened(scores, **whitening, other=other)
    too_high, too_low = ratio > 1 + high, ratio < 1 - low
    stopped_BT = (too_high & (advantage_BT > 0)) | (too_low & (advantage_BT < 0))
    return jnp.where(stopped_BT, 0.0, ratio)


def flips(
    scores: Scores,
    *,
    bound: float = 5.0,
    center: bool = True,
    scale: bool = True,
    scope: str = "batch",
    other: str = "teacher",
) -> dict[str, jax.Array]:
    """For a term with ``whitened`` of the same arguments: what whitening changes.

    Over student tokens: shares whose sign turns from below to above 0 (``up``) and back
    (``down``), share beyond +-bound (``clipped``), mean and standard deviation of the
    log-ratio within it.
    """
    inside_BT = groups.student_tokens(scores)
    share = lambda values_BT: jnp.mean(values_BT, where=inside_BT)
    gap_BT = weights.log_ratio(scores, other=other)
    whitening = dict(bound=bound, center=center, scale=scale, scope=scope)
    advantage_BT = whitened(scores, **whitening, other=other)
    within_BT = jnp.clip(gap_BT, -bound, bound)
    return {
        "up": share((gap_BT < 0) & (advantage_BT > 0)),
        "down": share((gap_BT > 0) & (advantage_BT < 0)),
        "clipped": share(jnp.abs(gap_BT) > bound),
        "mean": share(within_BT),
        "std": jnp.std(within_BT, where=inside_BT),
    }


def _total(scores: Scores, scope: str) -> Callable[[jax.Array], jax.Array]:
    """f32[B, T] -> f32[B, 1]: sum over the student tokens of a row's scope."""
    inside_BT = groups.student_tokens(scores)
    reaches = {
        "batch": lambda row_B: jnp.sum(row_B, keepdims=True),
        "group": groups.of(scores).total,
        "sequence": lambda row_B: row_B,
    }
    if scope not in reaches:
        raise ValueError(f"scope={scope!r} is unknown; use one of {', '.join(reaches)}")
    of_rows = lambda values_BT: jnp.sum(jnp.where(inside_BT, values_BT, 0.0), axis=1)
    return lambda values_BT: reaches[scope](of_rows(values_BT))[:, None]
