"""Rows of different lengths side by side, so that no model reads their padding.

A bin is a row of W places that holds several whole rows one after the other. Their
positions count from 0 each, and a token attends to its own segment only, so hidden
states are those of the rows alone, up to rounding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jopd.types import Packing

STEPS = 4  # numbers of bins are multiples of 1 / STEPS of the rows: few programs


def shapes(widths: int) -> int:
    """How many shapes ``plan`` may give to as many rows, with that many widths."""
    return STEPS - 1 + widths


def plan(
    length_B: np.ndarray,
    *,
    columns: int,
    widths: tuple[int, ...],
    shift_B: np.ndarray | None = None,
    places: int | None = None,
    shards: int = 1,
    start: int = 1,
    least: int = 1,
) -> Packing | None:
    """Where every token of some rows goes; None if nothing can be saved. Host side.

    Of two ways the one with fewer places: rows side by side in bins of the largest
    width, or a bin for each row, as wide as the longest needs.

    Args:
      length_B: tokens of each row, 0 for one that nobody needs.
      columns: of the rows that are packed.
      widths: W to choose from, ascending; the last one holds the longest row.
      shift_B: by how much a row's tokens lie further right than the student's, where a
        model reads another prompt.
      places: columns of the student's rows; as many as are packed unless told.
      shards: devices that rows are split over; each packs its own.
      start: rows begin at multiples of it.
      least: bins that there are at least.
    """
    length_SB = np.asarray(length_B).reshape(shards, -1)
    rows = length_SB.shape[1]
    shared, alone = widths[-1], min(w for w in widths if w >= length_SB.max())
    fits = [_first_fit(-(-lengths // start) * start, shared) for lengths in length_SB]
    step = -(-rows // STEPS)
    bins = max(least, *(1 + max(bins_of) for bins_of, _ in fits))
    bins, width = bins + -bins % step, shared
    if bins * shared >= rows * alone:
        fits, bins, width = [(range(rows), [0] * rows)] * shards, rows, alone
    if bins * width >= rows * columns:
        return None
    shift_SB = np.zeros_like(length_SB)
    if shift_B is not None:
        shift_SB = np.asarray(shift_B).reshape(shards, -1)
    parts = [
        _lay_out(lengths, shifts, *fit, (bins, width), columns, places or columns)
        for lengths, shifts, fit in zip(length_SB, shift_SB, fits, strict=True)
    ]
    return Packing(*map(np.stack, zip(*parts, strict=True)))


def even(length_B: np.ndarray, parts: int) -> np.ndarray:
    """Rows of each part, i32[parts, B / parts], with about as many tokens in each.

    Longest first, into the part that has the fewest tokens and room for a row; the rows
    of a part are in ascending order. Host side.
    """
    length_B = np.asarray(length_B)
    each, taken = len(length_B) // parts, [[] for _ in range(parts)]
    tokens = np.zeros(parts)
    for row in np.argsort(-length_B, kind="stable"):
        part = int(np.argmin(tokens))
        taken[part].append(row)
        tokens[part] += length_B[row]
        if len(taken[part]) == each:
            tokens[part] = np.inf
    return np.sort(np.asarray(taken, np.int32), axis=1)


def _first_fit(lengths, width: int) -> tuple[list[int], list[int]]:
    """Bin and first place of each row: longest first, into the first bin with room."""
    bins, starts, used = [0] * len(lengths), [0] * len(lengths), []
    for row in np.argsort(-lengths, kind="stable"):
        length = int(lengths[row])
        fits = (i for i, taken in enumerate(used) if taken + length <= width)
        bins[row] = next(fits, len(used))
        if bins[row] == len(used):
            used.append(0)
        starts[row] = used[bins[row]]
        used[bins[row]] += length
    return bins, starts


def _lay_out(lengths, shifts, bins_of, starts, shape, columns: int, places: int):
    """The arrays of ``Packing`` for one shard; ``shape`` is (bins, width)."""
    source_RW, position_RW, segment_RW = np.zeros((3, *shape), np.int32)
    place_BT = np.zeros((len(lengths), places), np.int32)
    for row, (length, shift) in enumerate(zip(lengths, shifts, strict=True)):
        inside = slice(starts[row], starts[row] + length)
        own = np.arange(length)
        source_RW[bins_of[row], inside] = row * columns + own
        position_RW[bins_of[row], inside] = own
        segment_RW[bins_of[row], inside] = row + 1
        # Column t of the student's rows is token t + shift here.
        token_T = np.clip(np.arange(places) + shift, 0, max(length - 1, 0))
        place_BT[row] = bins_of[row] * shape[1] + starts[row] + token_T
    return source_RW, position_RW, segment_RW, place_BT


def pack(tokens_BT: jax.Array, packing: Packing) -> jax.Array:
    """The tokens of the bins, i32[S * R, W]."""
    return _take(tokens_BT, packing.source_SRW)


def read(packing: Packing) -> tuple[jax.Array, jax.Array]:
    """Positions and segments of the bins, i32[S * R, W] each."""
    flat = lambda x: x.reshape(-1, x.shape[-1])
    return flat(packing.position_SRW), flat(packing.segment_SRW)


def spread(hidden_RWD: jax.Array, packing: Packing) -> jax.Array:
    """From bins back to the student's rows, [B, T, D].

    Columns that hold no token of a row get the state of some other place: finite, to be
    masked.
    """
    return _take(hidden_RWD, packing.place_SBT)


@jax.custom_vjp
def spread_own(hidden_RWD: jax.Array, packing: Packing) -> jax.Array:
    """``spread`` for a packing without shifts, with a backward pass that is a gather.

    The gradient of columns that hold no token must be 0: then every place has at most
    one reader, and nothing needs to be added up.
    """
    return spread(hidden_RWD, packing)


def _spread_forward(hidden_RWD, packing: Packing):
    return spread(hidden_RWD, packing), packing


def _spread_backward(packing: Packing, gradient_BTD):
    read_RWD = _take(gradient_BTD, packing.source_SRW)
    return jnp.where(read(packing)[1][..., None] > 0, read_RWD, 0), None


spread_own.defvjp(_spread_forward, _spread_backward)


def _take(values, index_SRW):
    """Rows ``[B, T, ...]`` at flat indices of each shard: ``[S * R, W, ...]``."""
    shards, rows, width = index_SRW.shape
    flat = values.reshape(shards, -1, *values.shape[2:])
    index_SN = index_SRW.reshape(shards, -1)
    take = functools.partial(jnp.take, axis=0, mode="clip")
    if shards == 1:
        taken = take(flat[0], index_SN[0])
    else:
        taken = jax.vmap(take)(flat, index_SN)
    return taken.reshape(shards * rows, width, *values.shape[2:])
