"""Named facts of a config: more numbers per token than every run has.

A fact is ``Outputs -> f32[...]``, as a signal is, but never differentiated, and without
an advantage. ``config.facts`` gives it a name; a weight, an advantage, a report or a
memory names it by an argument ``fact`` or ``..._fact`` and reads it as
``scores.facts[name]``. What nothing reads is not made.
"""

import jax
import jax.numpy as jnp

from jopd.losses import divergences, supports
from jopd.types import Outputs


def peak(outputs: Outputs, *, of: str = "teacher") -> jax.Array:
    """max_v p_v of the named model: how sure it is, in (0, 1]."""
    return jnp.max(jax.nn.softmax(outputs.logits[of], axis=-1), axis=-1)


def mass(outputs: Outputs, *, ids: tuple, of: str = "teacher") -> jax.Array:
    """sum_{v in ids} p_v of the named model, in [0, 1]. Ids it lacks have no mass.

    Raises ValueError unless ``ids`` are distinct whole numbers from 0 on.
    """
    whole = isinstance(ids, tuple | list) and all(isinstance(v, int) for v in ids)
    if not whole or len(set(ids)) < len(ids) or not ids or min(ids) < 0:
        raise ValueError(f"ids={ids!r:.200} must be distinct ids of tokens, at least 1")
    p = jax.nn.softmax(outputs.logits[of], axis=-1)
    return jnp.sum(p.at[..., jnp.asarray(ids)].get(mode="fill", fill_value=0), axis=-1)


def sampled_rank(outputs: Outputs, *, k: int, of: str = "teacher") -> jax.Array:
    """How many tokens the named model finds likelier than the written one; at most k.

    0 is its first choice, k "not among its first k".
    """
    own = jnp.take_along_axis(outputs.logits[of], outputs.tokens[..., None], axis=-1)
    likelier = jnp.sum(outputs.logits[of] > own, axis=-1)
    return jnp.minimum(likelier, k).astype(jnp.float32)


def overlap(outputs: Outputs, *, k: int, other: str = "teacher") -> jax.Array:
    """|S_k n T_k| / k: how many of their k likeliest tokens both models share."""
    ids = supports.choose(*_pair(outputs, other), "intersection", k)
    size = outputs.logits["student"].shape[-1]
    return jnp.mean((ids < size).astype(jnp.float32), axis=-1)


def compatibility(outputs: Outputs, *, k: int, other: str = "teacher") -> jax.Array:
    """sum_{v in S_k} T_v: the other's mass on the student's k likeliest tokens.

    What the student could say of what the teacher means (TA-OPD, arXiv:2605.26844); 1
    where k is the vocabulary.
    """
    ids = supports.choose(*_pair(outputs, other), "student", k)
    other_p = jax.nn.softmax(outputs.logits[other], axis=-1)
    return jnp.sum(jnp.take_along_axis(other_p, ids, axis=-1), axis=-1)


def local_forward_kl(outputs: Outputs, *, k: int, other: str = "teacher") -> jax.Array:
    """KL(T || S), both renormalised on the union of their k likeliest tokens. Nats.

    Equation 9 of TA-OPD (arXiv:2605.26844), with the true probabilities of all tokens
    of the union. Its authors' code has 1e-12 for what is outside of a model's own k.
    """
    return divergences.on_support(
        *_pair(outputs, other),
        support="union",
        k=k,
        direction="forward_kl",
        form="renormalised",
    )


def squared_log_ratio(outputs: Outputs, *, other: str = "teacher") -> jax.Array:
    """E_S[(log S - log T)^2], in squared nats: f32[...].

    Less the square of KL(S || T) it is the variance of the estimate of that KL from one
    token, k1. Where the student has no mass nothing is added.
    """
    student, rows = (jax.nn.log_softmax(x, axis=-1) for x in _pair(outputs, other))
    p = jnp.exp(student)
    return jnp.sum(jnp.where(p > 0, p * (student - rows) ** 2, 0.0), axis=-1)


def top_k_reverse_kl(
    outputs: Outputs,
    *,
    k: int,
    of: str = "student",
    other: str = "teacher",
    tail: bool = True,
) -> jax.Array:
    """KL(S || T) on the k likeliest tokens of ``of``, the rest as one bucket. Nats.

    ``of`` is the student or ``other``. KAT (arXiv:2606.09471) takes the student's 64.
    Raises ValueError for another model.
    """
    if of not in ("student", other):
        raise ValueError(f"of={of!r} must be 'student' or {other!r}, which is compared")
    student, rows = _pair(outputs, other)
    return divergences.top_k_reverse_kl(
        student,
        rows,
        k=min(k, rows.shape[-1]),
        tail=tail,
        support="student" if of == "student" else "teacher",
    )


def _pair(outputs: Outputs, other: str) -> tuple[jax.Array, jax.Array]:
    return outputs.logits["student"], outputs.logits[other]
