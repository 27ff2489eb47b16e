"""TrOPD (arXiv:2606.01249); its trust mask is ``weights.accepted``."""

import jax

from jopd.losses import signals
from jopd.types import Outputs, Scores


def top_forward_kl(
    outputs: Outputs, *, k: int = 64, other: str = "teacher"
) -> jax.Array:
    """KL(other || student), both renormalised on the other's k likeliest tokens.

    In nats; the fact for ``state_forward_kl`` as the released code is said to take it.
    """
    return signals.top_k_forward_kl(
        outputs, k=k, tail=False, renormalize="both", other=other
    )


def state_forward_kl(
    scores: Scores, *, other: str = "teacher", fact: str = ""
) -> jax.Array:
    """Advantage -KL(other || student) of the state, for rejected tokens.

    The released code is said to put the outlier's forward KL through the policy
    gradient as a scalar. With ``weights=accepted(inverse=True)`` the mean direction is

        -KL(other || student) * sum_v max(student_v - other_v, 0) grad log student_v

    which lowers what the student overrates. Without that mask the mean gradient is
    zero: a number of the state alone says nothing about the token. The KL is of the
    full vocabulary, or the named ``fact``: the code is said to use the teacher's top
    64, renormalised.
    """
    return -(scores.facts[fact] if fact else scores.forward_kl[other])
