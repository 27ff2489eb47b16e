"""TrOPD (arXiv:2606.01249); its trust mask is ``weights.accepted``."""

import jax

from jopd.types import Scores


def state_forward_kl(scores: Scores, *, other: str = "teacher") -> jax.Array:
    """Advantage -KL(other || student) of the state, for rejected tokens.

    The released code is said to put the outlier's forward KL through the policy
    gradient as a scalar. With ``weights=accepted(inverse=True)`` the mean direction is

        -KL(other || student) * sum_v max(student_v - other_v, 0) grad log student_v

    which lowers what the student overrates. Without that mask the mean gradient is
    zero: a number of the state alone says nothing about the token. Here the KL is of
    the full vocabulary; the code is said to use the teacher's top 64, renormalised.
    """
    return -scores.forward_kl[other]
