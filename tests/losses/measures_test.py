"""What is logged of terms against sums over tokens in numpy."""

import functools

import numpy as np

import tiny
from jopd.losses import measures, objective, signals, weights
from jopd.losses.objective import Term
from jopd.types import SOURCES


def scores_of(batch):
    rng = np.random.default_rng(1)
    shape = batch.mask_BT.shape
    logp = {name: -rng.uniform(0, 3, shape) for name in ("student", "teacher")}
    return tiny.scores(
        batch.mask_BT,
        logp=logp,
        source=batch.rollout.source_BT,
        position=np.arange(shape[1])
        - np.asarray(batch.rollout.prompt_length_B)[:, None],
    )


def test_term_metrics_are_means_over_the_scope():
    batch = tiny.batch(5)
    scores = scores_of(batch)
    count = functools.partial(weights.first_tokens, count=2)
    kept = Term("kept", signals.nll, (count,), source="gold", normalizer="sequences")
    scored = Term("scored", signals.policy_gradient, advantage=weights.log_ratio)
    terms = (kept, scored)
    got = measures.term_metrics(terms, scores, objective.weigh(terms, scores))
    mask_BT, source_BT = np.asarray(batch.mask_BT), np.asarray(scores.source)
    gold_BT, own_BT = (mask_BT & (source_BT == SOURCES[s]) for s in ("gold", "student"))
    ratio = np.asarray(scores.logp["teacher"] - scores.logp["student"])[own_BT]
    want = {
        "tokens/kept": gold_BT.sum(),
        "tokens/scored": own_BT.sum(),
        "weight/kept": (np.asarray(scores.position)[gold_BT] < 2).mean(),
        "advantage/scored": ratio.mean(),
        "advantage/scored_min": ratio.min(),
        "advantage/scored_max": ratio.max(),
    }
    assert 0 < want["weight/kept"] < 1 and set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)


def turned(scores, *, below: float):
    """A weight of -1 where log teacher is below a bound."""
    return np.where(scores.logp["teacher"] < below, -1.0, 1.0)


def test_flips_count_the_tokens_whose_advantage_changes_its_sign():
    scores = scores_of(tiny.batch(5))
    zeroed_BT = np.asarray(scores.logp["teacher"]).copy()
    zeroed_BT[:, ::2] = np.asarray(scores.logp["student"])[:, ::2]  # advantage 0
    scores = scores._replace(logp=scores.logp | {"teacher": zeroed_BT})
    term = Term(
        "turned",
        signals.policy_gradient,
        (functools.partial(turned, below=-1.5),),
        weights.log_ratio,
    )
    got = measures.term_metrics((term,), scores, objective.weigh((term,), scores))
    own_BT = np.asarray(scores.mask) & (np.asarray(scores.source) == SOURCES["student"])
    gap_BT = zeroed_BT - np.asarray(scores.logp["student"])
    want = (own_BT & (zeroed_BT < -1.5) & (gap_BT != 0)).sum()
    assert 0 < want < (own_BT & (zeroed_BT < -1.5)).sum()
    assert got["advantage/turned_flips"] == want


def test_the_numbers_of_a_report_are_named_after_its_term():
    scores = scores_of(tiny.batch(5))
    term = Term("mine", signals.nll, report=lambda scores: {"age": scores.age.max()})
    got = measures.term_metrics((term,), scores, objective.weigh((term,), scores))
    assert set(got) == {"tokens/mine", "mine/age"}
