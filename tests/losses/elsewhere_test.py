"""A model of which a few likely tokens are known, beside the whole of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopd.losses import divergences, elsewhere
from jopd.losses.elsewhere import Likely, spread

K = 5


def pair(rows: int = 6, size: int = 40, sure: float = 1.0):
    rng = np.random.default_rng(3)
    student, teacher = rng.normal(0, 2, (2, rows, size))
    return jnp.asarray(student), jnp.asarray(teacher * sure)


def known_of(teacher, k: int = K) -> Likely:
    logp, ids = jax.lax.top_k(jax.nn.log_softmax(teacher), k)
    return Likely(ids, logp)


@pytest.mark.parametrize("k", [1, 3, K])
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("name", ["top_k_forward_kl", "top_k_reverse_kl", "top_k_jsd"])
def test_divergences_on_what_is_known_are_exact(name, tail, k):
    student, teacher = pair()
    known = spread(known_of(teacher), jnp.zeros(len(student)), student)
    kernel = getattr(divergences, name)
    if name == "top_k_jsd":
        kernel = functools.partial(kernel, beta=0.3)
    for renormalize in ("none",) if tail else ("none", "teacher", "both"):
        how = dict(k=k, tail=tail, renormalize=renormalize)
        both = jax.value_and_grad(lambda s, t, how=how: kernel(s, t, **how).sum())
        for found, exact in zip(both(student, known), both(student, teacher)):
            np.testing.assert_allclose(found, exact, rtol=2e-6, atol=1e-7)


def test_it_is_a_distribution_of_the_whole_vocabulary():
    student, teacher = pair()
    whole = spread(known_of(teacher), jnp.zeros(len(student)), student)
    np.testing.assert_allclose(jnp.exp(whole).sum(-1), 1.0, atol=1e-6)
    every = spread(known_of(teacher, 40), jnp.zeros(len(student)), student)
    np.testing.assert_allclose(every, jax.nn.log_softmax(teacher), atol=1e-6)


def test_the_tail_of_a_sure_model():
    """In float32, where 1 - sum p has lost its digits."""
    teacher = jnp.zeros((1, 40)).at[0, 7].set(jnp.asarray([12.0, 17.0])[0])
    exact = 39 / (39 + np.exp(12.0))
    known = known_of(teacher.astype(jnp.float32), 1)
    whole = spread(known, jnp.zeros(1), jnp.zeros((1, 40)))
    tail = float(jnp.exp(jnp.delete(whole[0], 7)).sum())
    assert tail == pytest.approx(exact, rel=1e-2)
    sure = Likely(jnp.asarray([[7]]), jnp.zeros((1, 1)))
    whole = spread(sure, jnp.zeros(1), jnp.zeros((1, 40)))
    assert float(jnp.exp(whole[0, 0])) == pytest.approx(elsewhere.LEAST_TAIL / 39)


def test_where_nothing_is_known_it_agrees_with_the_student():
    student, teacher = pair()
    scored = jnp.asarray([0.0, 1.0, -2.0, 1.0, 0.0, -1.0])
    total = lambda s: divergences.top_k_reverse_kl(
        s, spread(known_of(teacher), scored, s), k=K
    )
    unknown = np.asarray(scored) > 0
    found = np.asarray(total(student))
    assert np.abs(found[unknown]).max() < 1e-6 and found[~unknown].min() > 0.1
    slope = np.asarray(jax.grad(lambda s: total(s).sum())(student))
    assert np.abs(slope[unknown]).max() < 1e-6 and np.abs(slope[~unknown]).max() > 0.01
