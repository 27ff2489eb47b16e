import itertools
import math
import zlib

import numpy as np
import pytest
import scipy.stats

from jopd.data import sources, tasks
from jopd.reporting import statistics


def test_pass_at_k_is_the_mean_over_all_subsets():
    correct_NK = np.array([[0] * 6, [1] + [0] * 5, [1, 0, 1, 0, 1, 0], [1] * 6])
    for k in range(1, 7):
        subsets = list(itertools.combinations(range(6), k))
        expected = np.mean(
            [[row[list(subset)].any() for subset in subsets] for row in correct_NK]
        )
        value, (low, high) = statistics.pass_at_k(correct_NK, k)
        assert value == pytest.approx(expected, abs=1e-12)
        assert low <= value <= high


def test_pass_at_1_is_avg_and_pass_at_n_is_any():
    correct_NK = np.random.default_rng(0).random((40, 5)) < 0.3
    average, interval = statistics.avg_at_k(correct_NK)
    value, pass_interval = statistics.pass_at_k(correct_NK, 1)
    assert (value, *pass_interval) == pytest.approx((average, *interval))
    assert average == pytest.approx(correct_NK.mean())
    any_right = statistics.pass_at_k(correct_NK, 5)[0]
    assert any_right == pytest.approx(correct_NK.any(axis=1).mean())


def test_pass_at_k_survives_many_samples():
    correct_NK = np.zeros((2, 4_000), int)
    correct_NK[0, :3] = 1
    missed = math.prod((3_900 - i) / (4_000 - i) for i in range(3))
    value, _ = statistics.pass_at_k(correct_NK, 100)
    assert value == pytest.approx((1 - missed) / 2, rel=1e-12)


@pytest.mark.parametrize("k", [0, 4])
def test_pass_at_k_refuses_k_out_of_range(k):
    with pytest.raises(ValueError, match=f"k={k} needs 1 <= k <= 3"):
        statistics.pass_at_k(np.zeros((2, 3)), k)


@pytest.mark.parametrize("correct", [[[0.5, 1.0]], [0, 1]])
def test_correctness_has_to_be_a_matrix_of_0_and_1(correct):
    with pytest.raises(ValueError, match="matrix"):
        statistics.pass_at_k(correct, 1)
    with pytest.raises(ValueError, match="matrix"):
        statistics.avg_at_k(np.ravel(correct))


def test_rewards_may_lie_between():
    value, (low, high) = statistics.avg_at_k([[0.5, 1.0], [0.0, 0.5]])
    assert value == 0.5 and low == 0.25 and high == 0.75
    with pytest.raises(ValueError, match="finite numbers"):
        statistics.avg_at_k([[np.nan, 1.0]])


