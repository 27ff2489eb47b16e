"""What is minimised per token: ``Outputs -> f32[...]``.

A signal reads the models' logits for a chunk of tokens and returns one unreduced loss
per token. ``outputs.logits["student"]`` carries the gradient; nothing else does. Masks,
weights and denominators are not its business (see ``objective``). Any function with
this signature is a signal, also one that lives in ``jopd/methods/<name>.py``.
"""

from collections.abc import Sequence

import jax

from jopd.losses import divergences, estimators
from jopd.losses.scoring import log_prob
from jopd.types import Outputs


def nll(outputs: Outputs) -> jax.Array:
    """Negative log-likelihood of the written token, the loss of SFT."""
    return -log_prob(outputs, "student")


def forward_kl(outputs: Outputs, *, other: str = "teacher") -> jax.Array:
    """Full-vocabulary KL(other || student)."""
    return divergences.forward_kl(outputs.logits["student"], outputs.logits[other])


def reverse_kl(outputs: Outputs, *, other: str = "teacher") -> jax.Array:
    """Full-vocabulary KL(student || other)."""
    return divergences.reverse_kl(outputs.logits["student"], outputs.logits[other])


def jsd(outputs: Outputs, *, beta: float = 0.5, other: str = "teacher") -> jax.Array:
    """Generalised Jensen-Shannon divergence of GKD (arXiv:2306.13649, eq. 1).

    ``beta`` is the teacher's share of the mixture and must lie inside (0, 1): at the
    ends the divergence itself vanishes; use ``forward_kl`` or ``reverse_kl`` there.
    """
    return divergences.jsd(outputs.logits["student"], outputs.logits[other], beta=beta)


def skew_forward_kl(
    outputs: Outputs, *, alpha: float = 0.1, other: str = "teacher"
) -> jax.Array:
    """KL(other || mixture) of DistiLLM (arXiv:2402.03898); alpha -> 0 is forward KL."""
    return divergences.skew_forward_kl(
        outputs.logits["student"], outputs.logits[other], alpha=alpha
    )


def skew_reverse_kl(
    outputs: Outputs, *, alpha: float = 0.1, other: str = "teacher"
) -> jax.Array:
    """KL(student || mixture) of DistiLLM (arXiv:2402.03898); reverse KL at alpha 0."""
    return divergences.skew_reverse_kl(
        outputs.logits["student"], outputs.logits[other], alpha=alpha
    )


def total_variation(outputs: Outputs, *, other: str = "teacher") -> jax.Array:
    """Total variation distance between student and other, in [0, 1]."""
    return divergences.total_variation(outputs.logits["student"], outputs.logits[other])


def top_k_forward_kl(
    outputs: Outputs,
    *,
    k: int = 64,
    tail: bool = True,
    renormalize: str = "none",
    other: str = "teacher",
) -> jax.Array:
    """Forward KL on the other model's top-k tokens, the rest in one tail bucket.

    A k beyond the vocabulary is the whole of it. ``tail=False`` leaves the bucket out;
    then ``renormalize`` may be "teacher" or "both". See
    ``divergences.top_k_forward_kl``.
    """
    student, rows = outputs.logits["student"], outputs.logits[other]
    return divergences.top_k_forward_kl(
        student, rows, k=_within(k, rows), tail=tail, renormalize=renormalize
    )


def top_k_reverse_kl(
    outputs: Outputs,
    *,
    k: int = 64,
    tail: bool = True,
    renormalize: str = "none",
    other: str = "teacher",
) -> jax.Array:
    """Reverse KL on the other model's top-k tokens, the rest in one tail bucket.

    Else as ``top_k_forward_kl``; see ``divergences.top_k_reverse_kl``.
    """
    student, rows = outputs.logits["student"], outputs.logits[other]
    return divergences.top_k_reverse_kl(
        student, rows, k=_within(k, rows), tail=tail, renormalize=renormalize
    )


