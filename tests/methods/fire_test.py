"""FiRe-OPD's two weights against numbers by hand."""

import numpy as np
import pytest

import tiny
from jopd.methods import fire

PLAIN = dict(signal="policy_gradient")


def rows_of(mean_B, length_B):
    """Rows whose mean log-probability under the teacher is ``mean_B``."""
    mask_BT = np.arange(max(length_B)) < np.asarray(length_B)[:, None]
    teacher_BT = np.where(mask_BT, np.asarray(mean_B)[:, None], -99.0)
    return tiny.scores(mask_BT, logp=dict(student=0 * teacher_BT, teacher=teacher_BT))


def test_a_row_by_hand():
    entropy = dict(teacher=np.asarray([[0, 0.5, 1]]), student=np.asarray([[1, 0.5, 0]]))
    scores = tiny.scores(np.ones((1, 3), bool), entropy=entropy)
    got = fire.sure_and_unsure(scores)
    np.testing.assert_allclose(got, [[1.655172, 0.931034, 0.413793]], atol=1e-5)
    behind = {
        name: np.pad(row, ((0, 0), (0, 1)), constant_values=9.0)
        for name, row in entropy.items()
    }
    padded = tiny.scores(np.arange(4)[None] < 3, entropy=behind)
    np.testing.assert_array_equal(fire.sure_and_unsure(padded)[:, :3], got)


def test_the_lowest_fifth_of_ten_rows_is_dropped():
    scores = rows_of(-0.1 * np.arange(1, 11), [1, 2] * 5)
    got = np.asarray(fire.familiar_rows(scores, drop=0.2))
    np.testing.assert_array_equal(got[:, 0], [1] * 8 + [0] * 2)  # quantile -0.82
    higher = rows_of([-0.1] * 2 + [-0.3] * 2, [1] * 4)
    assert np.asarray(fire.familiar_rows(higher, drop=0.5))[:, 0].tolist() == [
        1,
        1,
        0,
        0,
    ]


def test_half_of_two_rows_is_dropped_and_the_weights_count_what_is_kept():
    """The sheet's case: a row of three tokens is kept, one of two is not."""
    entropy = np.random.default_rng(0).uniform(0, 2, (2, 3))
    scores = rows_of([-0.1, -0.9], [3, 2])
    scores = scores._replace(entropy=dict(teacher=entropy, student=entropy[:, ::-1]))
    kept = np.asarray(fire.familiar_rows(scores, drop=0.5))
    weight = kept * np.asarray(fire.sure_and_unsure(scores)) * scores.mask
    np.testing.assert_array_equal(kept[:, 0], [1, 0])
    assert float(weight.sum()) == pytest.approx(3.0, rel=1e-6)


def test_rows_without_tokens_and_gold_rows_do_not_set_the_threshold():
    scores = rows_of([-0.1, -0.2, -0.3, -9.0, 0.0], [2, 2, 2, 0, 1])
    source_BT = np.zeros((5, 2), int)
    source_BT[4] = 2
    scores = scores._replace(source=source_BT)
    got = np.asarray(fire.familiar_rows(scores, drop=0.4))[:, 0]
    np.testing.assert_array_equal(got, [1, 1, 0, 0, 0])


def test_kept_weights_sum_to_the_kept_tokens():
    scores = tiny.random_scores()
    rows = np.asarray(fire.familiar_rows(scores, drop=0.5))
    inside = np.asarray(scores.mask) & (np.asarray(scores.source) == 0)
    both = rows * np.asarray(fire.sure_and_unsure(scores))
    np.testing.assert_allclose(both[inside].sum(), rows[inside].sum(), rtol=1e-5)
    assert 0 < rows[inside].sum() < inside.sum()
    over_batch = np.asarray(fire.sure_and_unsure(scores, scope="batch"))
    np.testing.assert_allclose(over_batch[inside].mean(), 1.0, rtol=1e-5)
    assert not np.allclose(over_batch[inside], both[inside])


def test_sure_teacher_and_unsure_student_weigh_more():
    ladder = np.linspace(0.1, 2.0, 6)[None]
    flat = np.ones((1, 6))
    of = lambda **entropy: np.diff(
        fire.sure_and_unsure(tiny.scores(flat > 0, entropy=entropy))[0]
    )
    assert (of(teacher=ladder, student=flat) < 0).all()
    assert (of(teacher=flat, student=ladder) > 0).all()
    np.testing.assert_allclose(of(teacher=flat, student=flat), 0.0)


@pytest.mark.parametrize("scope", ["sequence", "batch"])
def test_drop_0_and_no_weights_are_opd_to_the_bit(scope):
    scores = tiny.random_scores()
    got = tiny.weighed(
        scores,
        weights=dict(
            rows=dict(function="fire.familiar_rows", drop=0.0),
            tokens=dict(
                function="fire.sure_and_unsure", alpha=0.0, beta=0.0, scope=scope
            ),
        ),
        normalizer="weights",
        **PLAIN,
    )
    want = tiny.weighed(scores, **PLAIN)
    np.testing.assert_array_equal(got.weight_BT, want.weight_BT)
    assert np.asarray(got.weight_BT).any()


def test_a_batch_without_tokens_gives_no_nan():
    scores = tiny.random_scores()
    scores = scores._replace(mask=np.zeros_like(scores.mask))
    assert not np.asarray(fire.familiar_rows(scores)).any()
    got = tiny.weighed(
        scores,
        weights=dict(tokens=dict(function="fire.sure_and_unsure", scope="batch")),
        normalizer="weights",
        **PLAIN,
    )
    assert not np.asarray(got.weight_BT).any()


def test_what_is_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"0 <= drop < 1, got 1.0"):
        fire.familiar_rows(tiny.random_scores(), drop=1.0)
    with pytest.raises(ValueError, match=r"scope='rows' is unknown.*sequence, batch"):
        fire.sure_and_unsure(tiny.random_scores(), scope="rows")
