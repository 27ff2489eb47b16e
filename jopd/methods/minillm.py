"""MiniLLM (arXiv:2306.08543): policy gradient of the reverse KL of whole sequences."""

import jax
import jax.numpy as jnp

from jopd.losses import groups, weights
from jopd.types import Scores


def reward_to_go(
    scores: Scores,
    *,
    discount: float = 1.0,
    own: bool = True,
    whiten: bool = True,
    bound: float = float("inf"),
    eps: float = 1e-8,
    other: str = "teacher",
) -> jax.Array:
    """What a token and those after it will earn, per remaining token, whitened.

        r_t = log other(y_t) - log student(y_t)
        R_t = sum_{t' >= t} g^(t'-t) r_t' / sum_{t' >= t} g^(t'-t)
        A_t = (R_t - mean R) / sqrt(var R + eps)

    over the student tokens of the row; mean and variance are those of the batch.

    Args:
      discount: g. At 1 R is the mean of what remains, at 0 it is r_t alone.
      own: False starts the sum at t + 1: the token's own reward is then left to a
        single-step term. The last token gets R = 0.
      whiten: False returns R.
      bound: cuts r on both sides, in nats. The authors' code divides r by 0.5 and cuts
        at 100; the division goes away in whitening.

    That the denominator is discounted like the sum is inferred; at the paper's g = 1 it
    is the number of remaining tokens.
    """
    inside_BT = groups.student_tokens(scores)
    reward_BT = weights.log_ratio(scores, other=other, bound=bound)
    reward_BT = jnp.where(inside_BT, reward_BT, 0.0)
    count_BT = inside_BT.astype(reward_BT.dtype)
    total_BT, remaining_BT = (_to_go(x, discount) for x in (reward_BT, count_BT))
    if not own:
        total_BT, remaining_BT = total_BT - reward_BT, remaining_BT - count_BT
    to_go_BT = total_BT / jnp.where(remaining_BT > 0, remaining_BT, 1.0)
    return _whiten(to_go_BT, inside_BT, eps) if whiten else to_go_BT


def _to_go(values_BT: jax.Array, discount: float) -> jax.Array:
    """sum_{t' >= t} discount^(t' - t) values_t'."""

    def step(later_B, value_B):
        total_B = value_B + discount * later_B
        return total_B, total_B

    start_B = jnp.zeros_like(values_BT[:, 0])
    return jax.lax.scan(step, start_B, values_BT.T, reverse=True)[1].T


def _whiten(values_BT: jax.Array, inside_BT: jax.Array, eps: float) -> jax.Array:
    count = jnp.maximum(jnp.sum(inside_BT), 1)
    mean = jnp.sum(jnp.where(inside_BT, values_BT, 0.0)) / count
    centred_BT = jnp.where(inside_BT, values_BT - mean, 0.0)
    variance = jnp.sum(jnp.square(centred_BT)) / count
    return centred_BT / jnp.sqrt(variance + eps)
