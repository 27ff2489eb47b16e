import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jopd.rollouts import sampling
from jopd.rollouts.sampling import Filter

pytestmark = pytest.mark.usefixtures("strict_promotion")

# V = 1000 is no multiple of 128; 5 fits in one block.
VOCABULARIES = (1, 5, 128, 1000)
FILTERS = (
    Filter(),
    Filter(temperature=0.7),
    Filter(top_k=4),
    Filter(top_p=0.8),
    Filter(min_p=0.15),
    Filter(temperature=1.7, top_k=9, top_p=0.85, min_p=0.1),
    Filter(temperature=0.0),
)


def rows(seed, shape, scale=2.0):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def filtered_oracle(logits, f):
    """One row in float64, by sorting: temperature, top-k, top-p, min-p."""
    logits = np.asarray(logits, np.float64)
    if f.temperature == 0:
        return np.where(np.arange(len(logits)) == logits.argmax(), 0.0, -np.inf)
    logits = logits / f.temperature
    if f.top_k:
        kth = np.sort(logits)[-min(f.top_k, len(logits))]
        logits = np.where(logits < kth, -np.inf, logits)
    if f.top_p < 1:
        order = np.argsort(logits, kind="stable")
        cumulative = np.cumsum(special.softmax(logits)[order])
        removed = cumulative <= 1 - f.top_p
        removed[-1] = False
        logits[order[removed]] = -np.inf
    if f.min_p:
        p = special.softmax(logits)
        logits = np.where(p < f.min_p * p.max(), -np.inf, logits)
    return logits


def grid(n):
    """n uniforms in the middle of n equal cells: the inverse CDF without the noise."""
    return jnp.asarray((np.arange(n) + 0.5) / n, jnp.float32)


def frequencies(logits, n, sampler=sampling.sample, uniforms=None):
    uniforms = grid(n) if uniforms is None else uniforms
    tiled = jnp.broadcast_to(jnp.asarray(logits), (n, len(logits)))
    tokens = np.asarray(jax.jit(sampler)(uniforms, tiled))
    assert tokens.dtype == np.int32 and (tokens >= 0).all()
    assert (tokens < len(logits)).all()
    return np.bincount(tokens, minlength=len(logits))


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_frequencies_are_the_softmax(vocabulary):
    n = 4096
    logits = rows(0, vocabulary)
    counts = frequencies(logits, n)
    # Every interval [a, b) of the CDF holds n (b - a) grid points, give or take one.
    np.testing.assert_allclose(counts, n * special.softmax(logits), atol=1.01)


def test_chi_square_with_random_uniforms():
    n = 20_000
    logits = rows(1, 300, scale=1.0)
    keys = jax.random.split(jax.random.key(0), n)
    counts = frequencies(logits, n, uniforms=sampling.row_uniforms(keys, 3))
    expected = n * special.softmax(logits.astype(np.float64))
    expected *= counts.sum() / expected.sum()
    assert 1e-3 < stats.chisquare(counts, expected).pvalue < 1 - 1e-3


@pytest.mark.parametrize("vocabulary", [5, 300])
def test_sample_is_the_first_token_whose_cumulative_mass_exceeds_u(vocabulary):
    logits = rows(2, (64, vocabulary))
    uniforms = np.random.default_rng(3).random(64).astype(np.float32)
    cumulative = np.cumsum(special.softmax(logits.astype(np.float64), axis=-1), axis=-1)
    expected = (cumulative <= uniforms[:, None]).sum(-1)
    tokens = sampling.sample(jnp.asarray(uniforms), jnp.asarray(logits))
    np.testing.assert_array_equal(tokens, expected)


def test_a_uniform_on_a_boundary_goes_up():
    # Four, and 256, equal tokens: boundaries at exact multiples in float32.
    for vocabulary in (4, 256):
        uniforms = jnp.arange(vocabulary, dtype=jnp.float32) / vocabulary
        logits = jnp.zeros((vocabulary, vocabulary))
        tokens = sampling.sample(uniforms, logits)
        np.testing.assert_array_equal(tokens, np.arange(vocabulary))


