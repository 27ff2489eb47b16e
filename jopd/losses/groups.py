"""Who wrote which tokens of a batch, and its rows that answer the same prompt."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopd.types import SOURCES, Scores


class Groups(NamedTuple):
    """What a row's group is; rows without a student token are in none.

    Attributes:
      present_B: bool[B], the row has a student token in its mask.
      same_BB: bool[B, B], column j is a present row that answers the prompt of row i.
      count_B: i32[B], rows of the group that are in the batch.
      high_B, low_B: f32[B], largest and smallest reward of the group.
    """

    present_B: jax.Array
    same_BB: jax.Array
    count_B: jax.Array
    high_B: jax.Array
    low_B: jax.Array

    @property
    def uniform_B(self) -> jax.Array:
        """bool[B]: present, and the whole group has one reward."""
        return self.present_B & (self.high_B == self.low_B)

    def total(self, values: jax.Array) -> jax.Array:
        """f32[B]: sum over the rows of a row's group of f32[B], or of its f32[B, B]."""
        return jnp.sum(jnp.where(self.same_BB, values, 0.0), axis=1)


def of(scores: Scores) -> Groups:
    """Groups of a batch: rows of equal ``scores.group`` that hold student tokens."""
    present_B = jnp.any(student_tokens(scores), axis=1)
    same_BB = (scores.group[:, None] == scores.group) & present_B
    among = lambda empty: jnp.where(same_BB, scores.reward, empty)
    return Groups(
        present_B=present_B,
        same_BB=same_BB,
        count_B=jnp.sum(same_BB, axis=1),
        high_B=jnp.max(among(-jnp.inf), axis=1),
        low_B=jnp.min(among(jnp.inf), axis=1),
    )


def written_by(scores: Scores, source: str) -> jax.Array:
    """bool[B, T]: response tokens of ``source``, a key of ``SOURCES`` or "any"."""
    if source == "any":
        return scores.mask
    return scores.mask & (scores.source == SOURCES[source])


def student_tokens(scores: Scores) -> jax.Array:
    """bool[B, T]: response tokens that the student wrote."""
    return written_by(scores, "student")


def row_mean(values_BT: jax.Array, inside_BT: jax.Array) -> jax.Array:
    """f32[B]: mean of each row where ``inside_BT``; 0 for a row without such tokens."""
    total_B = jnp.sum(jnp.where(inside_BT, values_BT, 0.0), axis=1)
    return total_B / jnp.maximum(jnp.sum(inside_BT, axis=1), 1)
