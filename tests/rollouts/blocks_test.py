"""Generation in blocks against one loop: same rows, fewer and smaller steps."""

import jax
import numpy as np
import pytest

import tiny
from drawing import (
    CONFIG,
    DRAW,
    MODEL,
    NEW,
    RING,
    ROWS,
    P,
    asked,
    in_blocks,
    in_one_loop,
)
from jopd.rollouts import blocks as engine
from jopd.rollouts import generate as rollout


@pytest.fixture(scope="module")
def params():
    return tiny.params(CONFIG, 5)


def assert_same(got, want, atol=2e-6):
    for name, a, b in zip(got._fields, got, want, strict=True):
        if name == "behavior_logp_BT":
            np.testing.assert_allclose(a, b, atol=atol)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("block, devices, copies", [(3, 1, 1), (8, 1, 4), (5, 2, 2)])
def test_the_rows_are_those_of_one_loop(params, block, devices, copies):
    request, key = asked(copies=copies), jax.random.key(3)
    got = in_blocks(params, request, key, block, devices=devices, copies=copies)
    want = in_one_loop(params, request, key, copies)
    assert_same(got, want)
    new_B = got.length_B - np.asarray(request.length_B)
    assert new_B.min() == 0 and new_B.max() > 2 * block, "long and short rows"
    assert got.finished_B.any() and not got.finished_B.all()


@pytest.mark.parametrize(
    "block, devices, copies, at_once",
    [(3, 1, 1, 8), (5, 1, 4, 12), (4, 2, 2, 6), (8, 1, 1, 2), (NEW, 1, 1, 8)],
)
def test_rows_that_wait_are_those_of_one_loop(params, block, devices, copies, at_once):
    request, key = asked(copies=copies), jax.random.key(3)
    settings = dict(devices=devices, copies=copies, at_once=at_once)
    got = in_blocks(params, request, key, block, **settings)
    assert_same(got, in_one_loop(params, request, key, copies), RING)


def test_ended_rows_make_place_for_those_that_wait(params, monkeypatch):
    """8 places, 32 rows: as many draws as the places need, not as the rows would."""
    monkeypatch.setitem(DRAW, "stop_ids", ())
    limits = np.asarray([NEW, 4, 4, 4, 4, 4, 4, 4] * 4)
    request, key = asked(limits), jax.random.key(3)
    want = in_one_loop(params, request, key)
    draws, advance = [], rollout.advance

    def counted(params, asked, key, loop, until, **settings):
        jax.debug.callback(lambda step: draws.append(int(step)), loop.step)
        return advance(params, asked, key, loop, until, **settings)

    monkeypatch.setattr(rollout, "advance", counted)
    got = in_blocks(params, request, key, 4, at_once=8)
    jax.effects_barrier()
    assert_same(got, want, RING)
    # 4 x 24 + 28 x 4 draws in 8 places are 26; 4 rounds of the longest would be 96.
    assert max(draws) <= 48


def test_few_programs_for_rows_that_come(params, monkeypatch):
    """One per size of the cache, whatever the lengths."""
    monkeypatch.setitem(DRAW, "stop_ids", ())
    rng = np.random.default_rng(1)
    traced, enter = [], rollout.enter

    def recorded(params, asked, key, loop, coming, place_R, **settings):
        traced.append((len(place_R), loop.caches[0].v.shape[3] - P))
        return enter(params, asked, key, loop, coming, place_R, **settings)

    monkeypatch.setattr(rollout, "enter", recorded)
    generate = engine.in_blocks(
        model=MODEL, max_new_tokens=NEW, block=4, at_once=8, **DRAW
    )
    for _ in range(4):
        limits = rng.integers(1, NEW + 1, ROWS)
        generate(params, asked(limits), jax.random.key(0))
    assert len(traced) == len(set(traced))
    assert set(traced) <= {(2, room) for room in engine.slot_sizes(4, NEW)}


def test_the_cache_shrinks_when_its_long_rows_leave(params, monkeypatch):
    monkeypatch.setitem(DRAW, "stop_ids", ())
    limits = np.asarray([NEW] * 4 + [6] * 28)
    shapes = shapes_seen(params, asked(limits), 4, monkeypatch, at_once=4)
    assert shapes == [(4, 4), (4, 8), (4, 12), (4, 16), (4, 24)]
    rooms, refit = [], engine._refit
    monkeypatch.setattr(
        engine, "_refit", lambda *words: rooms.append(words[-1]) or refit(*words)
    )
    request, key = asked(limits), jax.random.key(1)
    got = in_blocks(params, request, key, 4, at_once=4)
    assert_same(got, in_one_loop(params, request, key), RING)
    assert rooms[:4] == [8, 12, 16, 24] and max(rooms[4:]) <= 12


def test_rows_at_once_are_whole_runs(params):
    with pytest.raises(ValueError, match="at_once=6 rows are not whole runs of 4"):
        in_blocks(params, asked(copies=4), jax.random.key(0), 4, copies=4, at_once=6)


def test_nobody_has_anything_to_write(params):
    request = asked(limits=0)
    got = in_blocks(params, request, jax.random.key(0), 4)
    np.testing.assert_array_equal(got.length_B, request.length_B)
    assert not got.finished_B.any() and not got.behavior_logp_BT.any()


def shapes_seen(
    params, request, block: int, monkeypatch, **settings
) -> list[tuple[int, int]]:
    """(rows, slots for new tokens) of every program that was compiled."""
    seen, feed = [], rollout._feed

    def recorded(model, params, asked, loop, cache):
        seen.append((len(asked.length_B), cache.v.shape[3] - P))
        return feed(model, params, asked, loop, cache)

    monkeypatch.setattr(rollout, "_feed", recorded)
    generate = engine.in_blocks(
        model=MODEL, max_new_tokens=NEW, block=block, **settings, **DRAW
    )
    generate(params, request, jax.random.key(0))
    once = list(dict.fromkeys(seen))
    seen.clear()
    generate(params, request, jax.random.key(0))
    assert not seen, "the second call compiles nothing"
    return once


def test_rows_leave_and_the_cache_grows(params, monkeypatch):
    monkeypatch.setitem(DRAW, "stop_ids", ())
    limits = np.asarray([4] * 6 + [8] * 12 + [NEW] * 14)
    shapes = shapes_seen(params, asked(limits), 4, monkeypatch)
    assert shapes == [(32, 4), (32, 8), (16, 12), (16, 16), (16, 24)]


def test_equal_rows_stay_together(params, monkeypatch):
    monkeypatch.setitem(DRAW, "stop_ids", ())
    shapes = shapes_seen(params, asked(limits=10), 4, monkeypatch)
    assert shapes == [(32, 4), (32, 8), (32, 12)]


def test_sizes():
    assert engine.row_sizes(32) == [8, 12, 16, 24, 32]
    assert engine.row_sizes(5) == [5]
    assert engine.row_sizes(20) == [8, 10, 15, 20]
    assert engine.slot_sizes(64, 1024) == [64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert engine.slot_sizes(64, 100) == [64, 96, 100]


def test_rows_must_divide_by_devices(params):
    with pytest.raises(ValueError, match="32 rollout rows are not divisible by 3"):
        in_blocks(params, asked(), jax.random.key(0), 4, devices=3)
