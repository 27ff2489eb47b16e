"""Every weight against numpy, on scores with known numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.losses import binding, weights
from jopd.types import GOLD, STUDENT, TEACHER, Scores

RNG = np.random.default_rng(0)
SHAPE = (3, 5)
LOGP = {name: -RNG.uniform(0, 4, SHAPE) for name in ("student", "teacher", "reference")}
ENTROPY = {name: RNG.uniform(0, 3, SHAPE) for name in LOGP}
KL = {name: RNG.uniform(0, 3, SHAPE) for name in ("teacher", "reference")}
UNIFORM = RNG.uniform(0, 1, SHAPE)
BEHAVIOR = -RNG.uniform(0, 4, SHAPE)
POSITION = np.arange(5)[None] - np.asarray([[1], [2], [3]])
LENGTH = np.sum(POSITION >= 0, axis=1, keepdims=True)
AGE = np.asarray([0, 1, 4])
FINISHED = np.asarray([True, False, True])
# A thought, one that is cut in the middle of its end, marks in the prompt alone.
TOKENS = np.asarray([[9, 7, 5, 8, 9], [8, 9, 7, 1, 8], [7, 8, 9, 8, 2]])
ONLY_THE_LAST = np.repeat([[0.0], [0.0], [1.0]], 5, axis=1)
HAS_CONTEXT = np.repeat([[1.0], [0.0], [1.0]], 5, axis=1)
SCORES = jax.tree.map(
    jnp.asarray,
    Scores(
        mask=POSITION >= 0,
        tokens=TOKENS,
        source=np.zeros(SHAPE, np.int32),
        position=POSITION,
        logp=LOGP,
        entropy=ENTROPY,
        reverse_kl=KL,
        forward_kl=KL,
        behavior_logp=BEHAVIOR,
        finished=FINISHED,
        reward=np.asarray([1.0, 0.0, 0.5]),
        group=np.asarray([0, 0, 1]),
        age=AGE,
        uniform=UNIFORM,
        extra={"has_context/self": HAS_CONTEXT},
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
    "log_ratio floor": (
        weights.log_ratio,
        {"floor": -1.0, "bound": 1.5},
        np.clip(GAP, -1.0, 1.5),
    ),
    "log_ratio bound": (
        weights.log_ratio,
        {"floor": -9.0, "bound": 0.5},
        np.clip(GAP, -0.5, 0.5),
    ),
    "power_ratio": (
        weights.power_ratio,
        {"alpha": 0.3},
        np.exp(0.3 * LOGP["teacher"]) - np.exp(0.3 * LOGP["student"]),
    ),
    "group_reward": (
        weights.group_reward,
        {"eps": 1e-3},
        np.broadcast_to(np.asarray([[0.5], [-0.5], [0]]) / (0.5**0.5 + 1e-3), SHAPE),
    ),
    "group_reward std": (
        weights.group_reward,
        {"std": False},
        np.broadcast_to(np.asarray([[0.5], [-0.5], [0]]), SHAPE),
    ),
    "accepted": (weights.accepted, {}, np.exp(GAP) > UNIFORM),
    "accepted inverse": (
        weights.accepted,
        {"inverse": True, "other": "reference"},
        np.exp(LOGP["reference"] - LOGP["student"]) <= UNIFORM,
    ),
    "random_rows": (
        weights.random_rows,
        {"drop": 0.4},
        np.broadcast_to(UNIFORM[:, :1] >= 0.4, SHAPE),
    ),
    "random_end": (
        weights.random_end,
        {"rate": 0.5, "exempt": 1},
        ~np.logical_or.accumulate((POSITION >= 1) & (UNIFORM < 0.5), axis=1),
    ),
    "after_tokens": (weights.after_tokens, {"count": 1}, POSITION >= 1),
    "after_tokens rescale": (
        weights.after_tokens,
        {"count": 2, "rescale": True},
        # Rows of 4, 3 and 2 tokens: means of 2, of 1 and of none.
        (POSITION >= 2) * np.asarray([[4 / 2], [3 / 1], [0]]),
    ),
    "entropy_top_share": (
        weights.entropy_top_share,
        {"share": 0.45},
        # 9 response tokens: the 4 with the highest entropy.
        (POSITION >= 0)
        & (
            ENTROPY["student"]
            >= np.sort(ENTROPY["student"][POSITION >= 0])[-round(0.45 * 9)]
        ),
    ),
    "log_ratio_below": (weights.log_ratio_below, {"threshold": -0.5}, GAP < -0.5),
    "first_tokens": (weights.first_tokens, {"count": 2}, POSITION < 2),
    "last_tokens": (
        weights.last_tokens,
        {"count": 2},
        (POSITION >= LENGTH - 2) * LENGTH / np.minimum(LENGTH, 2),
    ),
    "last_tokens alone": (
        weights.last_tokens,
        {"count": 2, "rescale": False},
        POSITION >= LENGTH - 2,
    ),
    "last_tokens behind a prefix": (
        lambda scores, **own: weights.last_tokens(
            scores._replace(source=np.where(POSITION == 0, TEACHER, STUDENT)), **own
        ),
        {"count": 2},
        # Of 3, 2 and 1 tokens of the student's 2, 2 and 1 are left.
        np.where(POSITION >= LENGTH - 2, 1.0, 0.0)
        * np.where(POSITION == 0, 1.0, np.asarray([[3 / 2], [1], [1]])),
    ),
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
    "finished": (
        weights.finished,
        {},
        np.broadcast_to(np.asarray([[1], [0], [1]]), SHAPE),
    ),
    "before_end": (
        weights.before_end,
        {},
        np.where(np.arange(5) == 4, np.asarray([[0], [1], [0]]), 1),
    ),
    "within": (
        weights.within,
        {"start": (7,), "end": (8, 9)},
        np.asarray([[0, 0, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]),
    ),
    "within from the first": (
        weights.within,
        {"end": (8, 9)},
        np.asarray([[0, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]),
    ),
    "within to the last": (
        weights.within,
        {"start": (7,)},
        np.asarray([[0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]),
    ),
    "rewarded": (weights.rewarded, {"least": 0.5, "below": 1.0}, ONLY_THE_LAST),
    "has_context": (weights.has_context, {"of": "self"}, HAS_CONTEXT),
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


def test_right_and_wrong_rows_are_all_rows():
    right, wrong = (
        weights.rewarded(SCORES, least=0.5),
        weights.rewarded(SCORES, below=0.5),
    )
    np.testing.assert_array_equal(right + wrong, 1)
    np.testing.assert_array_equal(weights.rewarded(SCORES), 1)
    with pytest.raises(ValueError, match=r"least=0.5, below=0.5\) keeps no row"):
        weights.rewarded(SCORES, least=0.5, below=0.5)


def test_rows_with_a_context_need_a_teacher_that_reads_rollouts():
    with pytest.raises(ValueError, match=r"'tutor' reads no other rollouts.*\{peer\}"):
        weights.has_context(SCORES, of="tutor")


def test_thresholds_include_their_value():
    exact = float(jnp.float32(ENTROPY["teacher"][1, 2]))
    assert weights.entropy_above(SCORES, threshold=exact)[1, 2] == 1
    equal = SCORES._replace(
        logp={"student": SCORES.mask * 1.0, "teacher": SCORES.mask * 1.0}
    )
    assert np.all(weights.log_ratio_above(equal, threshold=0.0) == 1)


def test_an_end_before_the_start_is_none():
    row = np.asarray([[8, 9, 7, 1, 8, 9, 7, 2]])
    scores = tiny.scores(row > 0, tokens=row)
    got = weights.within(scores, start=(7,), end=(8, 9))
    np.testing.assert_array_equal(got, [[0, 0, 0, 1, 0, 0, 0, 0]])


@pytest.mark.parametrize("marks", [{}, {"end": "</think>"}, {"start": (1.5,)}])
def test_marks_are_ids(marks):
    with pytest.raises(ValueError, match="within needs start or end, a tuple of ids"):
        weights.within(SCORES, **marks)


def test_every_weight_has_a_case():
    assert {name.split()[0] for name in CASES} >= set(binding.names(weights))


# Rewards of groups.


def rewarded(rewards, groups, **fields):
    rows = len(rewards)
    mask_BT = np.ones((rows, 3), bool)
    fields = {"reward": np.float32(rewards), "group": np.asarray(groups)} | fields
    return tiny.scores(mask_BT, **fields)


def advantages(scores, **arguments):
    found = np.asarray(jax.jit(lambda s: weights.group_reward(s, **arguments))(scores))
    assert (found == found[:, :1]).all()
    return found[:, 0]


@pytest.mark.parametrize("std", [True, False])
def test_group_reward_against_numpy(std):
    rng = np.random.default_rng(5)
    rewards, groups = rng.uniform(size=12), np.repeat([7, 3, 9], 4)[rng.permutation(12)]
    want = np.zeros(12)
    for group in set(groups):
        of = rewards[groups == group]
        want[groups == group] = of - of.mean()
        if std:
            want[groups == group] /= of.std(ddof=1) + 1e-6
    got = advantages(rewarded(rewards, groups), std=std)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_equal_rewards_have_no_advantage_at_all():
    """Also where their mean is rounded: 0.1 has no float32 of its own."""
    for value in (0.0, 1.0, 0.1, 1 / 3, 1e-8):
        for size in (1, 3, 7, 8):
            got = advantages(rewarded([value] * size, [0] * size))
            assert (got == 0).all()


def test_only_rows_with_student_tokens_are_a_group():
    source_BT = np.zeros((5, 3), int)
    source_BT[2], source_BT[3] = GOLD, TEACHER
    mask_BT = np.ones((5, 3), bool)
    mask_BT[4] = False
    mixed = rewarded([1, 0, 0, 0, 0], [0] * 5, source=source_BT, mask=mask_BT)
    alone = advantages(rewarded([1, 0], [0, 0]))
    np.testing.assert_array_equal(advantages(mixed), [*alone, 0, 0, 0])
    # A row that a teacher began and the student went on with is the student's.
    begun_BT = np.zeros((2, 3), int)
    begun_BT[:, 0] = TEACHER
    begun = rewarded([1, 0], [0, 0], source=begun_BT)
    np.testing.assert_array_equal(advantages(begun), alone)


# The coin.


def test_masks_of_one_coin_never_overlap_and_leave_nothing():
    one, other = weights.accepted(SCORES), weights.accepted(SCORES, inverse=True)
    assert (one + other == 1).all() and 0 < one.mean() < 1


def test_the_coin_accepts_with_the_ratio_of_probabilities():
    draws = np.linspace(0, 1, 4000, endpoint=False)[None]
    ones = np.ones_like(draws)
    logp = {"student": np.log(0.5) * ones, "teacher": np.log(0.1) * ones}
    scores = tiny.scores(draws >= 0, uniform=draws, logp=logp)
    assert weights.accepted(scores).mean() == pytest.approx(0.2, abs=1e-3)
    likelier = scores._replace(logp=dict(student=scores.logp["teacher"], teacher=ones))
    assert (weights.accepted(likelier) == 1).all()
    # A draw may be exactly 0: a token the teacher never says is rejected all the same.
    never = scores._replace(
        logp=dict(student=scores.logp["student"], teacher=-np.inf * ones)
    )
    assert (weights.accepted(never) == 0).all()


# The share of a batch.


def test_top_share_counts_the_tokens_of_its_source():
    rng = np.random.default_rng(2)
    entropy_BT = rng.uniform(size=(4, 10))
    mask_BT = np.arange(10)[None] < np.asarray([[10], [3], [7], [0]])
    source_BT = np.zeros((4, 10), int)
    source_BT[2] = GOLD
    scores = tiny.scores(mask_BT, source=source_BT, entropy={"student": entropy_BT})
    for source, inside_BT in (
        ("student", mask_BT & (source_BT == 0)),
        ("gold", mask_BT & (source_BT == GOLD)),
        ("any", mask_BT),
    ):
        for share in (0.01, 0.2, 0.5, 1.0):
            got = weights.entropy_top_share(scores, share=share, source=source)
            kept = max(1, round(share * inside_BT.sum()))
            low = np.sort(entropy_BT[inside_BT])[-kept]
            np.testing.assert_array_equal(got, inside_BT & (entropy_BT >= low))
            assert got.sum() == kept


def test_top_share_of_no_tokens_is_none_and_ties_stay_together():
    entropy = {"student": np.ones((2, 4))}
    none = tiny.scores(np.zeros((2, 4), bool), entropy=entropy)
    assert weights.entropy_top_share(none, share=0.5).sum() == 0
    every = tiny.scores(np.ones((2, 4), bool), entropy=entropy)
    assert weights.entropy_top_share(every, share=0.25).sum() == 8


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_named(share):
    with pytest.raises(ValueError, match=f"0 < share <= 1, got {share}"):
        weights.entropy_top_share(SCORES, share=share)


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_a_power_out_of_range_is_named(alpha):
    with pytest.raises(ValueError, match=f"alpha > 0, got {alpha}"):
        weights.power_ratio(SCORES, alpha=alpha)
