"""Numbers about sampled responses: accuracy at k, truncation and repetition.

Plain numpy on the host; intervals are at the 95 % level.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np

Interval = tuple[float, float]

Z_95 = 1.959963984540054
# From the StableOPD paper: tail length in characters and compression ratio.
TAIL, THRESHOLD = 10_000, 10.0
SHORTEST_TAIL = 32


def wilson(successes: int, trials: int) -> Interval:
    """Wilson score interval of a proportion of independent trials.

        (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)

    Unlike the normal interval it stays within 0..1 and keeps a width at p = 0 and 1.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes in {trials} trials make no proportion")
    p, squared = successes / trials, Z_95**2 / trials
    centre = p + squared / 2
    spread = Z_95 * math.sqrt(p * (1 - p) / trials + squared / (4 * trials))
    low, high = (centre - spread) / (1 + squared), (centre + spread) / (1 + squared)
    # Exact ends, which rounding would miss.
    return 0.0 if successes == 0 else low, 1.0 if successes == trials else high


def bootstrap(values_N, *, seed: int = 0, resamples: int = 2_000) -> Interval:
    """Percentile interval of a mean, resampling prompts; the same for the same seed.

    Samples of one prompt depend on each other, so prompts are drawn, not samples.
    Collapses to a point where all prompts score alike.
    """
    values_N = np.asarray(values_N, np.float64)
    if values_N.size < 1:
        raise ValueError("no values to resample; evaluate at least one prompt")
    rng = np.random.default_rng(seed)
    size = len(values_N)
    means = [values_N[rng.integers(0, size, size)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(values_N, *, seed: int = 0) -> tuple[float, Interval]:
    """The mean over prompts; Wilson's interval where all are 0 or 1, else bootstrap.

    Where no prompt is right, or every one, the bootstrap would say that this is sure.
    """
    values_N = np.asarray(values_N, np.float64)
    if values_N.size and np.isin(values_N, (0, 1)).all():
        bounds = wilson(int(values_N.sum()), values_N.size)
    else:
        bounds = bootstrap(values_N, seed=seed)
    return float(values_N.mean()), bounds


def avg_at_k(correct_NK, *, seed: int = 0) -> tuple[float, Interval]:
    """Mean reward over N prompts and K samples each, see ``mean_interval``."""
    return mean_interval(_finite(correct_NK).mean(axis=1), seed=seed)


def pass_at_k(correct_NK, k: int, *, seed: int = 0) -> tuple[float, Interval]:
    """Probability that one of k samples is right, see ``mean_interval``.

        mean over prompts of 1 - C(n - c, k) / C(n, k),   c of n samples right

    Unbiased for k <= n (Chen et al. 2021, arXiv 2107.03374, equation 1). k = 1 is
    avg@n; k = n is the share of prompts with a right sample.

    Raises:
      ValueError: k is not within 1..n.
    """
    correct_NK = _correct(correct_NK)
    n = correct_NK.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@k with k={k} needs 1 <= k <= {n} samples per prompt")
    failures = [math.comb(n - right, k) / math.comb(n, k) for right in range(n + 1)]
    values_N = 1 - np.asarray(failures)[correct_NK.sum(axis=1)]
    return mean_interval(values_N, seed=seed)


def _finite(reward_NK) -> np.ndarray:
    """f64[N, K]."""
    reward_NK = np.asarray(reward_NK, np.float64)
    if reward_NK.ndim != 2 or not np.isfinite(reward_NK).all():
        raise ValueError(
            f"rewards of shape {reward_NK.shape}: a matrix [prompts, samples] of "
            "finite numbers is expected"
        )
    return reward_NK


def _correct(correct_NK) -> np.ndarray:
    """i64[N, K] of 0 and 1."""
    correct_NK = np.asarray(correct_NK)
    if correct_NK.ndim != 2 or not np.isin(correct_NK, (0, 1)).all():
        raise ValueError(
            f"correctness of shape {correct_NK.shape}: a matrix [prompts, samples] of "
            f"0 and 1 is expected"
        )
    return correct_NK.astype(np.int64)


def truncation_rate(finished_B) -> float:
    """Share of responses that ended by the length limit, without a stop token."""
    return float(1 - np.asarray(finished_B, np.float64).mean())


def repetition(
    response: str | Sequence[int] | np.ndarray,
    *,
    tail: int = TAIL,
    threshold: float = THRESHOLD,
) -> bool:
    """Whether a response ends in a loop, by how well its tail compresses.

        |bytes(tail)| / |zlib(bytes(tail))| > threshold,   tail: last `tail` characters

    Only responses of at least `tail` characters count (StableOPD, arXiv 2604.08527;
    its "|tail| > L" read so, its zlib level taken to be the default one). Token ids
    stand for their low byte. For short responses see `repetition_limits`.
    """
    if len(response) < tail:
        return False
    ending = response[-tail:]
    if isinstance(ending, str):
        data = ending.encode()
    else:
        data = (np.asarray(ending) & 0xFF).astype(np.uint8).tobytes()
    return len(data) / len(zlib.compress(data)) > threshold


def repetition_limits(max_response_tokens: int) -> tuple[int, float]:
    """Tail and threshold of `repetition` for responses of at most so many tokens.

        tail = max_response_tokens / 2, within 32..10,000
        threshold = min(10, 2 (tail / 64)^(2/3))

    The overhead of zlib caps the ratio of a short tail, so the paper's (10,000, 10)
    could never fire. Half of the limit finds loops that began in the first half; the
    threshold is the middle, on a log scale, between ordinary text and loops of 16
    characters. From 20,000 tokens on the paper's own values.

    Measured on stories, GSM8K and MATH solutions and the bundled task: below 0.2 % of
    ordinary responses count; loops of up to 12 characters do at a limit of 64 tokens,
    of up to 16 at 96, 24 at 192, 48 at 1,024, 100 at 4,096.
    """
    tail = min(max(max_response_tokens // 2, SHORTEST_TAIL), TAIL)
    return tail, min(2.0 * (tail / 64) ** (2 / 3), THRESHOLD)


def repeated_tokens(tokens_BT, mask_BT, n: int = 8) -> np.ndarray:
    """Tokens that end an n-gram which the same response held before: bool[B, T].

    The earlier n-gram may overlap. The n-gram lies within `mask_BT`, so the first
    n - 1 tokens of a response never count. Short responses want a smaller n.
    """
    if n < 1:
        raise ValueError(f"n={n}; an n-gram has at least 1 token")
    tokens_BT, mask_BT = np.asarray(tokens_BT), np.asarray(mask_BT, bool)
    repeated_BT = np.zeros(tokens_BT.shape, bool)
    if tokens_BT.shape[1] < n:
        return repeated_BT
    windows = np.lib.stride_tricks.sliding_window_view
    rows, starts = np.nonzero(windows(mask_BT, n, axis=1).all(axis=-1))
    grams = windows(tokens_BT, n, axis=1)[rows, starts]
    keyed = np.concatenate([rows[:, None], grams], axis=1)
    # np.unique reports first occurrences; `rows, starts` run through a row in order.
    _, first, which = np.unique(keyed, axis=0, return_index=True, return_inverse=True)
    repeated = first[which.reshape(-1)] < np.arange(len(keyed))
    repeated_BT[rows[repeated], starts[repeated] + n - 1] = True
    return repeated_BT
