"""Generation in blocks, with a look from the host in between.

What ``rollout.generate`` does in one loop is cut into blocks of draws. Between two of
them rows that have ended leave, so that a few long rows do not cost the time of all,
and the cache grows as it fills, so that attention reads no slots that are still empty.
Both change shapes: there is one program for every pair of sizes that occurs, rows in
two steps per halving, slots by doubling. The tokens are those of ``generate``, because
randomness belongs to the row.

Every device keeps its own rows; all have as many as the fullest one needs.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopd import rollout
from jopd.models import decoder
from jopd.rollout import Loop, Request
from jopd.types import Rollout

LEAST_ROWS = 8  # below, fewer rows are hardly faster


class _Held(NamedTuple):
    """What lives on the devices, leaves [devices, rows, ...], and whose rows it is."""

    asked: Request
    loop: Loop
    row_DB: np.ndarray


def row_sizes(rows: int) -> list[int]:
    """``rows``, three quarters of it, half of it, ... down to ``LEAST_ROWS``."""
    sizes, half = [rows], rows
    while half > LEAST_ROWS:
        sizes += [-(-3 * half // 4), -(-half // 2)]
        half = -(-half // 2)
    return sorted({size for size in sizes if size >= min(rows, LEAST_ROWS)})


def slot_sizes(block: int, max_new_tokens: int) -> list[int]:
    """Room for new tokens: ``block``, twice that, ... up to all."""
    sizes = [block]
    while sizes[-1] < max_new_tokens:
        sizes.append(min(2 * sizes[-1], max_new_tokens))
    return sizes


def in_blocks(
    *,
    model: decoder.Decoder,
    max_new_tokens: int,
    block: int,
    devices: int = 1,
    copies: int = 1,
    **draw: Any,
):
    """``(params, request, key) -> Rollout`` on the host, bound to its settings.

    Args:
      block: draws between two looks.
      devices: local devices that rows are split over, as ``rollout.data_parallel``.
      draw: ``stop_ids``, ``vocabulary`` and ``filters`` of ``rollout.generate``.
    """
    slots = slot_sizes(block, max_new_tokens)
    local = jax.local_devices()[:devices]
    mapped = functools.partial(jax.pmap, devices=local)
    begin = functools.partial(
        rollout.begin,
        model=model,
        max_new_tokens=max_new_tokens,
        slots=slots[0],
        copies=copies,
        **draw,
    )
    begin = mapped(begin, in_axes=(None, 0, None))
    advance = mapped(
        functools.partial(rollout.advance, model=model, **draw),
        in_axes=(None, 0, None, 0, None),
        donate_argnums=3,
    )
    resize = mapped(_resize, in_axes=(0, 0, 0, None), static_broadcasted_argnums=3)
    join = jax.jit(rollout.join)

    def call(params, asked: Request, key: jax.Array) -> Rollout:
        split = rollout.split_rows(asked, devices)
        count = split.length_B.shape[1]
        held = _Held(
            split, begin(params, split, key), np.tile(np.arange(count), (devices, 1))
        )
        written = _nothing(split, max_new_tokens)
        step, room = 0, slots[0]
        while True:
            step = min(step + block, max_new_tokens)
            loop = advance(params, held.asked, key, held.loop, np.int32(step))
            held = held._replace(loop=loop)
            done_DB = np.asarray(loop.done_B)
            live = int((~done_DB).sum(axis=1).max())
            if not live or step == max_new_tokens:
                break
            rows = min(n for n in row_sizes(count) if n >= live)
            needed = min(n for n in slots if n > step)
            if rows < done_DB.shape[1] or needed > room:
                _keep(written, held)
                held, room = _refit(resize, held, done_DB, rows, needed), needed
        _keep(written, held)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), written)
        drawn = Loop(step=None, cache=None, token_B=None, done_B=None, **flat)
        return jax.device_get(join(asked, drawn))

    return call


def _resize(asked: Request, loop: Loop, kept_B, room: int):
    """The rows ``kept_B``, in a cache with ``room`` slots for new tokens."""
    rows = lambda tree, axis: jax.tree.map(
        lambda leaf: jnp.take(leaf, kept_B, axis=axis), tree
    )
    cache = rows(loop.cache, 1)
    missing = asked.tokens_BP.shape[1] + room - cache.v.shape[3]
    cache = decoder.KV(
        k=jnp.pad(cache.k, [(0, 0)] * 4 + [(0, missing)]),
        v=jnp.pad(cache.v, [(0, 0)] * 3 + [(0, missing), (0, 0)]),
    )
    others = rows(loop._replace(step=None, cache=None), 0)
    return rows(asked, 0), others._replace(step=loop.step, cache=cache)


def _refit(resize, held: _Held, done_DB, rows: int, room: int) -> _Held:
    """Keeps the live rows of every device, and as many others as fill the shape."""
    kept_DB = np.argsort(done_DB, axis=1, kind="stable")[:, :rows].astype(np.int32)
    asked, loop = resize(held.asked, held.loop, kept_DB, room)
    return _Held(asked, loop, np.take_along_axis(held.row_DB, kept_DB, axis=1))


def _nothing(split: Request, max_new_tokens: int) -> dict[str, np.ndarray]:
    """Room on the host for what is drawn, as ``rollout.join`` reads it."""
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
    for name, room in written.items():
        room[device, held.row_DB] = np.asarray(getattr(held.loop, name))
