"""Sets of tokens against Python's sets, and the events of a coarsened row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jopd.losses import supports

pytestmark = pytest.mark.usefixtures("strict_promotion")
V = 11


def rows(seed, shape=(6, V)):
    return np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32) * 2


def sets(ids):
    """Those of each row; a place may be empty, but no token is there twice."""
    found = [[i for i in row if i != V] for row in np.asarray(ids).tolist()]
    assert all(len(row) == len(set(row)) for row in found)
    return [set(row) for row in found]


@pytest.mark.parametrize("k", [1, 4, V, 99])
def test_supports_are_the_sets_of_their_names(k):
    s, t = rows(0)
    tops = [[set(row) for row in np.argsort(-x)[:, :k].tolist()] for x in (s, t)]
    got = lambda name: sets(supports.choose(s, t, name, k))
    assert got("student") == tops[0] and got("teacher") == tops[1]
    pairs = list(zip(*tops, strict=True))
    assert got("intersection") == [a & b for a, b in pairs]
    assert got("union") == [a | b for a, b in pairs]


def test_given_ids_are_the_same_in_every_row():
    s, t = rows(1, (2, 3, V))
    ids = supports.choose(s, t, [7, 0], None)
    np.testing.assert_array_equal(ids, np.broadcast_to([7, 0], (2, 3, 2)))


@pytest.mark.parametrize(
    "support, k, message",
    [
        ("both", 3, "support='both' is unknown; use student, teacher, intersection"),
        ("union", 0, "support='union' needs k >= 1 tokens, got k=0"),
        ("student", None, "needs k >= 1 tokens, got k=None"),
        ([1, 2], 3, "ids of tokens are the whole support; leave out k=3"),
        ([1, 1], None, "must be distinct whole numbers"),
        ([0.5], None, "must be distinct whole numbers"),
        ([3, 11], None, "ids has 11, but the vocabulary has 11 tokens, 0 to 10"),
        ([-1], None, "ids has -1, but the vocabulary has 11 tokens"),
    ],
)
def test_what_is_no_support_is_refused(support, k, message):
    with pytest.raises(ValueError, match=message):
        supports.choose(jnp.zeros(V), jnp.zeros(V), support, k)


def test_coarsen_gives_the_probabilities_of_the_events():
    s, _ = rows(14, (3, 7, V))
    p = special.softmax(s.astype(np.float64), axis=-1)
    for ids, chosen in (([7, 0], [7, 0]), ([7, V, 0, V], [7, 0])):
        indices = jnp.broadcast_to(jnp.asarray(ids), (3, 7, len(ids)))
        named = [p[..., i] if i < V else 0 * p[..., 0] for i in ids]
        expected = np.stack([*named, 1 - p[..., chosen].sum(-1)], axis=-1)
        coarse = supports.coarsen(jnp.asarray(s), indices)
        np.testing.assert_allclose(special.softmax(coarse, -1), expected, atol=1e-6)
        slope = jax.grad(lambda x, i=indices: supports.coarsen(x, i)[..., 0].sum())(s)
        assert np.isfinite(slope).all()
