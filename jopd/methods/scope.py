"""SCOPE (arXiv:2604.10688): right rollouts teach themselves, wrong ones the teacher.

Per prompt, with right and wrong rollouts C and W, l a row's mean log-probability:

    sum_C w NLL + sum_W w OPD, both sums over the tokens of a row
    w in C: softmax_C(-l_student / tau),  w in W: softmax_W(l_teacher / tau)
"""

import jax
import jax.numpy as jnp

from jopd.losses import groups
from jopd.types import Scores

ROWS, SCALES = ("correct", "wrong"), ("mean_of_groups", "mean_one")


def by_likelihood(
    scores: Scores,
    *,
    of: str,
    rows: str,
    sign: float,
    temperature: float = 1.0,
    success: float = 0.5,
    scale: str = "mean_of_groups",
) -> jax.Array:
    """Softmax of sign l / temperature over the ``rows`` of a prompt, 0 on the others.

    l is the mean log of(y) over a row's student tokens, ``rows`` "correct" those with a
    reward of at least ``success``, "wrong" those below. sign -1: unlikely rows are
    heavier (equation 4, of the student), +1: likely ones (equation 5, of the teacher).

    ``scale`` "mean_of_groups" multiplies the weights, whose sum is 1 per prompt, by
    rows / prompts of the batch, so that the normaliser "rows" is the mean over prompts.
    "mean_one" is the released code's: their mean is 1 per prompt. temperature = inf is
    uniform. Raises ValueError for other ``rows`` or ``scale``.
    """
    for key, value, known in (("rows", rows, ROWS), ("scale", scale, SCALES)):
        if value not in known:
            raise ValueError(f"{key}={value!r} is unknown; use one of {known}")
    group = groups.of(scores)
    mean_B = groups.row_mean(scores.logp[of], groups.student_tokens(scores))
    chosen_B = group.present_B & ((scores.reward >= success) == (rows == "correct"))
    level_B = jnp.where(chosen_B, sign * mean_B / temperature, -jnp.inf)
    highest_B = jnp.max(jnp.where(group.same_BB, level_B, -jnp.inf), axis=1)
    size_B = jnp.where(chosen_B, jnp.exp(level_B - highest_B), 0.0)
    size_B = size_B / jnp.where(chosen_B, group.total(size_B), 1.0)
    if scale == "mean_one":
        size_B = size_B * group.total(chosen_B)
    else:
        prompts = jnp.sum(group.present_B / jnp.maximum(group.count_B, 1))
        size_B = size_B * jnp.sum(group.present_B) / jnp.maximum(prompts, 1)
    return jnp.broadcast_to(size_B[:, None], scores.mask.shape)
