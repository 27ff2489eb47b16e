"""Rows of a batch that answer the same prompt, as arrays."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopd.types import STUDENT, Scores


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


def of(scores: Scores) -> Groups:
    """Groups of a batch: rows of equal ``scores.group`` that hold student tokens."""
    present_B = jnp.any(scores.mask & (scores.source == STUDENT), axis=1)
    same_BB = (scores.group[:, None] == scores.group) & present_B
    among = lambda empty: jnp.where(same_BB, scores.reward, empty)
    return Groups(
        present_B=present_B,
        same_BB=same_BB,
        count_B=jnp.sum(same_BB, axis=1),
        high_B=jnp.max(among(-jnp.inf), axis=1),
        low_B=jnp.min(among(jnp.inf), axis=1),
    )
