"""TA-OPD against numpy, its limits, and its facts on the paper's six tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.losses import objective, signals
from jopd.methods import ta_opd

RNG = np.random.default_rng(3)
MASK = np.arange(12)[None] < np.asarray([[12], [7], [0], [9]])
# Garbage where nothing was written.
FACTS = {
    name: np.where(MASK, RNG.uniform(size=MASK.shape), 50)
    for name in ("apart", "reachable")
}
ENTROPY = RNG.uniform(0, 3, MASK.shape)
UNIFORM = RNG.uniform(size=MASK.shape)


def scores(**changes):
    fields = dict(facts=FACTS, entropy={"student": ENTROPY}, uniform=UNIFORM)
    return tiny.scores(MASK, **(fields | changes))


def nz(values):
    low, high = np.quantile(values, [0.05, 0.95])
    return np.clip((values - low) / (high - low), 0, 1)


def wanted(score):
    """The score of the tokens inside, in numpy."""
    d, c, h = (nz(x[MASK]) for x in (FACTS["apart"], FACTS["reachable"], ENTROPY))
    return {
        "teachable": d * c,
        "incompatible": d * (1 - c),
        "divergence": d,
        "reachable": c,
        "entropy": h,
        "tip": 1 - (1 - h) * (1 - d),
        "random": UNIFORM[MASK],
    }[score]


@pytest.mark.parametrize("score", ta_opd.SCORES)
def test_kept_are_the_highest_by_numpy(score):
    keep = jax.jit(lambda s: ta_opd.keep(s, share=0.3, score=score))
    got = np.asarray(keep(scores()))
    order = np.argsort(-wanted(score).astype(np.float32), kind="stable")
    want = np.zeros(MASK.sum())
    want[order[: int(np.ceil(0.3 * MASK.sum()))]] = 1
    np.testing.assert_array_equal(got[MASK], want)
    assert not got[~MASK].any()


@pytest.mark.parametrize(
    "share, tokens, kept", [(0.1, 30, 3), (0.1, 31, 4), (1, 30, 30)]
)
def test_as_many_as_asked_for(share, tokens, kept):
    mask_BT = np.arange(40)[None] < tokens
    facts = dict.fromkeys(FACTS, RNG.uniform(size=mask_BT.shape))
    made = tiny.scores(mask_BT, facts=facts)
    assert ta_opd.keep(made, share=share).sum() == kept


def test_a_teacher_that_agrees_everywhere_leaves_the_order():
    """D = 0: no token before another, so the first ones are kept; none is NaN."""
    same = FACTS | {"apart": np.zeros(MASK.shape)}
    got = np.asarray(ta_opd.keep(scores(facts=same), share=0.25))
    assert got[0, :7].all() and got.sum() == 7
    none = tiny.scores(
        np.zeros((2, 3), bool), facts=dict.fromkeys(FACTS, np.ones((2, 3)))
    )
    assert ta_opd.keep(none, share=0.5).sum() == 0


def test_teachable_and_incompatible_are_the_divergence():
    total = wanted("teachable") + wanted("incompatible")
    np.testing.assert_allclose(total, wanted("divergence"))


def test_a_share_of_one_is_opd_to_the_bit():
    term = lambda *weights: objective.Term("t", signals.policy_gradient, weights)
    weigh = lambda *weights: objective.weigh((term(*weights),), scores())["t"].weight_BT
    whole = weigh(lambda s: ta_opd.keep(s, share=1.0))
    np.testing.assert_array_equal(whole, weigh())
    assert np.asarray(whole).any()


def test_a_share_of_one_keeps_everything():
    everything = ta_opd.keep(scores(), share=1.0)
    np.testing.assert_array_equal(everything, MASK)
    assert everything.dtype == jnp.float32


@pytest.mark.parametrize(
    "arguments, said",
    [
        (dict(share=0.0), "0 < share <= 1, got 0.0"),
        (
            dict(share=0.1, score="best"),
            "score='best' is unknown; use one of teachable",
        ),
    ],
)
def test_a_bad_argument_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        ta_opd.keep(scores(), **arguments)
