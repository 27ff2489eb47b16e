"""SCOPE's weights against numbers by hand, and where they are plain sums."""

import numpy as np
import pytest

import tiny
from jopd.methods import scope

RIGHT = dict(of="student", rows="correct", sign=-1.0)
WRONG = dict(of="teacher", rows="wrong", sign=1.0)
LEVEL = np.asarray([-0.2, -0.5, -1.0, -0.7])
PER_GROUP = 4.0  # rows / prompts of a group of four


def one_group(reward):
    """Rows of unequal length with mean log-probabilities ``LEVEL``, of both models."""
    mask_BT = np.arange(3) < np.asarray([1, 2, 3, 2])[:, None]
    level_BT = np.where(mask_BT, LEVEL[:, None], 7.0)
    logp = dict(student=level_BT, teacher=level_BT)
    fields = dict(logp=logp, reward=np.asarray(reward), group=np.zeros(4, int))
    return tiny.scores(mask_BT, **fields)


def test_rare_right_rows_and_understood_wrong_rows_weigh_more():
    got = scope.by_likelihood(one_group([1.0, 1, 1, 0]), **RIGHT)
    want = [0.218560, 0.295025, 0.486415, 0.0]
    np.testing.assert_allclose(got[:, 0] / PER_GROUP, want, atol=1e-5)
    got = scope.by_likelihood(one_group([0.0, 0, 0, 1]), **WRONG)
    want = [0.456590, 0.338250, 0.205159, 0.0]
    np.testing.assert_allclose(got[:, 0] / PER_GROUP, want, atol=1e-5)


@pytest.mark.parametrize("kind, reward", [(RIGHT, 0.0), (WRONG, 1.0)])
def test_a_batch_without_such_rows_has_no_weight(kind, reward):
    scores = tiny.random_scores(reward=np.full(9, reward))
    got = np.asarray(scope.by_likelihood(scores, **kind))
    assert np.isfinite(got).all() and not got.any()


@pytest.mark.parametrize("kind", [RIGHT, WRONG])
def test_the_normaliser_rows_makes_it_the_mean_over_prompts(kind):
    """Sums of 1 per prompt that has such rows, over all prompts."""
    scores = tiny.random_scores()
    spec = dict(signal="nll", normalizer="rows")
    weight = dict(function="scope.by_likelihood", **kind)
    got = np.asarray(tiny.weighed(scores, weights=dict(one=weight), **spec).weight_BT)
    # Row 3 has no token and row 8 is gold: groups 1, 2 and 3 have 3, 2 and 2 rows.
    first, prompts = got[:, 0], {"correct": 3, "wrong": 2}[kind["rows"]]
    np.testing.assert_allclose(first.sum(), prompts / 3, rtol=1e-6)
    chosen = np.asarray(scores.reward) == (kind["rows"] == "correct")
    written = np.asarray([1, 1, 1, 0, 1, 1, 1, 1, 0], bool)
    np.testing.assert_array_equal(first > 0, chosen & written)
    alone = np.asarray(scope.by_likelihood(scores, **kind))
    np.testing.assert_array_equal(alone[:, 0] > 0, chosen & written)


def test_a_mean_of_1_is_the_code_s_scale():
    got = scope.by_likelihood(one_group([1.0, 1, 1, 0]), scale="mean_one", **RIGHT)
    np.testing.assert_allclose(got[:3, 0].mean(), 1.0, rtol=1e-6)
    alone = scope.by_likelihood(one_group([0.0, 0, 0, 1]), scale="mean_one", **RIGHT)
    np.testing.assert_allclose(alone[:, 0], [0, 0, 0, 1])


def test_wrong_groups_of_one_are_row_sums_of_opd_to_the_bit():
    """Not the token means of the plain config: long rows count for more."""
    scores = tiny.random_scores(reward=np.zeros(9), group=np.arange(9))
    plain = dict(signal="policy_gradient", normalizer="rows")
    weight = dict(function="scope.by_likelihood", **WRONG)
    got = tiny.weighed(scores, weights=dict(one=weight), **plain)
    np.testing.assert_array_equal(
        got.weight_BT, tiny.weighed(scores, **plain).weight_BT
    )
    idle = dict(function="scope.by_likelihood", **RIGHT)
    assert not np.asarray(
        tiny.weighed(scores, weights=dict(one=idle), **plain).weight_BT
    ).any()


def test_temperature():
    flat = scope.by_likelihood(
        one_group([1.0, 1, 1, 0]), temperature=float("inf"), **RIGHT
    )
    np.testing.assert_allclose(flat[:, 0] / PER_GROUP, [1 / 3] * 3 + [0], rtol=1e-6)
    sharp = scope.by_likelihood(one_group([1.0, 1, 1, 0]), temperature=1e-3, **RIGHT)
    np.testing.assert_allclose(sharp[:, 0] / PER_GROUP, [0, 0, 1, 0], atol=1e-6)


@pytest.mark.parametrize("bad", [dict(rows="right"), dict(scale="sum")])
def test_what_is_unknown_is_named(bad):
    (value,) = bad.values()
    with pytest.raises(ValueError, match=f"='{value}' is unknown"):
        scope.by_likelihood(tiny.random_scores(), **(RIGHT | bad))
