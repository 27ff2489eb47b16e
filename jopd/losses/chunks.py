"""Per-token work in chunks: the tokens of ``[B, T, ...]`` arrays that are asked for.

What is as wide as the vocabulary exists for one chunk at a time. Tokens outside of the
mask are passed over: they are ordered behind the others and the walk ends before them,
so prompts and padding cost nothing. ``shards`` is the number of devices that rows are
split over; each walks its own rows. A chunk may be cut further, into strips, for what
is elementwise in the vocabulary.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp


class _Walk(NamedTuple):
    """In which order the tokens of each shard are visited; S shards of N tokens.

    Attributes:
      order_SN: i32, the token at each place; those inside the mask come first.
      place_SN: i32, the place of each token, the inverse of it.
      chunks: i32 scalar, how many hold a token inside the mask on some shard.
    """

    order_SN: jax.Array
    place_SN: jax.Array
    chunks: jax.Array


def in_chunks(function, arrays, mask_BT, *, chunk_tokens: int, shards: int = 1):
    """Maps ``function`` over the tokens of ``mask_BT``.

    ``arrays`` have leaves ``[B, T, ...]``. ``function(chunk)`` sees leaves
    ``[C, ...]`` of at most ``chunk_tokens`` tokens, filled up with tokens that are
    outside of the mask or all zeros, and returns a pytree with the same leading axis;
    the result has leaves ``[B, T, ...]``, 0 for tokens that were not visited.
    """
    flat, walk, size = _start(arrays, mask_BT, chunk_tokens, shards)

    def of_shard(rows, order_N, place_N):
        def step(at, held):
            return _put(held, function(_take(rows, order_N, at, size)), at, size)

        held = _room(jax.eval_shape(function, _like(rows, size)), len(order_N), size)
        return _back(jax.lax.fori_loop(0, walk.chunks, step, held), place_N)

    found = _each_shard(of_shard, shards)(flat, walk.order_SN, walk.place_SN)
    return _unflat(found, mask_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def sum_over_chunks(
    chunk_loss, chunk_tokens, shards, hidden, head, rows, mask_BT, heads, coefs
):
    """Sum of a loss over the tokens of a mask, and its per-token parts.

    ``chunk_loss(hidden, head, rows, heads, coefs) -> (loss, parts)`` of one chunk; it
    must give 0 for tokens outside of the mask. Differentiable once, in ``hidden`` and
    ``head``: the gradient of a chunk is made with its value, in the forward pass.

    Args:
      hidden: [B, T, D].
      rows: leaves [B, T, ...], handed on chunk by chunk.
    """

    def of_chunk(chunk, head):
        loss, parts = chunk_loss(chunk[0], head, chunk[1], heads, coefs)
        return loss, parts, ()

    loss, parts, _ = _total(
        of_chunk, (hidden, rows), head, mask_BT, chunk_tokens, shards
    )
    return loss, parts


def _sum_forward(
    chunk_loss, chunk_tokens, shards, hidden, head, rows, mask_BT, heads, coefs
):
    grad = jax.value_and_grad(chunk_loss, argnums=(0, 1), has_aux=True)

    def of_chunk(chunk, head):
        (loss, parts), grads = grad(chunk[0], head, chunk[1], heads, coefs)
        return loss, (parts, grads[0]), (grads[1].astype(jnp.float32),)

    loss, (parts, d_hidden), (d_head,) = _total(
        of_chunk, (hidden, rows), head, mask_BT, chunk_tokens, shards
    )
    return (loss, parts), (d_hidden, d_head.astype(head.dtype))


def _sum_backward(chunk_loss, chunk_tokens, shards, residuals, cotangents):
    # The parts are reported, not trained on: only the loss carries a cotangent.
    d_loss = cotangents[0]
    d_hidden, d_head = residuals
    scale = lambda array: (array * d_loss).astype(array.dtype)
    return scale(d_hidden), scale(d_head), None, None, None, None


sum_over_chunks.defvjp(_sum_forward, _sum_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sum_over_strips(strip_loss, strip_tokens: int, logits, rest, shared):
    """Sum of a loss over the tokens of one chunk, whose gradient is made in strips.

    A product with a head wants many tokens at once. What follows reads arrays as wide
    as the vocabulary several times, and those of a few tokens stay in a processor's
    cache. Differentiable once, in ``logits``: the gradient of a strip is made with its
    value, in the forward pass, and takes the place of the logits it was made from.

    Args:
      strip_loss: ``(logits, rest, shared) -> (loss, parts)`` of any number of tokens.
      strip_tokens: tokens of a strip at most, see ``strip_of``.
      logits: f32[C, V].
      rest: leaves [C, ...], handed on strip by strip.
      shared: handed on whole.
    """
    return strip_loss(logits, rest, shared)


def _strips_forward(strip_loss, strip_tokens: int, logits, rest, shared):
    grad = jax.value_and_grad(strip_loss, has_aux=True)
    size = strip_of(len(logits), strip_tokens)
    if size == len(logits):
        return grad(logits, rest, shared)

    # The next strip is read where this one's gradient has been written: with a read of
    # the array as it was, XLA would copy all of it before every write.
    def step(at, carry):
        loss, held, rows, strip = carry
        (value, parts), d_strip = grad(strip, _cut(rest, at, size), shared)
        rows = _put(rows, d_strip, at, size)
        return loss + value, _put(held, parts, at, size), rows, _cut(rows, at + 1, size)

    loss, parts = _zeros(jax.eval_shape(strip_loss, logits, rest, shared))
    carry = loss, parts, logits, _cut(logits, 0, size)
    loss, parts, d_logits, _ = jax.lax.fori_loop(0, len(logits) // size, step, carry)
    return (loss, parts), d_logits


def _strips_backward(strip_loss, strip_tokens, d_logits, cotangents):
    return d_logits * cotangents[0], None, None


sum_over_strips.defvjp(_strips_forward, _strips_backward)


def in_strips(function, strip_tokens: int, chunk):
    """``function(chunk)`` for leaves ``[C, ...]``, made in strips; no gradient.

    What it returns has the same leading axis. See ``sum_over_strips``.
    """
    tokens = len(jax.tree.leaves(chunk)[0])
    size = strip_of(tokens, strip_tokens)
    if size == tokens:
        return function(chunk)

    def step(at, held):
        return _put(held, function(_cut(chunk, at, size)), at, size)

    found = _zeros(jax.eval_shape(function, chunk))
    return jax.lax.fori_loop(0, tokens // size, step, found)


def strip_of(chunk_tokens: int, strip_tokens: int) -> int:
    """Tokens of a strip: the most up to ``strip_tokens`` that divide the chunk; 0: all.

    A chunk of 100 tokens is cut into fives by 8.
    """
    most = min(strip_tokens or chunk_tokens, chunk_tokens)
    return next(size for size in range(most, 0, -1) if chunk_tokens % size == 0)


def _total(of_chunk, arrays, head, mask_BT, chunk_tokens: int, shards: int):
    """Walks ``of_chunk(chunk, head) -> (loss, per token, sums)`` over all chunks.

    Losses and sums are added up, numbers per token come back as ``[B, T, ...]``.
    """
    flat, walk, size = _start(arrays, mask_BT, chunk_tokens, shards)

    def of_shard(rows, order_N, place_N):
        def step(at, carry):
            loss, held, sums = carry
            value, per_token, added = of_chunk(_take(rows, order_N, at, size), head)
            sums = jax.tree.map(jnp.add, sums, added)
            return loss + value, _put(held, per_token, at, size), sums

        loss, per_token, sums = jax.eval_shape(of_chunk, _like(rows, size), head)
        carry = (
            jnp.zeros(loss.shape, loss.dtype),
            _room(per_token, len(order_N), size),
            _zeros(sums),
        )
        loss, held, sums = jax.lax.fori_loop(0, walk.chunks, step, carry)
        return loss, _back(held, place_N), sums

    loss, per_token, sums = _each_shard(of_shard, shards)(
        flat, walk.order_SN, walk.place_SN
    )
    # One sum per shard, added once at the end: no collective in the loop.
    loss, sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), (loss, sums))
    return loss, _unflat(per_token, mask_BT), sums


def _start(arrays, mask_BT, chunk_tokens: int, shards: int):
    """(leaves [S, N, ...], how to walk them, tokens in a chunk)."""
    flat = jax.tree.map(lambda x: x.reshape(shards, -1, *x.shape[2:]), arrays)
    mask_SN = mask_BT.reshape(shards, -1)
    size = min(chunk_tokens, mask_SN.shape[1])
    inside_S = jnp.sum(mask_SN, axis=1)
    walk = _Walk(
        order_SN=jnp.argsort(~mask_SN, axis=1, stable=True),
        place_SN=jnp.where(
            mask_SN,
            jnp.cumsum(mask_SN, axis=1) - 1,
            inside_S[:, None] + jnp.cumsum(~mask_SN, axis=1) - 1,
        ),
        chunks=-(-jnp.max(inside_S) // size),
    )
    return flat, walk, size


def _each_shard(function, shards: int):
    if shards > 1:
        return jax.vmap(function)

    def alone(*arguments):
        # Not as a batch of one: XLA's CPU backend then takes two thirds longer for the
        # products with the head.
        found = function(*jax.tree.map(lambda x: x[0], arguments))
        return jax.tree.map(lambda x: x[None], found)

    return alone


def _take(rows, order_N, at, size: int):
    """Chunk number ``at``; places past the last token are zeros."""
    place_C = at * size + jnp.arange(size)
    token_C = order_N.at[place_C].get(mode="fill", fill_value=len(order_N))
    return jax.tree.map(lambda x: x.at[token_C].get(mode="fill", fill_value=0), rows)


def _cut(arrays, at, size: int):
    """Rows ``at * size`` and following, of every leaf."""
    cut = functools.partial(
        jax.lax.dynamic_slice_in_dim, start_index=at * size, slice_size=size, axis=0
    )
    return jax.tree.map(cut, arrays)


def _zeros(shapes):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _like(rows, size: int):
    """The shapes of a chunk."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), rows
    )


def _room(per_token, tokens: int, size: int):
    """Zeros for the results of all chunks, by place."""
    places = tokens + -tokens % size
    return jax.tree.map(lambda x: jnp.zeros((places, *x.shape[1:]), x.dtype), per_token)


def _put(held, chunk, at, size: int):
    put = functools.partial(
        jax.lax.dynamic_update_slice_in_dim, start_index=at * size, axis=0
    )
    return jax.tree.map(put, held, chunk)


def _back(held, place_N):
    """From places to tokens."""
    return jax.tree.map(lambda x: x[place_N], held)


def _unflat(found, mask_BT):
    return jax.tree.map(lambda x: x.reshape(*mask_BT.shape, *x.shape[2:]), found)
