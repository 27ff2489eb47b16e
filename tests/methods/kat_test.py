"""KAT post hoc: where a student and its teacher have only agreed for too long."""

import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.losses import objective, signals
from jopd.methods import kat
from jopd.rollouts import stops

KL = [1.2, 0.9, 1.0, 1.1, 0.2, 0.1, 0.05, 0.1, 0.05, 0.05, 0.05, 0.05]
Z = [1.05, 0.8, 0.6, 0.3625, 0.1125, 0.075, 0.0625, 0.0625, 0.05]
RULE = {"threshold": 0.5, "window": 4, "patience": 4, "exempt": 0}


def scores(*rows, prompt=2, **more):
    """Responses of these KLs behind a prompt; what is not response is NaN.

    Always five rows of 38 tokens: one shape to compile.
    """
    kl_BT = np.full((5, 38), np.nan)
    for row, values in zip(kl_BT, rows):
        row[prompt : prompt + len(values)] = values
    return tiny.scores(~np.isnan(kl_BT), reverse_kl={"teacher": kl_BT}, **more)


def kept(*rows, prompt=2, **rule):
    weight_BT = kat.before_agreement(scores(*rows, prompt=prompt), **RULE | rule)
    return [
        np.asarray(row[prompt : prompt + len(values)]).astype(int).tolist()
        for row, values in zip(weight_BT, rows)
    ]


def test_the_windows_and_the_cut_of_the_card():
    z_BT = kat.windowed(scores(KL), window=4, exempt=0)
    assert np.isinf(z_BT[0, :5]).all() and np.isinf(z_BT[0, 14:]).all()
    np.testing.assert_allclose(z_BT[0, 5:14], Z, atol=1e-6)
    # Low at 6, 7, 8, 9: the trigger is 9, the first window begins at 3.
    assert kept(KL) == [[1] * 3 + [0] * 9]
    assert kept(KL, cut="trigger") == [[1] * 10 + [0] * 2]
    assert kept(KL, prompt=0) == kept(KL, prompt=7) == kept(KL)
    assert kept(KL, [1.0] * 5, KL[:9]) == [[1] * 3 + [0] * 9, [1] * 5, [1] * 9]


def test_another_kl_may_be_a_named_fact():
    read = scores([2.0] * 12)
    other = {"near": scores(KL).reverse_kl["teacher"]}
    weight_BT = kat.before_agreement(read._replace(facts=other), **RULE, fact="near")
    np.testing.assert_array_equal(weight_BT, kat.before_agreement(scores(KL), **RULE))
    memory = kat.minima(1, window=4, exempt=0, fact="near")
    queue = memory.step(memory.start(), read._replace(facts=other))[2]
    assert float(queue[0]) == pytest.approx(0.05)


def test_it_is_the_rule_applied_token_by_token():
    rng = np.random.default_rng(0)
    for _ in range(10):
        kl = np.exp(rng.normal(-1.0, 1.5, 30)).round(3)
        low, first = 0, None
        for at in range(3 + 4 - 1, 30):
            low = low + 1 if kl[at - 3 : at + 1].mean() < 0.4 else 0
            if low == 3 and first is None:
                first = at - 3 + 1 - 4 + 1
        want = [int(first is None or at < first) for at in range(30)]
        assert kept(kl, threshold=0.4, patience=3, exempt=3) == [want]


def seen(*rows, width=14, memory=(), drawn=None):
    """Rows as a look finds them: their latest tokens, the newest to the right."""
    kl_BW = np.full((len(rows), width), np.nan)
    for row, values in zip(kl_BW, rows):
        row[width - min(len(values), width) :] = values[-width:]
    count_B = np.asarray([len(values) for values in rows] if drawn is None else drawn)
    of = lambda dtype: np.zeros((len(rows), width), dtype)
    told = (of(np.int32), of(np.float32), of(np.float32), kl_BW.astype(np.float32))
    return stops.Seen(*told, count_B.astype(np.int32), dict(memory))


ONLINE = {"threshold": 0.5, "mean_over": 4, "patience": 4, "exempt": 0}


def test_rollouts_end_at_the_trigger_however_many_tokens_are_behind_it():
    written = [KL[:n] for n in range(1, 13)]
    stop_B, back_B = kat.agreement(seen(*written), **ONLINE)
    assert stop_B.tolist() == [False] * 9 + [True] * 3
    # With the newest token, which the teacher has not read, n + 1 are there.
    assert [n + 1 - int(back_B[n - 1]) for n in (10, 11, 12)] == [10] * 3
    # What lies before the row, and the first tokens of it, say nothing.
    late, _ = kat.agreement(seen(KL, KL[:10]), **ONLINE | {"exempt": 6})
    assert late.tolist() == [False, False]
    # Only the latest are seen, and they are no longer the first of the row.
    latest, back_B = kat.agreement(seen([2.0] * 20 + KL, width=9), **ONLINE)
    assert latest.all() and 33 - int(back_B[0]) == 30


def test_online_and_after_the_fact_are_one_rule():
    rng = np.random.default_rng(1)
    rows = [np.exp(rng.normal(-1, 1.5, 12)).round(3).tolist() for _ in range(5)]
    rule = dict(patience=3, exempt=2, threshold=0.5)
    stop_B, back_B = kat.agreement(seen(*rows), mean_over=4, **rule)
    after = kept(*rows, window=4, cut="trigger", **rule)
    want = [sum(row) if 0 in row or stop else 12 for row, stop in zip(after, stop_B)]
    got = [13 - int(b) if s else 12 for s, b in zip(stop_B, back_B)]
    assert got == want and 0 < stop_B.sum() < 5


