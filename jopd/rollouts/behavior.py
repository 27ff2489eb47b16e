"""Two models that draw one token: what a rollout is drawn from besides the student.

A rule takes the logits of both over one vocabulary and a number that a schedule may
change, and gives those that are drawn from, whose log-probability is what is recorded.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

HALVINGS = 30


class Partner(NamedTuple):
    """Who draws with the student, and how; static.

    Attributes:
      model: the other decoder, over the student's tokens.
      rule: ``(student logits, its logits, budget) -> logits``, f32[B, V] each, the two
        at the sampler's temperature and the student's filtered.
    """

    model: Any
    rule: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Company(NamedTuple):
    """What a ``Partner`` is this time: its parameters, and the budget in force."""

    params: Any
    budget: jax.Array | float


def blend(
    student_BV: jax.Array, teacher_BV: jax.Array, budget: jax.Array | float
) -> jax.Array:
    """The most teacher-like distribution within ``budget`` nats of the student (TRB).

        mu_b = S^(1 - b) T^b / Z_b,   b = the largest in [0, 1] with KL(mu_b || S) <=
        budget;   mu = argmin KL(mu || T) s.t. KL(mu || S) <= budget

    (arXiv:2605.31159; the derivative of that KL in b is b Var_mu[log T - log S], never
    negative, so ``HALVINGS`` halvings find it.) A budget of 0 is the student, one of
    KL(T || S) or more the teacher. Tokens that a filter cuts from the student are never
    drawn.

    f32[B, V], f32[B, V], f32[] -> f32[B, V]: logits of mu.
    """
    # 0 in the place of -inf: what has no mass is put back at the end.
    inside_BV = jnp.isfinite(student_BV)
    log_s, log_t = (
        jax.nn.log_softmax(jnp.where(inside_BV, logits, -jnp.inf))
        for logits in (student_BV, teacher_BV)
    )
    log_s, log_t = (jnp.where(inside_BV, logp, 0.0) for logp in (log_s, log_t))

    def at(b_B: jax.Array) -> jax.Array:
        mixed_BV = log_s + b_B[:, None] * (log_t - log_s)
        return jnp.where(inside_BV, mixed_BV, -jnp.inf)

    def apart_B(b_B: jax.Array) -> jax.Array:
        logp_BV = jax.nn.log_softmax(at(b_B))
        gap_BV = jnp.where(inside_BV, logp_BV - log_s, 0.0)
        return jnp.sum(jnp.exp(logp_BV) * gap_BV, axis=-1)

    def halve(_, bounds):
        low_B, high_B = bounds
        middle_B = (low_B + high_B) / 2
        fits_B = apart_B(middle_B) <= budget
        low_B = jnp.where(fits_B, middle_B, low_B)
        return low_B, jnp.where(fits_B, high_B, middle_B)

    zero_B = jnp.zeros(len(student_BV), jnp.float32)
    low_B, _ = jax.lax.fori_loop(0, HALVINGS, halve, (zero_B, zero_B + 1))
    b_B = jnp.where(apart_B(zero_B + 1) <= budget, 1.0, low_B)
    # Without a budget it is the student's own, in its own bits: a KL rounds below 0.
    b_B = jnp.where(budget > 0, b_B, 0.0)
    return jnp.where(b_B[:, None] > 0, at(b_B), student_BV)


def replace(
    student_BV: jax.Array,
    teacher_BV: jax.Array,
    budget: jax.Array | float,
    *,
    k: int = 25,
    temperature: float = 1.0,
) -> jax.Array:
    """Tokens of the student, or where one is not among the teacher's ``k`` likeliest
    one of the teacher's in its place (SKD, arXiv:2410.11325).

        mu(v) = S(v) [v in K] + S(not K) T_temperature(v),   K = top k of T

    Any ``budget`` above 0 is all of it. A tie with the k-th is among them. Where a
    filter cuts tokens from the student, the teacher may still put one there.

    f32[B, V], f32[B, V], f32[] -> f32[B, V]: log-probabilities. Raises ValueError for
    ``k`` below 1 or a temperature that is not above 0.
    """
    if k < 1 or not temperature > 0:
        raise ValueError(
            f"replace has k={k} and temperature={temperature}; k must be at least 1, "
            "the temperature above 0"
        )
    del budget
    k = min(k, teacher_BV.shape[-1])
    edge_B1 = jnp.min(jax.lax.top_k(teacher_BV, k)[0], axis=-1, keepdims=True)
    among_BV = teacher_BV >= edge_B1
    student_BV = jax.nn.softmax(student_BV)
    outside_B1 = jnp.sum(jnp.where(among_BV, 0.0, student_BV), axis=-1, keepdims=True)
    theirs_BV = outside_B1 * jax.nn.softmax(teacher_BV / temperature)
    return jnp.log(jnp.where(among_BV, student_BV, 0.0) + theirs_BV)