def top_k_jsd(
    outputs: Outputs,
    *,
    beta: float = 0.5,
    k: int = 64,
    tail: bool = True,
    renormalize: str = "none",
    other: str = "teacher",
) -> jax.Array:
    """``jsd`` on the other model's top-k tokens, the rest in one tail bucket.

    Else as ``top_k_forward_kl``; see ``divergences.top_k_jsd``.
    """
    student, rows = outputs.logits["student"], outputs.logits[other]
    return divergences.top_k_jsd(
        student, rows, beta=beta, k=_within(k, rows), tail=tail, renormalize=renormalize
    )


def restricted_kl(
    outputs: Outputs,
    *,
    direction: str = "reverse_kl",
    support: str = "intersection",
    k: int | None = None,
    form: str = "renormalised",
    ids: Sequence[int] = (),
    jsd_alpha: float | None = None,
    other: str = "teacher",
) -> jax.Array:
    """A divergence on a part of the vocabulary (many faces of OPD, arXiv:2605.11182).

    ``support`` is student or teacher (the k likeliest tokens of that model), their
    intersection or union, or "ids", the tokens in ``ids``. ``direction`` is reverse_kl,
    forward_kl or jsd; ``form`` is naive, stopped, tail, renormalised or
    teacher_renormalised: see ``divergences.on_support``.
    """
    if (support == "ids") != (len(ids) > 0):
        raise ValueError(
            f"support={support!r} with ids={ids!r:.80}: ids belong to support='ids', "
            "which needs them"
        )
    return divergences.on_support(
        outputs.logits["student"],
        outputs.logits[other],
        support=ids or support,
        k=k,
        direction=direction,
        form=form,
        jsd_alpha=jsd_alpha,
    )


def k1(outputs: Outputs, *, other: str = "teacher") -> jax.Array:
    """The log-ratio of the sampled token as a loss: its expected gradient is 0.

    For comparison only; see ``estimators.k1``. As an advantage it is exact.
    """
    return estimators.k1(*_sampled(outputs, other))


def k2(outputs: Outputs, *, other: str = "teacher") -> jax.Array:
    """Squared log-ratio of the sampled token; its expected gradient is reverse KL's."""
    return estimators.k2(*_sampled(outputs, other))


def k3(outputs: Outputs, *, other: str = "reference") -> jax.Array:
    """The non-negative sampled estimate of KL(student || other).

    As a differentiable loss its expected gradient is that of the *forward* KL; see
    ``estimators.k3``.
    """
    return estimators.k3(*_sampled(outputs, other))


def policy_gradient(
    outputs: Outputs,
    *,
    other: str | None = "teacher",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> jax.Array:
    """Clipped importance-ratio surrogate on the sampled token.

    L = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), with
    rho = student(y) / behavior(y). Without an ``advantage`` in the term,
    A = stop_gradient(log other(y) - log student(y)) under the current student (vanilla
    on-policy distillation; StableOPD, arXiv:2604.08527). With ``advantage`` the term's
    own is used, as computed at scoring time, and no other model is read: ``other=None``
    then says so. clip_low=1 and clip_high=inf switch clipping off.
    """
    logp = log_prob(outputs, "student")
    advantage = outputs.advantage
    if advantage is None:
        if other is None:
            raise ValueError(
                "policy_gradient with other=None has nothing to compare with; name an "
                "advantage or a model in other"
            )
        advantage = log_prob(outputs, other) - logp
    return estimators.clipped_surrogate(
        logp,
        outputs.behavior_logp,
        advantage,
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
    )


def score_function(outputs: Outputs) -> jax.Array:
    """-A log student(y): REINFORCE with the term's ``advantage``, without a ratio.

    For advantages and weights that already hold what the update needs of the policy
    that drew the token. The value has no meaning of its own. Raises ValueError for a
    term without an advantage.
    """
    if outputs.advantage is None:
        raise ValueError("score_function has nothing to weigh with; name an advantage")
    logp = log_prob(outputs, "student")
    return estimators.score_function(logp, outputs.advantage)


def _sampled(outputs: Outputs, other: str) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the written token under the student and the other model."""
    return (
        log_prob(outputs, "student"),
        log_prob(outputs, other),
    )


def _within(k: int, rows: jax.Array) -> int:
    return min(k, rows.shape[-1])
