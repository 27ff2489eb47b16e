"""Masses of tokens that begin alike, against sums in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from jopd.losses import prefixes


@pytest.mark.parametrize("size", [3, 255, 256, 257, 1000])
def test_sums_of_any_interval(size):
    rng = np.random.default_rng(size)
    logits = 3 * rng.standard_normal((2, 5, size + 4))
    order = rng.permutation(size + 4)[:size].astype(np.int32)  # some are no tokens
    ends = np.sort(rng.integers(0, size + 1, (2, 5, 40, 2)))
    ends[..., 0, :], ends[..., 1, :], ends[..., 2, :] = (0, size), (1, 1), (0, 1)
    ends[..., 3, :] = size - 1, size
    lo, hi = (ends[..., n].astype(np.int32) for n in (0, 1))
    tokens = rng.integers(0, size + 4, (2, 5)).astype(np.int32)
    own, mass = prefixes.masses(jnp.asarray(logits), tokens, order, lo, hi)
    logp = logits - np.logaddexp.reduce(logits, axis=-1)[..., None]
    want = np.take_along_axis(logp, tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(own, want, rtol=1e-5, atol=1e-6)
    p = np.exp(logp[..., order])
    for place in np.ndindex(lo.shape):
        total = p[place[:2]][lo[place] : hi[place]].sum()
        if lo[place] == hi[place]:
            assert mass[place] == -np.inf
        else:
            assert mass[place] == pytest.approx(np.log(total), rel=1e-5, abs=2e-6)


def test_a_small_mass_beside_a_large_one():
    """What a difference of running sums would lose."""
    logits = jnp.asarray([[0.0, -60.0, -61.0, -85.0, -200.0]])
    lo, hi = jnp.asarray([[1, 3, 4]]), jnp.asarray([[3, 4, 5]])
    order = jnp.arange(5)
    _, mass = prefixes.masses(logits, jnp.zeros(1, jnp.int32), order, lo, hi)
    want = [np.logaddexp(-60.0, -61.0), -85.0]
    np.testing.assert_allclose(mass[0, :2], want, rtol=1e-6)
    assert -88 < mass[0, 2] < -87  # the least that is told apart
