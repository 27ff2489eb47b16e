"""Reward-to-go against loops over tokens in numpy."""

import numpy as np
import pytest

import tiny
from jopd.methods import minillm
from jopd.types import GOLD, STUDENT, TEACHER

RNG = np.random.default_rng(3)
SHAPE = (5, 7)
LENGTHS = np.asarray([7, 4, 0, 6, 5])
MASK = np.arange(7)[None] < LENGTHS[:, None]
MASK[:, 0] = False
SOURCE = np.full(SHAPE, STUDENT)
SOURCE[3] = GOLD
SOURCE[4, :3] = TEACHER
LOGP = {name: -RNG.uniform(0, 4, SHAPE) for name in ("student", "teacher")}
RATIO = LOGP["teacher"] - LOGP["student"]
INSIDE = MASK & (SOURCE == STUDENT)


def scores():
    return tiny.scores(MASK, source=SOURCE, logp=LOGP)


def reference(discount, own=True):
    found = np.zeros(SHAPE)
    for b in range(SHAPE[0]):
        places = np.flatnonzero(INSIDE[b])
        for n, t in enumerate(places):
            later = places[n if own else n + 1 :]
            shares = float(discount) ** (later - t)
            if len(later) and shares.sum() > 0:
                found[b, t] = shares @ RATIO[b, later] / shares.sum()
    return found


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("discount", [1.0, 0.7])
def test_mean_of_what_remains(discount, own):
    got = minillm.reward_to_go(scores(), discount=discount, own=own, whiten=False)
    want = reference(discount, own)
    np.testing.assert_allclose(
        np.asarray(got)[INSIDE], want[INSIDE], rtol=1e-5, atol=1e-6
    )


def test_discount_0_is_the_immediate_term():
    got = minillm.reward_to_go(scores(), discount=0.0, whiten=False)
    want = np.float32(LOGP["teacher"]) - np.float32(LOGP["student"])
    np.testing.assert_array_equal(np.asarray(got)[INSIDE], want[INSIDE])


def test_the_last_token_has_only_itself():
    got = np.asarray(minillm.reward_to_go(scores(), whiten=False))
    assert got[0, 6] == pytest.approx(RATIO[0, 6], rel=1e-5)
    assert minillm.reward_to_go(scores(), own=False, whiten=False)[0, 6] == 0


def test_whitened_over_the_student_tokens_of_the_batch():
    plain = reference(1.0)[INSIDE]
    want = (plain - plain.mean()) / np.sqrt(plain.var() + 1e-8)
    got = np.asarray(minillm.reward_to_go(scores()))
    np.testing.assert_allclose(got[INSIDE], want, rtol=1e-4, atol=1e-5)
    assert (got[~INSIDE] == 0).all()


def test_whitening_is_blind_to_scale_and_equal_models_give_zero():
    doubled = {"student": 2 * LOGP["student"], "teacher": 2 * LOGP["teacher"]}
    one, two = (
        minillm.reward_to_go(scores()),
        minillm.reward_to_go(
            scores()._replace(logp={k: 2 * v for k, v in scores().logp.items()})
        ),
    )
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    same = scores()._replace(logp=dict.fromkeys(doubled, scores().logp["student"]))
    assert (np.asarray(minillm.reward_to_go(same)) == 0).all()


def test_bound_cuts_each_reward():
    got = minillm.reward_to_go(scores(), discount=0.0, whiten=False, bound=0.5)
    np.testing.assert_allclose(
        np.asarray(got)[INSIDE], np.clip(RATIO, -0.5, 0.5)[INSIDE], rtol=1e-5
    )


def test_a_batch_without_student_tokens_is_zero():
    empty = scores()._replace(mask=scores().mask & False)
    assert (np.asarray(minillm.reward_to_go(empty)) == 0).all()
