"""DPCA's shares against numbers by hand, and where they are plain log-ratios."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.losses import scoring, signals
from jopd.methods import cross_tokenizer
from jopd.types import Outputs

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
