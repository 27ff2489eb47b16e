"""Logged numbers against sums over tokens, one by one."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.reporting import diagnostics, statistics
from jopd.types import GOLD, STUDENT

NAMES = ("logp/student", "logp/teacher", "entropy/student", "kl/reverse", "loss/opd")


@pytest.fixture
def batch():
    made = tiny.batch(4, rows=6)
    # A loop of two tokens in row 0.
    loop_T = jnp.asarray([7, 8] * 5)[: made.mask_BT.shape[1]]
    tokens_BT = made.rollout.tokens_BT.at[0].set(loop_T)
    return made._replace(rollout=made.rollout._replace(tokens_BT=tokens_BT))


@pytest.fixture
def parts(batch):
    rng = np.random.default_rng(0)
    return {name: -rng.uniform(0, 3, batch.mask_BT.shape) for name in NAMES}


def percentile(values, percent: float) -> float:
    """By its definition: so far along the sorted values, linear in between."""
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def test_token_metrics_are_means_over_student_tokens(batch, parts):
    got = diagnostics.token_metrics(parts, batch, ngram=2)
    source_BT = np.asarray(batch.rollout.source_BT)
    places = np.argwhere(np.asarray(batch.mask_BT))
    own = [(b, t) for b, t in places if source_BT[b, t] == STUDENT]
    for name in ("logp/student", "entropy/student", "kl/reverse"):
        assert got[name] == pytest.approx(np.mean([parts[name][b, t] for b, t in own]))
    assert "loss/opd" not in got
    gold = [parts["logp/student"][b, t] for b, t in places if source_BT[b, t] == GOLD]
    assert got["gold/nll"] == pytest.approx(-np.mean(gold))

    gap_BT = parts["logp/teacher"] - parts["logp/student"]
    repeated_BT = statistics.repeated_tokens(
        np.asarray(batch.rollout.tokens_BT), np.asarray(batch.mask_BT), n=2
    )
    loops = [gap_BT[b, t] for b, t in own if repeated_BT[b, t]]
    others = [gap_BT[b, t] for b, t in own if not repeated_BT[b, t]]
    assert loops and others
    assert got["log_ratio/mean"] == pytest.approx(np.mean(loops + others))
    assert got["log_ratio/min"] == pytest.approx(min(loops + others))
    assert got["log_ratio/p1"] == pytest.approx(percentile(loops + others, 1))
    assert got["log_ratio/repeated"] == pytest.approx(np.mean(loops))
    assert got["log_ratio/other"] == pytest.approx(np.mean(others))
    assert got["length/repeated_token_share"] == pytest.approx(len(loops) / len(own))
    behavior_BT = np.asarray(batch.rollout.behavior_logp_BT)
    ratios = [np.exp(parts["logp/student"][b, t] - behavior_BT[b, t]) for b, t in own]
    assert got["ratio/mean"] == pytest.approx(np.mean(ratios), rel=1e-5)
    assert got["ratio/max"] == pytest.approx(max(ratios), rel=1e-5)
    ages = np.asarray(batch.rollout.age_B)
    assert got["age/mean"] == pytest.approx(
        np.mean([ages[b] for b in {b for b, _ in own}])
    )


def test_masked_garbage_is_not_read(batch, parts):
    want = diagnostics.token_metrics(parts, batch, ngram=2)
    spoiled = {n: np.where(batch.mask_BT, v, np.nan) for n, v in parts.items()}
    assert diagnostics.token_metrics(spoiled, batch, ngram=2) == want


def test_a_batch_of_gold_rows_has_gold_metrics(batch, parts):
    source_BT = jnp.full_like(batch.rollout.source_BT, GOLD)
    gold = batch._replace(rollout=batch.rollout._replace(source_BT=source_BT))
    got = diagnostics.token_metrics(parts, gold, ngram=2)
    assert got["gold/nll"] == pytest.approx(-got["logp/student"])
    assert "ratio/mean" not in got


def test_a_batch_without_tokens_has_no_means(batch, parts):
    empty = batch._replace(mask_BT=jnp.zeros_like(batch.mask_BT))
    got = diagnostics.token_metrics(parts, empty, ngram=2)
    assert all(value is None for value in got.values())


def test_rollout_metrics(batch):
    repetition = functools.partial(statistics.repetition, tail=20, threshold=1.5)
    texts = ["ab" * 40, *["all quite different here 12"] * 5]
    got = diagnostics.rollout_metrics(batch, texts, repetition)
    rollout = batch.rollout
    lengths = np.asarray(rollout.length_B) - np.asarray(rollout.prompt_length_B)
    finished = np.asarray(rollout.finished_B)
    assert got["length/mean"] == pytest.approx(lengths.mean())
    assert got["length/max"] == lengths.max()
    assert got["length/truncation_rate"] == pytest.approx((~finished).mean())
    assert got["length/repetition_rate"] == pytest.approx(1 / 6)
    assert "reward/mean" not in got  # nobody judged
    reward = np.asarray(batch.reward_B)
    got = diagnostics.reward_metrics(batch)
    assert got["reward/mean"] == pytest.approx(reward.mean())
    assert got["reward/finished"] == pytest.approx(reward[finished].mean())
    cut = batch._replace(rollout=rollout._replace(finished_B=finished & False))
    assert diagnostics.reward_metrics(cut)["reward/finished"] is None


def test_unfinite_names_the_first_bad_number():
    fine = {"loss": 1.0, "loss/opd": 0.5, "optim/grad_norm": 2.0, "age/mean": np.nan}
    assert diagnostics.unfinite(fine) is None
    assert diagnostics.unfinite(fine | {"loss/opd": np.nan}) == "loss/opd"
    assert diagnostics.unfinite(fine | {"optim/grad_norm": np.inf}) == "optim/grad_norm"
