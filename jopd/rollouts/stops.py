"""When a rollout is not worth going on with: rules over its latest tokens.

A rule sees the same number of latest tokens of every row and says which rows end here,
``bool[B]``, or ``(bool[B], i32[B])`` with how many tokens at the end of each of these
leave it. They count as truncated. A rule that does not read ``count_B`` is asked about
rows that have so many tokens only. No source gives values for those here, which depend
on the models: look at ``log_ratio/*`` and ``length/repetition_rate`` of a run first.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Seen(NamedTuple):
    """The latest W tokens of every row but the newest one, oldest first.

    Of the two that need a whole distribution, or a row that has fewer tokens, what a
    rule reads is found by tracing it, and made only then.

    Attributes:
      tokens_BW: i32.
      student_logp_BW: f32, as recorded when they were drawn.
      teacher_logp_BW: f32, under the teacher that reads along at the temperature of
        sampling; None where none does.
      reverse_kl_BW: f32, KL(student || that teacher) where each was drawn, nats, at
        that temperature.
      count_B: i32, tokens that a row has drawn before the newest; the last so many
        columns are its own, all of them where there are more.
      memory: what weights remember, by name (see ``losses.memories``), as the last
        update left it.
    """

    tokens_BW: jax.Array
    student_logp_BW: jax.Array
    teacher_logp_BW: jax.Array | None = None
    reverse_kl_BW: jax.Array | None = None
    count_B: jax.Array | None = None
    memory: Mapping[str, Any] = {}  # never changed in place


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
