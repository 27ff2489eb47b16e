"""Pairs of log-probabilities, on the whole vocabulary or on a part of it.

A support is an array of token ids, ``i32[..., K]``, distinct in a row. Where a set has
fewer than K members, the places left over hold the vocabulary's size: no token.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

FORMS = ("naive", "stopped", "tail", "renormalised", "teacher_renormalised")


def as_float(x: jax.Array) -> jax.Array:
    """In float32; float64 stays."""
    x = jnp.asarray(x)
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def log_softmaxes(
    student_logits: jax.Array, teacher_logits: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Both rows normalised. Raises ValueError on unequal shapes."""
    _check_shapes(student_logits, teacher_logits)
    return (
        jax.nn.log_softmax(as_float(student_logits), axis=-1),
        jax.nn.log_softmax(as_float(teacher_logits), axis=-1),
    )


def restricted(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    support: str | Sequence[int],
    k: int | None,
    form: str,
) -> tuple[jax.Array, jax.Array]:
    """Both rows' log-probabilities on a support: f32[..., V] -> f32[..., K], twice.

    ``form`` says what becomes of the other tokens, see ``divergences.on_support``; in
    "tail" they are column K. Raises ValueError as ``choose``, for another form and for
    unequal shapes.
    """
    _check_shapes(student_logits, teacher_logits)
    if form not in FORMS:
        raise ValueError(f"form={form!r} is unknown; use one of {', '.join(FORMS)}")
    ids = choose(student_logits, teacher_logits, support, k)
    s, t = (coarsen(as_float(x), ids) for x in (student_logits, teacher_logits))
    if form == "tail":
        return log_softmaxes(s, t)
    whole = lambda row: jax.nn.log_softmax(row, axis=-1)[..., :-1]
    within = lambda row: _normalised(row[..., :-1])
    return (
        (within if form == "renormalised" else whole)(s),
        (within if form in ("renormalised", "teacher_renormalised") else whole)(t),
    )


def choose(
    student_logits: jax.Array,
    other_logits: jax.Array,
    support: str | Sequence[int],
    k: int | None,
) -> jax.Array:
    """Token ids of a support: f32[..., V], f32[..., V] -> i32[..., K].

    "student" and "teacher" are the ``k`` likeliest tokens of either model (K = k),
    "intersection" (K = k) and "union" (K = 2 k) are of these two sets; ids given as
    numbers are the same set in every row. A k beyond the vocabulary is the whole of it.

    Raises:
      ValueError: an unknown name, k < 1, a k beside ids, ids that are not distinct
        whole numbers of the vocabulary.
    """
    size = jnp.shape(student_logits)[-1]
    if not isinstance(support, str):
        ids = _checked(support, k, size)
        return jnp.broadcast_to(ids, (*jnp.shape(student_logits)[:-1], len(ids)))
    if k is None or k < 1:
        raise ValueError(f"support={support!r} needs k >= 1 tokens, got k={k}")
    likeliest = lambda x: jax.lax.top_k(jax.lax.stop_gradient(x), min(k, size))[1]
    if support == "student":
        return likeliest(student_logits)
    if support == "teacher":
        return likeliest(other_logits)
    students, others = likeliest(student_logits), likeliest(other_logits)
    shared = jnp.any(students[..., :, None] == others[..., None, :], axis=-1)
    if support == "intersection":
        return jnp.where(shared, students, size)
    if support == "union":
        return jnp.concatenate([jnp.where(shared, size, students), others], axis=-1)
    raise ValueError(
        f"support={support!r} is unknown; use student, teacher, intersection, union or "
        "ids of tokens"
    )


def coarsen(logits: jax.Array, ids: jax.Array) -> jax.Array:
    """Logits of the partition {each of ``ids``} + {all other tokens}.

        f32[..., V], i32[..., K] -> f32[..., K + 1]

    Column K is the logsumexp of all other logits; -inf when none is left. The column of
    a place without a token is -inf. Softmax of the result gives the exact probabilities
    of the K + 1 events, so any divergence can be taken between two coarsened rows.
    """
    chosen = jnp.take_along_axis(logits, ids, axis=-1, mode="fill", fill_value=-jnp.inf)
    others = jnp.put_along_axis(
        logits, ids, -jnp.inf, axis=-1, inplace=False, mode="drop"
    )
    return jnp.concatenate([chosen, _logsumexp(others)[..., None]], axis=-1)


def _checked(ids: Sequence[int], k: int | None, size: int) -> np.ndarray:
    if k is not None:
        raise ValueError(f"ids of tokens are the whole support; leave out k={k}")
    found = np.asarray(ids)
    whole = found.ndim == 1 and np.issubdtype(found.dtype, np.integer)
    if not whole or len(set(found.tolist())) < len(found):
        raise ValueError(f"ids={ids!r:.200} must be distinct whole numbers")
    outside = found[(found < 0) | (found >= size)]
    if outside.size:
        raise ValueError(
            f"ids has {outside[0]}, but the vocabulary has {size} tokens, 0 to "
            f"{size - 1}"
        )
    return found.astype(np.int32)


def _logsumexp(logits: jax.Array) -> jax.Array:
    """logsumexp whose gradient is 0, not NaN, where every logit is -inf."""
    empty = jnp.all(logits == -jnp.inf, axis=-1)
    total = jax.nn.logsumexp(jnp.where(empty[..., None], 0.0, logits), axis=-1)
    return jnp.where(empty, -jnp.inf, total)


def _normalised(logits: jax.Array) -> jax.Array:
    """log_softmax; -inf with gradient 0, not NaN, where every logit is -inf."""
    empty = jnp.all(logits == -jnp.inf, axis=-1, keepdims=True)
    found = jax.nn.log_softmax(jnp.where(empty, 0.0, logits), axis=-1)
    return jnp.where(empty, -jnp.inf, found)


def _check_shapes(student_logits: jax.Array, teacher_logits: jax.Array) -> None:
    if jnp.shape(student_logits) != jnp.shape(teacher_logits):
        raise ValueError(
            f"student_logits {jnp.shape(student_logits)} and teacher_logits "
            f"{jnp.shape(teacher_logits)} differ in shape; align the tokens and cut "
            "both to the common vocabulary first"
        )
