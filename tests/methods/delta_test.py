"""Teacher minus anchor: extrapolated and delta signals."""

import jax
import numpy as np
import pytest

import exact
import tiny
from jopd.losses import weights
from jopd.methods import delta

PLAIN = dict(signal="policy_gradient", other=None)


def states():
    """Log-probabilities of a vocabulary of five: student, teacher, anchor; float64."""
    rng = np.random.default_rng(0)
    return [exact.log_softmax(rng.normal(size=exact.V) * s) for s in (1.0, 2.0, 1.5)]


def enumerated():
    """All tokens of one state as a row."""
    student, teacher, anchor = states()
    scores = exact.scores_of(student, teacher)
    kl = float(np.exp(student) @ (student - anchor))
    whole = np.broadcast_to(anchor, (1, exact.V))
    return scores._replace(
        logp=scores.logp | {"reference": whole},
        reverse_kl=scores.reverse_kl | {"reference": np.full((1, exact.V), kl)},
    )


def test_extrapolation_1_is_opd_to_the_bit():
    scores = tiny.random_scores()
    for tau in (0.007, float("inf")):
        spec = dict(function="delta.extrapolated", extrapolate=1.0, tau=tau)
        got = tiny.weighed(scores, advantage=spec, **PLAIN).advantage_BT
        want = tiny.weighed(scores, advantage="log_ratio", **PLAIN).advantage_BT
        np.testing.assert_array_equal(got, want)


def test_extrapolated_is_g_opd_and_an_anchor_that_is_the_student_stretches():
    scores = tiny.random_scores()
    student, teacher, anchor = (
        np.asarray(scores.logp[name]) for name in ("student", "teacher", "reference")
    )
    got = delta.extrapolated(scores, extrapolate=1.25)
    want = 1.25 * (teacher - anchor) - (student - anchor)
    np.testing.assert_allclose(got, want, atol=1e-5)
    got = delta.extrapolated(scores, extrapolate=1.25, anchor="student")
    np.testing.assert_allclose(got, 1.25 * (teacher - student), rtol=1e-5)


def test_its_fixed_point_is_the_geometric_extrapolation():
    """A student like anchor^(1 - lambda) teacher^lambda has one advantage."""
    with jax.enable_x64(True):
        _, teacher, anchor = states()
        student = exact.log_softmax(-0.25 * anchor + 1.25 * teacher)
        scores = exact.scores_of(student, teacher)
        scores = scores._replace(logp=scores.logp | {"reference": anchor[None]})
        got = np.asarray(delta.extrapolated(scores, extrapolate=1.25))
    np.testing.assert_allclose(got, got[0, 0], atol=1e-12)


def test_far_tokens_are_not_extrapolated():
    gap, rise = np.asarray([[0.0, 0.1, -2.0]]), np.asarray([[0.5, 0.5, 0.5]])
    student = np.full((1, 3), -3.0)
    logp = dict(student=student, teacher=student + gap, reference=student + gap - rise)
    scores = tiny.scores(np.ones((1, 3), bool), logp=logp)
    got = delta.extrapolated(scores, extrapolate=2.0, tau=0.007)
    near = np.exp(-(np.exp(gap) - 1 - gap) / 0.007)
    np.testing.assert_allclose(near, [[1.0, 0.477738, 0.0]], atol=1e-5)
    np.testing.assert_allclose(got, gap + near * rise, atol=1e-5)


def test_centred_signals_have_a_mean_of_0_under_the_student():
    with jax.enable_x64(True):
        scores, share = enumerated(), np.exp(states()[0])
        centred = np.asarray(delta.shift(scores, gate=False))[0]
        raw = np.asarray(delta.shift(scores, gate=False, center=False))[0]
        gated = np.asarray(delta.shift(scores))[0]
        pull = np.asarray(weights.log_ratio(scores))[0]
    _, teacher, anchor = states()
    np.testing.assert_allclose(raw, teacher - anchor, atol=1e-12)
    np.testing.assert_allclose(centred, raw - share @ raw, atol=1e-12)
    agrees = centred * (pull - share @ pull) > 0
    assert agrees.any() and not agrees.all()
    np.testing.assert_allclose(gated, np.where(agrees, centred, 0), atol=1e-12)


def test_an_anchor_that_is_the_student_is_opd_without_its_mean():
    with jax.enable_x64(True):
        scores, share = enumerated(), np.exp(states()[0])
        kl = {"student": np.zeros((1, exact.V))}
        scores = scores._replace(reverse_kl=scores.reverse_kl | kl)
        got = np.asarray(delta.shift(scores, anchor="student"))[0]
        gap = np.asarray(weights.log_ratio(scores))[0]
    np.testing.assert_allclose(got, gap - share @ gap, atol=1e-12)


@pytest.mark.parametrize("center", [False, True])
def test_a_student_at_the_teacher_is_left_alone_by_the_gate_only(center):
    scores = tiny.random_scores()
    scores.logp["student"] = scores.logp["teacher"]
    scores.reverse_kl["teacher"] = 0 * scores.reverse_kl["teacher"]
    assert not np.asarray(delta.shift(scores, center=center)).any()
    assert np.asarray(delta.shift(scores, center=center, gate=False)).any()
