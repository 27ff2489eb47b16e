"""More numbers of a term for the log: ``Scores -> name -> f32``, see ``Term.report``.

A report that reads what the term's weights or advantage read costs a few sums. One that
reads more (a log-probability that no weight asks for) makes the preparing stage compute
it, which may be a forward pass of the student.
"""

import jax
import jax.numpy as jnp

from jopd.losses import groups, weights
from jopd.types import Scores


def information_gain(
    scores: Scores, *, correct: float = 0.5, other: str = "teacher"
) -> dict[str, jax.Array]:
    """What a teacher that knows more says of the student's tokens, by verdict.

        D_t = log other(y_t) - log student(y_t),  PMI = sum_t D_t over a response

    over student tokens, in nats: mean and standard deviation of D (``gain_mean``,
    ``gain_std``), its means where the advantage of ``weights.group_reward`` is positive
    or negative and in responses with a reward of at least ``correct`` or below; the
    mean PMI of either kind of response, and the share of groups whose rewards are all
    equal (``uniform_groups``; a group of one row is). NaN where there is no such token,
    response or group.

    If the other model is the student shown r, D telescopes to the pointwise mutual
    information of response and r (RLSD, arXiv:2604.03128, theorem 4; that sum is our
    reading of it): larger on correct responses if r tells right from wrong.
    """
    inside_BT = groups.student_tokens(scores)
    gain_BT = jnp.where(inside_BT, weights.log_ratio(scores, other=other), 0.0)
    sign_BT = jnp.sign(weights.group_reward(scores, std=False))
    right_B = scores.reward >= correct
    group = groups.of(scores)
    mean = _mean(gain_BT, inside_BT)
    share_B = 1.0 / jnp.maximum(group.count_B, 1)
    found = {
        "gain_mean": mean,
        "gain_std": jnp.sqrt(_mean(jnp.square(gain_BT - mean), inside_BT)),
        "gain_positive": _mean(gain_BT, inside_BT & (sign_BT > 0)),
        "gain_negative": _mean(gain_BT, inside_BT & (sign_BT < 0)),
        "uniform_groups": jnp.sum(jnp.where(group.uniform_B, share_B, 0.0))
        / jnp.sum(jnp.where(group.present_B, share_B, 0.0)),
    }
    for name, kind_B in (("correct", right_B), ("wrong", ~right_B)):
        found[f"gain_{name}"] = _mean(gain_BT, inside_BT & kind_B[:, None])
        found[f"pmi_{name}"] = _mean(jnp.sum(gain_BT, axis=1), group.present_B & kind_B)
    return found


def fact(scores: Scores, *, fact: str) -> dict[str, jax.Array]:
    """Mean and largest value of a named fact over student tokens (``<fact>_mean``).

    For facts that are to be looked at, whether or not a weight reads them. NaN and -inf
    where the student wrote nothing.
    """
    inside_BT = groups.student_tokens(scores)
    value_BT = jnp.where(inside_BT, scores.facts[fact], -jnp.inf)
    return {
        f"{fact}_mean": _mean(value_BT, inside_BT),
        f"{fact}_max": jnp.max(value_BT),
    }


def _mean(values: jax.Array, inside: jax.Array) -> jax.Array:
    """Mean where ``inside``; NaN, which the log writes as null, where nothing is."""
    return jnp.sum(jnp.where(inside, values, 0.0)) / jnp.sum(inside)
