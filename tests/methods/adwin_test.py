"""ADWIN: the sheet's numbers, gradients of early tokens, and windows chosen by them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from jopd.losses import segments, signals, weights
from jopd.losses.objective import Term
from jopd.methods import adwin
from jopd.models import decoder
from jopd.training import step

SEGMENTS = np.asarray([(3, 0, 0), (1, 1, 0), (0, 1, 1), (0, 0, 3)], np.float32)
COSINES = [0.666667, 0.727607, 0.872872, 1.0]
GRID = (8, 16, 32, 64)


def of_segment(low, high):
    row = jnp.asarray(SEGMENTS)[jnp.searchsorted(jnp.asarray(GRID), high)]
    assert low.shape == high.shape == ()
    return {"one": row[:2], "two": row[2:]}


def test_the_cosines_of_the_sheet():
    whole = {"one": SEGMENTS.sum(0)[:2], "two": SEGMENTS.sum(0)[2:]}
    found = segments.cosines(of_segment, whole, GRID)
    np.testing.assert_allclose(found, COSINES, atol=1e-6)


def test_nothing_agrees_with_nothing():
    nothing = lambda low, high: jnp.zeros(2)
    np.testing.assert_array_equal(segments.cosines(nothing, jnp.zeros(2), (1, 2)), 0)
    np.testing.assert_array_equal(segments.cosines(nothing, jnp.ones(2), (1, 2)), 0)


@pytest.mark.parametrize(
    "threshold, window",
    [(adwin.THRESHOLD, 16), (0.8, 32), (0.6, 8), (-1.0, 8), (1.1, 64)],
)
def test_the_shortest_window_that_agrees(threshold, window):
    chosen = adwin.choose(jnp.asarray(COSINES), GRID, threshold)
    assert int(chosen) == window and chosen.dtype == jnp.int32
    assert int(adwin.choose(jnp.full(4, jnp.nan), GRID, threshold)) == 64


def test_signal_is_as_large_as_noise_at_the_threshold():
    square = adwin.THRESHOLD**2
    assert square / (1 - square) == pytest.approx(1.0)


def test_whole_rollouts_every_few_updates():
    memory = adwin.window(1, grid=GRID, every_steps=3)
    held, asked, horizons = memory.start(), [], []
    for update in range(7):
        horizons.append(int(held["horizon"]))
        held = memory.step(held, None)
        asked.append(bool(memory.probe.due(held)))
        if asked[-1]:
            cosines = jnp.asarray(COSINES if update < 6 else [1.0] * 4)
            held = memory.probe.learn(held, cosines)
    assert horizons == [64, 16, 16, 64, 16, 16, 64]
    assert asked == [True, False, False] * 2 + [True]
    assert int(held["horizon"]) == int(held["window"]) == 8


@pytest.mark.parametrize(
    "given, said",
    [
        (dict(grid=()), "in ascending order"),
        (dict(grid=(0, 4)), "in ascending order"),
        (dict(grid=(8, 8)), "in ascending order"),
        (dict(grid=GRID, every_steps=1), "every_steps=1 must be at least 2"),
    ],
)
def test_windows_that_cannot_be(given, said):
    with pytest.raises(ValueError, match=said):
        adwin.window(1, **given)


# Gradients of real models: of an update, and of updates of early tokens alone.

SHAPES = {"student": tiny.config(), "teacher": tiny.config(width=8, layers=1)}
MODELS = {name: decoder.Decoder(shape) for name, shape in SHAPES.items()}
STUDENT, TEACHER = tiny.params(SHAPES["student"], 0), tiny.params(SHAPES["teacher"], 7)
SGD = optax.sgd(1.0)
EDGES = (2, 3, 9)


def one_update(accumulate: int = 1, memory=None, **spec):
    """The gradient, which is what SGD moved by, and the memory after it."""
    terms = (Term("opd", signals.reverse_kl, **spec),)
    shape = step.Shape(tiny.VOCABULARY, chunk_tokens=16)
    batch, frozen = tiny.batch(3), {"teacher": TEACHER}
    cut = dict(accumulate=accumulate)
    prepare = step.make_prepare(MODELS, terms, shape, **cut)
    prepared = prepare(STUDENT, frozen, batch, memory)
    update = step.make_update(MODELS["student"], terms, SGD, shape, **cut)
    copied = jax.tree.map(lambda x: x.copy(), STUDENT)  # donated
    state = step.TrainState(jnp.int32(0), copied, SGD.init(STUDENT))
    after, _, _ = update(state, frozen, batch, prepared, {"opd": 1.0})
    moved = jax.tree.map(lambda a, b: np.asarray(a - b, "f8"), STUDENT, after.params)
    return np.concatenate([x.ravel() for x in jax.tree.leaves(moved)]), after.memory


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_update_learns_how_its_early_tokens_agree(accumulate):
    make = functools.partial(adwin.window, grid=EDGES, threshold=0.0)
    whole, memory = one_update(accumulate, memories=(("window", make),))
    plain, _ = one_update(accumulate)
    np.testing.assert_array_equal(whole, plain)
    found = memory["window"]["cosines"]
    for edge, cosine in zip(EDGES, found):
        first = functools.partial(weights.first_tokens, count=edge)
        early, _ = one_update(weights=(first,))
        want = early @ whole / np.linalg.norm(early) / np.linalg.norm(whole)
        assert float(cosine) == pytest.approx(want, abs=1e-4)
    assert float(found[-1]) == pytest.approx(1.0, abs=1e-5)
    assert abs(float(found[0]) - 1.0) > 0.01
    assert int(memory["window"]["window"]) == EDGES[0]


def test_between_its_probes_a_memory_learns_nothing():
    make = functools.partial(adwin.window, grid=EDGES, threshold=0.0)
    held = make(1).start() | {"updates": jnp.int32(1), "window": jnp.int32(3)}
    _, memory = one_update(memory={"window": held}, memories=(("window", make),))
    found = memory["window"]
    assert int(found["window"]) == int(found["horizon"]) == 3
    assert np.isnan(found["cosines"]).all() and int(found["updates"]) == 2
