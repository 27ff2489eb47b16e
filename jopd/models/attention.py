"""Grouped softmax attention: to the tokens themselves, and to a cache besides.

Dimensions as in ``models.decoder``: S slots, Kh key/value heads, G query heads per
key/value head, H width of a head, T queries.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jopd import exact
from jopd.models import cache as caches
from jopd.models.cache import KV
from jopd.models.decoder_config import DecoderConfig

FAR = np.iinfo(np.int32).max  # distance of the unseen, window of those who see all
HIDDEN = -1e30  # finite, so that a row of nothing but padding stays free of NaN
# Runs of queries that attention to the tokens themselves is cut into. On a CPU, 152
# positions: 0.52 s of forward and backward pass whole, 0.42 s in 4 runs, 0.38 s in 8.
_RUNS, _SHORTEST_RUN = 8, 16
# Of exact attention: queries that are read together, and keys whose values are added up
# together. Packed rows begin at multiples of the latter, see ``batches.packing``.
QUERIES, KEYS = 8, 32


def distance(positions_BT, key_positions_BS, key_valid_BS, segment_BT) -> jax.Array:
    """How far each query looks back at each key, i32[B, T, S]; FAR if it must not."""
    distance_BTS = positions_BT[:, :, None] - key_positions_BS[:, None]
    seen_BTS = key_valid_BS[:, None] & (distance_BTS >= 0)
    if segment_BT is not None:
        seen_BTS = seen_BTS & (segment_BT[:, :, None] == segment_BT[:, None])
    return jnp.where(seen_BTS, distance_BTS, FAR)


def read(
    c: DecoderConfig, q, cache: KV | None, new: KV, visible_BTS, order_BS, slot
) -> tuple[jax.Array, KV]:
    """What ``[B, Kh, G, T, H]`` queries read from a cache, if any, and the new tokens.

    Args:
      slot: None: the cache is not changed. Else the new tokens are first written to it,
        from this slot on: on a CPU nothing is then copied, where a cache that is read
        before is.
      visible_BTS: which keys a query sees, those of the new tokens last or, with a
        slot, in their place.
      order_BS: how these keys are sorted by position, in an exact model with a cache;
        ``visible_BTS`` then is of the sorted ones.

    Returns:
      Like ``q``, and what is to be kept: the new keys and values or the cache with
      them.
    """
    if cache is None:
        return (_exactly if c.exact else _itself)(c, q, new, visible_BTS), new
    kept = new if slot is None else caches.write(cache, new, slot)
    segments = [cache, new] if slot is None else [kept]
    if c.exact:
        return _exactly(c, q, _sorted(segments, order_BS), visible_BTS), kept
    return _segments(c, q, segments, visible_BTS), kept


def _scores(c: DecoderConfig, q: jax.Array, keys: list[jax.Array], visible_BTS):
    scores = [
        jnp.einsum("bkgth,bkhs->bkgts", q, k, preferred_element_type=jnp.float32)
        for k in keys
    ]
    scores = jnp.concatenate(scores, axis=-1)
    scores = scores * (c.attention_scale or c.head_dim**-0.5)
    if c.attention_cap:
        scores = c.attention_cap * jnp.tanh(scores / c.attention_cap)
    return jnp.where(visible_BTS[:, None, None], scores, HIDDEN)


def _segments(c: DecoderConfig, q: jax.Array, segments: list[KV], visible_BTS):
    """Attention over the segments' slots, which share one softmax without being joined.

    A query that sees nothing averages everything: finite, and so is its gradient.
    """
    scores = _scores(c, q, [k for k, _ in segments], visible_BTS)
    probs = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    ends = np.cumsum([v.shape[-2] for _, v in segments])
    parts = [
        jnp.einsum("bkgts,bksh->bkgth", p, v, preferred_element_type=jnp.float32)
        for p, (_, v) in zip(jnp.split(probs, ends[:-1], -1), segments, strict=True)
    ]
    # Rounded once, as where all keys are one segment: sampler and trainer are closer.
    return sum(parts[1:], start=parts[0]).astype(q.dtype)


def _itself(c: DecoderConfig, q: jax.Array, kv: KV, visible_BTS) -> jax.Array:
    """Attention to the tokens themselves, of which none sees one behind it.

    In a few runs of queries, each against the keys up to its end: half of what the
    whole square would compute is hidden.
    """
    length = q.shape[3]
    runs = min(_RUNS, -(-length // _SHORTEST_RUN))
    ends = [length * n // runs for n in range(runs + 1)]
    parts = [
        _segments(
            c,
            q[:, :, :, start:end],
            [KV(kv.k[..., :end], kv.v[..., :end, :])],
            visible_BTS[:, start:end, :end],
        )
        for start, end in itertools.pairwise(ends)
    ]
    return jnp.concatenate(parts, axis=3)


def by_position(positions_BS, valid_BS) -> jax.Array:
    """Which slot holds the first, second, ... position of each row, i32[B, S]."""
    return jnp.argsort(jnp.where(valid_BS, positions_BS, FAR), axis=1, stable=True)


def _sorted(segments: list[KV], order_BS) -> KV:
    k = jnp.concatenate([k for k, _ in segments], axis=-1)
    v = jnp.concatenate([v for _, v in segments], axis=-2)
    return KV(
        k=jnp.take_along_axis(k, order_BS[:, None, None], axis=-1),
        v=jnp.take_along_axis(v, order_BS[:, None, :, None], axis=-2),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _exactly(c: DecoderConfig, q, kv: KV, visible_BTS) -> jax.Array:
    """Attention whose sums have one order, whatever is beside the keys that are seen.

    What is hidden adds exact zeros to sums in the order of the slots, ``KEYS`` at a
    time: a row has the same bits in a longer cache, and in a bin behind other rows if
    it begins at a multiple of ``KEYS``. The gradient is that of the fast form.
    """
    (batch, heads), length = q.shape[:2], q.shape[3]
    visible_BTS = exact.roomy(exact.roomy(visible_BTS, 1, QUERIES), 2, KEYS)
    rows = (
        exact.roomy(q, 3, QUERIES),
        exact.roomy(kv.k, 3, KEYS),
        # A column of ones adds up the weights in the order of the values.
        exact.roomy(jnp.pad(kv.v, [(0, 0)] * 3 + [(0, 1)], constant_values=1), 2, KEYS),
        jnp.broadcast_to(visible_BTS[:, None], (batch, heads, *visible_BTS.shape[1:])),
    )
    rows = jax.tree.map(lambda x: x.reshape(batch * heads, 1, *x.shape[2:]), rows)
    slots = kv.k.shape[3]
    function = lambda rows, _: _in_blocks(c, *rows, length=length, slots=slots)
    found = exact.in_tiles(function, rows)
    return found.reshape(batch, heads, *found.shape[2:])[:, :, :, :length]


def _in_blocks(
    c: DecoderConfig, q, k, v, visible, *, length: int, slots: int
) -> jax.Array:
    """``QUERIES`` at a time against ``KEYS`` at a time: every product has one shape.

    q ``[R, 1, G, T, H]``, k ``[R, 1, H, S]``, v ``[R, 1, S, H + 1]``, visible
    ``[R, 1, T, S]``; T and S are multiples, of which ``length`` and ``slots`` count.
    """
    cut, put = jax.lax.dynamic_slice_in_dim, jax.lax.dynamic_update_slice_in_dim
    blocks = exact.turns(slots, KEYS, k)

    def of_queries(at, held):
        some = cut(q, at * QUERIES, QUERIES, 3)
        seen = cut(visible, at * QUERIES, QUERIES, 2)[:, 0]

        def of_keys(at, scores):
            these = cut(k, at * KEYS, KEYS, 3), cut(seen, at * KEYS, KEYS, 2)
            return put(scores, _scores(c, some, [these[0]], these[1]), at * KEYS, 4)

        scores = jnp.full((*some.shape[:-1], k.shape[3]), HIDDEN, jnp.float32)
        scores = jax.lax.fori_loop(0, blocks, of_keys, scores)
        largest = jnp.max(scores, axis=-1, keepdims=True)

        def of_values(at, total):
            weights = jnp.exp(cut(scores, at * KEYS, KEYS, 4) - largest).astype(q.dtype)
            return total + jnp.einsum(
                "bkgts,bksh->bkgth",
                weights,
                cut(v, at * KEYS, KEYS, 2),
                preferred_element_type=jnp.float32,
            )

        total = jnp.zeros((*some.shape[:-1], v.shape[-1]), jnp.float32)
        total = jax.lax.fori_loop(0, blocks, of_values, total)
        found = (total[..., :-1] / total[..., -1:]).astype(q.dtype)
        return put(held, found, at * QUERIES, 3)

    runs = exact.turns(length, QUERIES, q)
    return jax.lax.fori_loop(0, runs, of_queries, jnp.zeros_like(q))


def _exactly_forward(c, q, kv, visible_BTS):
    return _exactly(c, q, kv, visible_BTS), (q, kv, visible_BTS)


def _exactly_backward(c, residuals, cotangent):
    q, kv, visible_BTS = residuals
    fast = lambda q, kv: _itself(c, q, kv, visible_BTS)
    return *jax.vjp(fast, q, kv)[1](cotangent), None


_exactly.defvjp(_exactly_forward, _exactly_backward)
