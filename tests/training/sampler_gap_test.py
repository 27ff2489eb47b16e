"""Planted faults of a sampler against what the check lets pass as rounding."""

import sys

import pytest

import runs
import tiny
from jopd.training import observe

sys.path.insert(0, str(runs.ROOT / "tools" / "bench"))
import sampler_gap


@pytest.mark.slow
def test_each_kind_of_fault_stops_a_deep_model():
    """As many layers as a small real model has, and a vocabulary of thousands."""
    shape = tiny.config(vocab_size=4096, width=64, layers=30, heads=4, head_dim=16)
    found = sampler_gap.gaps(shape, tiny.params(shape, 0, scale=0.2))
    allowed = observe.tolerance_of(shape.layers, shape.vocab_size)
    mean, largest = found.pop("none")
    assert mean < allowed and largest < 100 * allowed
    assert set(found) == {"position", "mask", "temperature", "stale weights"}
    for fault, (mean, _) in found.items():
        assert mean > observe.BUG * allowed, fault
