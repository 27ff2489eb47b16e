"""Rock-Freeze: which ids carry the KL, and what is left of the loss without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.losses import objective, signals
from jopd.methods import rock
from jopd.types import GOLD, Outputs

COUNT, MEAN = np.array([10.0, 5, 2, 1]), np.array([0.2, 0.6, 1, 3])
SUMS = jnp.asarray(np.stack([COUNT, COUNT * MEAN], 1), jnp.float32)


def chosen(**keys):
    return np.flatnonzero(rock.rocks(SUMS, **keys)).tolist()


def test_rocks_are_ranked_by_frequency_times_mean_kl():
    np.testing.assert_allclose(SUMS[:, 1], [2, 3, 2, 3], atol=1e-6)
    assert chosen(top=1, drop_most_frequent=1, min_count=2) == [1]
    assert chosen(top=1) == [1] and chosen(top=2) == [1, 3]
    assert chosen(top=2, min_count=2) == [0, 1]
    assert chosen(top=2, drop_most_frequent=1, min_count=2) == [1, 2]
    assert chosen(top=100) == [0, 1, 2, 3] and chosen(top=0) == []
    assert not rock.rocks(jnp.zeros((4, 2)), top=4).any()


def test_what_rocks_had_of_tokens_and_kl_is_logged():
    read = tiny.scores(np.ones((1, 2), bool))._replace(memory={"rocks": (7, SUMS)})
    found = rock.carried(read, memory="rocks", top=1, drop_most_frequent=1)
    want = {"rock_tokens": 5 / 18, "rock_kl": 3 / 10}
    assert found == pytest.approx(want, abs=1e-6)


def test_the_control_is_next_to_the_rocks_in_frequency():
    counts = jnp.asarray([3.0, 9, 8, 1, 7, 0, 6, 2])  # in order: 1 2 4 6 0 7 3 5
    chosen = lambda rocks, **keys: np.flatnonzero(
        rock.neighbours(jnp.isin(jnp.arange(8), jnp.asarray(rocks)), counts, **keys)
    ).tolist()
    assert chosen([4]) == [2]  # of equally near ones the commoner
    assert chosen([4, 2]) == [1, 6]
    assert chosen([3, 4]) == [2, 6]  # 7 is as near, and rarer
    assert chosen([5], min_count=1) == [3] and chosen([5], min_count=3) == [0]
    assert chosen([1, 2, 4, 6, 0], min_count=2) == [7]  # no more are left
    assert chosen([]) == []


def test_the_control_freezes_none_of_the_rocks():
    held = rock.statistics(5).step((jnp.int32(3), jnp.zeros((5, 2))), scores())
    read = scores()._replace(memory={"rocks": held})
    other = rock.frozen(read, memory="rocks", top=1, min_count=1, control=True)
    np.testing.assert_array_equal(other, np.where(TOKENS == 0, 0.0, 1.0))
    with pytest.raises(ValueError, match="control needs a memory"):
        rock.frozen(read, ids=(1,), control=True)


MASK = np.array([[0, 1, 1, 1], [0, 1, 1, 0]], bool)
TOKENS = np.array([[3, 1, 2, 1], [1, 0, 1, 2]])
KL = np.array([[9.0, 1, 2, 4], [9, 8, 16, 9]])


def scores(**more):
    fields = {"tokens": TOKENS, "reverse_kl": {"teacher": KL}}
    return tiny.scores(MASK, **(fields | more))


def test_statistics_add_up_the_students_tokens_and_fade():
    memory = rock.statistics(5, decay=0.5)
    source = np.where(np.arange(2)[:, None] == 1, GOLD, np.zeros((2, 4)))
    _, first = held = memory.step(memory.start(), scores(source=source))
    np.testing.assert_array_equal(first, [[0, 0], [2, 5], [1, 2], [0, 0], [0, 0]])
    updates, second = memory.step(held, scores())
    both = 0.5 * first + np.array([[1, 8], [3, 21], [1, 2], [0, 0], [0, 0]])
    assert updates == 2
    np.testing.assert_array_equal(second, both)
    # Ids that no vocabulary has, behind a row's end, count nowhere.
    beyond = np.where(MASK, TOKENS, 77)
    np.testing.assert_array_equal(memory.step(held, scores(tokens=beyond))[1], second)


@pytest.mark.parametrize("keys", [{"ids": (1,)}, {"memory": "rocks", "top": 1}])
def test_frozen_labels_weigh_nothing_and_inputs_are_one_to_the_right(keys):
    held = rock.statistics(5).step((jnp.int32(3), jnp.zeros((5, 2))), scores())
    read = scores()._replace(memory={"rocks": held})
    label = rock.frozen(read, **keys)
    np.testing.assert_array_equal(label, np.where(TOKENS == 1, 0.0, 1.0))
    moved = rock.frozen(read, on="input", **keys)
    np.testing.assert_array_equal(moved[:, 1:], label[:, :-1])
    np.testing.assert_array_equal(moved[:, 0], 1)
    np.testing.assert_array_equal(rock.frozen(read, weight=1.0, **keys), 1)
    half = rock.frozen(read, weight=0.5, **keys)
    np.testing.assert_array_equal(half, 0.5 + 0.5 * label)


def test_nothing_is_frozen_before_it_is_time():
    held = rock.statistics(5).step((jnp.int32(3), jnp.zeros((5, 2))), scores())
    read = scores()._replace(memory={"rocks": held})
    for after, frozen in ((4, True), (5, False)):
        weight = rock.frozen(read, memory="rocks", top=1, after=after)
        assert bool((weight == 0).any()) is frozen
    for memory in (held, rock.statistics(5).start()):
        read = scores()._replace(memory={"rocks": memory})
        np.testing.assert_array_equal(rock.frozen(read, memory="rocks", top=0), 1)


@pytest.mark.parametrize(
    "keys",
    [{"ids": (1,), "weight": 1.0}, {"memory": "rocks", "top": 0}],
)
def test_nothing_frozen_is_opd_to_the_bit(keys):
    held = rock.statistics(5).step((jnp.int32(3), jnp.zeros((5, 2))), scores())
    read = scores(source=np.zeros((2, 4)))._replace(memory={"rocks": held})
    weigh = lambda *weights: (
        objective.weigh((objective.Term("t", signals.reverse_kl, weights),), read)[
            "t"
        ].weight_BT
    )
    plain = weigh()
    np.testing.assert_array_equal(weigh(lambda s: rock.frozen(s, **keys)), plain)
    assert np.asarray(plain).any()


def test_only_the_gradient_at_frozen_labels_goes():
    """Of reverse KL by hand, p_u (log p_u - log q_u - KL), and by autodiff."""
    rng = np.random.default_rng(0)
    logits, teacher = (rng.normal(size=(2, 4, 5)).astype(np.float32) for _ in "ab")

    def loss(student, weights):
        term = objective.Term("t", signals.reverse_kl, weights, normalizer="rows")
        weighed = objective.weigh((term,), scores())["t"].weight_BT
        outputs = Outputs({"student": student, "teacher": teacher}, TOKENS, KL)
        return jnp.sum(weighed * signals.reverse_kl(outputs))

    plain = jax.grad(loss)(logits, ())
    frozen = jax.grad(loss)(logits, (lambda s: rock.frozen(s, ids=(1,)),))
    logp, logq = (jax.nn.log_softmax(x) for x in (logits, teacher))
    kl = jnp.sum(jnp.exp(logp) * (logp - logq), -1, keepdims=True)
    by_hand = jnp.exp(logp) * (logp - logq - kl) * MASK[..., None] / 2
    np.testing.assert_allclose(plain, by_hand, atol=1e-6)
    out = np.broadcast_to((TOKENS == 1)[..., None], plain.shape)
    assert not frozen[out].any() and plain[out].any()
    np.testing.assert_array_equal(frozen[~out], plain[~out])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "either ids or a memory"),
        ({"ids": (1,), "memory": "rocks"}, "either ids or a memory"),
        ({"ids": (1,), "on": "both"}, "on='label' or 'input', got 'both'"),
    ],
)
def test_what_cannot_be_meant_is_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        rock.frozen(scores(), **keys)
