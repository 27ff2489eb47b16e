"""TA-OPD (arXiv:2605.26844): train where the teacher is both far and reachable.

D = KL(T || S) renormalised on the union of both top k    fact local_forward_kl
C = sum_{v in top k of S} T_v                             fact compatibility
nz(z) = clip((z - q05) / (q95 - q05), 0, 1), quantiles over the tokens of a batch
teachable = nz(D) nz(C),  kept are the ceil(share n) tokens with the most of it
"""

import jax
import jax.numpy as jnp

from jopd.losses import groups
from jopd.types import Scores

SCORES = (
    "teachable", "incompatible", "divergence", "reachable", "entropy", "tip", "random",
)  # fmt: skip


def keep(
    scores: Scores,
    *,
    share: float,
    score: str = "teachable",
    source: str = "student",
    divergence_fact: str = "apart",
    compatibility_fact: str = "reachable",
) -> jax.Array:
    """1 on the ``share`` of a batch's tokens with the highest score, 0 elsewhere.

    Exactly max(1, ceil(share n)) of the n response tokens of ``source`` ("any" for
    all), ties to the earlier row and token; with the normaliser "weights" the loss is
    the mean over those kept (equation 7). Scores, with d, c and h the nz of D, C and
    the student's entropy (of its whole vocabulary; the authors' code has that of its
    top k):

        teachable     d c              incompatible  d (1 - c)
        divergence    d                reachable     c
        entropy       h                tip           h + d - h d (TIP)
        random        one draw per token and update

    The authors' code also keeps at least one token of every row; the paper does not.
    Raises ValueError for an unknown score and unless 0 < share <= 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"ta_opd.keep needs 0 < share <= 1, got {share}")
    if score not in SCORES:
        raise ValueError(f"score={score!r} is unknown; use one of {', '.join(SCORES)}")
    inside_BT = groups.written_by(scores, source)
    d = _scaled(scores.facts[divergence_fact], inside_BT)
    c = _scaled(scores.facts[compatibility_fact], inside_BT)
    h = _scaled(scores.entropy["student"], inside_BT)
    score_BT = {
        "teachable": d * c,
        "incompatible": d * (1 - c),
        "divergence": d,
        "reachable": c,
        "entropy": h,
        "tip": h + d - h * d,
        "random": scores.uniform,
    }[score]
    return _highest(score_BT, inside_BT, share)


def _scaled(values_BT: jax.Array, inside_BT: jax.Array) -> jax.Array:
    """nz: the middle nine tenths of the values inside to [0, 1]; 0 if all are equal."""
    among_BT = jnp.where(inside_BT, values_BT, jnp.nan)
    low, high = jnp.nanquantile(among_BT, jnp.asarray([0.05, 0.95]))
    flat = high - low < 1e-6 * jnp.maximum(1.0, jnp.abs(high))  # rounding
    scaled_BT = jnp.clip((values_BT - low) / jnp.where(flat, 1.0, high - low), 0, 1)
    return jnp.where(flat, 0.0, scaled_BT)


def _highest(score_BT: jax.Array, inside_BT: jax.Array, share: float) -> jax.Array:
    # In whole numbers: 0.1 of 30 tokens are 3, and all of a million are a million.
    parts = max(round(share * 10_000), 1)
    whole, rest = jnp.divmod(jnp.sum(inside_BT), 10_000)
    wanted = whole * parts - (-rest * parts // 10_000)
    order = jnp.argsort(-jnp.where(inside_BT, score_BT, -jnp.inf).ravel(), stable=True)
    place = jnp.argsort(order)  # of every token in that order
    kept_BT = (place < wanted).reshape(inside_BT.shape) & inside_BT
    return kept_BT.astype(jnp.float32)
