"""Per-token work in chunks: every ``[B, T, ...]`` array is walked token by token.

What is as wide as the vocabulary exists for one chunk at a time. ``shards`` is the
number of devices that rows are split over; each walks its own rows.
"""

import functools

import jax
import jax.numpy as jnp


def in_chunks(function, arrays, *, chunk_tokens: int, shards: int = 1):
    """Maps ``function`` over chunks of the tokens of ``arrays``, ``[B, T, ...]`` each.

    ``function(chunk)`` sees leaves ``[chunk_tokens, ...]`` and returns a pytree with
    the same leading axis; the result has leaves ``[B, T, ...]``. ``shards`` is the
    number of devices that rows are split over: each walks its own rows.
    """
    rows, width = jax.tree.leaves(arrays)[0].shape[:2]
    chunks = split_tokens(arrays, chunk_tokens=chunk_tokens, shards=shards)
    mapped = jax.lax.map(jax.vmap(function), chunks)
    return join_tokens(mapped, rows=rows, width=width)


def split_tokens(arrays, *, chunk_tokens: int, shards: int):
    """Leaves ``[B, T, ...]`` to ``[chunks, shards, tokens, ...]``, zero-padded."""

    def split(array):
        flat = array.reshape(shards, -1, *array.shape[2:])
        per_shard = flat.shape[1]
        size = min(chunk_tokens, per_shard)
        padding = [(0, 0), (0, -per_shard % size)] + [(0, 0)] * (flat.ndim - 2)
        blocks = jnp.pad(flat, padding).reshape(shards, -1, size, *array.shape[2:])
        return jnp.swapaxes(blocks, 0, 1)

    return jax.tree.map(split, arrays)


def join_tokens(chunks, *, rows: int, width: int):
    """Inverse of ``split_tokens``."""

    def join(array):
        shards = array.shape[1]
        flat = jnp.swapaxes(array, 0, 1).reshape(shards, -1, *array.shape[3:])
        return flat[:, : rows * width // shards].reshape(rows, width, *array.shape[3:])

    return jax.tree.map(join, chunks)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sum_over_chunks(chunk_loss, hidden, head, rows, heads, coefs):
    """Sum of a loss over chunks, and its parts; leaves ``[chunks, shards, C, ...]``.

    ``chunk_loss(hidden, head, rows, heads, coefs) -> (loss, parts)`` of one chunk of
    one shard. Differentiable once, in ``hidden`` and ``head``: the gradient of a chunk
    is made with its value, in the forward pass.
    """

    def one(chunk):
        return jax.vmap(lambda h, r: chunk_loss(h, head, r, heads, coefs))(*chunk)

    losses, parts = jax.lax.map(one, (hidden, rows))
    return jnp.sum(losses), parts


def _sum_forward(chunk_loss, hidden, head, rows, heads, coefs):
    grad = jax.value_and_grad(chunk_loss, argnums=(0, 1), has_aux=True)

    def step(d_head, chunk):
        value, grads = jax.vmap(lambda h, r: grad(h, head, r, heads, coefs))(*chunk)
        return d_head + grads[1].astype(jnp.float32), (value, grads[0])

    # One float32 accumulator per shard, summed once at the end: no collective in the
    # loop.
    zeros = jnp.zeros((hidden.shape[1], *head.shape), jnp.float32)
    d_head, ((losses, parts), d_hidden) = jax.lax.scan(step, zeros, (hidden, rows))
    d_head = jnp.sum(d_head, axis=0).astype(head.dtype)
    return (jnp.sum(losses), parts), (d_hidden, d_head)


def _sum_backward(chunk_loss, residuals, cotangents):
    # The parts are reported, not trained on: only the loss carries a cotangent.
    d_loss = cotangents[0]
    d_hidden, d_head = residuals
    scale = lambda array: (array * d_loss).astype(array.dtype)
    return scale(d_hidden), scale(d_head), None, None, None


sum_over_chunks.defvjp(_sum_forward, _sum_backward)
