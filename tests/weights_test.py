"""Every weight against numpy, on scores with known numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopd import weights
from jopd.types import Scores

RNG = np.random.default_rng(0)
SHAPE = (3, 5)
LOGP = {name: -RNG.uniform(0, 4, SHAPE) for name in ("student", "teacher", "reference")}
ENTROPY = {name: RNG.uniform(0, 3, SHAPE) for name in LOGP}
KL = {name: RNG.uniform(0, 3, SHAPE) for name in ("teacher", "reference")}
UNIFORM = RNG.uniform(0, 1, SHAPE)
BEHAVIOR = -RNG.uniform(0, 4, SHAPE)
POSITION = np.arange(5)[None] - np.asarray([[1], [2], [3]])
AGE = np.asarray([0, 1, 4])
SCORES = jax.tree.map(
    jnp.asarray,
    Scores(
        mask=POSITION >= 0,
        source=np.zeros(SHAPE, np.int32),
        position=POSITION,
        logp=LOGP,
        entropy=ENTROPY,
        reverse_kl=KL,
        forward_kl=KL,
        behavior_logp=BEHAVIOR,
        reward=np.asarray([1.0, 0.0, 0.5]),
        group=np.asarray([0, 0, 1]),
        age=AGE,
        uniform=UNIFORM,
    ),
)
RATIO = np.exp(LOGP["student"] - BEHAVIOR)
GAP = LOGP["teacher"] - LOGP["student"]
CASES = {
    "log_ratio": (weights.log_ratio, {}, GAP),
    "log_ratio of": (
        weights.log_ratio,
        {"other": "reference"},
        LOGP["reference"] - LOGP["student"],
    ),
    "first_tokens": (weights.first_tokens, {"count": 2}, POSITION < 2),
    "entropy_above": (
        weights.entropy_above,
        {"threshold": 1.5},
        ENTROPY["teacher"] >= 1.5,
    ),
    "entropy_above of": (
        weights.entropy_above,
        {"threshold": 1.5, "of": "student"},
        ENTROPY["student"] >= 1.5,
    ),
    "log_ratio_above": (weights.log_ratio_above, {"threshold": -0.5}, GAP >= -0.5),
    "staleness": (
        weights.staleness,
        {"decay": 0.5},
        np.broadcast_to(np.asarray([1, 0.5, 0.0625])[:, None], SHAPE),
    ),
    "importance": (weights.importance, {}, RATIO),
    "importance cut": (
        weights.importance,
        {"low": 0.5, "high": 2.0},
        np.clip(RATIO, 0.5, 2.0),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_against_numpy(name):
    function, arguments, want = CASES[name]
    got = jax.jit(lambda scores: function(scores, **arguments))(SCORES)
    assert got.shape == SHAPE and got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert len(np.unique(want)) > 1, "the case must tell tokens apart"


def test_thresholds_include_their_value():
    exact = float(jnp.float32(ENTROPY["teacher"][1, 2]))
    assert weights.entropy_above(SCORES, threshold=exact)[1, 2] == 1
    equal = SCORES._replace(
        logp={"student": SCORES.mask * 1.0, "teacher": SCORES.mask * 1.0}
    )
    assert np.all(weights.log_ratio_above(equal, threshold=0.0) == 1)


def test_every_weight_has_a_case():
    public = {k for k, v in vars(weights).items() if callable(v) and k.islower()}
    assert {name.split()[0] for name in CASES} >= public - {"jax", "jnp"}
