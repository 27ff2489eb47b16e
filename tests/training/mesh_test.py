"""What devices send each other while they score and update, read from the programs."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from four_devices import LAYOUTS, STUDENT, TEACHER, VOCABULARY, WIDTH

import tiny

FLAGS = (
    "--xla_force_host_platform_device_count=4 "
    # It may wait for ever where devices share a core.
    "--xla_cpu_enable_concurrency_optimized_scheduler=false"
)
ROWS_OF_DEVICE = 2
SEVERAL = [name for name, (axes, _) in LAYOUTS.items() if axes]


@pytest.fixture(scope="module")
def found() -> dict:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("four_devices.py"))],
        env={**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {FLAGS}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def sent(found, layout: str, stage: str):
    """(kind, loops around it, dtype, shape) of every array."""
    return [
        (kind, depth, dtype, tuple(shape))
        for kind, depth, arrays in found[layout]["sent"][stage]
        for dtype, shape in arrays
    ]


def matrices(shape) -> list[tuple[int, ...]]:
    """Shapes of the matrices of a layer."""
    layers = tiny.params(shape, 0)["layers"]
    return [leaf.shape[1:] for leaf in layers.values() if leaf.ndim == 3]


def numbers(shapes) -> int:
    return sum(map(math.prod, shapes))


@pytest.mark.parametrize("layout", SEVERAL)
def test_updates_are_those_of_one_device(found, layout):
    got = found[layout]
    want = found["one, experts" if "experts" in layout else "one"]
    np.testing.assert_allclose(got["losses"], want["losses"], rtol=1e-6)
    for ours, theirs in zip(got["params"], want["params"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert got["stays"], "an update leaves parameters where they were"


@pytest.mark.parametrize("layout", SEVERAL)
@pytest.mark.parametrize("stage", ["prepare", "update"])
def test_no_logits_are_sent(found, layout, stage):
    """What is as wide as the vocabulary is a head, or its part, or the embedding."""
    wide = {VOCABULARY, VOCABULARY // LAYOUTS[layout][0][2]}
    for kind, _, _, shape in sent(found, layout, stage):
        assert len(shape) < 2 or shape[-1] not in wide, (kind, shape)


def test_rows_that_are_split_send_no_activations(found):
    """With ``data`` nothing but gradients, and numbers for the log."""
    for kind, depth, _, shape in sent(found, "data", "prepare"):
        assert kind == "all-reduce" and depth == 0 and shape == ()
    layer = {tuple(sorted(s)) for s in matrices(STUDENT)}
    for kind, depth, _, shape in sent(found, "data", "update"):
        assert kind == "all-reduce"
        whole = len(shape) < 2 or shape == (VOCABULARY, STUDENT.width)
        assert whole or (depth == 1 and tuple(sorted(shape)) in layer), shape


def test_fsdp_gathers_each_matrix_of_a_layer_and_nothing_else(found):
    """Scoring reads the teacher's layers; an update the student's, forward and back."""
    gathered = lambda stage, layout="fsdp": [
        shape
        for kind, depth, _, shape in sent(found, layout, stage)
        if kind == "all-gather" and depth >= 1
    ]
    both = [*matrices(STUDENT), *matrices(TEACHER)]
    once = numbers(matrices(STUDENT))
    assert numbers(gathered("prepare")) in (numbers(both), numbers(both) - once)
    assert numbers(gathered("update")) == 2 * once
    others = [
        (kind, shape)
        for stage in ("prepare", "update")
        for kind, depth, _, shape in sent(found, "fsdp", stage)
        if depth >= 1 and kind != "all-gather"
    ]
    layer = {tuple(sorted(s)) for s in matrices(STUDENT)}
    for kind, shape in others:
        assert kind in ("all-reduce", "reduce-scatter")
        assert len(shape) < 2 or tuple(sorted(shape)) in layer, (kind, shape)


def test_fsdp_sends_activations_only_where_tokens_are_looked_up(found):
    rows = ROWS_OF_DEVICE * WIDTH
    for stage in ("prepare", "update"):
        wide = [
            (kind, depth)
            for kind, depth, dtype, shape in sent(found, "fsdp", stage)
            if dtype == "f32" and rows <= math.prod(shape) and WIDTH in shape
        ]
        assert {kind for kind, _ in wide} <= {"all-to-all"}
        assert all(depth == 0 for _, depth in wide)


def test_tensor_sums_what_two_products_of_a_layer_left_in_parts(found):
    """Forward, of the teacher: behind attention and behind the MLP. Where logits are
    made, a number per token of what each one's part of the vocabulary came to."""
    tokens = 4 * WIDTH
    sums = [
        (depth, shape)
        for kind, depth, _, shape in sent(found, "data and tensor", "prepare")
        if kind == "all-reduce" and len(shape) > 1
    ]
    assert sums.count((1, (tokens, TEACHER.width))) == 2
    assert all(not d or s[0] == tokens or s[-1] == 1 for d, s in sums)


def test_activations_shrink_with_devices(found):
    """Four devices hold a quarter of the rows, and of fsdp's a layer's weights."""
    for stage in ("prepare", "update"):
        one = found["one"]["bytes"][stage]
        for layout in ("data", "fsdp"):
            assert found[layout]["bytes"][stage] < 0.4 * one, (layout, stage)


def test_layers_are_gathered_anew_for_the_backward_pass(found):
    """They are not kept: whole layers would be all of the model on every device."""
    kept = numbers(matrices(STUDENT)) * STUDENT.layers * 4
    more = found["fsdp"]["bytes"]["update"] - found["data"]["bytes"]["update"]
    assert more < kept, "parts that rest, less whole layers that are kept"
