"""Rules that end rollouts early, against plain loops over their windows."""

import jax.numpy as jnp
import numpy as np
import pytest

from jopd.rollouts import stops


def seen(tokens, student=None, teacher=None) -> stops.Seen:
    zeros = np.zeros(np.shape(tokens))
    given = zeros if student is None else student
    return stops.Seen(
        jnp.asarray(tokens),
        jnp.asarray(given, jnp.float32),
        None if teacher is None else jnp.asarray(teacher, jnp.float32),
    )


def repeated_share(tokens, ngram: int) -> float:
    grams = [tuple(tokens[i : i + ngram]) for i in range(len(tokens) - ngram + 1)]
    return np.mean([gram in grams[:i] for i, gram in enumerate(grams)])


@pytest.mark.parametrize("ngram", [1, 2, 3, 7])
def test_repetition_counts_n_grams_that_occurred_before(ngram):
    rng = np.random.default_rng(ngram)
    tokens = rng.integers(0, 3, (40, 8))
    tokens[0], tokens[1] = 5, np.arange(8)
    shares = np.asarray([repeated_share(row, ngram) for row in tokens])
    for limit in (0.0, 0.3, 0.5, 0.9):
        got = stops.repetition(seen(tokens), limit=limit, ngram=ngram)
        np.testing.assert_array_equal(got, shares > limit)
    assert shares[0] == shares.max() and shares[1] == 0


def test_a_loop_has_the_share_that_is_documented():
    window, period, ngram = 20, 3, 4
    tokens = np.tile([4, 9, 2], 7)[None, :window]
    share = 1 - period / (window - ngram + 1)
    assert not stops.repetition(seen(tokens), limit=share + 1e-3, ngram=ngram)[0]
    assert stops.repetition(seen(tokens), limit=share - 1e-3, ngram=ngram)[0]


def test_divergence_is_the_mean_log_ratio():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 30, 6))
    tokens = np.zeros((30, 6), int)
    want = (student - teacher).mean(axis=1) > 0.2
    got = stops.divergence(seen(tokens, student, teacher), limit=0.2)
    np.testing.assert_array_equal(got, want)
    assert want.any() and not want.all()


def test_divergence_needs_a_teacher():
    with pytest.raises(ValueError, match="none reads along"):
        stops.divergence(seen(np.zeros((2, 4), int)), limit=1.0)


@pytest.mark.parametrize("ngram", [0, 8, 9])
def test_a_window_without_two_n_grams_is_refused(ngram):
    with pytest.raises(ValueError, match=f"8 tokens has no two {ngram}-grams"):
        stops.repetition(seen(np.zeros((1, 8), int)), limit=0.5, ngram=ngram)
