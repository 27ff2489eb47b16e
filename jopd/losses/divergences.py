"""Divergences of next-token distributions: ``f32[..., V], f32[..., V] -> f32[...]``.

Every function takes *logits* of any leading shape, student first, normalises them
itself in float32 (float64 stays float64) and reduces the vocabulary axis only: no
mask, no mean. With S the student's and T the teacher's distribution, everywhere in
this library:

    forward_kl = KL(T || S)        reverse_kl = KL(S || T)

A logit of -inf is a token of probability zero. ``0 log 0 = 0`` in value and gradient,
so a vocabulary cut by -inf on both sides gives what the cut vocabulary gives. Where a
KL is infinite (mass against probability zero) it returns +inf; the forward KL's
gradient is still ``S - T`` there, the reverse KL's does not exist.

Rows without any finite logit have no distribution; blank them before the call.
"""

import math

import jax
import jax.numpy as jnp


def forward_kl(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """KL(T || S), mass-covering: the student must put mass where the teacher does.

        sum_v T_v (log T_v - log S_v),    gradient in the student's logits: S - T

    f32[..., V], f32[..., V] -> f32[...], nats. Raises ValueError on unequal shapes.
    """
    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)
    return _kl(log_t, log_s)


def reverse_kl(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """KL(S || T), mode-seeking: no mass of the student where the teacher has none.

        sum_v S_v (log S_v - log T_v)
        gradient in the student's logits: S_v (log S_v - log T_v - KL)

    f32[..., V], f32[..., V] -> f32[...], nats. Raises ValueError on unequal shapes.
    """
    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)
    return _kl(log_s, log_t)


def jsd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    beta: float,
    normalize: bool = False,
) -> jax.Array:
    """Generalised Jensen-Shannon divergence of GKD (arXiv:2306.13649).

        beta KL(T || M) + (1 - beta) KL(S || M),    M = beta T + (1 - beta) S

    f32[..., V], f32[..., V] -> f32[...], nats; at most the entropy of (beta, 1 - beta),
    finite for any supports. M minimises this sum over its second arguments, so its own
    gradient cancels between the two KLs: it may be detached in both or in neither.

    Limits: jsd / beta -> forward_kl for beta -> 0, jsd / (1 - beta) -> reverse_kl for
    beta -> 1. The value itself vanishes at both ends, so beta near an end acts as a
    smaller learning rate. ``normalize`` divides by ``beta (1 - beta)``, which makes
    both limits exact and the curvature at S = T the same for every beta.

    TRL's GKD substitutes the KLs at beta 0 and 1 without that scale; here these ends
    raise ValueError: ask for ``forward_kl`` or ``reverse_kl`` by name.
    """
    _check_beta(beta)
    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)
    log_m = _log_mixture(log_t, log_s, beta)
    value = beta * _kl(log_t, log_m) + (1.0 - beta) * _kl(log_s, log_m)
    return value / (beta * (1.0 - beta)) if normalize else value


def skew_forward_kl(
    student_logits: jax.Array, teacher_logits: jax.Array, *, alpha: float
) -> jax.Array:
    """Skew KL of DistiLLM (arXiv:2402.03898): KL(T || alpha T + (1-alpha) S).

    f32[..., V], f32[..., V] -> f32[...], nats; at most -log(alpha), since the second
    argument is at least ``alpha T``. alpha = 0 is ``forward_kl``; DistiLLM uses 0.1.
    Raises ValueError unless 0 <= alpha < 1.
    """
    _check_alpha(alpha)
    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)
    return _kl(log_t, _log_mixture(log_t, log_s, alpha))


def skew_reverse_kl(
    student_logits: jax.Array, teacher_logits: jax.Array, *, alpha: float
) -> jax.Array:
    """Skew reverse KL of DistiLLM (arXiv:2402.03898): KL(S || alpha S + (1-alpha) T).

    f32[..., V], f32[..., V] -> f32[...], nats; at most -log(alpha). alpha = 0 is
    ``reverse_kl``. The gradient flows through both places of S.
    Raises ValueError unless 0 <= alpha < 1.
    """
    _check_alpha(alpha)
    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)
    return _kl(log_s, _log_mixture(log_s, log_t, alpha))


