"""Reports against loops over tokens and rows in float64."""

import jax
import numpy as np
import pytest

import tiny
from jopd.losses import reports
from jopd.types import GOLD

REWARD = np.asarray([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
GROUP = np.asarray([0, 0, 0, 1, 1, 2, 3, 0])  # group 3 has gold tokens only
LENGTH = np.asarray([3, 1, 4, 2, 5, 3, 2, 0])  # the last row is masked


@pytest.fixture
def scores():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        mask_BT = np.arange(5) < LENGTH[:, None]
        logp = {name: -rng.uniform(0, 3, (8, 5)) for name in ("student", "teacher")}
        source_BT = np.zeros((8, 5), int)
        source_BT[6] = GOLD
        yield tiny.scores(
            mask_BT, logp=logp, reward=REWARD, group=GROUP, source=source_BT
        )


def gains(scores):
    gap_BT = np.asarray(scores.logp["teacher"] - scores.logp["student"])
    return [gap_BT[b, : LENGTH[b]] for b in range(6)]


def test_information_gain(scores):
    got = jax.jit(reports.information_gain)(scores)
    rows = gains(scores)
    join = lambda *which: np.concatenate([rows[b] for b in which])
    whole = join(*range(6))
    want = {
        "gain_mean": whole.mean(),
        "gain_std": whole.std(),
        "gain_positive": rows[0].mean(),
        "gain_negative": join(1, 2).mean(),
        "gain_correct": join(0, 3, 4).mean(),
        "gain_wrong": join(1, 2, 5).mean(),
        "pmi_correct": np.mean([rows[b].sum() for b in (0, 3, 4)]),
        "pmi_wrong": np.mean([rows[b].sum() for b in (1, 2, 5)]),
        "uniform_groups": 2 / 3,
    }
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-12, err_msg=name)
    assert len({round(value, 6) for value in want.values()}) == len(want)


def test_what_is_not_there_is_nan(scores):
    got = reports.information_gain(scores._replace(reward=np.ones(8)))
    for name in ("gain_wrong", "pmi_wrong", "gain_positive", "gain_negative"):
        assert np.isnan(got[name]), name
    assert got["uniform_groups"] == 1


def test_masked_garbage_is_not_read(scores):
    want = reports.information_gain(scores)
    spoiled = np.where(scores.mask, scores.logp["teacher"], np.nan)
    got = reports.information_gain(
        scores._replace(logp=scores.logp | {"teacher": spoiled})
    )
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_a_fact_is_described_over_the_students_tokens(scores):
    value_BT = np.where(scores.mask, np.arange(40).reshape(8, 5), np.nan)
    found = reports.fact(scores._replace(facts={"near": value_BT}), fact="near")
    own = value_BT[np.asarray(scores.mask) & (np.asarray(scores.source) != GOLD)]
    assert set(found) == {"near_mean", "near_max"}
    np.testing.assert_allclose(found["near_mean"], own.mean(), rtol=1e-6)
    assert found["near_max"] == own.max()
