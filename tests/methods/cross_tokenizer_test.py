"""DPCA's shares against numbers by hand, and where they are plain log-ratios."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.losses import divergences, scoring, signals
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


# GOLD's hybrid.


def logits_of(seed, size):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 2, (5, size)), jnp.float32)


def beside(student, theirs, known=None):
    """Outputs with a teacher over a vocabulary of its own."""
    known = jnp.ones(len(theirs), bool) if known is None else known
    return Outputs(
        {"student": student},
        jnp.zeros(len(student), jnp.int32),
        jnp.zeros(len(student)),
        aligned={"teacher": Aligned(theirs, known)},
    )


def by_numpy(student, theirs, shared, beta, matched, rest):
    s, t = (np.exp(np.asarray(jax.nn.log_softmax(x), "f8")) for x in (student, theirs))
    a, b = s[:, shared[0]], t[:, shared[1]]
    m = beta * b + (1 - beta) * a
    both = (beta * b * np.log(b / m) + (1 - beta) * a * np.log(a / m)).sum(-1)
    alone = [np.delete(x, ids, axis=1) for x, ids in zip((s, t), shared)]
    size = max(x.shape[1] for x in alone)
    alone = [np.pad(x, ((0, 0), (0, size - x.shape[1]))) for x in alone]
    alone = [-np.sort(-x, axis=1) for x in alone]
    return matched * both + rest * np.abs(alone[0] - alone[1]).sum(-1)


@pytest.mark.parametrize("beta", [0.5, 0.1])
def test_both_parts_by_numpy(beta):
    student, theirs = logits_of(0, 7), logits_of(1, 10)
    shared = np.asarray([[0, 2, 3, 6], [9, 1, 0, 4]])
    given = beside(student, theirs)
    found = cross_tokenizer.hybrid(given, beta=beta, shared=shared)
    want = by_numpy(student, theirs, shared, beta, 0.4, 0.6)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    found = cross_tokenizer.hybrid(given, shared=shared, matched=2.0, rest=0.0)
    want = by_numpy(student, theirs, shared, 0.5, 2.0, 0.0)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    # Three are alone in the student, six in the teacher: the k likeliest, and a rest.
    found = cross_tokenizer.hybrid(given, shared=shared, matched=0.0, rest=1.0, k=3)
    want = by_numpy(student, theirs, shared, 0.5, 0.0, 1.0)
    assert (np.asarray(found) < want + 1e-6).all() and (np.asarray(found) > 0).all()


def test_of_one_vocabulary_it_is_the_divergence_whatever_the_ids():
    student, theirs, order = logits_of(2, 8), logits_of(3, 8), np.arange(8)[::-1]
    want = divergences.jsd(student, theirs, beta=0.5)
    one = Outputs({"student": student, "teacher": theirs}, *[jnp.zeros(5)] * 2)
    np.testing.assert_allclose(cross_tokenizer.hybrid(one), want, rtol=1e-5)
    turned = beside(student, theirs[:, order])
    shared = np.stack([np.arange(8), order])
    found = cross_tokenizer.hybrid(turned, shared=shared)
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_without_a_shared_token_it_is_uld():
    student, theirs = logits_of(4, 6), logits_of(5, 9)
    given = beside(student, theirs, jnp.asarray([1, 1, 0, 1, 0], bool))
    none = np.zeros((2, 0), np.int32)
    found = cross_tokenizer.hybrid(given, shared=none)
    np.testing.assert_allclose(found, cross_tokenizer.sorted_l1(given), rtol=1e-6)
    assert not np.asarray(found)[[2, 4]].any()


def test_its_gradient_is_finite_where_nothing_is_known():
    theirs = logits_of(6, 9).at[1].set(jnp.nan)
    shared = np.asarray([[0, 1], [3, 2]])

    def loss(student):
        given = beside(student, theirs, jnp.asarray([1, 0, 1, 1, 1], bool))
        return cross_tokenizer.hybrid(given, shared=shared).sum()

    grad = np.asarray(jax.grad(loss)(logits_of(7, 6)))
    assert np.isfinite(grad).all() and not grad[1].any() and grad[0].any()
    with pytest.raises(ValueError, match=r"beta=1.0 must be a number in \(0, 1\)"):
        cross_tokenizer.hybrid(beside(logits_of(7, 6), theirs), beta=1.0)
