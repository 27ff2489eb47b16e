"""Per-token work in chunks: the tokens of ``[B, T, ...]`` arrays that are asked for.

What is as wide as the vocabulary exists for one chunk at a time. Tokens outside of the
mask are passed over: they are ordered behind the others and the walk ends before them,
so prompts and padding cost nothing. ``rows`` says over which devices rows are split, if
they are: each walks its own and sends nothing on its way. A chunk may be cut further,
into strips, for what is elementwise in the vocabulary.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding


class _Walk(NamedTuple):
    """In which order the N tokens of a device are visited.

    Attributes:
      order_N: i32, the token at each place; those inside the mask come first.
      place_N: i32, the place of each token, the inverse of it.
      chunks: i32 scalar, how many hold a token inside the mask, on the fullest device.
    """

    order_N: jax.Array
    place_N: jax.Array
    chunks: jax.Array


def in_chunks(
    function, arrays, mask_BT, *, chunk_tokens: int, rows: NamedSharding | None = None
):
    """Maps ``function`` over the tokens of ``mask_BT``.

    ``arrays`` have leaves ``[B, T, ...]``. ``function(chunk)`` sees leaves
    ``[C, ...]`` of at most ``chunk_tokens`` tokens, filled up with tokens that are
    outside of the mask or all zeros, and returns a pytree with the same leading axis;
    the result has leaves ``[B, T, ...]``, 0 for tokens that were not visited.
    """

    def of_device(arrays, mask_BT):
        flat, walk, size = _start(arrays, mask_BT, chunk_tokens, rows)

        def step(at, held):
            return _put(held, function(_take(flat, walk.order_N, at, size)), at, size)

        held = _room(jax.eval_shape(function, _like(flat, size)), mask_BT.size, size)
        held = jax.lax.fori_loop(0, walk.chunks, step, held)
        return _unflat(_back(held, walk.place_N), mask_BT)

    return _on_each_device(of_device, rows)(arrays, mask_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def sum_over_chunks(
    chunk_loss, chunk_tokens, rows, hidden, head, others, mask_BT, heads, coefs
):
    """Sum of a loss over the tokens of a mask, and its per-token parts.

    ``chunk_loss(hidden, head, others, heads, coefs) -> (loss, parts)`` of one chunk; it
    must give 0 for tokens outside of the mask. Differentiable once, in ``hidden`` and
    ``head``: the gradient of a chunk is made with its value, in the forward pass.

    Args:
      hidden: [B, T, D].
      head: [V, D]; read in the precision of ``hidden``, its gradient is summed in
        float32.
      others: leaves [B, T, ...], handed on chunk by chunk.
    """

    def of_chunk(chunk, head):
        loss, parts = chunk_loss(chunk[0], head, chunk[1], heads, coefs)
        return loss, parts, ()

    read = head.astype(hidden.dtype)
    loss, parts, _ = _total(
        of_chunk, (hidden, others), read, mask_BT, chunk_tokens, rows
    )
    return loss, parts


def _sum_forward(
    chunk_loss, chunk_tokens, rows, hidden, head, others, mask_BT, heads, coefs
):
    grad = jax.value_and_grad(chunk_loss, argnums=(0, 1), has_aux=True)

    def of_chunk(chunk, head):
        (loss, parts), grads = grad(chunk[0], head, chunk[1], heads, coefs)
        return loss, (parts, grads[0]), (grads[1].astype(jnp.float32),)

    # Cast before devices ask each other for their parts of it: half as much is sent.
    read = head.astype(hidden.dtype)
    loss, (parts, d_hidden), (d_head,) = _total(
        of_chunk, (hidden, others), read, mask_BT, chunk_tokens, rows
    )
    return (loss, parts), (d_hidden, d_head.astype(head.dtype))


def _sum_backward(chunk_loss, chunk_tokens, rows, residuals, cotangents):
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


def _total(of_chunk, arrays, head, mask_BT, chunk_tokens: int, split):
    """Walks ``of_chunk(chunk, head) -> (loss, per token, sums)`` over all chunks.

    Losses and sums are added up, numbers per token come back as ``[B, T, ...]``.
    """

    def of_device(arrays, mask_BT):
        flat, walk, size = _start(arrays, mask_BT, chunk_tokens, split)

        def step(at, carry):
            loss, held, sums = carry
            chunk = _take(flat, walk.order_N, at, size)
            value, per_token, added = of_chunk(chunk, head)
            sums = jax.tree.map(jnp.add, sums, added)
            return loss + value, _put(held, per_token, at, size), sums

        loss, per_token, sums = jax.eval_shape(of_chunk, _like(flat, size), head)
        carry = (
            jnp.zeros(loss.shape, loss.dtype),
            _room(per_token, mask_BT.size, size),
            _zeros(sums),
        )
        loss, held, sums = jax.lax.fori_loop(0, walk.chunks, step, carry)
        one = jax.tree.map(lambda x: x[None], (loss, sums))
        return one, _unflat(_back(held, walk.place_N), mask_BT)

    each, per_token = _on_each_device(of_device, split)(arrays, mask_BT)
    # One sum per device, added once at the end: nothing is sent in the loop.
    loss, sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), each)
    return loss, per_token, sums


def _start(arrays, mask_BT, chunk_tokens: int, split):
    """(leaves [N, ...], how to walk them, tokens in a chunk) of one device."""
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arrays)
    mask_N = mask_BT.reshape(-1)
    size = min(chunk_tokens, len(mask_N))
    inside = jnp.sum(mask_N)
    chunks = -(-inside // size)
    walk = _Walk(
        order_N=jnp.argsort(~mask_N, stable=True),
        place_N=jnp.where(
            mask_N, jnp.cumsum(mask_N) - 1, inside + jnp.cumsum(~mask_N) - 1
        ),
        # As many on all: where a head is split over some of them, they walk together.
        chunks=chunks if split is None else jax.lax.pmax(chunks, split.spec[0]),
    )
    return flat, walk, size


def _on_each_device(function, split: NamedSharding | None):
    """``function(arrays, mask_BT)`` of the rows that a device has.

    What it returns is laid out in the same way, along the leading axes. What it closes
    over is whole on every device, or split over axes of the mesh that rows are not.
    """
    if split is None:
        return function
    return jax.shard_map(
        function,
        mesh=split.mesh,
        in_specs=split.spec,
        out_specs=split.spec,
        axis_names=set(split.spec[0]),
        check_vma=False,  # loops begin with zeros, which are the same everywhere
    )


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
    return jax.tree.map(lambda x: x.reshape(*mask_BT.shape, *x.shape[1:]), found)