def test_online_the_threshold_is_that_of_the_memory():
    held = queue(*np.arange(1, 11) / 10)
    rule = dict(memory="minima", mean_over=4, exempt=0)
    for least, stops_here in ((10, True), (11, False)):
        found = seen(KL, memory={"minima": held})
        stop_B, _ = kat.agreement(found, least=least, **rule)
        assert bool(stop_B[0]) == stops_here
    fixed = kat.agreement(found, mean_over=4, exempt=0, threshold=0.73)
    assert int(fixed[1][0]) == int(kat.agreement(found, least=10, **rule)[1][0])
    with pytest.raises(ValueError, match="none reads along"):
        kat.agreement(seen(KL)._replace(reverse_kl_BW=None), **ONLINE)
    with pytest.raises(ValueError, match="agreement needs either a threshold"):
        kat.agreement(seen(KL))


def test_a_dip_shorter_than_the_patience_is_no_agreement():
    # Windows with three or four zeros are below 0.3: those that end at 8, 9, 10.
    dip = [1.0] * 6 + [0.0] * 4 + [1.0] * 8
    assert kept(dip, threshold=0.3) == [[1] * 18]
    assert kept(dip, threshold=0.3, patience=3) == [[1] * 5 + [0] * 13]


def test_the_first_tokens_are_exempt():
    # Windows from 4 + 4 - 1 = 7 on; low at 7, 8, 9, 10.
    assert kept(KL, exempt=4) == [[1] * 4 + [0] * 8]
    assert kept(KL, exempt=6) == [[1] * 12]


def queue(*lows, updates=50, capacity=16):
    values = np.full(capacity, np.inf, np.float32)
    values[: len(lows)] = lows
    return jnp.int32(updates), jnp.int32(len(lows)), jnp.asarray(values)


def test_the_threshold_spares_a_share_of_earlier_rollouts():
    held = queue(*np.arange(1, 11) / 10)
    assert float(kat.quantile(held, 0.7)) == pytest.approx(0.73)
    for share in (0.0, 0.25, 1.0):
        want = np.quantile(np.arange(1, 11) / 10, share)
        assert float(kat.quantile(held, share)) == pytest.approx(want)
    assert float(kat.quantile(queue(0.4), 0.7)) == pytest.approx(0.4)
    assert np.isinf(kat.quantile(queue(), 0.3))


def test_the_threshold_and_its_queue_are_logged():
    for held, want in (
        (queue(*np.arange(1, 11) / 10), [0.73, 10]),
        (queue(), [np.nan, 0]),
        ((50, jnp.int32(99), jnp.full(16, 0.5)), [0.5, 16]),
    ):
        read = scores(KL)._replace(memory={"minima": held})
        found = kat.levels(read, memory="minima", spared=0.3)
        np.testing.assert_allclose([found["threshold"], found["rollouts"]], want)


def by_memory(held, **keys):
    read = scores(KL)._replace(memory={"minima": held})
    keys = {"warmup_steps": 50, "least": 10} | keys
    rule = {key: RULE[key] for key in ("window", "patience", "exempt")}
    return kat.before_agreement(read, memory="minima", **rule, **keys)


def test_before_warm_up_nothing_is_cut_and_then_by_the_quantile():
    lows = np.arange(1, 11) / 10
    fixed = kat.before_agreement(scores(KL), **RULE | {"threshold": 0.73})
    np.testing.assert_array_equal(by_memory(queue(*lows)), fixed)
    assert (fixed == 0).any()
    for held, keys in (
        (queue(*lows, updates=49), {}),
        (queue(*lows[:9]), {}),
        (queue(), {"spared": 1.0, "least": 1}),
        (queue(*lows), {"spared": 1.0, "least": 11}),
    ):
        weight_BT = by_memory(held, **keys)
        np.testing.assert_array_equal(weight_BT, 1)
    # The limit is reverse KL of plain distillation, bit for bit.
    plain, cut = (
        objective.Term("t", signals.reverse_kl, weights, normalizer="weights")
        for weights in ((), (lambda s: by_memory(queue()),))
    )
    one, other = (objective.weigh((t,), scores(KL))["t"][0] for t in (plain, cut))
    np.testing.assert_array_equal(one, other)


def test_the_queue_holds_the_smallest_window_of_each_fresh_rollout():
    memory = kat.minima(1, window=2, exempt=1, capacity=3)
    rows = ([9, 3, 1, 5], [0, 0, 7, 7], [9, 9], [9, 8, 2, 2])
    age = np.array([0, 0, 0, 1, 0])
    held = memory.step(memory.start(), scores(*rows, age=age))
    updates, pushed, values = held
    # The third is too short for a window behind its first token, the last is old.
    assert (updates, pushed) == (1, 2)
    np.testing.assert_array_equal(values, [2.0, 3.5, np.inf])
    held = memory.step(held, scores(*([0, low, low] for low in (5, 6))))
    np.testing.assert_array_equal(held[2], [6.0, 3.5, 5.0])
    many = scores(*([0, low, low] for low in (1, 2, 3, 4, 5)))
    _, pushed, values = memory.step(held, many)
    assert pushed == 9
    np.testing.assert_array_equal(np.sort(values), [3, 4, 5])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "either a threshold from 0 on or a memory"),
        ({"threshold": 0.1, "memory": "minima"}, "got threshold=0.1 and memory='min"),
        ({"threshold": 0.1, "cut": "end"}, "cut='start' or 'trigger', got 'end'"),
    ],
)
def test_what_cannot_be_meant_is_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        kat.before_agreement(scores(KL), **keys)
