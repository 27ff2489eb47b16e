"""Generation in blocks, with a look from the host in between.

What ``generate.generate`` does in one loop is cut into blocks of draws. Between two of
them rows that have ended make room: for rows that wait, where not all are drawn at
once, else for nobody, so that a few long rows do not cost the time of all. The cache
grows with its longest row, so that attention reads few slots that are empty. Sizes come
from short lists, rows in two steps per halving, slots in two per doubling, and there is
one program for every pair that occurs. The tokens are those of ``generate``, because
randomness belongs to the row.

Every device keeps its own rows; all have as many as the fullest one needs. A ``Watch``
may end rows early, at the same looks.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopd.models import cache as caches
from jopd.models import decoder, sharding
from jopd.rollouts import generate, strings, watch
from jopd.rollouts.records import Loop, Policy, Request
from jopd.rollouts.watch import Reading, Watch
from jopd.types import Rollout

LEAST_ROWS = 8  # below, fewer rows are hardly faster
NOTHING: Mapping[str, Any] = {}  # remembered; never changed in place


class _State(NamedTuple):
    """What lives on the devices, leaves [devices, rows, ...]."""

    asked: Request
    loop: Loop
    reading: Reading | None


class _Held(NamedTuple):
    """The state, and whose rows it is."""

    state: _State
    row_DB: np.ndarray


class _Programs(NamedTuple):
    """What runs on the devices, bound to its settings."""

    begin: Callable
    advance: Callable
    enter: Callable
    resize: Callable


def row_sizes(rows: int) -> list[int]:
    """``rows``, three quarters of it, half of it, ... down to ``LEAST_ROWS``."""
    sizes, half = [rows], rows
    while half > LEAST_ROWS:
        sizes += [-(-3 * half // 4), -(-half // 2)]
        half = -(-half // 2)
    return sorted({size for size in sizes if size >= min(rows, LEAST_ROWS)})


def slot_sizes(block: int, max_new_tokens: int) -> list[int]:
    """Room for new tokens: ``block``, half more, twice that, ... up to all."""
    sizes, double = [], block
    while double < max_new_tokens:
        sizes += [double, min(3 * double // 2, max_new_tokens)]
        double *= 2
    return sorted({*sizes, max_new_tokens})


def in_blocks(
    *,
    model: decoder.Decoder,
    max_new_tokens: int,
    block: int,
    devices: int = 1,
    copies: int = 1,
    at_once: int = 0,
    watched: Watch | None = None,
    ends: strings.Ends | None = None,
    **draw: Any,
):
    """``(params, request, key) -> Rollout`` on the host, bound to its settings.

    Called with ``memory`` for the rule of a ``Watch`` that reads it (``stops.Seen``),
    and with the ``company`` of a ``partner``, as ``generate.generate`` is.

    Args:
      block: draws between two looks.
      devices: local devices that rows are split over, as ``sharding.data_parallel``.
      at_once: most rows that a device draws at a time, whole runs of ``copies``; 0 is
        all. Others wait, and enter a quarter of that at a time.
      watched: who may end rows before they end themselves, as unfinished ones. What is
        drawn until then is the same.
      ends: strings after which a row is not drawn on; ``strings.cut`` takes away what
        was drawn behind one by then.
      draw: ``stop_ids``, ``vocabulary``, ``filters`` and ``partner`` of
        ``generate.generate``.

    Raises:
      ValueError: ``at_once`` is not a multiple of ``copies``.
    """
    if at_once % copies:
        raise ValueError(f"at_once={at_once} rows are not whole runs of {copies}")
    sizes = slot_sizes(block, max_new_tokens)
    programs = _programs(
        Policy(model, **draw), max_new_tokens, block, devices, copies, watched
    )
    join = jax.jit(generate.join)

    def call(
        params, asked: Request, key: jax.Array, *, memory=NOTHING, company=None
    ) -> Rollout:
        models = (params, watched and watched.params, company)
        split = jax.tree.map(np.asarray, sharding.rows_per_device(asked, devices))
        count = split.length_B.shape[1]
        first = min(at_once or count, count)
        held, written = _first(programs, models, split, key, first, max_new_tokens)
        waiting_D = np.full(devices, count - first)
        unit = copies * -(-first // (4 * copies))
        while True:
            state = programs.advance(models, held.state, key, memory)
            held = held._replace(state=state)
            if ends is not None:
                held = _end(ends, held, written, split, block)
            done_DB = np.asarray(held.state.loop.done_B)
            if done_DB.all() and not waiting_D.any():
                break
            while (coming_D := _coming(done_DB, waiting_D, unit, copies)).any():
                _keep(written, held)
                held = _enter(
                    programs, models, key, split, held, waiting_D, coming_D, unit
                )
                done_DB = np.asarray(held.state.loop.done_B)
                waiting_D = waiting_D - coming_D
            live = max(int((~done_DB).sum(axis=1).max()), 1)
            rows = min(n for n in row_sizes(first) if n >= live)
            count_DB = np.asarray(held.state.loop.count_B)
            longest = count_DB.max(where=~done_DB, initial=0)
            # Up to the last draw of the next block all but that one are read.
            needed = min(longest + block - 1, max_new_tokens)
            room = min(n for n in sizes if n >= needed)
            if waiting_D.any():
                rows = done_DB.shape[1]
            if rows < done_DB.shape[1] or room != _room(held.state):
                _keep(written, held)
                held = _refit(programs, held, done_DB, rows, room)
        _keep(written, held)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), written)
        unread = dict(step=None, start_B=None, caches=None, token_B=None, done_B=None)
        return jax.device_get(join(asked, Loop(**unread, **flat)))

    return call


def _programs(policy: Policy, max_new_tokens, block, devices, copies, watched):
    mapped = functools.partial(jax.pmap, devices=jax.local_devices()[:devices])
    reads = watched and watched.model
    draw, sizes = dict(policy=policy), dict(slots=block, copies=copies)
    # A look is at the draws of a block, and there is one behind them.
    states = (block + 1) * bool(watched and watched.compares)
    start = dict(max_new_tokens=max_new_tokens, states=states, **sizes, **draw)

    def begin(models, asked, key) -> _State:
        loop = generate.begin(models[0], asked, key, company=models[2], **start)
        if not reads:
            return _State(asked, loop, None)
        record = dict(record=max_new_tokens, **sizes)
        return _State(asked, loop, watch.begin(watched, models[1], asked, **record))

    def advance(models, state: _State, key, memory) -> _State:
        asked, loop, reading = state
        until, who = loop.step + block, dict(company=models[2], **draw)
        loop = generate.advance(models[0], asked, key, loop, until, **who)
        if watched:
            look = lambda loop, reading: watch.look(
                *(watched, policy, models, asked, loop, reading, memory), block=block
            )
            loop, reading = jax.lax.cond(
                jnp.all(loop.done_B), lambda *same: same, look, loop, reading
            )
        return _State(asked, loop, reading)

    def enter(models, state: _State, key, coming, place_R) -> _State:
        asked, loop, reading = state
        if reads:
            reading = watch.enter(
                watched, models[1], reading, coming, place_R, copies=copies
            )
        asked, loop = generate.enter(
            *(models[0], asked, key, loop, coming, place_R),
            copies=copies,
            company=models[2],
            **draw,
        )
        return _State(asked, loop, reading)

    return _Programs(
        begin=mapped(begin, in_axes=(None, 0, None)),
        advance=mapped(advance, in_axes=(None, 0, None, None), donate_argnums=1),
        enter=mapped(enter, in_axes=(None, 0, None, 0, 0), donate_argnums=1),
        resize=mapped(_resize, in_axes=(0, 0, None), static_broadcasted_argnums=2),
    )


def _first(programs, models, split: Request, key, rows: int, max_new_tokens: int):
    """The first rows of every device, begun, and room for what all will write."""
    asked = jax.tree.map(lambda leaf: leaf[:, :rows], split)
    row_DB = np.tile(np.arange(rows), (len(split.length_B), 1))
    held = _Held(programs.begin(models, asked, key), row_DB)
    return held, _nothing(split, max_new_tokens)


def _coming(done_DB, waiting_D, unit: int, copies: int) -> np.ndarray:
    """How many rows enter on every device: ``unit`` of them, or all that wait, or none.

    Whole runs, so that each is read once. A device with room for less than that goes
    on, and so does its share of the machine: entering costs all of them a program.
    """
    free_D = done_DB.sum(axis=1) // copies * copies
    wanted_D = np.minimum(waiting_D, unit)
    return np.where(free_D >= wanted_D, wanted_D, 0)


def _enter(programs, models, key, split, held: _Held, waiting_D, coming_D, unit: int):
    """Puts the next ``coming_D`` rows of every device where rows have ended."""
    done_DB = np.asarray(held.state.loop.done_B)
    devices, rows = done_DB.shape
    number_U = np.arange(unit)
    comes_DU = number_U < coming_D[:, None]
    next_DU = split.length_B.shape[1] - waiting_D[:, None] + number_U
    next_DU = np.where(comes_DU, next_DU, 0)
    # Ended rows first; a place behind the last one is nobody's.
    place_DU = np.argsort(~done_DB, axis=1, kind="stable")[:, :unit]
    place_DU = np.where(comes_DU, place_DU, rows).astype(np.int32)
    device = np.arange(devices)[:, None]
    coming = jax.tree.map(lambda leaf: leaf[device, next_DU], split)
    state = programs.enter(models, held.state, key, coming, place_DU)
    row_DB, who = held.row_DB.copy(), np.nonzero(comes_DU)
    row_DB[who[0], place_DU[who]] = next_DU[who]
    return _Held(state, row_DB)


def _end(ends: strings.Ends, held: _Held, written, split: Request, block: int) -> _Held:
    """Ends the rows in whose text a string occurs."""
    _keep(written, held)
    done_DB = np.array(held.state.loop.done_B)
    for d, place in zip(*np.nonzero(~done_DB)):
        b = held.row_DB[d, place]
        given, start = split.tokens_BP[d, b], split.prompt_length_B[d, b]
        drawn = written["tokens_BL"][d, b, : written["count_B"][d, b]]
        prefix = given[start : split.length_B[d, b]]
        response = np.concatenate([prefix, drawn])
        # What the last look saw, and the token that a row is begun with.
        done_DB[d, place] = strings.ended(
            ends, given[:start], response, block + 1, len(prefix)
        )
    loop = held.state.loop._replace(done_B=done_DB)
    return held._replace(state=held.state._replace(loop=loop))


def _room(state: _State) -> int:
    """Slots for new tokens in the cache."""
    return caches.slots(state.loop.caches[0]) - state.asked.tokens_BP.shape[2]


def _resize(state: _State, kept_B, room: int) -> _State:
    """The rows ``kept_B``, in caches with ``room`` slots for new tokens."""
    asked, loop, reading = state
    rows = lambda tree: jax.tree.map(lambda leaf: jnp.take(leaf, kept_B, axis=0), tree)
    width, newest = asked.tokens_BP.shape[1], loop.step - 1
    old = caches.slots(loop.caches[0]) - width
    # Draw j is in slot j mod room. What is too old for one of the two rings belongs to
    # no row that goes on, so that whatever lands there is not read.
    draw_S = newest - (newest - jnp.arange(room)) % room
    slot_S = jnp.concatenate([jnp.arange(width), width + draw_S % old])
    refitted = lambda cache: caches.take(cache, kept_B, slot_S)
    held = tuple(map(refitted, loop.caches))
    loop = rows(loop._replace(step=None, caches=None))._replace(
        step=loop.step, caches=held
    )
    if reading is not None:
        kept = rows(reading._replace(cache=None))
        reading = kept._replace(cache=refitted(reading.cache))
    return _State(rows(asked), loop, reading)


def _refit(programs, held: _Held, done_DB, rows: int, room: int) -> _Held:
    """Keeps the live rows of every device, and as many others as fill the shape."""
    kept_DB = np.argsort(done_DB, axis=1, kind="stable")[:, :rows].astype(np.int32)
    state = programs.resize(held.state, kept_DB, room)
    return _Held(state, np.take_along_axis(held.row_DB, kept_DB, axis=1))


def _nothing(split: Request, max_new_tokens: int) -> dict[str, np.ndarray]:
    """Room on the host for what is drawn, as ``generate.join`` reads it."""
    shape = split.length_B.shape
    return {
        "count_B": np.zeros(shape, np.int32),
        "finished_B": np.zeros(shape, bool),
        "tokens_BL": np.zeros((*shape, max_new_tokens), np.int32),
        "logp_BL": np.zeros((*shape, max_new_tokens), np.float32),
    }


def _keep(written: dict[str, np.ndarray], held: _Held) -> None:
    """Copies what the devices hold to the host, into the places of its rows."""
    device = np.arange(len(held.row_DB))[:, None]
    start_DB = np.asarray(held.state.loop.start_B)
    for name, room in written.items():
        found = np.asarray(getattr(held.state.loop, name))
        if found.ndim == 3:  # a record: turn it so that every row's first draw leads
            column_L = np.arange(found.shape[2])
            turned_DBL = (start_DB[..., None] + column_L) % len(column_L)
            found = np.take_along_axis(found, turned_DBL, axis=2)
        room[device, held.row_DB] = found
