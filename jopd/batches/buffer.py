"""Mixed on/off-policy replay as pure functions on a pytree of fixed capacity.

Rows enter with the age they have (0 when just sampled), ``tick`` ages them once per
update, and ``sample`` draws among those not older than a bound. Their recorded
behaviour log-probs travel along, so importance ratios stay exact however old a row is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopd.types import Batch


class Buffer(NamedTuple):
    """A ring of rows.

    Attributes:
      rows: a ``Batch`` whose leading axis is the capacity.
      filled_C: bool[C], slots that hold a row.
      cursor: i32, the slot that is written next.
    """

    rows: Batch
    filled_C: jax.Array
    cursor: jax.Array


def init(capacity: int, like: Batch) -> Buffer:
    """An empty buffer for rows shaped as those of ``like``."""
    if capacity < 1:
        raise ValueError(f"replay capacity={capacity} must be at least 1 row")
    rows = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape[1:]), x.dtype), like)
    return Buffer(rows, jnp.zeros(capacity, bool), jnp.int32(0))


def add(buffer: Buffer, batch: Batch) -> Buffer:
    """Writes the rows of ``batch``, the oldest slots first overwritten.

    Raises:
      ValueError: more rows at once than the buffer holds.
    """
    capacity, count = len(buffer.filled_C), len(batch.reward_B)
    if count > capacity:
        raise ValueError(
            f"cannot add {count} rows to a replay buffer of capacity {capacity}; "
            f"set mix.capacity to at least {count}"
        )
    slots = (buffer.cursor + jnp.arange(count)) % capacity
    rows = jax.tree.map(lambda old, new: old.at[slots].set(new), buffer.rows, batch)
    return Buffer(
        rows, buffer.filled_C.at[slots].set(True), (buffer.cursor + count) % capacity
    )


def tick(buffer: Buffer) -> Buffer:
    """Ages every row by one update."""
    rollout = buffer.rows.rollout
    aged = rollout._replace(age_B=rollout.age_B + 1)
    return buffer._replace(rows=buffer.rows._replace(rollout=aged))


def eligible(buffer: Buffer, max_age: int) -> jax.Array:
    """bool[C]: filled and at most ``max_age`` updates old."""
    return buffer.filled_C & (buffer.rows.rollout.age_B <= max_age)


def sample(buffer: Buffer, key: jax.Array, count: int, *, max_age: int) -> Batch:
    """``count`` eligible rows without replacement, uniformly.

    Where fewer are eligible, the remaining rows come with an all-False mask: shapes
    stay fixed, and a masked row counts nowhere.

    Raises:
      ValueError: more rows than the buffer has slots.
    """
    capacity = len(buffer.filled_C)
    if count > capacity:
        raise ValueError(
            f"cannot draw {count} rows from a replay buffer of capacity {capacity}; "
            f"set mix.capacity to at least {count}"
        )
    allowed_C = eligible(buffer, max_age)
    # Uniform keys give a random order; what may not be drawn sorts last.
    order = jnp.argsort(
        jnp.where(allowed_C, jax.random.uniform(key, allowed_C.shape), 2)
    )
    slots = order[:count]
    batch = jax.tree.map(lambda x: x[slots], buffer.rows)
    return batch._replace(mask_BT=batch.mask_BT & allowed_C[slots][:, None])
