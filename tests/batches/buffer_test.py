"""The replay ring: what goes in, what may come out, and how evenly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import tiny
from jopd.batches import buffer as replay


def batch(first: int, rows: int = 3):
    """Rows that carry their number in every array; all aged 0."""
    number_B = jnp.arange(first, first + rows, dtype=jnp.int32)
    made = tiny.batch(0, rows=max(rows, 4))
    made = jax.tree.map(lambda x: x[:rows], made)
    rollout = made.rollout._replace(
        tokens_BT=jnp.broadcast_to(number_B[:, None], made.mask_BT.shape),
        age_B=jnp.zeros(rows, jnp.int32),
    )
    return made._replace(
        rollout=rollout,
        reward_B=number_B.astype(jnp.float32),
        prompt_id_B=number_B,
        mask_BT=jnp.ones_like(made.mask_BT),
    )


def held(buffer) -> list[int]:
    return sorted(
        np.asarray(buffer.rows.prompt_id_B)[np.asarray(buffer.filled_C)].tolist()
    )


def filled(capacity: int = 8, rounds: int = 1):
    buffer = replay.init(capacity, batch(0))
    for index in range(rounds):
        buffer = replay.tick(replay.add(buffer, batch(3 * index)))
    return buffer


def test_the_oldest_rows_are_overwritten():
    buffer = replay.init(7, batch(0))
    assert held(buffer) == []
    for rounds, want in enumerate([range(3), range(6), range(2, 9), range(5, 12)]):
        buffer = replay.add(buffer, batch(3 * rounds))
        assert held(buffer) == list(want)
    # Every array of a row travels with it.
    rows = buffer.rows
    np.testing.assert_array_equal(rows.prompt_id_B, rows.reward_B)
    np.testing.assert_array_equal(rows.prompt_id_B, rows.rollout.tokens_BT[:, 0])
    exact = replay.add(replay.init(3, batch(0)), batch(4))
    assert held(exact) == [4, 5, 6]


def test_rows_age_by_one_per_tick():
    buffer = filled(9, rounds=3)
    age_of = dict(
        zip(
            np.asarray(buffer.rows.prompt_id_B).tolist(),
            np.asarray(buffer.rows.rollout.age_B).tolist(),
        )
    )
    assert age_of == {0: 3, 1: 3, 2: 3, 3: 2, 4: 2, 5: 2, 6: 1, 7: 1, 8: 1}


@pytest.mark.parametrize("max_age, want", [(0, 0), (1, 3), (2, 6), (3, 9), (9, 9)])
def test_no_row_older_than_the_bound_is_drawn(max_age, want):
    buffer = filled(12, rounds=3)
    assert int(replay.eligible(buffer, max_age).sum()) == want
    drawn = replay.sample(buffer, jax.random.key(0), 12, max_age=max_age)
    alive_B = np.asarray(drawn.mask_BT).any(axis=1)
    assert alive_B.sum() == want
    assert np.all(np.asarray(drawn.rollout.age_B)[alive_B] <= max_age)
    ids = np.asarray(drawn.prompt_id_B)[alive_B].tolist()
    assert sorted(ids) == list(range(9 - want, 9)), "each eligible row once"
    # Those that may be drawn come first.
    assert alive_B.tolist() == sorted(alive_B.tolist(), reverse=True)


def test_missing_rows_are_masked_and_shapes_stay():
    empty = replay.init(4, batch(0))
    drawn = replay.sample(empty, jax.random.key(0), 3, max_age=5)
    assert drawn.mask_BT.shape == (3, 9) and not np.any(drawn.mask_BT)
    full = replay.sample(filled(), jax.random.key(0), 3, max_age=5)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, full)
    assert np.all(full.mask_BT)


def test_sampling_is_uniform_without_replacement():
    buffer = filled(8, rounds=2)
    draws, count = 1500, 2
    draw = jax.jit(
        jax.vmap(lambda key: replay.sample(buffer, key, count, max_age=9).prompt_id_B)
    )
    drawn = np.asarray(draw(jax.random.split(jax.random.key(1), draws)))
    assert np.all(drawn[:, 0] != drawn[:, 1])
    pairs = drawn[:, 0] * 6 + drawn[:, 1]
    observed = np.bincount(pairs, minlength=36).reshape(6, 6)
    off_diagonal = observed[~np.eye(6, dtype=bool)]
    assert len(off_diagonal) == 30
    assert stats.chisquare(off_diagonal).pvalue > 1e-3


def test_functions_are_pure_and_jit():
    buffer = filled()
    before = jax.tree.map(np.array, buffer)
    sample = functools.partial(replay.sample, count=2, max_age=4)
    eager = (
        replay.add(buffer, batch(20)),
        replay.tick(buffer),
        sample(buffer, jax.random.key(3)),
    )
    jitted = (
        jax.jit(replay.add)(buffer, batch(20)),
        jax.jit(replay.tick)(buffer),
        jax.jit(sample)(buffer, jax.random.key(3)),
    )
    jax.tree.map(np.testing.assert_array_equal, jitted, eager)
    jax.tree.map(np.testing.assert_array_equal, buffer, before)


def test_errors_name_the_numbers():
    with pytest.raises(ValueError, match="capacity=0"):
        replay.init(0, batch(0))
    with pytest.raises(ValueError, match=r"cannot add 3 rows .* capacity 2"):
        replay.add(replay.init(2, batch(0)), batch(0))
    with pytest.raises(ValueError, match=r"cannot draw 5 rows .* capacity 4"):
        replay.sample(replay.init(4, batch(0)), jax.random.key(0), 5, max_age=1)