@pytest.mark.parametrize("vocabulary", [5, 300])
def test_tokens_of_probability_zero_never_come(vocabulary):
    rng = np.random.default_rng(4)
    logits = rows(5, (256, vocabulary), scale=6.0)
    logits[rng.random(logits.shape) < 0.8] = -np.inf
    logits[:, rng.integers(vocabulary)] = 1.0
    below_one = np.nextafter(np.float32(1), np.float32(0))
    for uniforms in (np.zeros(256), np.full(256, below_one), rng.random(256)):
        uniforms = jnp.asarray(uniforms, jnp.float32)
        tokens = np.asarray(sampling.sample(uniforms, jnp.asarray(logits)))
        assert np.isfinite(np.take_along_axis(logits, tokens[:, None], axis=1)).all()


@pytest.mark.parametrize("at", [0, 127, 128, 299])
def test_all_mass_on_one_token(at):
    logits = np.full((4, 300), -np.inf, np.float32)
    logits[:, at] = -7.0
    uniforms = jnp.asarray([0.0, 0.3, 0.7, 1 - 2**-24], jnp.float32)
    np.testing.assert_array_equal(sampling.sample(uniforms, jnp.asarray(logits)), at)
    logits = np.where(np.isfinite(logits), 0.0, -120.0).astype(np.float32)
    np.testing.assert_array_equal(sampling.sample(uniforms, jnp.asarray(logits)), at)


@pytest.mark.parametrize("f", FILTERS)
@pytest.mark.parametrize("vocabulary", [5, 300])
def test_filters_match_the_sorting_oracle(f, vocabulary):
    logits = rows(6, (40, vocabulary))
    got = jax.jit(sampling.filtered_logits, static_argnums=1)(logits, f)
    expected = np.stack([filtered_oracle(row, f) for row in logits])
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_top_p_is_exact_over_its_range(top_p):
    logits = rows(7, (40, 300), scale=4.0)
    f = Filter(top_p=top_p)
    got = sampling.filtered_logits(jnp.asarray(logits), f)
    expected = np.stack([filtered_oracle(row, f) for row in logits])
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected))


def test_ties_are_kept_and_greedy_takes_the_first():
    logits = jnp.asarray([[1.0, 2.0, 2.0, 0.0, 2.0]])

    def kept(f):
        return np.isfinite(sampling.filtered_logits(logits, f))[0].tolist()

    three = [False, True, True, False, True]
    assert kept(Filter(top_k=1)) == three
    assert kept(Filter(top_k=2)) == three
    assert kept(Filter(top_p=0.1)) == three
    assert kept(Filter(min_p=1.0)) == three
    assert kept(Filter(top_k=9)) == [True] * 5
    assert kept(Filter(temperature=0.0)) == [False, True, False, False, False]
    ties = np.zeros((3, 300), np.float32)
    ties[0, [130, 290]] = ties[1, 299] = 1.0
    tokens, _ = sampling.draw(jnp.zeros(3), jnp.asarray(ties), Filter(temperature=0.0))
    np.testing.assert_array_equal(tokens, [130, 299, 0])


def test_filters_leave_minus_inf_out():
    logits = jnp.asarray(rows(8, (30, 300))).at[:, ::3].set(-jnp.inf)
    for f in FILTERS:
        got = np.asarray(sampling.filtered_logits(logits, f))
        assert np.isneginf(got[:, ::3]).all() and np.isfinite(got).any(-1).all()
        assert not np.isnan(got).any()


@pytest.mark.parametrize("f", FILTERS)
def test_draw_follows_the_filter_and_records_its_log_probability(f):
    n = 4096
    logits = rows(9, 300, scale=1.5)
    expected = special.softmax(filtered_oracle(logits, f))
    counts = frequencies(logits, n, lambda u, x: sampling.draw(u, x, f)[0])
    np.testing.assert_allclose(counts, n * expected, atol=1.01)

    batch = jnp.asarray(rows(10, (64, 300)))
    tokens, logp = sampling.draw(grid(64), batch, f)
    oracle = [special.log_softmax(filtered_oracle(row, f)) for row in batch]
    oracle = np.take_along_axis(np.stack(oracle), np.asarray(tokens)[:, None], axis=1)
    assert logp.dtype == jnp.float32
    np.testing.assert_allclose(logp, oracle[:, 0], atol=2e-6)
    again = sampling.log_prob(batch, tokens, f)
    np.testing.assert_allclose(again, logp, atol=2e-6)


