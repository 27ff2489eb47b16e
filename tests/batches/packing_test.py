"""Rows read side by side: where tokens go, and that no model sees the difference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexts
import tiny
from jopd.batches import asking, collect, layout, packing
from jopd.models import decoder, sharding
from jopd.training import step
from jopd.types import STUDENT, Rollout

# A window makes positions count, not only their order.
CONFIG = tiny.config(qk_norm=True, sliding_window=4, sliding_layers=(True, False))
MODEL = decoder.Decoder(CONFIG)
ROWS, COLUMNS = 16, 12
WIDTHS = (6, 9, 12)


@pytest.fixture(scope="module")
def params():
    return tiny.params(CONFIG, 5)


def lengths(low: int, high: int) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high + 1, ROWS)


def batch(length_B):
    """Prompts of one token, padding not to be read, one row that nobody needs."""
    rng = np.random.default_rng(1)
    tokens_BT = rng.integers(1, tiny.VOCABULARY, (ROWS, COLUMNS)).astype(np.int32)
    inside_BT = np.arange(COLUMNS) < length_B[:, None]
    rollout = Rollout(
        tokens_BT=np.where(inside_BT, tokens_BT, tiny.VOCABULARY - 1).astype(np.int32),
        prompt_length_B=np.minimum(1, length_B).astype(np.int32),
        length_B=length_B.astype(np.int32),
        finished_B=np.ones(ROWS, bool),
        behavior_logp_BT=np.zeros((ROWS, COLUMNS), np.float32),
        source_BT=np.full((ROWS, COLUMNS), STUDENT, np.int32),
        group_B=np.arange(ROWS, dtype=np.int32),
        age_B=np.zeros(ROWS, np.int32),
    )
    made = jax.tree.map(np.asarray, asking.batch_of(rollout))
    mask_BT = made.mask_BT.copy()
    mask_BT[5] = False
    return made._replace(mask_BT=mask_BT)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("low, high", [(1, 9), (1, 5), (7, 9), (0, 3)])
def test_every_token_has_one_place(low, high, shards):
    length_B = lengths(low, high)
    plan = packing.plan(length_B, columns=COLUMNS, widths=WIDTHS, shards=shards)
    *_, width = plan.segment_SRW.shape
    assert plan.segment_SRW.size < ROWS * COLUMNS and width in WIDTHS
    assert (plan.segment_SRW > 0).sum() == length_B.sum()
    rows = ROWS // shards
    for shard in range(shards):
        segment, source = (
            plan.segment_SRW[shard].ravel(),
            plan.source_SRW[shard].ravel(),
        )
        position = plan.position_SRW[shard].ravel()
        for row in range(rows):
            length = length_B[shard * rows + row]
            place = plan.place_SBT[shard, row, :length]
            assert (segment[place] == row + 1).all()
            assert position[place].tolist() == list(range(length))
            assert (source[place] == row * COLUMNS + np.arange(length)).all()
            # One bin, one after the other.
            assert len(set(place // width)) <= 1
            assert (np.diff(place) == 1).all()


def test_of_two_ways_the_one_with_fewer_places():
    shape = lambda low, high: (
        packing.plan(
            lengths(low, high), columns=COLUMNS, widths=WIDTHS
        ).segment_SRW.shape
    )
    assert shape(7, 9) == (1, ROWS, 9), "no two of them fit into twelve"
    assert shape(0, 3) == (1, 4, 12)
    full = packing.plan(lengths(10, 12), columns=COLUMNS, widths=WIDTHS)
    assert full is None, "nothing to save"


def test_the_number_of_bins_takes_few_values():
    rng = np.random.default_rng(0)
    plans = [
        packing.plan(rng.integers(1, 13, 64), columns=12, widths=(12,))
        for _ in range(50)
    ]
    assert {plan.segment_SRW.shape[1] % 16 for plan in plans} == {0}


@pytest.mark.parametrize("rows", [3, 8, 64, 70])
def test_as_many_shapes_as_are_promised(rows):
    rng, seen = np.random.default_rng(0), set()
    for high in (2, 3, 5, 6, 7, 9, 10, 12) * 8:
        plan = packing.plan(
            rng.integers(0, high + 1, rows), columns=COLUMNS, widths=WIDTHS
        )
        seen.add(plan and plan.segment_SRW.shape)
    assert 2 < len(seen) <= packing.shapes(len(WIDTHS))


def hidden(params, held):
    return step.hidden_states(MODEL, params, held)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("low, high", [(2, 8), (2, 5), (7, 9)])
def test_states_and_gradients_are_those_of_the_rows_alone(params, low, high, shards):
    plain = batch(lengths(low, high))
    packed = layout.with_packing(plain, WIDTHS, shards)
    assert packed.packing[""].segment_SRW.shape[1] <= ROWS // shards
    pull_BTD = jax.random.normal(jax.random.key(0), (ROWS, COLUMNS, CONFIG.width))
    # As the objective has it: the state before a response token, and nothing else.
    before_BT = np.roll(plain.mask_BT, -1, axis=1)

    def loss(params, held):
        states_BTD = jnp.where(before_BT[..., None], hidden(params, held), 0)
        return jnp.sum(pull_BTD * states_BTD), states_BTD

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (got, states), grads = gradient(params, packed)
    (want, expected), expected_grads = gradient(params, plain)
    np.testing.assert_allclose(states, expected, atol=2e-5)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    for a, b in zip(*map(jax.tree.leaves, (grads, expected_grads)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.max(jnp.abs(b)) + 1))


@pytest.mark.parametrize("shards, accumulate", [(1, 2), (2, 2), (1, 4)])
def test_micro_batches_are_packed_each_for_itself(params, shards, accumulate):
    plain = batch(lengths(2, 6))
    packed = layout.with_packing(plain, WIDTHS, shards, accumulate)
    bins = packed.packing[""].segment_SRW
    assert len(bins) == shards * accumulate
    assert bins.shape[1] * bins.shape[2] < ROWS * COLUMNS / len(bins)
    before_BT = np.roll(plain.mask_BT, -1, axis=1)
    split = step.split_rows(packed, accumulate)
    states = [
        hidden(params, jax.tree.map(lambda x, g=group: x[g], split))
        for group in range(accumulate)
    ]
    got = step.join_rows(np.stack(states))
    np.testing.assert_allclose(
        got[before_BT], np.asarray(hidden(params, plain))[before_BT], atol=2e-5
    )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_model_with_its_own_prompt_is_packed_apart(accumulate):
    own = {"teacher": contexts.dataset(contexts.OWN)}
    plain = collect.with_prompts(contexts.batch(), own)
    rows = jax.tree.map(lambda x: np.repeat(x, 4, axis=0), plain)
    packed = layout.with_packing(rows, (4, 8), 1, accumulate)
    assert set(packed.packing) == {"", "teacher"}
    before_BT = np.roll(np.asarray(rows.mask_BT), -1, axis=1)
    for name in ("student", "teacher"):
        read = functools.partial(
            step.hidden_states, contexts.MODEL, contexts.PARAMS, name=name
        )
        got = step.join_rows(jax.lax.map(read, step.split_rows(packed, accumulate)))
        want = read(rows)
        assert got.shape == want.shape
        np.testing.assert_allclose(
            *(np.asarray(x)[before_BT] for x in (got, want)), atol=2e-6
        )


def test_models_that_are_alike_have_bins_of_one_number():
    """One with short prompts, and one whose rows fill more bins."""
    rows = jax.tree.map(lambda x: np.repeat(x, 4, axis=0), contexts.batch())
    prompts = lambda longest: (
        np.zeros((8, 8), np.int32),
        np.array([1] * 4 + [longest] * 4, np.int32),
    )
    rows = rows._replace(prompts={"short": prompts(1), "long": prompts(8)})
    bins = lambda batch: [
        batch.packing[name].source_SRW.shape[1] for name in ("short", "long")
    ]
    few, many = bins(layout.with_packing(rows, (4, 8), 1))
    assert few < many
    alike = layout.with_packing(rows, (4, 8), 1, alike=("short", "long"))
    assert bins(alike) == [many, many]
    read = functools.partial(step.hidden_states, contexts.MODEL, contexts.PARAMS)
    before_BT = np.roll(np.asarray(rows.mask_BT), -1, axis=1)
    got, want = (read(batch, name="short")[before_BT] for batch in (alike, rows))
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_a_mesh_reads_the_same(params):
    plain = batch(lengths(2, 9))
    mesh = sharding.make_mesh(2, 1, 1)
    packed = layout.with_packing(plain, WIDTHS, 2)
    placed = jax.device_put(packed, sharding.rows(mesh))
    got = jax.jit(hidden)(params, placed)
    before_BT = np.roll(plain.mask_BT, -1, axis=1)
    np.testing.assert_allclose(
        np.asarray(got)[before_BT],
        np.asarray(hidden(params, plain))[before_BT],
        atol=2e-5,
    )
