"""DPCA's shares against numbers by hand, and where they are plain log-ratios."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.losses import scoring, signals
from jopd.methods import cross_tokenizer
from jopd.types import Aligned, Outputs

LOGP = np.log([[0.5, 0.1, 0.25, 0.2]])


def scores(span, total, kind=None, logp=LOGP):
    shape = np.shape(span)
    extra = {
        "span/teacher": np.asarray(span, np.float32),
        "span_logp/teacher": np.asarray(total, np.float32),
        "kind/teacher": np.asarray(kind or np.zeros(shape), np.float32),
    }
    both = dict(student=logp, teacher=np.asarray(total, float))
    return tiny.scores(np.ones(shape, bool), logp=both, extra=extra)


@pytest.mark.parametrize(
    "share, want", [("ratio", (-0.230391, -0.765342)), ("shift", (-0.497866,) * 2)]
)
def test_a_span_of_two_tokens(share, want):
    """L_S = -2.995732, L_T = -2: the worked example of the sheet, which has q / p."""
    found = cross_tokenizer.proportional(
        scores([[1, 1, 0, 0]], [[-2.0, -2.0, 0.0, 0.0]]), share=share
    )
    np.testing.assert_allclose(found[0, :2], np.negative(want), atol=1e-6)
    np.testing.assert_allclose(found[0].sum(), -2.0 - LOGP[0, :2].sum(), atol=1e-6)
    assert not found[0, 2:].any()  # outside of any span


@pytest.mark.parametrize("share", cross_tokenizer.SHARES)
def test_one_token_each_is_the_log_ratio(share):
    total = np.array([[-0.1, -3.0, -0.7, -2.0]])
    found = cross_tokenizer.proportional(scores([[1, 2, 3, 4]], total), share=share)
    np.testing.assert_allclose(found, total - LOGP, atol=1e-6)


def test_a_sure_student_and_a_bound():
    sure = np.array([[0.0, 0.0, -1.0, -1.0]])
    given = scores([[1, 1, 2, 2]], [[-3.0, -3.0, -90.0, -90.0]], logp=sure)
    found = np.asarray(cross_tokenizer.proportional(given))
    np.testing.assert_allclose(found, [[-1.5, -1.5, -10.0, -10.0]], atol=1e-6)
    free = cross_tokenizer.proportional(given, bound=1e9)
    np.testing.assert_allclose(free[0, 2:], [-44.0, -44.0], rtol=1e-6)
    with pytest.raises(ValueError, match="share='most' is unknown; use one of ratio"):
        cross_tokenizer.proportional(given, share="most")


def test_rows_do_not_share_spans():
    span, logp = [[1, 1], [1, 2]], np.log([[0.5, 0.5], [0.1, 0.9]])
    total = [[-1.0, -1.0], [-2.0, -0.5]]
    found = cross_tokenizer.proportional(scores(span, total, logp=logp), share="shift")
    want = [[(-1.0 - logp[0].sum()) / 2] * 2, np.array(total[1]) - logp[1]]
    np.testing.assert_allclose(found, want, atol=1e-6)


def test_weights_by_kind():
    given = scores([[1, 2, 3, 0]], np.zeros((1, 4)), kind=[[1.0, 2.0, 3.0, 0.0]])
    found = cross_tokenizer.by_kind(given, several=0.5, inside=0.25)
    np.testing.assert_array_equal(found, [[1.0, 0.5, 0.25, 0.0]])


def test_what_is_unknown_teaches_nothing():
    """There a teacher agrees with the student; elsewhere it has what it said."""
    logits, tokens = jnp.asarray([[0.0, 1.0, 2.0]] * 2), jnp.asarray([0, 2])
    scored = {"teacher": jnp.asarray([1.0, -0.25])}

    def outputs(logits):
        return Outputs({"student": logits}, tokens, logp, scored=scored)

    logp = jax.nn.log_softmax(logits)[jnp.arange(2), tokens]
    found = scoring.log_prob(outputs(logits), "teacher")
    np.testing.assert_allclose(found, [logp[0], -0.25], rtol=1e-6)
    loss = lambda logits: jnp.sum(signals.policy_gradient(outputs(logits)))
    slope = jax.grad(loss)(logits)
    np.testing.assert_array_equal(slope[0], 0.0)
    assert abs(slope[1]).min() > 0


def _sorted_by_hand(student, teacher, k=0):
    """ULD in float64, a vocabulary as wide as the wider one."""
    ours, theirs = (
        sorted(np.exp(x - np.logaddexp.reduce(x)), reverse=True)
        for x in (np.asarray(student, float), np.asarray(teacher, float))
    )
    if k:
        ours, theirs = ([*p[:k], 1 - sum(p[:k])] for p in (ours, theirs))
    size = max(len(ours), len(theirs))
    ours, theirs = (p + [0.0] * (size - len(p)) for p in (ours, theirs))
    return np.abs(np.subtract(ours, theirs)).sum()


def _apart(student, teacher, known):
    logits = dict(student=jnp.asarray(student, jnp.float32))
    there = Aligned(jnp.asarray(teacher, jnp.float32), jnp.asarray(known))
    token = jnp.zeros(len(student), jnp.int32)
    return Outputs(logits, token, token * 0.0, aligned=dict(teacher=there))


@pytest.mark.parametrize("k", [0, 1, 4, 50])
@pytest.mark.parametrize("sizes", [(7, 12), (12, 7), (9, 9)])
def test_sorted_probabilities_of_two_vocabularies(k, sizes):
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(0, 2, (6, size)) for size in sizes)
    known = np.asarray([True, True, False, True, True, True])
    given = _apart(student, teacher, known)
    got = cross_tokenizer.sorted_l1(given, k=k)
    few = min(k, *sizes)
    want = [_sorted_by_hand(s, t, few) for s, t in zip(student, teacher)]
    np.testing.assert_allclose(got, np.where(known, want, 0), rtol=1e-5, atol=1e-6)
    assert (got >= 0).all() and (got <= 2).all()

    def of(x):
        moved = given._replace(logits=dict(student=x))
        return jnp.sum(cross_tokenizer.sorted_l1(moved, k=k))

    gradient = np.asarray(jax.grad(of)(given.logits["student"]))
    assert np.isfinite(gradient).all() and (gradient[2] == 0).all()
    for row, v in ((0, 1), (4, 3)):
        step = np.zeros_like(student)
        step[row, v] = 1e-5
        ends = [
            _sorted_by_hand(x[row], teacher[row], few)
            for x in (student + step, student - step)
        ]
        assert gradient[row, v] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-4)


def test_other_names_of_the_same_probabilities_are_the_same():
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 2, (3, 8))
    mixed = np.stack([row[rng.permutation(8)] for row in rows])
    wide = np.pad(mixed, ((0, 0), (0, 5)), constant_values=-1e9)
    given = _apart(rows, wide, np.ones(3, bool))
    np.testing.assert_allclose(cross_tokenizer.sorted_l1(given), 0, atol=1e-6)


def test_of_a_teacher_with_the_students_tokens_it_is_everywhere():
    rng = np.random.default_rng(2)
    rows = [jnp.asarray(rng.normal(0, 2, (4, 8)), jnp.float32) for _ in range(2)]
    token = jnp.zeros(4, jnp.int32)
    plain = Outputs(dict(zip(("student", "teacher"), rows)), token, token * 0.0)
    apart = _apart(*rows, np.ones(4, bool))
    np.testing.assert_array_equal(
        cross_tokenizer.sorted_l1(plain), cross_tokenizer.sorted_l1(apart)
    )
