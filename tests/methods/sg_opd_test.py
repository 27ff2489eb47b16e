"""SG-OPD against numbers by hand, and where it must be plain distillation."""

import numpy as np
import pytest

import tiny
from jopd.losses import weights
from jopd.methods import delta, sg_opd
from jopd.setup import builders, optimizer, shipped

REWARD = np.asarray([1.0, 1.0, 0.0, 0.0])
LOGP = {
    "student": np.log([[0.5], [0.5], [0.2], [0.2]]),
    "teacher": np.log([[0.7], [0.3], [0.4], [0.1]]),
    "reference": np.log([[0.6], [0.4], [0.25], [0.25]]),
}
PLAIN = dict(signal="policy_gradient", other=None)


def by_hand(**fields):
    plain = dict(logp=LOGP, reward=REWARD, group=np.zeros(4, int))
    return tiny.scores(np.ones((4, 1), bool), **(plain | fields))


@pytest.mark.parametrize(
    "clip, want",
    [
        (float("inf"), [0.459793, -0.510826, 0.693147, -1.426180]),
        (0.5, [0.537533, -0.584538, 0.584538, -1.202713]),
    ],
)
def test_the_sheet(clip, want):
    got = sg_opd.routed(by_hand(), extrapolate=1.8, fallback=1.0, clip=clip)
    np.testing.assert_allclose(got[:, 0], want, atol=1e-5)


def test_what_agrees_is_what_the_teacher_moves_as_the_verifier_says():
    """Fallback 0 is a sign filter; turning all rewards around swaps the branches."""
    filtered = lambda reward: np.asarray(
        sg_opd.routed(by_hand(reward=reward), extrapolate=1.0, fallback=0.0)
    )
    gap = LOGP["teacher"] - LOGP["student"]
    agree = np.asarray([[1.0], [0.0], [0.0], [1.0]])
    np.testing.assert_allclose(filtered(REWARD), gap * agree, atol=1e-6)
    np.testing.assert_allclose(filtered(1 - REWARD), gap * (1 - agree), atol=1e-6)


@pytest.mark.parametrize(
    "fields, arguments",
    [
        ({}, dict(extrapolate=1.0, fallback=1.0)),
        (dict(reward=np.ones(9)), dict(extrapolate=1.8, fallback=1.0)),
        (dict(reward=np.zeros(9)), dict(extrapolate=1.8, fallback=1.0)),
    ],
)
def test_without_extrapolation_or_a_verdict_it_is_opd_to_the_bit(fields, arguments):
    scores = tiny.random_scores(**fields)
    routed = dict(function="sg_opd.routed", **arguments)
    got = tiny.weighed(scores, advantage=routed, **PLAIN)
    want = tiny.weighed(scores, advantage="log_ratio", **PLAIN)
    np.testing.assert_array_equal(got.advantage_BT, want.advantage_BT)
    assert np.abs(got.advantage_BT).max() > 0


def test_an_anchor_that_is_the_student_stretches_agreeing_tokens():
    scores = tiny.random_scores()
    scores.logp["reference"] = scores.logp["student"]
    gap = np.asarray(weights.log_ratio(scores))
    agree = np.asarray(weights.group_reward(scores)) * gap > 0
    assert agree.any() and not agree.all()
    got = sg_opd.routed(scores, extrapolate=1.8)
    np.testing.assert_allclose(got, np.where(agree, 1.8, 1.0) * gap, rtol=1e-5)


def test_the_gate_reads_the_gap_before_the_clip_and_phi_has_a_mean_of_1():
    scores = tiny.random_scores()
    inside = np.asarray(scores.mask) & (np.asarray(scores.source) == 0)
    gap = np.asarray(weights.log_ratio(scores))
    phi = np.minimum(1, 0.3 / np.abs(gap))
    plain = np.asarray(sg_opd.routed(scores, clip=float("inf")))
    got = np.asarray(sg_opd.routed(scores, clip=0.3))
    want = plain * phi / phi[inside].mean()
    np.testing.assert_allclose(got[inside], want[inside], rtol=1e-5)


def test_cells_are_shares_of_student_tokens():
    got = sg_opd.cells(by_hand())
    for cell in ("right_up", "right_down", "wrong_up", "wrong_down"):
        assert got[cell] == 0.25
    assert got["no_signal"] == 0
    np.testing.assert_allclose(got["size_right_up"], 0.459793, atol=1e-5)
    np.testing.assert_allclose(got["size_wrong_down"], 1.426180, atol=1e-5)
    scores = tiny.random_scores()
    found = {name: float(value) for name, value in sg_opd.cells(scores).items()}
    shares = [value for name, value in found.items() if "size" not in name]
    np.testing.assert_allclose(sum(shares), 1.0, rtol=1e-6)
    # A whole group is right, another lost all but a right and a wrong row.
    assert found["no_signal"] == pytest.approx(13 / 30)


def test_its_extrapolation_is_that_of_exopd():
    scores = by_hand()
    want = delta.extrapolated(scores, extrapolate=1.8)
    np.testing.assert_array_equal(sg_opd.routed(scores)[0], want[0])
    np.testing.assert_array_equal(sg_opd.routed(scores)[3], want[3])


def test_no_coefficient_is_no_anchor():
    config = shipped.load("sg_opd")
    config.loss.anchor.coef = 0.0
    assert [term.name for term in builders.build_terms(config)] == ["routed"]


def test_the_anchor_fades_as_the_paper_has_it():
    alpha = optimizer.schedule("hold", 1.0, steps=35, hold=30, end=0.1)
    want = [1, 0.9141, 0.6891, 0.4109, 0.1859, 0.1, 0]
    np.testing.assert_allclose([alpha(k) for k in range(30, 37)], want, atol=1e-4)
