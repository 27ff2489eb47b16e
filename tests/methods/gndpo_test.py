"""GNDPO against numbers by hand, its limits, and the ratio of whole rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.losses import divergences, signals
from jopd.methods import gndpo
from jopd.types import Outputs

SPEC = dict(signal="policy_gradient", other=None)


def gaps(gap_BT, mask_BT=None, **fields):
    gap_BT = np.asarray(gap_BT, np.float64)
    logp = dict(student=np.full(gap_BT.shape, -60.0), teacher=gap_BT - 60.0)
    mask_BT = np.ones(gap_BT.shape, bool) if mask_BT is None else mask_BT
    return tiny.scores(mask_BT, logp=logp, **fields)


def test_the_sheet():
    got = gndpo.whitened(gaps([[-1.0, 0.0, 1.0, -50.0]]))
    want = [[0.095059, 0.475293, 0.855528, -1.425880]]
    np.testing.assert_allclose(got, want, atol=1e-5)
    found = gndpo.flips(gaps([[-1.0, 0.0, 1.0, -50.0]]))
    np.testing.assert_allclose(found["mean"], -1.25, rtol=1e-6)
    assert found["clipped"] == 0.25 and found["up"] == 0.25 and found["down"] == 0


def test_three_in_ten_tokens_turn_positive():
    rng = np.random.default_rng(0)
    found = gndpo.flips(gaps(rng.normal(-0.5, 0.6, (40, 1000))))
    np.testing.assert_allclose(found["up"], 0.298, atol=0.005)
    np.testing.assert_allclose(found["std"], 0.6, atol=0.01)


@pytest.mark.parametrize("scope", ["batch", "group", "sequence"])
def test_moments_of_every_scope(scope):
    scores = tiny.random_scores()
    got = np.asarray(gndpo.whitened(scores, bound=2.0, scope=scope))
    gap = np.asarray(scores.logp["teacher"] - scores.logp["student"]).clip(-2, 2)
    inside = np.asarray(scores.mask) & (np.asarray(scores.source) == 0)
    label = {"batch": np.zeros(9), "group": np.arange(9) // 3, "sequence": np.arange(9)}
    for one in np.unique(label[scope]):
        part = inside & (label[scope] == one)[:, None]
        if part.any():
            want = (gap[part] - gap[part].mean()) / np.sqrt(
                gap[part].var(ddof=1) + 1e-8
            )
            np.testing.assert_allclose(got[part], want, atol=1e-5)


def test_switched_off_it_is_opd_to_the_bit():
    scores = tiny.random_scores()
    off = dict(bound=float("inf"), center=False, scale=False)
    advantage = dict(function="gndpo.whitened", **off)
    got = tiny.weighed(scores, advantage=advantage, **SPEC).advantage_BT
    want = tiny.weighed(scores, advantage="log_ratio", **SPEC).advantage_BT
    np.testing.assert_array_equal(got, want)


def test_affine_changes_of_the_log_ratio_change_nothing():
    gap = np.random.default_rng(1).normal(size=(3, 5))
    got = gndpo.whitened(gaps(3 * gap - 0.7), bound=float("inf"))
    want = gndpo.whitened(gaps(gap), bound=float("inf"))
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("scope", ["batch", "group", "sequence"])
def test_equal_ratios_and_a_single_token_give_0(scope):
    for off in (dict(), dict(center=False), dict(scale=False)):
        got = gndpo.whitened(gaps(np.full((7, 11), -1.1)), scope=scope, **off)
        assert not np.asarray(got).any()
    one = np.asarray([[True, False]])
    for off in (dict(), dict(center=False), dict(scale=False)):
        got = gndpo.whitened(gaps([[-1.0, 3.0]], one), scope=scope, **off)
        assert not np.asarray(got).any()


def test_one_outlier_is_bounded_before_the_moments():
    got = gndpo.whitened(gaps([[-1e3, 0.1, -0.1, 0.2]]))
    want = gndpo.whitened(gaps([[-5.0, 0.1, -0.1, 0.2]]))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_ratio_of_a_row_and_where_its_clip_stops():
    """Rows with ratios 1, e^.5 and e^-.5; a good and a bad token each."""
    scores = gaps([[1.0, -1.0]] * 3)
    drift = np.asarray([[0.0, 0.0], [0.2, 0.8], [-0.6, -0.4]])
    scores = scores._replace(behavior_logp=scores.logp["student"] - drift)
    got = gndpo.sequence_ratio(scores, low=0.2, high=0.2)
    want = [[1.0, 1.0], [0.0, np.exp(0.5)], [np.exp(-0.5), 0.0]]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    free = gndpo.sequence_ratio(scores, low=1.0, high=float("inf"))
    np.testing.assert_allclose(
        free, np.exp(drift.mean(1))[:, None] * [[1, 1]], rtol=1e-5
    )


def test_as_a_weight_it_has_the_gradient_of_gspo():
    """Against -sum min(s A, clip(s) A), s of rows, by token as the code has it."""
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        student = jnp.asarray(rng.normal(size=(3, 4, 5)))
        tokens = jnp.asarray(rng.integers(0, 5, (3, 4)))
        logp = divergences.log_prob(student, tokens)
        behavior = logp + jnp.asarray(
            rng.normal(size=(3, 4)) * 0.5 + [[0.4], [0], [-0.4]]
        )
        teacher = logp + jnp.asarray(rng.normal(size=(3, 4)))
        scores = tiny.scores(
            np.ones((3, 4), bool),
            logp=dict(student=logp, teacher=teacher),
            behavior_logp=behavior,
        )
        advantage = gndpo.whitened(scores)

        def gspo(x):
            now = divergences.log_prob(x, tokens)
            row = jnp.mean(now - behavior, axis=1, keepdims=True)
            fixed = jax.lax.stop_gradient
            ratio = jnp.exp(fixed(row) + now - fixed(now))
            clipped = jnp.clip(ratio, 0.8, 1.2)
            return -jnp.sum(jnp.minimum(ratio * advantage, clipped * advantage))

        def ours(x):
            outputs = Outputs({"student": x}, tokens, behavior, advantage)
            weight = gndpo.sequence_ratio(scores)
            return jnp.sum(weight * signals.score_function(outputs))

        got, want = jax.grad(ours)(student), jax.grad(gspo)(student)
        assert (np.asarray(gndpo.sequence_ratio(scores)) == 0).any()
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_what_is_missing_or_unknown_is_named():
    with pytest.raises(ValueError, match=r"scope='rows' is unknown.*batch, group, seq"):
        gndpo.whitened(tiny.random_scores(), scope="rows")
    outputs = Outputs({"student": jnp.zeros((1, 3))}, jnp.zeros(1, int), jnp.zeros(1))
    with pytest.raises(ValueError, match=r"score_function.*name an advantage"):
        signals.score_function(outputs)
