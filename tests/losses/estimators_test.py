import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopd.losses import divergences, estimators

pytestmark = pytest.mark.usefixtures("strict_promotion")

TOKENS = np.arange(5)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def student_and_teacher():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=5)), jnp.asarray(rng.normal(size=5) * 2)


def log_p_of_all(logits):
    """Log-probability of each of the five tokens, as a sample of each records it."""
    return divergences.log_prob(jnp.broadcast_to(logits, (5, 5)), jnp.asarray(TOKENS))


def per_sample_gradients(loss, student, teacher):
    """Row y: gradient in the student's logits of loss(log p(y), log q(y))."""
    log_q = log_p_of_all(teacher)
    return np.asarray(jax.jacobian(lambda s: loss(log_p_of_all(s), log_q))(student))


def expected(values, student):
    return np.exp(log_p_of_all(student)) @ np.asarray(values)


def score_with_k1(log_p, log_q):
    return estimators.score_function(log_p, -estimators.k1(log_p, log_q))


def surrogate_with_k1(log_p, log_q):
    advantage = -estimators.k1(log_p, log_q)
    return estimators.clipped_surrogate(log_p, log_p, advantage)


def test_values_match_numpy():
    rng = np.random.default_rng(1)
    log_p, log_q = rng.normal(size=(2, 3, 4))
    d = log_p - log_q
    np.testing.assert_allclose(estimators.k1(log_p, log_q), d, rtol=1e-12)
    np.testing.assert_allclose(estimators.k2(log_p, log_q), d**2 / 2, rtol=1e-12)
    k3 = np.exp(-d) - 1 + d
    np.testing.assert_allclose(estimators.k3(log_p, log_q), k3, rtol=1e-9)
    ratio = estimators.importance_ratio(log_p, log_q)
    np.testing.assert_allclose(ratio, np.exp(d), rtol=1e-12)
    score = estimators.score_function(log_p, log_q)
    np.testing.assert_allclose(score, -log_p * log_q, rtol=1e-12)


def test_k1_and_k3_are_unbiased_for_the_reverse_kl():
    student, teacher = student_and_teacher()
    kl = divergences.reverse_kl(student, teacher)
    log_p, log_q = log_p_of_all(student), log_p_of_all(teacher)
    for estimator in (estimators.k1, estimators.k3):
        mean = expected(estimator(log_p, log_q), student)
        np.testing.assert_allclose(mean, kl, rtol=1e-12)
    k2 = expected(estimators.k2(log_p, log_q), student)
    assert abs(k2 - kl) > 0.01
    assert (estimators.k2(log_p, log_q) >= 0).all()
    assert (estimators.k3(log_p, log_q) >= 0).all()


@pytest.mark.parametrize("loss", [score_with_k1, surrogate_with_k1, estimators.k2])
def test_expected_gradient_is_that_of_the_reverse_kl(loss):
    student, teacher = student_and_teacher()
    gradient = expected(per_sample_gradients(loss, student, teacher), student)
    exact = jax.grad(divergences.reverse_kl)(student, teacher)
    np.testing.assert_allclose(gradient, exact, atol=1e-12)


def test_expected_gradient_of_k1_is_zero_and_of_k3_is_the_forward_kls():
    student, teacher = student_and_teacher()
    k1 = expected(per_sample_gradients(estimators.k1, student, teacher), student)
    np.testing.assert_allclose(k1, 0.0, atol=1e-12)
    k3 = expected(per_sample_gradients(estimators.k3, student, teacher), student)
    exact = jax.grad(divergences.forward_kl)(student, teacher)
    np.testing.assert_allclose(k3, exact, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        (score_with_k1, lambda d: d),
        (surrogate_with_k1, lambda d: d),
        (estimators.k1, np.ones_like),
        (estimators.k2, lambda d: d),
        (estimators.k3, lambda d: 1 - np.exp(-d)),
    ],
)
def test_per_sample_gradient(loss, factor):
    """The mean hides a missing stop_gradient, because E[grad log p] = 0."""
    student, teacher = student_and_teacher()
    d = np.asarray(log_p_of_all(student) - log_p_of_all(teacher))
    grad_log_p = np.eye(5) - np.exp(log_p_of_all(student))[None]
    got = per_sample_gradients(loss, student, teacher)
    np.testing.assert_allclose(got, factor(d)[:, None] * grad_log_p, atol=1e-12)


