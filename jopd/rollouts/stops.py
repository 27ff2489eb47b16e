"""When a rollout is not worth going on with: rules over its latest tokens.

A rule sees the same number of latest tokens of every row, once a row has that many, and
says which rows end here. They count as truncated. No source gives values, which depend
on the models: look at ``log_ratio/*`` and ``length/repetition_rate`` of a run first.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Seen(NamedTuple):
    """The latest W tokens of every row, oldest first.

    Attributes:
      tokens_BW: i32.
      student_logp_BW: f32, as recorded when they were drawn.
      teacher_logp_BW: f32, under the teacher that reads along at the temperature of
        sampling; None where none does.
    """

    tokens_BW: jax.Array
    student_logp_BW: jax.Array
    teacher_logp_BW: jax.Array | None


def divergence(seen: Seen, *, limit: float) -> jax.Array:
    """Rows whose mean of log student - log teacher is above ``limit`` nats per token.

    The mean is the sampled-token estimate of reverse KL over the window. A loop that
    the teacher would go on with stays below: see ``repetition``.

    Raises:
      ValueError: no teacher reads along.
    """
    if seen.teacher_logp_BW is None:
        raise ValueError("divergence compares with a teacher, and none reads along")
    gap_BW = seen.student_logp_BW - seen.teacher_logp_BW
    return jnp.mean(gap_BW, axis=1) > limit


def repetition(seen: Seen, *, limit: float, ngram: int = 8) -> jax.Array:
    """Rows where more than ``limit`` of the n-grams occurred earlier in the window.

    Needs no teacher. A loop of period p has a share of 1 - p / (W - ngram + 1).

    Raises:
      ValueError: the window holds fewer than two n-grams.
    """
    window = seen.tokens_BW.shape[1]
    grams = window - ngram + 1
    if ngram < 1 or grams < 2:
        raise ValueError(f"a window of {window} tokens has no two {ngram}-grams")
    equal_BWW = seen.tokens_BW[:, :, None] == seen.tokens_BW[:, None]
    same_BGG = jnp.ones((len(equal_BWW), grams, grams), bool)
    for n in range(ngram):
        same_BGG &= equal_BWW[:, n : n + grams, n : n + grams]
    earlier_GG = jnp.tri(grams, k=-1, dtype=bool)
    repeated_BG = jnp.any(same_BGG & earlier_GG, axis=2)
    return jnp.mean(repeated_BG, axis=1) > limit
