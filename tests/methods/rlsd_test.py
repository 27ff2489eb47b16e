"""RLSD as two terms against the one objective of its card, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.losses import divergences, objective, signals, weights
from jopd.methods import rlsd
from jopd.types import Outputs

B, T, V = 6, 4, 5
CLIPS = dict(clip_low=0.2, clip_high=0.28, dual_clip=3.0)
REWARD = np.asarray([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
GROUP = np.asarray([0, 0, 0, 1, 1, 1])  # the second is all correct


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def batch(seed=0):
    """Logits, tokens and behaviour of a batch whose ratios reach past every clip."""
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(size=(2, B, T, V)) * 1.5
    tokens = jnp.asarray(rng.integers(0, V, (B, T)))
    logp = np.asarray(divergences.log_prob(jnp.asarray(student), tokens))
    behavior = jnp.asarray(logp + rng.normal(size=(B, T)) * 1.2)
    return jnp.asarray(student), jnp.asarray(teacher), tokens, behavior


def scores_of(student, teacher, tokens):
    logp = {
        "student": divergences.log_prob(student, tokens),
        "teacher": divergences.log_prob(teacher, tokens),
    }
    mask_BT = np.ones((B, T), bool)
    return tiny.scores(mask_BT, logp=logp, reward=REWARD, group=GROUP)


def card(student, arrays, blend, clip=0.2, negative_only=False):
    """f32[B, T]: -min(rho A f, clip(rho) A f), with dual clip, as it is written."""
    at, teacher, tokens, behavior = arrays
    gain = divergences.log_prob(teacher, tokens) - divergences.log_prob(at, tokens)
    mean, std = np.zeros(B), np.zeros(B)
    for group in (0, 1):
        inside = group == GROUP
        mean[inside], std[inside] = REWARD[inside].mean(), REWARD[inside].std(ddof=1)
    advantage = ((REWARD - mean) / (std + 1e-6))[:, None]
    sign = np.sign(advantage)
    if negative_only:
        sign = np.minimum(sign, 0)
    evidence = np.clip(np.exp(sign * np.asarray(gain)), 1 - clip, 1 + clip)
    shaped = advantage * ((1 - blend) + blend * evidence)
    ratio = jnp.exp(divergences.log_prob(student, tokens) - behavior)
    kept = jnp.minimum(ratio * shaped, jnp.clip(ratio, 0.8, 1.28) * shaped)
    return -jnp.where(shaped < 0, jnp.maximum(kept, 3.0 * shaped), kept)


def two_terms(student, arrays, blend, **options):
    at, teacher, tokens, behavior = arrays
    scores = scores_of(at, teacher, tokens)
    advantage = weights.group_reward(scores)
    outputs = Outputs({"student": student}, tokens, behavior, advantage)
    value = signals.policy_gradient(outputs, other=None, **CLIPS)
    return (1 - blend) * value + blend * rlsd.evidence(scores, **options) * value


@pytest.mark.parametrize("negative_only", [False, True])
@pytest.mark.parametrize("blend", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_two_terms_are_the_objective_of_the_card(blend, negative_only, seed):
    arrays = batch(seed)
    value = lambda f, x: f(x, arrays, blend, negative_only=negative_only)
    got, want = value(two_terms, arrays[0]), value(card, arrays[0])
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    grad = lambda f: jax.grad(lambda x: jnp.sum(value(f, x)))(arrays[0])
    np.testing.assert_allclose(grad(two_terms), grad(card), rtol=1e-10, atol=1e-12)


def test_the_batch_reaches_every_branch():
    student, _, tokens, behavior = batch()
    ratio = np.exp(np.asarray(divergences.log_prob(student, tokens) - behavior))
    low, high = ratio[REWARD == 0], ratio[:3][REWARD[:3] == 1]
    assert (high > 1.28).any() and (low < 0.8).any() and (low > 3).any()


def test_evidence_by_hand():
    """Ratio 2 and 1/2, clipped at 0.2; sign of the verdict; groups without one."""
    ratio = np.log([[2.0, 0.5], [2.0, 0.5], [1.1, 1.0], [2.0, 0.5]])
    scores = tiny.scores(
        np.ones((4, 2), bool),
        logp={"student": np.zeros((4, 2)), "teacher": ratio},
        reward=np.asarray([1.0, 0.0, 1.0, 1.0]),
        group=np.asarray([0, 0, 0, 1]),
    )
    want = [[1.2, 0.8], [0.8, 1.2], [1.1, 1.0], [1.0, 1.0]]
    np.testing.assert_allclose(rlsd.evidence(scores), want, rtol=1e-12)
    want[0], want[2] = [1.0, 1.0], [1.0, 1.0]
    got = rlsd.evidence(scores, negative_only=True)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert (rlsd.evidence(scores, clip=0.0) == 1).all()


def test_outside_of_a_thought_a_token_counts_as_in_grpo():
    ids = np.asarray([[7, 1, 9, 2], [1, 7, 2, 3]])
    logp = {"student": np.zeros(ids.shape), "self": np.full(ids.shape, 0.1)}
    made = dict(tokens=ids, logp=logp, reward=np.asarray([1.0, 0]), group=np.zeros(2))
    scores = tiny.scores(ids > 0, **made)
    marks = dict(start=(7,), end=(9,), other="self")
    up, down = np.exp(0.1), np.exp(-0.1)
    want = [[1, up, 1, 1], [1, 1, down, down]]
    np.testing.assert_allclose(rlsd.evidence(scores, **marks), want, rtol=1e-6)
    report = rlsd.evidence_report(scores, **marks)
    np.testing.assert_allclose(report["weight_mean"], (up + 2 * down) / 3, rtol=1e-6)


def test_far_ratios_are_clipped_in_log_space():
    far = np.asarray([[1e6, -1e6]])
    scores = tiny.scores(
        np.ones((2, 2), bool),
        logp={"student": np.zeros((2, 2)), "teacher": np.repeat(far, 2, axis=0)},
        reward=np.asarray([1.0, 0.0]),
        group=np.zeros(2, int),
    )
    want = [[1.2, 0.8], [0.8, 1.2]]
    np.testing.assert_allclose(rlsd.evidence(scores), want, rtol=1e-12)


def uniform_scores(seed=0):
    """Groups: mixed, all correct, all wrong, one row alone; unequal lengths."""
    rng = np.random.default_rng(seed)
    logp = {name: -rng.uniform(0, 2, (7, 5)) for name in ("student", "teacher")}
    return tiny.scores(
        np.arange(5) < np.asarray([5, 4, 3, 5, 2, 4, 5])[:, None],
        logp=logp,
        reward=np.asarray([1.0, 0.0, 1.0, 1.0, 0.2, 0.2, 1.0]),
        group=np.asarray([0, 0, 1, 1, 2, 2, 3]),
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_uniform_groups_get_one_sign_and_a_mean_size_of_1(seed):
    scores = uniform_scores(seed)
    got = np.asarray(jax.jit(rlsd.uniform_group)(scores))
    gap_BT = np.asarray(scores.logp["teacher"] - scores.logp["student"])
    mask_BT = np.asarray(scores.mask)
    want = np.zeros_like(gap_BT)
    for row, sign in ((2, 1), (3, 1), (4, -1), (5, -1)):
        ratio = np.exp(sign * gap_BT[row, mask_BT[row]]).clip(0.8, 1.2)
        want[row, mask_BT[row]] = sign * ratio / ratio.mean()
    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(np.abs(want[2:6]).sum(1), mask_BT[2:6].sum(1))
    # Where one has an advantage the other has none: their sum is one advantage.
    other = np.asarray(weights.group_reward(scores))
    assert not (other * got).any() and other.any()
    plain = np.asarray(rlsd.uniform_group(scores, clip=0.0))
    np.testing.assert_allclose(plain[mask_BT], np.sign(want[mask_BT]))
    raised = np.asarray(rlsd.uniform_group(scores, correct=0.1))
    assert (raised[4:6][mask_BT[4:6]] > 0).all()


def test_evidence_report_counts_what_the_clip_changes():
    ratio = np.log([[2.0, 0.5, 1.1], [2.0, 3.0, 1.0], [9.0, 9.0, 9.0]])
    scores = tiny.scores(
        np.ones((3, 3), bool),
        logp={"student": np.zeros((3, 3)), "teacher": ratio},
        reward=np.asarray([1.0, 0.0, 1.0]),
        group=np.asarray([0, 0, 1]),
    )
    got = rlsd.evidence_report(scores)
    # Row 0 as it is, row 1 turned around; row 2 has no verdict.
    np.testing.assert_allclose(got["clipped_high"], 1 / 6)
    np.testing.assert_allclose(got["clipped_low"], 3 / 6)
    mean = (1.2 + 0.8 + 1.1 + 0.8 + 0.8 + 1.0) / 6
    np.testing.assert_allclose(got["weight_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(got["gain_mean"], ratio.mean(), rtol=1e-12)
    assert got["uniform_groups"] == 0.5
    got = rlsd.evidence_report(scores, negative_only=True)
    np.testing.assert_allclose(got["clipped_low"], 2 / 3)


@pytest.mark.parametrize("clip", [-0.1, 1.0])
def test_a_clip_out_of_range_is_named(clip):
    with pytest.raises(ValueError, match=f"0 <= clip < 1, got clip={clip}"):
        rlsd.evidence(scores_of(*batch()[:3]), clip=clip)
    with pytest.raises(ValueError, match=f"0 <= clip < 1, got clip={clip}"):
        rlsd.uniform_group(scores_of(*batch()[:3]), clip=clip)


def terms():
    shared = dict(
        signal=functools.partial(signals.policy_gradient, other=None, **CLIPS),
        advantage=weights.group_reward,
    )
    return (
        objective.Term(name="grpo", **shared),
        objective.Term(name="evidence", weights=(rlsd.evidence,), **shared),
    )


def loss_and_grad(terms, coefs):
    """Through the whole objective, in float32."""
    with jax.enable_x64(False):
        rolled, rng = tiny.batch(), np.random.default_rng(0)
        shape = (*rolled.mask_BT.shape, 5)
        draw = lambda *size: jnp.asarray(rng.normal(size=size), jnp.float32)
        hidden = {name: draw(*shape) for name in ("student", "teacher")}
        heads = {name: draw(tiny.VOCABULARY, 5) for name in hidden}
        sizes = dict(vocabulary=tiny.VOCABULARY, chunk_tokens=16)
        facts = objective.facts(hidden, heads, rolled, **sizes)
        weighed = objective.weigh(terms, objective.scores(rolled, facts))

        def of(student):
            return objective.objective(
                student[0],
                student[1],
                {"teacher": hidden["teacher"]},
                {"teacher": heads["teacher"]},
                rolled,
                weighed,
                coefs,
                terms=terms,
                **sizes,
            )[0]

        return jax.value_and_grad(of)((hidden["student"], heads["student"]))


def test_lambda_0_is_grpo_bit_for_bit():
    loss, grads = loss_and_grad(terms(), {"grpo": 1.0, "evidence": 0.0})
    alone, alone_grads = loss_and_grad(terms()[:1], {"grpo": 1.0})
    np.testing.assert_array_equal(loss, alone)
    for one, two in zip(grads, alone_grads, strict=True):
        np.testing.assert_array_equal(one, two)
        assert np.abs(one).max() > 0


def test_lambda_a_half_differs_from_grpo_within_its_range():
    _, half = loss_and_grad(terms(), {"grpo": 0.5, "evidence": 0.5})
    _, alone = loss_and_grad(terms()[:1], {"grpo": 1.0})
    share = np.linalg.norm(half[0] - alone[0]) / np.linalg.norm(alone[0])
    assert 0.001 < share < 0.1  # f lies in [0.9, 1.1]