def total_variation(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Total variation distance: the most any event's probability can differ.

        1/2 sum_v |S_v - T_v|, in [0, 1]

    f32[..., V], f32[..., V] -> f32[...]. One minus it is the chance that speculative
    decoding accepts the student's token. The gradient at S_v = T_v is taken as 0.
    """
    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)
    return 0.5 * jnp.sum(jnp.abs(jnp.exp(log_s) - jnp.exp(log_t)), axis=-1)


def top_k_forward_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    k: int,
    tail: bool = True,
    support: str = "teacher",
) -> jax.Array:
    """Forward KL on the ``k`` likeliest tokens of ``support``, the rest as one bucket.

        sum_{v in K} T_v (log T_v - log S_v) + T_rest (log T_rest - log S_rest)

    f32[..., V], f32[..., V] -> f32[...], nats. A KL of a coarser partition: between 0
    and ``forward_kl``, equal to it at k = V, and it sees the mass outside the set.

    ``tail=False`` leaves the last term out (the truncated sum of EOPD,
    arXiv:2603.07079): not a divergence, negative where the student has more mass on the
    set. Neither form renormalises on the set; for that, pass gathered logits to
    ``forward_kl``.

    ``support`` is "teacher" or "student". Raises ValueError for another name or unless
    1 <= k <= V.
    """
    log_s, log_t = _top_k_rows(student_logits, teacher_logits, k, tail, support)
    return _kl(log_t, log_s)


def top_k_reverse_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    k: int,
    tail: bool = True,
    support: str = "teacher",
) -> jax.Array:
    """Reverse KL on the ``k`` likeliest tokens of ``support``, the rest as one bucket.

        sum_{v in K} S_v (log S_v - log T_v) + S_rest (log S_rest - log T_rest)

    f32[..., V], f32[..., V] -> f32[...], nats. Between 0 and ``reverse_kl``, equal to
    it at k = V. With ``tail=False`` the student lowers the sum by moving its mass off
    the set, so the truncated form is for diagnostics. Else as ``top_k_forward_kl``.
    """
    log_s, log_t = _top_k_rows(student_logits, teacher_logits, k, tail, support)
    return _kl(log_s, log_t)


def top_k_jsd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    beta: float,
    k: int,
    tail: bool = True,
    support: str = "teacher",
) -> jax.Array:
    """``jsd`` on the ``k`` likeliest tokens of ``support``, the rest as one bucket.

        beta KL(T' || M) + (1 - beta) KL(S' || M),    M = beta T' + (1 - beta) S'

    with S' and T' the k + 1 probabilities. f32[..., V], f32[..., V] -> f32[...], nats.
    Between 0 and ``jsd``, equal to it at k = V; finite for any supports. Else as
    ``jsd`` and ``top_k_forward_kl``, their errors too.
    """
    _check_beta(beta)
    log_s, log_t = _top_k_rows(student_logits, teacher_logits, k, tail, support)
    mixed = _log_mixture(log_t, log_s, beta)
    return beta * _kl(log_t, mixed) + (1.0 - beta) * _kl(log_s, mixed)


def entry_clipped(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    direction: str,
    clip: float | None,
    beta: float = 0.5,
) -> jax.Array:
    """A divergence whose summands are cut above at ``clip``, one by one.

        sum_v min(c_v, clip),  c_v = T_v (log T_v - log S_v) for "forward_kl",
        S_v (log S_v - log T_v) for "reverse_kl", beta T_v (log T_v - log M_v)
        + (1 - beta) S_v (log S_v - log M_v) for "jsd", M = beta T + (1 - beta) S

    f32[..., V], f32[..., V] -> f32[...], nats. A summand above the clip has no
    gradient: a single token cannot dominate a state (OPSD, arXiv:2601.18734). Not a
    divergence any more: negative where the positive summands are cut. ``clip=None`` is
    the whole divergence. Raises ValueError for another direction, or clip <= 0.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip} must be above 0; use None to switch it off")
    log_s, log_t = _log_softmaxes(student_logits, teacher_logits)
    if direction == "forward_kl":
        summands = _summands(log_t, log_s)
    elif direction == "reverse_kl":
        summands = _summands(log_s, log_t)
    elif direction == "jsd":
        mixed = _log_mixture(log_t, log_s, beta)
        summands = beta * _summands(log_t, mixed)
        summands += (1.0 - beta) * _summands(log_s, mixed)
    else:
        raise ValueError(
            f"direction={direction!r} is unknown; use forward_kl, reverse_kl or jsd"
        )
    kept = summands if clip is None else jnp.minimum(summands, clip)
    return jnp.sum(kept, axis=-1)


def coarsen(logits: jax.Array, indices: jax.Array) -> jax.Array:
    """Logits of the partition {each of ``indices``} + {all other tokens}.

        f32[..., V], i32[..., K] (distinct in a row) -> f32[..., K + 1]

    Column K is the logsumexp of all other logits; -inf when none is left. Softmax of
    the result gives the exact probabilities of the K + 1 events, so any divergence here
    can be taken between two coarsened rows.
    """
    logits = _float(logits)
    chosen = jnp.take_along_axis(logits, indices, axis=-1)
    others = jnp.put_along_axis(logits, indices, -jnp.inf, axis=-1, inplace=False)
    return jnp.concatenate([chosen, _logsumexp(others)[..., None]], axis=-1)


