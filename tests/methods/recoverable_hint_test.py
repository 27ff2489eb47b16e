"""A hint that the question determines leaves nothing that a student cannot learn."""

import jax.numpy as jnp
import numpy as np
import pytest

from jopd.losses import divergences

# Two questions, two hints, three responses: p(y | x, r), and p(x) = 1/2.
TEACHER_XRY = np.array(
    [[[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], [[0.2, 0.5, 0.3], [0.3, 0.3, 0.4]]]
)
DETERMINED_XR = np.array([[1.0, 0.0], [0.0, 1.0]])
RANDOM_XR = np.array([[0.5, 0.5], [0.25, 0.75]])


def information(hint_XR) -> float:
    """I(Y; R | X) in nats, by enumeration."""
    joint_XRY = 0.5 * hint_XR[..., None] * TEACHER_XRY
    given_XY = joint_XRY.sum(1) / 0.5
    inside = np.where(joint_XRY > 0, np.log(TEACHER_XRY / given_XY[:, None]), 0.0)
    return float((joint_XRY * inside).sum())


def mean_kl(student_XY, hint_XR) -> float:
    """E KL(T(. | x, r) || S(. | x)), as the library takes it."""
    student_XRV = jnp.broadcast_to(jnp.log(student_XY)[:, None], (2, 2, 3))
    kl_XR = divergences.forward_kl(student_XRV, jnp.log(jnp.asarray(TEACHER_XRY)))
    return float((0.5 * hint_XR * np.asarray(kl_XR)).sum())


@pytest.mark.parametrize("hint_XR", [DETERMINED_XR, RANDOM_XR])
def test_the_best_student_is_as_far_as_the_hint_informs(hint_XR):
    best_XY = (hint_XR[..., None] * TEACHER_XRY).sum(1)
    floor = mean_kl(best_XY, hint_XR)
    assert floor == pytest.approx(information(hint_XR), abs=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert mean_kl(rng.dirichlet(np.ones(3), 2), hint_XR) > floor


def test_only_a_hint_of_its_own_lies_beyond_the_question():
    assert information(DETERMINED_XR) == pytest.approx(0, abs=1e-12)
    assert information(RANDOM_XR) > 0.05
    # A constant hint is one that any question determines.
    assert information(np.array([[1.0, 0.0], [1.0, 0.0]])) == pytest.approx(0)