@pytest.mark.parametrize(("right", "trials"), [(0, 10), (3, 10), (10, 10), (250, 256)])
def test_wilson_agrees_with_scipy(right, trials):
    expected = scipy.stats.binomtest(right, trials).proportion_ci(method="wilson")
    assert statistics.wilson(right, trials) == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize(("right", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(right, trials):
    with pytest.raises(ValueError, match="no proportion"):
        statistics.wilson(right, trials)


def test_bootstrap_covers_the_mean_and_is_seeded():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        low, high = statistics.bootstrap(rng.random(60), seed=seed, resamples=200)
        covered += low <= 0.5 <= high
    assert 0.88 <= covered / 200 <= 0.99
    values_N = rng.random(100)
    assert statistics.bootstrap(values_N) == statistics.bootstrap(values_N)
    assert statistics.bootstrap(values_N) != statistics.bootstrap(values_N, seed=1)
    low, high = statistics.bootstrap(values_N)
    normal = 2 * 1.96 * values_N.std() / 10
    assert high - low == pytest.approx(normal, rel=0.1)


def test_bootstrap_resamples_prompts_not_samples():
    """Equal samples of a prompt carry no more information than one of them."""
    once_NK = np.random.default_rng(0).random((50, 1)) < 0.5
    eight_NK = np.repeat(once_NK, 8, axis=1)
    assert statistics.avg_at_k(once_NK) == statistics.avg_at_k(eight_NK)


@pytest.mark.parametrize("right", [0, 1, 100, 256])
def test_shares_have_wilson_intervals(right):
    """None, or all, of 256 is not sure; nor is it where every sample agrees."""
    values_N = np.arange(256) < right
    expected = statistics.wilson(right, 256)
    for value, found in (
        statistics.mean_interval(values_N),
        statistics.avg_at_k(np.repeat(values_N[:, None], 4, axis=1)),
        statistics.pass_at_k(values_N[:, None], 1),
    ):
        assert value == right / 256 and found == expected
        assert found[0] < found[1]


def test_means_of_samples_keep_the_bootstrap():
    correct_NK = np.random.default_rng(0).random((50, 4)) < 0.5
    expected = statistics.bootstrap(correct_NK.mean(axis=1))
    assert statistics.avg_at_k(correct_NK)[1] == expected


def test_truncation_rate():
    assert statistics.truncation_rate([True, True, False, True]) == 0.25


def test_repetition_is_the_compression_ratio_of_the_tail():
    text = "Some beginning that is not looked at. " * 3 + "abcdefgh" * 40
    tail = text[-256:].encode()
    ratio = len(tail) / len(zlib.compress(tail))
    assert statistics.repetition(text, tail=256, threshold=ratio - 1e-9)
    assert not statistics.repetition(text, tail=256, threshold=ratio)


def test_repetition_looks_at_the_end_only():
    rng = np.random.default_rng(0)
    noise = "".join(map(chr, rng.integers(33, 127, 300)))
    loop = "abcd" * 75
    limits = {"tail": 256, "threshold": 5.0}
    assert statistics.repetition(noise + loop, **limits)
    assert not statistics.repetition(loop + noise, **limits)


def test_repetition_counts_responses_that_reach_the_tail():
    assert statistics.repetition("a" * 128, tail=128, threshold=3.0)
    assert not statistics.repetition("a" * 127, tail=128, threshold=3.0)
    assert statistics.repetition("a" * 10_000)
    assert not statistics.repetition("a" * 9_999)


def test_repetition_of_unicode_counts_characters_then_bytes():
    assert statistics.repetition("é" * 64, tail=64, threshold=9.0)
    assert not statistics.repetition("é" * 63, tail=64, threshold=9.0)


def test_repetition_of_token_ids():
    rng = np.random.default_rng(0)
    limits = {"tail": 128, "threshold": 3.0}
    assert statistics.repetition([7, 70_000, 3, 9] * 32, **limits)
    assert statistics.repetition(np.array([7, 70_000, 3, 9] * 32), **limits)
    assert not statistics.repetition(rng.integers(0, 50_000, 128), **limits)


def test_repetition_limits_reach_the_values_of_the_paper():
    assert statistics.repetition_limits(20_000) == (10_000, 10.0)
    assert statistics.repetition_limits(40_000) == (10_000, 10.0)
    assert statistics.repetition_limits(128) == (64, 2.0)
    assert statistics.repetition_limits(8)[0] == 32


@pytest.mark.parametrize("limit", [96, 128, 192, 256, 512, 1_024])
def test_scaled_limits_find_loops_of_1_to_16(limit):
    tail, threshold = statistics.repetition_limits(limit)
    rng = np.random.default_rng(limit)
    for period in range(1, 17):
        for _ in range(20):
            before = rng.integers(0, 200, limit // 2)
            looped = np.concatenate([before, np.tile(before[-period:], limit)])[:limit]
            assert statistics.repetition(looped, tail=tail, threshold=threshold)


def test_scaled_limits_find_loops_at_64():
    tail, threshold = statistics.repetition_limits(64)
    rng = np.random.default_rng(0)
    for period in range(1, 13):
        looped = np.tile(rng.integers(0, 200, period), 64)[:64]
        assert statistics.repetition(looped, tail=tail, threshold=threshold)


def test_scaled_limits_pass_ordinary_task_responses():
    tail, threshold = statistics.repetition_limits(64)
    texts = [row["solution"] for row in tasks.make("train", 5_000)]
    counted = [text for text in texts if len(text) >= tail]
    flagged = [
        statistics.repetition(text, tail=tail, threshold=threshold) for text in counted
    ]
    assert len(counted) > 1_000 and np.mean(flagged) < 0.01


@pytest.mark.parametrize("limit", [64, 128, 256, 1_024])
def test_scaled_limits_pass_stories(shared, limit):
    path = str(shared / "text" / "tinystories_sample_2MiB.txt")
    tail, threshold = statistics.repetition_limits(limit)
    texts = [row.prompt for row in sources.read(path)[1:-1]]
    flagged = [
        statistics.repetition(text[:limit], tail=tail, threshold=threshold)
        for text in texts
    ]
    assert len(texts) == 2_315 and np.mean(flagged) < 0.01


def repeated_slowly(tokens_BT, mask_BT, n):
    repeated_BT = np.zeros(mask_BT.shape, bool)
    for b, (tokens, mask) in enumerate(zip(tokens_BT, mask_BT, strict=True)):
        seen = set()
        for end in range(n, len(tokens) + 1):
            if mask[end - n : end].all():
                gram = tuple(tokens[end - n : end])
                repeated_BT[b, end - 1] = gram in seen
                seen.add(gram)
    return repeated_BT


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_repeated_tokens_agree_with_a_slow_search(n):
    rng = np.random.default_rng(n)
    tokens_BT = rng.integers(0, 3, (16, 40))
    tokens_BT[3] = 5
    tokens_BT[4] = tokens_BT[5]
    start_B, end_B = rng.integers(0, 12, 16), rng.integers(12, 41, 16)
    position_T = np.arange(40)
    mask_BT = (position_T >= start_B[:, None]) & (position_T < end_B[:, None])
    found_BT = statistics.repeated_tokens(tokens_BT, mask_BT, n)
    assert found_BT.any()
    np.testing.assert_array_equal(found_BT, repeated_slowly(tokens_BT, mask_BT, n))


def test_repeated_tokens_of_a_loop_begin_after_one_period():
    tokens_BT = np.array([[9, 9, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2]])
    mask_BT = np.arange(12)[None] >= 2
    found_BT = statistics.repeated_tokens(tokens_BT, mask_BT, 3)
    np.testing.assert_array_equal(found_BT[0], [0] * 8 + [1] * 4)


def test_repeated_tokens_of_short_rows_and_bad_n():
    none_BT = statistics.repeated_tokens(np.ones((2, 3)), np.ones((2, 3)), 8)
    assert none_BT.shape == (2, 3) and not none_BT.any()
    empty_BT = statistics.repeated_tokens(np.ones((2, 9)), np.zeros((2, 9)), 2)
    assert not empty_BT.any()
    with pytest.raises(ValueError, match="n=0"):
        statistics.repeated_tokens(np.ones((2, 3)), np.ones((2, 3)), 0)
