"""RLSD: a verifier gives the sign of an update, a privileged teacher its size.

    Ahat_t = A f_t,  f_t = (1 - l) + l clip(exp(sign(A) D_t), 1 - c, 1 + c)
    D_t = log teacher(y_t) - log student(y_t),  A = group_reward
    L = -mean min(rho_t Ahat_t, clip(rho_t, 1 - low, 1 + high) Ahat_t)

with l falling to 0. The teacher reads more than the student (the answer). Since f > 0,
min(rho A f, clip(rho) A f) = f min(rho A, clip(rho) A), with and without dual clip. So
RLSD is exactly two policy-gradient terms with the advantage ``group_reward``: one with
coefficient 1 - l, and one with coefficient l and the weight ``evidence``.
"""

import math

import jax
import jax.numpy as jnp

from jopd import weights
from jopd.types import Scores


def evidence(
    scores: Scores,
    *,
    clip: float = 0.2,
    negative_only: bool = False,
    other: str = "teacher",
) -> jax.Array:
    """clip((other(y) / student(y))^sign(A), 1 - clip, 1 + clip), always above 0.

    Above 1 where the other model agrees with the verdict on this token. 1 where A = 0,
    and with ``negative_only`` also where A > 0. clip = 0 is 1 everywhere: GRPO. The
    clip is taken in log space, so no ratio overflows. Uses the student at scoring time.
    The released code's objective; the paper's printed equation 16 has the weight in
    the place of rho, where it would have no gradient. Raises ValueError unless
    0 <= clip < 1.
    """
    if not 0 <= clip < 1:
        raise ValueError(f"evidence needs 0 <= clip < 1, got clip={clip}; 0.2 is usual")
    sign_BT = jnp.sign(weights.group_reward(scores, std=False))
    if negative_only:
        sign_BT = jnp.minimum(sign_BT, 0.0)
    gain_BT = sign_BT * weights.log_ratio(scores, other=other)
    low, high = math.log1p(-clip), math.log1p(clip)
    return jnp.exp(jnp.clip(gain_BT, low, high))
