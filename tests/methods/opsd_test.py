"""OPSD's clipped divergences against numpy, as a term of a config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exact
from jopd.setup import builders
from jopd.setup.config import base_config
from jopd.types import Outputs

PAIRS = [exact.logits(seed, 3.0) for seed in range(3)]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def term(**arguments):
    c = base_config()
    c.loss.opsd = dict(signal="opsd.clipped", **arguments)
    return builders.build_terms(c)[0]


def summands(direction, beta, p, q):
    if direction == "forward_kl":
        return q * np.log(q / p)
    if direction == "reverse_kl":
        return p * np.log(p / q)
    m = beta * q + (1 - beta) * p
    return beta * q * np.log(q / m) + (1 - beta) * p * np.log(p / m)


@pytest.mark.parametrize("clip", [0.05, 0.2, None])
@pytest.mark.parametrize("direction", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("pair", PAIRS)
def test_gradient(direction, clip, pair):
    q = np.exp(exact.log_softmax(pair[1]))

    def of(x):
        values = summands(direction, 0.3, np.exp(exact.log_softmax(x)), q)
        return np.minimum(values, np.inf if clip is None else clip).sum()

    built = term(direction=direction, clip=clip, beta=0.3)
    got = exact.mean_gradient(built, *pair)
    np.testing.assert_allclose(got, exact.numeric_gradient(of, pair[0]), atol=1e-8)


@pytest.mark.parametrize("direction", ["forward_kl", "reverse_kl"])
def test_both_sides_are_cut(direction):
    for pair in PAIRS:
        p, q = (np.exp(exact.log_softmax(x)) for x in pair)
        values = summands(direction, 0.5, p, q)
        assert values.min() < -0.01 and values.max() > 0.01
        row = lambda x: jnp.asarray(x)[None]
        logits = {"student": row(pair[0]), "teacher": row(pair[1])}
        cut = lambda clip: term(direction=direction, clip=clip, both_sides=True)
        outputs = Outputs(logits, jnp.zeros(1, int), jnp.zeros(1))
        got = float(cut(0.01).signal(outputs)[0])
        assert got == pytest.approx(np.clip(values, -0.01, 0.01).sum(), abs=1e-12)
        whole = float(cut(None).signal(outputs)[0])
        assert whole == pytest.approx(values.sum(), abs=1e-12)


def test_without_a_clip_it_is_the_divergence():
    for pair in PAIRS:
        got = exact.mean_gradient(term(clip=None), *pair)
        np.testing.assert_allclose(got, exact.forward_kl_gradient(*pair), atol=1e-12)
        got = exact.mean_gradient(term(clip=None, direction="reverse_kl"), *pair)
        np.testing.assert_allclose(got, exact.reverse_kl_gradient(*pair), atol=1e-12)


@pytest.mark.parametrize("renormalize", ["none", "teacher", "both"])
@pytest.mark.parametrize("pair", PAIRS)
def test_gradient_on_the_teachers_top_k(pair, renormalize):
    teachers = np.exp(exact.log_softmax(pair[1]))
    top = np.argsort(-teachers)[:3]

    def of(x):
        p, q = np.exp(exact.log_softmax(x)), teachers
        p, q = (np.append(x[top], 1 - x[top].sum()) for x in (p, q))
        if renormalize != "none":
            p, q = p[:3], q[:3] / q[:3].sum()
        if renormalize == "both":
            p = p / p.sum()
        return np.minimum(q * np.log(q / p), 0.2).sum()

    built = term(clip=0.2, k=3, renormalize=renormalize)
    got = exact.mean_gradient(built, *pair)
    np.testing.assert_allclose(got, exact.numeric_gradient(of, pair[0]), atol=1e-8)


def test_the_default_clip_acts_here():
    gaps = [
        np.abs(exact.mean_gradient(term(), *p) - exact.forward_kl_gradient(*p)).max()
        for p in PAIRS
    ]
    assert min(gaps) > 0.01
