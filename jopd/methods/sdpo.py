"""SDPO, self-distilled policy optimisation (arXiv:2601.20802)."""

import jax
import jax.numpy as jnp

from jopd.losses import divergences
from jopd.losses.scoring import log_prob
from jopd.types import Outputs


def distil(
    outputs: Outputs,
    *,
    alpha: float = 0.5,
    k: int = 100,
    is_clip: float = 2.0,
    renormalize: str = "none",
    other: str = "teacher",
) -> jax.Array:
    """Divergence on the student's own ``k`` likeliest tokens, times a truncated ratio.

        min(rho, is_clip) [(1 - alpha) KL(S' || M) + alpha KL(T' || M)],
        M = (1 - alpha) S' + alpha T',   rho = student(y) / behavior(y), detached

    S' and T' are student and other on the student's top-k, the rest of either as one
    bucket; a k beyond the vocabulary is the whole of it. In the bucket's place
    ``renormalize`` "both" (TRL's form without a tail) or "teacher" makes them sum to 1
    on the set. alpha = 1 is KL(S' || T') (the paper's form), alpha = 0 is KL(T' || S'),
    as in the released code: the mixture would vanish at both ends. rho is that of the
    current student, 1 on fresh rollouts; its logarithm is cut at +-20.

    Raises:
      ValueError: alpha outside of [0, 1], k < 1, is_clip <= 0, another renormalize.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"distil needs 0 <= alpha <= 1, got alpha={alpha}")
    if not is_clip > 0:
        raise ValueError(f"distil needs is_clip > 0, got {is_clip}; inf: no truncation")
    student, teacher = outputs.logits["student"], outputs.logits[other]
    among = dict(
        k=min(k, student.shape[-1]),
        support="student",
        tail=renormalize == "none",
        renormalize=renormalize,
    )
    if alpha == 0:
        value = divergences.top_k_forward_kl(student, teacher, **among)
    elif alpha == 1:
        value = divergences.top_k_reverse_kl(student, teacher, **among)
    else:
        value = divergences.top_k_jsd(student, teacher, beta=alpha, **among)
    logp = jax.lax.stop_gradient(log_prob(outputs, "student"))
    ratio = jnp.exp(jnp.clip(logp - outputs.behavior_logp, -20.0, 20.0))
    return jnp.minimum(ratio, is_clip) * value
