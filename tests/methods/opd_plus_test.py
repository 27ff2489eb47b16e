"""Advantages of OPD+ at known ratios; their mean gradients: ``methods_exact_test``."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import exact
from jopd.methods import opd_plus

U = np.asarray([0.1, 0.5, 1.0, 2.0, 7.0])
MIDDLE = np.log((1 + U) / 2)
# divergence: (stopped, corrected) by the paper's table.
TABLE = {
    "forward_kl": (-U * np.log(U), U),
    "reverse_kl": (np.log(U), np.log(U) - 1),
    "jsd": (-(U * np.log(U) - (1 + U) * MIDDLE) / 2, MIDDLE / 2),
}


def scores_of(log_u):
    scores = exact.scores_of(np.zeros(5), np.zeros(5))
    student = jnp.full((1, 5), -3.0, jnp.float32)
    teacher = student + jnp.asarray(log_u, jnp.float32)
    return scores._replace(logp={"student": student, "teacher": teacher})


@pytest.mark.parametrize("divergence", opd_plus.DIVERGENCES)
def test_the_table(divergence):
    stopped, corrected = TABLE[divergence]
    scores = scores_of(np.log(U))
    got = opd_plus.corrected(scores, divergence=divergence)[0]
    np.testing.assert_allclose(got, corrected, rtol=1e-5, atol=1e-6)
    got = opd_plus.stopped(scores, divergence=divergence)[0]
    np.testing.assert_allclose(got, stopped, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("divergence", opd_plus.DIVERGENCES)
@pytest.mark.parametrize("function", [opd_plus.corrected, opd_plus.stopped])
def test_far_ratios_stay_finite_and_bounded(divergence, function):
    scores = scores_of([-1000.0, -90.0, 0.0, 90.0, 1000.0])
    assert np.isfinite(function(scores, divergence=divergence)).all()
    cut = function(scores, divergence=divergence, bound=6.0)
    want = function(scores_of([-6.0, -6.0, 0.0, 6.0, 6.0]), divergence=divergence)
    np.testing.assert_array_equal(cut, want)


def test_reverse_kl_differs_by_a_constant():
    scores = scores_of(np.log(U))
    forms = [
        f(scores, divergence="reverse_kl")
        for f in (opd_plus.corrected, opd_plus.stopped)
    ]
    np.testing.assert_allclose(forms[0] - forms[1], -1.0, rtol=1e-6)


def test_an_unknown_divergence_names_the_known():
    with pytest.raises(ValueError, match=r"'kl'.*forward_kl, reverse_kl, jsd"):
        opd_plus.corrected(scores_of(np.log(U)), divergence="kl")


def test_the_default_is_the_forward_kl():
    scores = scores_of([0.0, 1.0, 2.0, math.log(3), -1.0])
    assert opd_plus.corrected(scores)[0, 3] == pytest.approx(3.0, rel=1e-5)