def entropy(logits: jax.Array) -> jax.Array:
    """Shannon entropy, ``-sum_v p_v log p_v``: f32[..., V] -> f32[...], nats."""
    log_p = jax.nn.log_softmax(_float(logits), axis=-1)
    return -_kl(log_p, jnp.zeros_like(log_p))


def log_prob(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Log-probability of ``tokens``: f32[..., V], i32[...] in [0, V) -> f32[...].

    Gathers one logit and normalises it; no log-softmax of the row is kept.
    """
    logits = _float(logits)
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def nll(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Negative log-likelihood, ``-log_prob``: the cross-entropy against one token."""
    return -log_prob(logits, tokens)


def _float(x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _log_softmaxes(
    student_logits: jax.Array, teacher_logits: jax.Array
) -> tuple[jax.Array, jax.Array]:
    _check_shapes(student_logits, teacher_logits)
    return (
        jax.nn.log_softmax(_float(student_logits), axis=-1),
        jax.nn.log_softmax(_float(teacher_logits), axis=-1),
    )


def _check_shapes(student_logits: jax.Array, teacher_logits: jax.Array) -> None:
    if jnp.shape(student_logits) != jnp.shape(teacher_logits):
        raise ValueError(
            f"student_logits {jnp.shape(student_logits)} and teacher_logits "
            f"{jnp.shape(teacher_logits)} differ in shape; align the tokens and cut "
            "both to the common vocabulary first"
        )


def _check_beta(beta: float) -> None:
    if not 0.0 < beta < 1.0:
        raise ValueError(
            f"jsd needs 0 < beta < 1, got beta={beta}; use forward_kl for the limit "
            "beta -> 0 and reverse_kl for beta -> 1"
        )


def _check_alpha(alpha: float) -> None:
    if not 0.0 <= alpha < 1.0:
        raise ValueError(
            f"a skew KL needs 0 <= alpha < 1, got alpha={alpha}; at 1 it is zero for "
            "every student, at 0 it is the plain KL"
        )


def _kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """``sum_v p (log p - log q)``; log_q need not be normalised."""
    return jnp.sum(_summands(log_p, log_q), axis=-1)


def _summands(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    p = jnp.exp(log_p)
    present = p > 0.0
    # 0 log 0 = 0. A difference passes no NaN back: one where serves the gradient too.
    gap = jnp.where(present, log_p - log_q, 0.0)
    return p * gap


def _log_mixture(log_p: jax.Array, log_q: jax.Array, weight: float) -> jax.Array:
    """``log(weight p + (1 - weight) q)`` in log space, for 0 <= weight < 1."""
    top = jax.lax.stop_gradient(jnp.maximum(log_p, log_q))
    # The gradient of logaddexp(-inf, -inf) is NaN.
    empty = top == -jnp.inf
    log_p, log_q, top = (jnp.where(empty, 0.0, x) for x in (log_p, log_q, top))
    log_weight = math.log(weight) if weight > 0.0 else -math.inf
    # Relative to the larger one: p = q must give p back, without a rounding of log p.
    mixed = top + jnp.logaddexp(
        log_p - top + log_weight, log_q - top + math.log1p(-weight)
    )
    return jnp.where(empty, -jnp.inf, mixed)


def _logsumexp(logits: jax.Array) -> jax.Array:
    """logsumexp whose gradient is 0, not NaN, where every logit is -inf."""
    empty = jnp.all(logits == -jnp.inf, axis=-1)
    total = jax.nn.logsumexp(jnp.where(empty[..., None], 0.0, logits), axis=-1)
    return jnp.where(empty, -jnp.inf, total)


def _top_k_rows(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    k: int,
    tail: bool,
    support: str,
) -> tuple[jax.Array, jax.Array]:
    """Both rows' log-probabilities on the support's top-k, then (tail) of the rest."""
    _check_shapes(student_logits, teacher_logits)
    if support not in ("teacher", "student"):
        raise ValueError(f"support={support!r} is unknown; use 'teacher' or 'student'")
    vocabulary = jnp.shape(teacher_logits)[-1]
    if not 1 <= k <= vocabulary:
        raise ValueError(
            f"top-k needs 1 <= k <= V, got k={k} and V={vocabulary}; use the full "
            "divergence for the whole vocabulary"
        )
    chosen_by = teacher_logits if support == "teacher" else student_logits
    indices = jax.lax.top_k(jax.lax.stop_gradient(chosen_by), k)[1]
    rows = tuple(
        jax.nn.log_softmax(coarsen(logits, indices), axis=-1)
        for logits in (student_logits, teacher_logits)
    )
    return rows if tail else tuple(row[..., :k] for row in rows)
