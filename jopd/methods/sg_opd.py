"""SG-OPD (arXiv:2606.09304): extrapolate where teacher and verifier agree on the sign.

The paper prints its second signal as log S - log T, a cost, and with the same sign in
the loss -E[A log S]: taken literally that ascends the KL, and its gate is the
complement of the one that it describes. Everything here is in ascent form.
"""

import jax
import jax.numpy as jnp

from jopd.losses import groups, weights
from jopd.methods import delta
from jopd.types import Scores


def routed(
    scores: Scores,
    *,
    extrapolate: float = 1.8,
    fallback: float = 1.0,
    clip: float = float("inf"),
    other: str = "teacher",
    anchor: str = "reference",
) -> jax.Array:
    """A_t = phi_t (d + (extrapolate - 1)(log T - log R)) where a d > 0, else phi_t b d.

        d = log T(y) - log S(y),  a = the row's ``group_reward``, b = ``fallback``
        phi = min(1, clip / |d|), divided by its mean over student tokens

    T is ``other``, R the ``anchor``, the initial student. The gate sees d before phi.
    Groups of equal rewards have a = 0: the fallback. extrapolate = fallback = 1 without
    a clip is ``log_ratio``, to the bit; fallback = 0 keeps agreeing tokens only.
    """
    gap_BT = weights.log_ratio(scores, other=other)
    beyond_BT = delta.extrapolated(
        scores, extrapolate=extrapolate, other=other, anchor=anchor
    )
    agree_BT = _verdict(scores) * gap_BT > 0
    advantage_BT = jnp.where(agree_BT, beyond_BT, fallback * gap_BT)
    return advantage_BT * _limit(scores, gap_BT, clip)


def cells(
    scores: Scores,
    *,
    extrapolate: float = 1.8,
    fallback: float = 1.0,
    clip: float = float("inf"),
    other: str = "teacher",
    anchor: str = "reference",
) -> dict[str, jax.Array]:
    """For a term with ``routed`` of the same arguments: what falls where.

    Shares of student tokens that are right or wrong (the sign of the row's advantage)
    and that the teacher likes more (up) or less (down) than the student, with the mean
    size of their advantage, ``size_*`` (NaN where there are none); agreeing are
    ``right_up`` and ``wrong_down``. ``no_signal``: a group of equal rewards, or no gap.
    """
    inside_BT = groups.student_tokens(scores)
    gap_BT, verdict_BT = weights.log_ratio(scores, other=other), _verdict(scores)
    route = dict(extrapolate=extrapolate, fallback=fallback, clip=clip)
    size_BT = jnp.abs(routed(scores, **route, other=other, anchor=anchor))
    found = {"no_signal": jnp.mean(verdict_BT * gap_BT == 0, where=inside_BT)}
    for verdict, sign in (("right", 1), ("wrong", -1)):
        for move, way in (("up", 1), ("down", -1)):
            cell_BT = (sign * verdict_BT > 0) & (way * gap_BT > 0)
            found[f"{verdict}_{move}"] = jnp.mean(cell_BT, where=inside_BT)
            size = jnp.mean(size_BT, where=inside_BT & cell_BT)
            found[f"size_{verdict}_{move}"] = size
    return found


def _verdict(scores: Scores) -> jax.Array:
    """f32[B, T]: the row's advantage, of which only the sign is read."""
    return weights.group_reward(scores, std=False)


def _limit(scores: Scores, gap_BT: jax.Array, clip: float) -> jax.Array:
    """f32[B, T]: min(1, clip / |gap|) over its mean; 1 without a clip."""
    phi_BT = jnp.minimum(1.0, clip / jnp.abs(gap_BT))
    return phi_BT / jnp.mean(phi_BT, where=groups.student_tokens(scores))
