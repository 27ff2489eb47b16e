"""PTD-PO, privileged tutoring (arXiv:2606.07000): who is taught by a hinted teacher."""

import jax
import jax.numpy as jnp

from jopd.losses import groups
from jopd.types import Scores


def failed(scores: Scores, *, below: float = 1.0, success: float = 0.5) -> jax.Array:
    """f32[B, T]: 1 on failed rows of groups whose mean reward is under ``below``.

    A row has failed with a reward under ``success``; both bounds are strict. The mean
    is over the rows of the batch that answer the same prompt and hold student tokens;
    rows without any are in no group and have 0. ``below=1`` tutors every failed row
    where rewards are 0 and 1 (the paper's), 0 none. The paper speaks of wrong rows; the
    bound of 0.5 is inferred.
    """
    group = groups.of(scores)
    mean_B = group.total(scores.reward) / jnp.maximum(group.count_B, 1)
    failed_B = group.present_B & (scores.reward < success) & (mean_B < below)
    return jnp.broadcast_to(failed_B[:, None], scores.mask.shape).astype(jnp.float32)
