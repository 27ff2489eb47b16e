"""FiRe-OPD (arXiv:2606.02684): drop rollouts unlikely to the teacher, weigh the rest.

Two weights of one term. With ``scope="sequence"`` their products sum to the number of
kept tokens, so the normaliser "weights" is the paper's denominator.
"""

import jax
import jax.numpy as jnp

from jopd.losses import groups
from jopd.types import Scores


def familiar_rows(
    scores: Scores, *, drop: float = 0.2, other: str = "teacher"
) -> jax.Array:
    """1 on rows whose mean log other(y) is at least the ``drop`` quantile, else 0.

    Over the student tokens of the whole batch (the released code: of a micro-batch,
    where the quantile says little); linear quantile over rows that have some. drop = 0
    keeps all. Raises ValueError unless 0 <= drop < 1.
    """
    if not 0 <= drop < 1:
        raise ValueError(
            f"familiar_rows needs 0 <= drop < 1, got {drop}; it is the share of the "
            "rollouts that is left out"
        )
    inside_BT = groups.student_tokens(scores)
    mean_B = groups.row_mean(scores.logp[other], inside_BT)
    among_B = jnp.where(jnp.any(inside_BT, axis=1), mean_B, jnp.nan)
    kept_B = among_B >= jnp.nanquantile(among_B, drop)
    return jnp.broadcast_to(kept_B[:, None], inside_BT.shape).astype(jnp.float32)


def sure_and_unsure(
    scores: Scores,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    scope: str = "sequence",
    other: str = "teacher",
) -> jax.Array:
    """(1 + alpha (1 - H_T / max H_T)) (1 + beta H_S / max H_S), scaled to a mean of 1.

    Heavier where the teacher is sure and the student is not. Entropies H in nats, their
    maxima over the student tokens of the batch; the mean is that of the row (``scope``
    "sequence", the paper's equation 8) or of all student tokens ("batch", the code).
    alpha = beta = 0 is 1. Raises ValueError for another scope.
    """
    if scope not in ("sequence", "batch"):
        raise ValueError(f"scope={scope!r} is unknown; use one of sequence, batch")
    inside_BT = groups.student_tokens(scores)

    def share(name: str) -> jax.Array:
        entropy_BT = jnp.where(inside_BT, scores.entropy[name], 0.0)
        return jnp.clip(entropy_BT / jnp.maximum(jnp.max(entropy_BT), 1e-6), 0.0, 1.0)

    raw_BT = (1 + alpha * (1 - share(other))) * (1 + beta * share("student"))
    mean_B = groups.row_mean(raw_BT, inside_BT)
    if scope == "batch":
        mean_B = jnp.mean(raw_BT, where=inside_BT)
    return raw_BT / jnp.where(mean_B > 0, mean_B, 1.0)[..., None]
