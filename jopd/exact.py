"""The same bits for a row, whatever other rows are computed with it.

What a sum comes to in floating point hangs on the order of its additions, and compilers
choose it by the shape of all rows: on a CPU, XLA adds up a float32 product of 2 to 32
rows in another order than one of 64, a mean over 8 rows in another than over 32. So a
sampler that reads one token of 8 rows and a trainer that reads whole sequences differ.

Here rows go through one loop in tiles of ``TILE``, as many as there are: the body of
the loop has one shape, so it is one program. That the compiler makes the same of it in
every place is tested on CPUs; elsewhere it is not measured.
"""

import functools

import jax
import jax.numpy as jnp

TILE = 16


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def in_tiles(function, rows, shared=()):
    """``function(rows, shared)``, which knows no row of the others, tile by tile.

    Args:
      function: leaves ``[M, ...]``, and ``shared``, to leaves ``[M, ...]``, for any M.
      rows: leaves ``[N, ...]``.
      shared: handed on whole.

    Returns:
      Leaves ``[N, ...]``. Differentiable; the gradient is that of ``function`` on all
      rows at once, which sums in whatever order is fast.
    """
    count = len(jax.tree.leaves(rows)[0])
    rows = jax.tree.map(lambda x: roomy(x, 0, TILE), rows)
    cut, put = jax.lax.dynamic_slice_in_dim, jax.lax.dynamic_update_slice_in_dim

    def step(at, held):
        found = function(jax.tree.map(lambda x: cut(x, at * TILE, TILE), rows), shared)
        return jax.tree.map(lambda x, new: put(x, new, at * TILE, 0), held, found)

    shape = lambda x, rows: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)
    found = jax.eval_shape(
        function, jax.tree.map(lambda x: shape(x, TILE), rows), shared
    )
    places = len(jax.tree.leaves(rows)[0])
    held = jax.tree.map(lambda x: jnp.zeros((places, *x.shape[1:]), x.dtype), found)
    held = jax.lax.fori_loop(0, turns(count, TILE, rows), step, held)
    return jax.tree.map(lambda x: x[:count], held)


def _forward(function, rows, shared):
    return in_tiles(function, rows, shared), (rows, shared)


def _backward(function, residuals, cotangents):
    return jax.vjp(function, *residuals)[1](cotangents)


in_tiles.defvjp(_forward, _backward)


def roomy(x: jax.Array, axis: int, step: int) -> jax.Array:
    """``x`` filled up with zeros to a multiple of ``step``, at least two of it: a slice
    that is all of an array would be none, and what reads it another program."""
    places = max(-(-x.shape[axis] // step), 2) * step
    widths = [(0, places - n if i == axis else 0) for i, n in enumerate(x.shape)]
    return jnp.pad(x, widths)


def turns(count: int, step: int, arrays) -> jax.Array:
    """How many steps there are, in a form that a compiler does not see through.

    It would unroll a loop that it knows to end after one turn. ``arrays``: any, the
    first of floats. (``optimization_barrier`` is gone before that is looked for.)
    """
    needed = jnp.int32(-(-count // step))
    some = jax.tree.leaves(arrays)[0].ravel()[0]
    never = jnp.isnan(some).astype(jnp.int32)  # and where it is, the minimum stays
    return jnp.minimum(needed + never, needed)
