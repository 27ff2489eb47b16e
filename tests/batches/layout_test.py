"""Where rows go: to as even parts as their lengths allow, each once."""

import jax
import numpy as np
import pytest

import tiny
from jopd.batches import layout, packing
from jopd.training import step


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", range(4))
def test_parts_are_even(seed, parts):
    rng = np.random.default_rng(seed)
    length_B = rng.geometric(1 / 50, 64)
    rows = packing.even(length_B, parts)
    assert rows.shape == (parts, 64 // parts)
    assert sorted(rows.ravel()) == list(range(64))
    assert (np.diff(rows, axis=1) > 0).all()
    tokens = length_B[rows].sum(axis=1)
    # Longest first: the last row that a part takes is a short one.
    by_turns = [length_B[part::parts].sum() for part in range(parts)]
    assert np.ptp(tokens) <= max(np.ptp(by_turns) / 4, 1)


def test_no_part_is_overfull():
    """One row is longer than all others together: its part still has as many rows."""
    rows = packing.even(np.asarray([1, 1, 90, 1, 1, 1]), 2)
    assert rows.tolist() == [[2, 4, 5], [0, 1, 3]]


@pytest.mark.parametrize("shards, accumulate", [(1, 4), (2, 2), (4, 1), (1, 1)])
def test_devices_and_micro_batches_have_as_many_tokens(shards, accumulate):
    batch = jax.tree.map(np.asarray, tiny.batch(rows=64, width=40))
    mask_BT = batch.mask_BT.copy()
    mask_BT[np.argsort(batch.rollout.length_B)[-3:]] = False  # nobody reads these
    batch = batch._replace(mask_BT=mask_BT)
    moved, order_B = layout.dealt(batch, shards, accumulate)
    jax.tree.map(
        lambda got, want: np.testing.assert_array_equal(got, want[order_B]),
        moved,
        batch,
    )
    needed_B = moved.mask_BT.any(axis=1)
    length_B = np.where(needed_B, moved.rollout.length_B, 0)
    micro = step.split_rows(length_B, accumulate)
    tokens = np.asarray(micro).reshape(accumulate, shards, -1).sum(axis=2)
    assert np.ptp(tokens) <= 4
    if shards * accumulate == 1:
        np.testing.assert_array_equal(order_B, np.arange(64))
