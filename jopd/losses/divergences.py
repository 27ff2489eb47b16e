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
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jopd import exact
from jopd.losses.supports import as_float, log_softmaxes, restricted


def forward_kl(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """KL(T || S), mass-covering: the student must put mass where the teacher does.

        sum_v T_v (log T_v - log S_v),    gradient in the student's logits: S - T

    f32[..., V], f32[..., V] -> f32[...], nats. Raises ValueError on unequal shapes.
    """
    log_s, log_t = log_softmaxes(student_logits, teacher_logits)
    return _kl(log_t, log_s)


def reverse_kl(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """KL(S || T), mode-seeking: no mass of the student where the teacher has none.

        sum_v S_v (log S_v - log T_v)
        gradient in the student's logits: S_v (log S_v - log T_v - KL)

    f32[..., V], f32[..., V] -> f32[...], nats. Raises ValueError on unequal shapes.
    """
    log_s, log_t = log_softmaxes(student_logits, teacher_logits)
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
    log_s, log_t = log_softmaxes(student_logits, teacher_logits)
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
    log_s, log_t = log_softmaxes(student_logits, teacher_logits)
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
    log_s, log_t = log_softmaxes(student_logits, teacher_logits)
    return _kl(log_s, _log_mixture(log_s, log_t, alpha))


def total_variation(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Total variation distance: the most any event's probability can differ.

        1/2 sum_v |S_v - T_v|, in [0, 1]

    f32[..., V], f32[..., V] -> f32[...]. One minus it is the chance that speculative
    decoding accepts the student's token. The gradient at S_v = T_v is taken as 0.
    """
    log_s, log_t = log_softmaxes(student_logits, teacher_logits)
    return 0.5 * jnp.sum(jnp.abs(jnp.exp(log_s) - jnp.exp(log_t)), axis=-1)


def on_support(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    support: str | Sequence[int],
    k: int | None = None,
    direction: str,
    form: str,
    jsd_alpha: float | None = None,
) -> jax.Array:
    """A divergence on a part of the vocabulary: f32[..., V] twice -> f32[...], nats.

    ``support`` is "student" or "teacher" (the ``k`` likeliest tokens of that model),
    their "intersection" or "union", or ids of tokens, the same in every row; an empty
    one gives 0. ``direction`` is forward_kl, reverse_kl or jsd, whose mixture gives the
    teacher the share ``jsd_alpha``. ``form`` says what becomes of the other tokens:

        naive                 nothing: the sum over the support, no divergence
        stopped               as naive, in the reverse KL: log S has no gradient
        tail                  they are one more event: a KL of a coarser partition
        renormalised          S and T both sum to 1 on it; no gradient outside of it
        teacher_renormalised  only T does, S stays that of the whole vocabulary

    The naive reverse KL falls when mass leaves the support: its gradient is that of
    ``stopped`` plus that of ``sum_{v in support} S_v``, which pays for a token unless
    T > e S (arXiv:2605.11182). At k = V all forms are the whole divergence.

    Raises ValueError for unknown names, jsd_alpha missing or out of place, and as
    ``supports.choose``.
    """
    if (direction == "jsd") != (jsd_alpha is not None):
        raise ValueError(
            f"direction={direction!r} with jsd_alpha={jsd_alpha}: the teacher's share "
            "belongs to direction='jsd', which needs it"
        )
    stopped = form == "stopped"
    if stopped and direction != "reverse_kl":
        raise ValueError(
            f"form='stopped' is of the reverse KL, not of {direction!r}; use naive, "
            "tail or renormalised"
        )
    log_s, log_t = restricted(student_logits, teacher_logits, support, k, form)
    return jnp.sum(_entries(log_s, log_t, direction, jsd_alpha, stopped), axis=-1)


def top_k_forward_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    k: int,
    tail: bool = True,
    support: str = "teacher",
    renormalize: str = "none",
) -> jax.Array:
    """Forward KL on the ``k`` likeliest tokens of ``support``, the rest as one bucket.

        sum_{v in K} T_v (log T_v - log S_v) + T_rest (log T_rest - log S_rest)

    f32[..., V], f32[..., V] -> f32[...], nats. A KL of a coarser partition: between 0
    and ``forward_kl``, equal to it at k = V, and it sees the mass outside the set.

    ``tail=False`` leaves the last term out (the truncated sum of EOPD,
    arXiv:2603.07079): not a divergence, negative where the student has more mass on the
    set. Then ``renormalize`` may be "teacher", whose probabilities on the set sum to 1,
    or "both" (TRL's form without a tail). ``support`` is as in ``on_support``, which
    this is. Raises ValueError for an unknown name, renormalize beside a tail, or unless
    1 <= k <= V.
    """
    among = _top_k(student_logits, k, tail, support, renormalize)
    return on_support(student_logits, teacher_logits, direction="forward_kl", **among)


def top_k_reverse_kl(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    k: int,
    tail: bool = True,
    support: str = "teacher",
    renormalize: str = "none",
) -> jax.Array:
    """Reverse KL on the ``k`` likeliest tokens of ``support``, the rest as one bucket.

        sum_{v in K} S_v (log S_v - log T_v) + S_rest (log S_rest - log T_rest)

    f32[..., V], f32[..., V] -> f32[...], nats. Between 0 and ``reverse_kl``, equal to
    it at k = V. With ``tail=False`` the student lowers the sum by moving its mass off
    the set, so the truncated form is for diagnostics. Else as ``top_k_forward_kl``.
    """
    among = _top_k(student_logits, k, tail, support, renormalize)
    return on_support(student_logits, teacher_logits, direction="reverse_kl", **among)


def top_k_jsd(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    beta: float,
    k: int,
    tail: bool = True,
    support: str = "teacher",
    renormalize: str = "none",
) -> jax.Array:
    """``jsd`` on the ``k`` likeliest tokens of ``support``, the rest as one bucket.

        beta KL(T' || M) + (1 - beta) KL(S' || M),    M = beta T' + (1 - beta) S'

    with S' and T' the k + 1 probabilities. f32[..., V], f32[..., V] -> f32[...], nats.
    Between 0 and ``jsd``, equal to it at k = V; finite for any supports. Else as
    ``jsd`` and ``top_k_forward_kl``, their errors too.
    """
    among = _top_k(student_logits, k, tail, support, renormalize)
    return on_support(
        student_logits, teacher_logits, direction="jsd", jsd_alpha=beta, **among
    )


def entry_clipped(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    direction: str,
    clip: float | None,
    beta: float = 0.5,
    k: int | None = None,
    renormalize: str = "none",
    both_sides: bool = False,
) -> jax.Array:
    """A divergence whose summands are cut at ``clip``, one by one, from above; with
    ``both_sides`` (OGLS-SD, arXiv:2605.12400) at -clip from below, too.

        sum_v min(c_v, clip),  c_v = T_v (log T_v - log S_v) for "forward_kl",
        S_v (log S_v - log T_v) for "reverse_kl", beta T_v (log T_v - log M_v)
        + (1 - beta) S_v (log S_v - log M_v) for "jsd", M = beta T + (1 - beta) S

    f32[..., V], f32[..., V] -> f32[...], nats. A summand above the clip has no
    gradient: a single token cannot dominate a state (OPSD, arXiv:2601.18734). Not a
    divergence any more: negative where the positive summands are cut. ``clip=None`` is
    the whole divergence. With ``k`` v runs over the teacher's k likeliest tokens and
    one bucket of the rest, which ``renormalize`` "teacher" or "both" leaves out, see
    ``top_k_forward_kl``. Raises ValueError for another direction, clip <= 0, or
    renormalize without k.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip} must be above 0; use None to switch it off")
    if k is None:
        if renormalize != "none":
            raise ValueError(f"renormalize={renormalize!r} needs k, the tokens to keep")
        log_s, log_t = log_softmaxes(student_logits, teacher_logits)
    else:
        form = _form(renormalize == "none", renormalize)
        log_s, log_t = restricted(student_logits, teacher_logits, "teacher", k, form)
    summands = _entries(log_s, log_t, direction, beta)
    kept = summands if clip is None else jnp.minimum(summands, clip)
    if both_sides and clip is not None:
        kept = jnp.maximum(kept, -clip)
    return jnp.sum(kept, axis=-1)


def entropy(logits: jax.Array) -> jax.Array:
    """Shannon entropy, ``-sum_v p_v log p_v``: f32[..., V] -> f32[...], nats."""
    log_p = jax.nn.log_softmax(as_float(logits), axis=-1)
    return -_kl(log_p, jnp.zeros_like(log_p))


def log_prob(
    logits: jax.Array, tokens: jax.Array, *, exactly: bool = False
) -> jax.Array:
    """Log-probability of ``tokens``: f32[..., V], i32[...] in [0, V) -> f32[...].

    Gathers one logit and normalises it; no log-softmax of the row is kept.
    ``exactly``: the same bits, however many rows there are.
    """
    logits = as_float(logits)
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - log_normalizer(logits, exactly=exactly)


def log_normalizer(logits: jax.Array, *, exactly: bool = False) -> jax.Array:
    """``log sum_v exp(logits_v)``, f32[..., V] -> f32[...]; see ``log_prob``."""
    if not exactly:
        return jax.nn.logsumexp(logits, axis=-1)
    rows = logits.reshape(-1, logits.shape[-1])
    found = exact.in_tiles(lambda rows, _: log_normalizer(rows), rows)
    return found.reshape(logits.shape[:-1])


def nll(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Negative log-likelihood, ``-log_prob``: the cross-entropy against one token."""
    return -log_prob(logits, tokens)


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


def _summands(log_p: jax.Array, log_q: jax.Array, stopped: bool = False) -> jax.Array:
    p = jnp.exp(log_p)
    present = p > 0.0
    # 0 log 0 = 0. A difference passes no NaN back: one where serves the gradient too.
    gap = jnp.where(present, log_p - log_q, 0.0)
    return p * (jax.lax.stop_gradient(gap) if stopped else gap)


def _entries(
    log_s: jax.Array,
    log_t: jax.Array,
    direction: str,
    beta: float | None,
    stopped: bool = False,
) -> jax.Array:
    """Summands of a divergence, one for each column."""
    if direction == "forward_kl":
        return _summands(log_t, log_s)
    if direction == "reverse_kl":
        return _summands(log_s, log_t, stopped)
    if direction == "jsd":
        _check_beta(beta)
        mixed = _log_mixture(log_t, log_s, beta)
        return beta * _summands(log_t, mixed) + (1.0 - beta) * _summands(log_s, mixed)
    raise ValueError(
        f"direction={direction!r} is unknown; use forward_kl, reverse_kl or jsd"
    )


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


def _form(tail: bool, renormalize: str) -> str:
    """The form of ``on_support`` that the two switches of a top-k divergence mean."""
    forms = {"none": "naive", "teacher": "teacher_renormalised", "both": "renormalised"}
    if renormalize not in forms:
        raise ValueError(
            f"renormalize={renormalize!r} is unknown; use one of {', '.join(forms)}"
        )
    if tail and renormalize != "none":
        raise ValueError(
            f"renormalize={renormalize!r} leaves no mass for a tail; set tail=False"
        )
    return "tail" if tail else forms[renormalize]


def _top_k(logits: jax.Array, k: int, tail: bool, support: str, renormalize: str):
    """What ``on_support`` calls the arguments of a top-k divergence."""
    vocabulary = jnp.shape(logits)[-1]
    if not 1 <= k <= vocabulary:
        raise ValueError(
            f"top-k needs 1 <= k <= V, got k={k} and V={vocabulary}; use the full "
            "divergence for the whole vocabulary"
        )
    return dict(support=support, k=k, form=_form(tail, renormalize))
