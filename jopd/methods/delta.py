"""Teacher minus an anchor: what a teacher learned since the anchor, as an advantage.

With T the teacher (``other``), S the student and R the ``anchor`` (the initial student,
or the model that the teacher was before its own training), of a token y:

    extrapolated | log T - log S + (lambda - 1) q (log T - log R)
    shift        | log T - log R, centred, only where log T - log S agrees

The first still ends: for q = 1 its fixed point is proportional to R^(1 - lambda)
T^lambda, and lambda = 1 is on-policy distillation. The second knows S only by its gate.
"""

import jax
import jax.numpy as jnp

from jopd.losses import estimators, weights
from jopd.types import Scores


def extrapolated(
    scores: Scores,
    *,
    extrapolate: float,
    tau: float = float("inf"),
    other: str = "teacher",
    anchor: str = "reference",
) -> jax.Array:
    """ExOPD of G-OPD (arXiv:2602.12125): on beyond the teacher, away from the anchor.

        A = d + (extrapolate - 1) q (log other - log anchor)
        d = log other - log student,  q = exp(-(exp(d) - 1 - d) / tau)

    nats; q = 1 with ``tau`` = inf. A finite one is the token weight of REOPD
    (arXiv:2608.11698): no extrapolation where student and teacher are far apart. Its
    budget, which moves ``extrapolate`` between 1 and 2 from update to update, is not
    here. extrapolate = 1 is ``log_ratio``, to the bit.
    """
    student, teacher = scores.logp["student"], scores.logp[other]
    learned = weights.log_ratio(scores, other=other)
    if extrapolate == 1:
        return learned
    near = jnp.exp(-estimators.k3(student, teacher) / tau)
    return learned + (extrapolate - 1) * near * (teacher - scores.logp[anchor])


def shift(
    scores: Scores,
    *,
    center: bool = True,
    gate: bool = True,
    other: str = "teacher",
    anchor: str = "reference",
) -> jax.Array:
    """The delta signal of OPD^2 (arXiv:2607.15161): what the teacher itself learned.

        A = r - E_student[r],  r = log other - log anchor;  0 unless A B > 0
        B = d - E_student[d],  d = log other - log student

    nats. The means over the student's distribution are exact here: KL(student ||
    anchor) - KL(student || other), and -KL(student || other); by readers' notes
    the paper takes the student's top 1024 tokens. Without ``center`` both are left out,
    without ``gate`` the condition; without either it is the reward of Direct-OPD
    (arXiv:2607.05394), which has no fixed point short of one token and wants a KL term
    beside it.
    """
    rise = scores.logp[other] - scores.logp[anchor]
    pull = weights.log_ratio(scores, other=other)
    if center:
        to_teacher = scores.reverse_kl[other]
        rise = rise - (scores.reverse_kl[anchor] - to_teacher)
        pull = pull + to_teacher
    return jnp.where(rise * pull > 0, rise, 0.0) if gate else rise
