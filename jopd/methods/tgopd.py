"""TGOPD (arXiv:2609.02998): teachers are believed where they answer the prompt."""

import jax
import jax.numpy as jnp

from jopd.types import Scores


def trusted(
    scores: Scores, *, at_least: float = 2 / 3, inverse: bool = False
) -> jax.Array:
    """1 on rows whose prompt the teacher answers at least that often, else 0.

    The mean reward of its own responses is left by ``teachers.probes``; 2 of 3 is
    from a reader's notes. ``inverse`` is the complement, for what takes its place.
    Raises ValueError where nobody asked the teacher.
    """
    if "teacher_pass" not in scores.extra:
        raise ValueError(
            "scores.extra has no 'teacher_pass': the teacher was asked nothing; set "
            "probes.samples above 0"
        )
    # Means of a few rewards are rounded: two of three is two thirds.
    passes = scores.extra["teacher_pass"] >= at_least - 1e-6
    return (passes != inverse).astype(jnp.float32)
