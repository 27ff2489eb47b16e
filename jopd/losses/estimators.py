"""Sampled-token estimators: ``f32[...] -> f32[...]``, one number per drawn token.

For one token y drawn from the student p, with the other distribution q (teacher or
reference), ``d = log p(y) - log q(y)``. What each gives, as a value and as a loss that
is differentiated on-policy (http://joschu.net/blog/kl-approx.html for the values):

    name | value         | mean over y ~ p     | mean of its gradient
    k1   | d             | KL(p || q) exactly  | 0: no signal at all
    k2   | d^2 / 2       | biased              | gradient of KL(p || q), exactly
    k3   | e^-d - 1 + d  | KL(p || q) exactly  | gradient of KL(q || p): the other KL

The exact gradient of KL(p || q) also comes from ``score_function(log_p, -k1)`` or, off
the sampling policy, ``clipped_surrogate`` with that advantage. ``-k3`` as an advantage
is *not* that gradient. All are unreduced; blank masked tokens before the call, since
0 times an overflow is NaN. Computed in float32 (float64 stays float64).

These gradients are of the token's own distribution given its prefix: how the token
changes later prefixes is left out, as in all per-token distillation.
"""

import math

import jax
import jax.numpy as jnp

# exp(80) = 5.5e34 is still finite in float32. Beyond it the ratio would be inf and its
# gradient, inf * 0, NaN even where a clip discards the value.
_MAX_EXPONENT = 80.0


def k1(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Log-ratio ``d = log p - log q``: unbiased for KL(p || q), of either sign.

    f32[...], f32[...] -> f32[...], nats. Differentiated, its mean is zero; use it as an
    advantage (negated) or as a metric.
    """
    return _float(log_p) - _float(log_q)


def k2(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Half the squared log-ratio, ``d^2 / 2``, never negative.

    f32[...], f32[...] -> f32[...], nats squared. Biased as a value (agrees with the KL
    to second order in d), exact as a loss: its gradient is ``d grad log p``.
    """
    return 0.5 * jnp.square(k1(log_p, log_q))


def k3(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """``exp(-d) - 1 + d``: unbiased for KL(p || q), never negative, low variance.

    f32[...], f32[...] -> f32[...], nats. For metrics. As a loss it follows the gradient
    of KL(q || p). Not clamped; the exponent alone stops at 80 (no inf in float32).
    """
    d = k1(log_p, log_q)
    return jnp.expm1(jnp.minimum(-d, _MAX_EXPONENT)) + d


def importance_ratio(logp: jax.Array, behavior_logp: jax.Array) -> jax.Array:
    """``exp(logp - behavior_logp)``, student over the policy that drew the token.

    f32[...], f32[...] -> f32[...]. Carries gradient through ``logp`` only, so that
    passing ``logp`` twice gives 1 with the on-policy gradient. The exponent stops at
    80.
    """
    log_ratio = _float(logp) - jax.lax.stop_gradient(_float(behavior_logp))
    return jnp.exp(jnp.minimum(log_ratio, _MAX_EXPONENT))


def score_function(logp: jax.Array, advantage: jax.Array) -> jax.Array:
    """REINFORCE loss ``-logp * advantage``; the advantage is a constant.

    f32[...], f32[...] -> f32[...]. Its gradient is ``-advantage grad logp`` token by
    token. With advantage ``-k1(log_p, log_q)`` and tokens drawn from p the mean
    gradient is that of KL(p || q). The value has no meaning of its own.
    """
    return -_float(logp) * jax.lax.stop_gradient(_float(advantage))


def clipped_surrogate(
    logp: jax.Array,
    behavior_logp: jax.Array,
    advantage: jax.Array,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> jax.Array:
    """PPO's clipped policy-gradient loss (arXiv:1707.06347, equation 7), negated.

        -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
        r = exp(logp - behavior_logp)

    f32[...] three times -> f32[...]. A is a constant. No gradient once r > 1 +
    clip_high with A > 0, or r < 1 - clip_low with A < 0: a token is not pushed further
    than that from the policy that drew it. ``dual_clip`` = c (arXiv:1912.09729) also
    bounds the objective below by ``c A`` where A < 0, cutting the gradient at r > c.

    Limits: at r = 1 value ``-A`` and the gradient of ``score_function``; clip_low=1
    with clip_high=inf is the unclipped importance-weighted loss. Raises ValueError
    unless 0 <= clip_low <= 1, clip_high >= 0 and c > 1.
    """
    _check_clips(clip_low, clip_high, dual_clip)
    ratio = importance_ratio(logp, behavior_logp)
    advantage = jax.lax.stop_gradient(_float(advantage))
    clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    objective = jnp.minimum(ratio * advantage, clipped * advantage)
    if dual_clip is not None:
        bounded = jnp.maximum(objective, dual_clip * advantage)
        objective = jnp.where(advantage < 0.0, bounded, objective)
    return -objective


def _float(x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _check_clips(clip_low: float, clip_high: float, dual_clip: float | None) -> None:
    if not 0.0 <= clip_low <= 1.0 or not clip_high >= 0.0:
        raise ValueError(
            f"clip_low={clip_low}, clip_high={clip_high}: both are distances from "
            "ratio 1; use 0 <= clip_low <= 1 and clip_high >= 0 (1 and inf switch them "
            "off)"
        )
    if dual_clip is not None and not 1.0 < dual_clip < math.inf:
        raise ValueError(
            f"dual_clip={dual_clip} must be a finite ratio above 1 (3 is usual); use "
            "None to switch it off"
        )