def test_ratio_carries_no_gradient_through_the_behavior_policy():
    gradient = jax.grad(lambda x: estimators.importance_ratio(x, x))(-1.3)
    np.testing.assert_allclose(gradient, 1.0)


def ppo(log_ratio, advantage, low, high, dual):
    """Loss and its derivative in logp, branch by branch."""
    ratio = np.exp(log_ratio)
    if advantage >= 0:
        if ratio > 1 + high:
            return -(1 + high) * advantage, 0.0
        return -ratio * advantage, -ratio * advantage
    if dual is not None and ratio > dual:
        return -dual * advantage, 0.0
    if ratio < 1 - low:
        return -(1 - low) * advantage, 0.0
    return -ratio * advantage, -ratio * advantage


@pytest.mark.parametrize("dual", [None, 3.0])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.1, 0.4), (1.0, np.inf)])
def test_clipped_surrogate_matches_ppo_on_a_grid(low, high, dual):
    log_ratio, advantage = np.meshgrid(
        np.linspace(-2, 2, 41), [-2.0, -0.5, 0.0, 0.7, 1.5], indexing="ij"
    )
    behavior = np.full_like(log_ratio, -3.0)

    def loss(logp):
        return estimators.clipped_surrogate(
            logp, behavior, advantage, clip_low=low, clip_high=high, dual_clip=dual
        )

    value, pullback = jax.vjp(loss, jnp.asarray(behavior + log_ratio))
    (gradient,) = pullback(jnp.ones_like(value))
    reference = np.vectorize(lambda r, a: ppo(r, a, low, high, dual))
    want_value, want_gradient = reference(log_ratio, advantage)
    np.testing.assert_allclose(value, want_value, atol=1e-12)
    np.testing.assert_allclose(gradient, want_gradient, atol=1e-12)


def test_surrogate_at_ratio_one_is_the_score_function():
    logp, advantage = jnp.asarray(-1.7), jnp.asarray(0.6)
    surrogate = jax.value_and_grad(estimators.clipped_surrogate)(logp, logp, advantage)
    np.testing.assert_allclose(surrogate, (-0.6, -0.6))
    assert jax.grad(estimators.score_function)(logp, advantage) == -0.6
    to_advantage = jax.grad(estimators.clipped_surrogate, argnums=2)
    assert to_advantage(logp, logp, advantage) == 0.0


@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_overflowing_ratio_has_no_nan(advantage):
    logp = jnp.asarray([-1.0, -400.0, -1.0], jnp.float32)
    behavior = jnp.asarray([-400.0, -1.0, -1.0], jnp.float32)
    constant = jnp.full(3, advantage, jnp.float32)

    def surrogate(x):
        return estimators.clipped_surrogate(x, behavior, constant, dual_clip=3.0).sum()

    assert np.isfinite(estimators.importance_ratio(logp, behavior)).all()
    assert np.isfinite(jax.grad(surrogate)(logp)).all()
    assert np.isfinite(estimators.k3(behavior, logp)).all()
    gradient = jax.grad(lambda x: estimators.k3(x, behavior).sum())(logp)
    assert np.isfinite(gradient).all()


def test_half_precision_comes_out_as_float32():
    x, y = jnp.asarray([-1.5], jnp.bfloat16), jnp.asarray([-2.25], jnp.bfloat16)
    for name in ("k1", "k2", "k3", "importance_ratio", "score_function"):
        value = getattr(estimators, name)(x, y)
        assert value.dtype == jnp.float32, name
    assert estimators.clipped_surrogate(x, y, y).dtype == jnp.float32
    np.testing.assert_allclose(estimators.k1(x, y), 0.75)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"clip_low": -0.1}, "clip_low=-0.1"),
        ({"clip_low": 1.1}, "clip_low=1.1"),
        ({"clip_high": -0.2}, "clip_high=-0.2"),
        ({"dual_clip": 1.0}, "dual_clip=1.0"),
        ({"dual_clip": float("inf")}, "dual_clip=inf"),
    ],
)
def test_clip_ranges_are_checked(options, named):
    with pytest.raises(ValueError, match=named):
        estimators.clipped_surrogate(jnp.zeros(2), jnp.zeros(2), jnp.ones(2), **options)