def test_greedy_ignores_the_uniform_and_has_probability_one():
    logits = jnp.asarray(rows(11, (20, 300)))
    greedy = Filter(temperature=0.0)
    for uniforms in (jnp.zeros(20), grid(20)):
        tokens, logp = sampling.draw(uniforms, logits, greedy)
        np.testing.assert_array_equal(tokens, np.argmax(logits, -1))
        np.testing.assert_array_equal(logp, 0.0)
    np.testing.assert_array_equal(sampling.log_prob(logits, tokens, greedy), 0.0)
    other = (tokens + 1) % 300
    assert np.isneginf(sampling.log_prob(logits, other, greedy)).all()


@pytest.mark.parametrize("f", FILTERS)
def test_log_prob_has_a_finite_gradient_and_any_leading_shape(f):
    logits = jnp.asarray(rows(12, (2, 3, 20)))
    tokens = jnp.argmax(logits, -1)
    value = sampling.log_prob(logits, tokens, f)
    assert value.shape == (2, 3)
    flat = sampling.log_prob(logits.reshape(6, 20), tokens.reshape(6), f)
    np.testing.assert_allclose(value.reshape(6), flat, atol=1e-6)
    gradient = jax.grad(lambda x: sampling.log_prob(x, tokens, f).sum())(logits)
    assert np.isfinite(gradient).all()
    p = np.apply_along_axis(
        lambda row: special.softmax(filtered_oracle(row, f)), -1, logits
    )
    if f.temperature > 0:
        expected = (np.eye(20)[np.asarray(tokens)] - p) / f.temperature
        np.testing.assert_allclose(gradient, expected, atol=2e-6)


def test_row_uniforms_depend_on_their_own_key_and_position_only():
    keys = jax.random.split(jax.random.key(7), 8)
    whole = sampling.row_uniforms(keys, 5)
    assert whole.dtype == jnp.float32 and whole.shape == (8,)
    halves = [sampling.row_uniforms(keys[i : i + 4], 5) for i in (0, 4)]
    np.testing.assert_array_equal(whole, np.concatenate(halves))
    np.testing.assert_array_equal(sampling.row_uniforms(keys[::-1], 5), whole[::-1])
    assert (sampling.row_uniforms(keys, 6) != whole).all()
    mixed = sampling.row_uniforms(keys, jnp.asarray([5, 6] * 4))
    np.testing.assert_array_equal(mixed[::2], whole[::2])
    np.testing.assert_array_equal(mixed[1::2], sampling.row_uniforms(keys, 6)[1::2])
    many = sampling.row_uniforms(jax.random.split(jax.random.key(1), 4000), 0)
    assert stats.kstest(np.asarray(many), "uniform").pvalue > 1e-3


def test_draw_does_not_depend_on_the_batch_split():
    logits = jnp.asarray(rows(13, (8, 300)))
    keys = jax.random.split(jax.random.key(9), 8)
    f = Filter(temperature=0.9, top_k=40, top_p=0.9)

    def run(rows):
        return sampling.draw(sampling.row_uniforms(keys[rows], 2), logits[rows], f)

    whole, parts = run(slice(0, 8)), [run(slice(i, i + 2)) for i in range(0, 8, 2)]
    for index in range(2):
        np.testing.assert_array_equal(
            whole[index], np.concatenate([part[index] for part in parts])
        )


def test_bfloat16_logits():
    logits = jnp.asarray(rows(14, (16, 300)), jnp.bfloat16)
    for f in FILTERS:
        tokens, logp = sampling.draw(grid(16), logits, f)
        want = sampling.draw(grid(16), logits.astype(jnp.float32), f)
        np.testing.assert_array_equal(tokens, want[0])
        np.testing.assert_array_equal(logp, want[1])
        assert logp.dtype == jnp.float32


@pytest.mark.parametrize(
    ("f", "named"),
    [
        (Filter(temperature=-1.0), "temperature=-1.0"),
        (Filter(temperature=1e-5), "temperature=1e-05 must be 0"),
        (Filter(top_k=-1), "top_k=-1"),
        (Filter(top_p=0.0), "top_p=0.0"),
        (Filter(top_p=1.1), "top_p=1.1"),
        (Filter(min_p=1.5), "min_p=1.5"),
        (Filter(temperature=0.0, top_k=-1), "top_k=-1"),
    ],
)
def test_filter_ranges_are_checked(f, named):
    with pytest.raises(ValueError, match=named):
        sampling.draw(jnp.zeros(1), jnp.zeros((1, 4)), f)
