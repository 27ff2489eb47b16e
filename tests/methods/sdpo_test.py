"""SDPO's divergence and its ratio against numpy in float64, and its mean over rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import exact
import runs
import tiny
from jopd.losses import objective
from jopd.methods import sdpo
from jopd.setup import builders
from jopd.types import Outputs

PAIRS = [exact.logits(seed, 3.0) for seed in range(3)]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def term(**changes):
    path = runs.ROOT / "configs" / "sdpo.py"
    built = runs.runpy.run_path(str(path))["get_config"]()
    built.loss.sdpo.update(changes)
    return builders.build_terms(built)[0]


def coarse(logits, top):
    p = np.exp(exact.log_softmax(logits))
    return np.append(p[top], max(1 - p[top].sum(), 0) if len(top) < exact.V else 0)


def divergence(student, teacher, alpha, top):
    """On the tokens ``top`` and the rest, as the card writes it."""
    p, q = coarse(student, top), coarse(teacher, top)
    kl = lambda a, b: special.rel_entr(a, b).sum()
    if alpha == 0:
        return kl(q, p)
    if alpha == 1:
        return kl(p, q)
    m = (1 - alpha) * p + alpha * q
    return (1 - alpha) * kl(p, m) + alpha * kl(q, m)


def outputs(student, teacher, token=0, behavior=None):
    row = lambda x: jnp.asarray(x)[None]
    if behavior is None:
        behavior = exact.log_softmax(student)[token]
    logits = {"student": row(student), "self": row(teacher)}
    return Outputs(logits, jnp.asarray([token]), jnp.asarray([behavior]))


@pytest.mark.parametrize("k", [1, 3, exact.V, 100])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("pair", PAIRS)
def test_value_and_gradient_on_a_fresh_rollout(alpha, k, pair):
    student, teacher = pair
    top = np.argsort(-student)[:k]
    of = lambda x: divergence(x, teacher, alpha, top)
    signal = term(alpha=alpha, k=k).signal
    value = lambda x: signal(outputs(x, teacher, behavior=behavior))[0]
    behavior = exact.log_softmax(student)[0]
    got, gradient = jax.value_and_grad(value)(jnp.asarray(student))
    assert got == pytest.approx(of(student), abs=1e-12) and got > 1e-3
    want = exact.numeric_gradient(of, student)
    np.testing.assert_allclose(gradient, want, atol=1e-8)
    assert np.abs(want).max() > 1e-3


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("renormalize", ["teacher", "both"])
def test_renormalised_without_a_bucket(renormalize, alpha):
    student, teacher = PAIRS[0]
    top = np.argsort(-student)[:3]
    p, q = (np.exp(exact.log_softmax(x))[top] for x in (student, teacher))
    q = q / q.sum()
    p = p / p.sum() if renormalize == "both" else p
    m = (1 - alpha) * p + alpha * q
    kl = lambda a, b: (a * np.log(a / b)).sum()
    mixed = (1 - alpha) * kl(p, m) + alpha * kl(q, m)
    want = {0.0: kl(q, p), 1.0: kl(p, q)}.get(alpha, mixed)
    signal = term(alpha=alpha, k=3, renormalize=renormalize).signal
    assert signal(outputs(student, teacher))[0] == pytest.approx(want, abs=1e-12)


def test_the_support_is_the_students():
    student, teacher = PAIRS[0]
    tops = [np.argsort(-x)[:2] for x in (student, teacher)]
    assert set(tops[0]) != set(tops[1])
    got = term(k=2).signal(outputs(student, teacher))[0]
    values = [divergence(student, teacher, 0.5, top) for top in tops]
    assert got == pytest.approx(values[0], abs=1e-12) != values[1]


@pytest.mark.parametrize("gap", [-50.0, -0.4, 0.0, 0.4, 3.0, 1e4])
def test_the_ratio_is_truncated_and_detached(gap):
    student, teacher = PAIRS[1]
    behavior = exact.log_softmax(student)[3] - gap
    ratio = min(np.exp(np.clip(gap, -20, 20)), 2.0)
    signal = term().signal
    value = lambda x: signal(outputs(x, teacher, 3, behavior))[0]
    plain = lambda x: signal(outputs(x, teacher, 3, exact.log_softmax(student)[3]))[0]
    got, gradient = jax.value_and_grad(value)(jnp.asarray(student))
    want, direction = jax.value_and_grad(plain)(jnp.asarray(student))
    np.testing.assert_allclose(got, ratio * want, rtol=1e-9)
    np.testing.assert_allclose(gradient, ratio * direction, rtol=1e-9)


def test_the_mean_is_over_the_tokens_of_rows_with_a_peer():
    with jax.enable_x64(False):
        batch = tiny.batch()
        one = term()
        scores = tiny.scores(batch.mask_BT, source=batch.rollout.source_BT)
        scores = scores._replace(extra=batch.extra)
        weight_BT = np.asarray(objective.weigh((one,), scores)["sdpo"].weight_BT)
    has_BT = np.asarray(batch.extra["has_context/self"]) > 0
    own_BT = np.asarray(batch.mask_BT) & (np.asarray(batch.rollout.source_BT) == 0)
    inside_BT = own_BT & has_BT
    assert 0 < inside_BT.sum() < own_BT.sum()
    np.testing.assert_allclose(weight_BT, inside_BT / inside_BT.sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(alpha=1.1), "0 <= alpha <= 1, got alpha=1.1"),
        (dict(is_clip=0.0), "is_clip > 0, got 0.0"),
        (dict(k=0), "k=0"),
    ],
)
def test_bad_numbers_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        sdpo.distil(outputs(*PAIRS[0]), other="self", **changes)
