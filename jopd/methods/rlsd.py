"""RLSD: a verifier gives the sign of an update, a privileged teacher its size.

    Ahat_t = A f_t,  f_t = (1 - l) + l clip(exp(sign(A) D_t), 1 - c, 1 + c)
    D_t = log teacher(y_t) - log student(y_t),  A = group_reward
    L = -mean min(rho_t Ahat_t, clip(rho_t, 1 - low, 1 + high) Ahat_t)

with l falling to 0. The teacher reads more than the student (the answer). Since f > 0,
min(rho A f, clip(rho) A f) = f min(rho A, clip(rho) A), with and without dual clip. So
RLSD is exactly two policy-gradient terms with the advantage ``group_reward``: one with
coefficient 1 - l, and one with coefficient l and the weight ``evidence``.

Groups of equal rewards have A = 0. ``uniform_group`` is an advantage for those alone,
so a third term with it adds to the other two without touching their tokens.
"""

import math

import jax
import jax.numpy as jnp

from jopd.losses import groups, reports, weights
from jopd.types import Scores


def evidence(
    scores: Scores,
    *,
    clip: float = 0.2,
    negative_only: bool = False,
    start: tuple = (),
    end: tuple = (),
    other: str = "teacher",
) -> jax.Array:
    """clip((other(y) / student(y))^sign(A), 1 - clip, 1 + clip), always above 0.

    Above 1 where the other model agrees with the verdict on this token. 1 where A = 0,
    and with ``negative_only`` also where A > 0. With ``start`` or ``end``, marks of a
    thought as in ``weights.within``, also 1 outside of it: the released code's
    ``thought_only``, off in its script. clip = 0 is 1 everywhere: GRPO. The
    clip is taken in log space, so no ratio overflows. Uses the student at scoring time.
    The released code's objective; the paper's printed equation 16 has the weight in
    the place of rho, where it would have no gradient. Raises ValueError unless
    0 <= clip < 1.
    """
    low, high = _bounds(clip)
    _, gain_BT = _verdict(scores, negative_only, start, end, other)
    return jnp.exp(jnp.clip(gain_BT, low, high))


def uniform_group(
    scores: Scores, *, clip: float = 0.2, correct: float = 0.5, other: str = "teacher"
) -> jax.Array:
    """Advantage of groups whose rewards are all equal, 0 in all others.

        A_t = s w_t / mean_t w,  w_t = clip((other(y_t) / student(y_t))^s, 1 -+ clip)

    with s = 1 where the group's reward is at least ``correct`` (all correct: positive
    advantages only) and s = -1 below (all wrong: negative only). Mean over the student
    tokens of a row, so the mean size is 1 and the term's coefficient, which may fade,
    is the constant of the method. A group of one row is no evidence: 0.

    A fallback of an independent port; which tokens of a row get more of that mean is
    inferred (those of ``evidence``), its down-weighting of the answer's tail is left
    out. Raises ValueError unless 0 <= clip < 1.
    """
    low, high = _bounds(clip)
    group = groups.of(scores)
    sign_B = jnp.where(scores.reward >= correct, 1.0, -1.0)
    sign_B = jnp.where(group.uniform_B & (group.count_B > 1), sign_B, 0.0)
    gain_BT = sign_B[:, None] * weights.log_ratio(scores, other=other)
    inside_BT = groups.student_tokens(scores)
    size_BT = jnp.where(inside_BT, jnp.exp(jnp.clip(gain_BT, low, high)), 0.0)
    mean_B = groups.row_mean(size_BT, inside_BT)
    return sign_B[:, None] * size_BT / jnp.where(mean_B > 0, mean_B, 1.0)[:, None]


def evidence_report(
    scores: Scores,
    *,
    clip: float = 0.2,
    negative_only: bool = False,
    start: tuple = (),
    end: tuple = (),
    other: str = "teacher",
) -> dict[str, jax.Array]:
    """For a term with ``evidence``: its clipping, beside ``reports.information_gain``.

    Over student tokens that get a verdict (A not 0; with ``negative_only`` A < 0; with
    marks within them): the mean weight (``weight_mean``) and the shares of tokens whose
    ratio lies below 1 - clip or above 1 + clip (``clipped_low``, ``clipped_high``).
    """
    low, high = _bounds(clip)
    sign_BT, gain_BT = _verdict(scores, negative_only, start, end, other)
    judged_BT = groups.student_tokens(scores) & (sign_BT != 0)
    weight_BT = evidence(
        scores,
        clip=clip,
        negative_only=negative_only,
        start=start,
        end=end,
        other=other,
    )
    over = lambda values_BT: jnp.mean(values_BT, where=judged_BT)
    return reports.information_gain(scores, other=other) | {
        "weight_mean": over(weight_BT),
        "clipped_low": over((gain_BT < low).astype(weight_BT.dtype)),
        "clipped_high": over((gain_BT > high).astype(weight_BT.dtype)),
    }


def _bounds(clip: float) -> tuple[float, float]:
    if not 0 <= clip < 1:
        raise ValueError(f"evidence needs 0 <= clip < 1, got clip={clip}; 0.2 is usual")
    return math.log1p(-clip), math.log1p(clip)


def _verdict(
    scores: Scores, negative_only: bool, start: tuple, end: tuple, other: str
) -> tuple[jax.Array, jax.Array]:
    """f32[B, T] each: sign of the advantage (0 is no verdict), and it times D."""
    sign_BT = jnp.sign(weights.group_reward(scores, std=False))
    if negative_only:
        sign_BT = jnp.minimum(sign_BT, 0.0)
    if start or end:
        sign_BT = sign_BT * weights.within(scores, start=start, end=end)
    return sign_BT, sign_BT * weights.log_ratio(scores, other=other)
