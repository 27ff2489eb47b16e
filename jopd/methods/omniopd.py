"""OmniOPD: distillation from a teacher that only writes text.

The student's response is the draft. At its most uncertain positions a teacher writes
N continuations of the same prefix, and how much they resemble the chunk that the
student wrote there estimates how much the teacher would have preferred it:

    L = mean over sequences of
        - sum_c pihat_c sum_{t in c} log student(y_t)               audited chunks c
        + beta * sum_{t in no chunk} KL(reference || student)_t

    pihat_c = stop_gradient((k_c + alpha * pibar_c) / (N + alpha))
    k_c     = sum_n phi(chunk c, continuation n)                    in [0, N]
    pibar_c = exp(mean_{t in c} log student(y_t))

``peaks`` chooses the chunks on the host; ``teachers.audit`` asks the teacher and leaves
``extra["chunk"]`` (number of the chunk in its row, -1 outside of all) and
``extra["similarity"]`` (k of the token's chunk) in the batch. What is known of the
paper, and from where: docs/methods/omniopd.md.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jopd.types import Scores

ORDERS = ("entropy", "random", "lowest")
BASELINES = ("none", "batch_mean", "leave_one_out")


def peaks(
    entropy_BT, mask_BT, chunk: int, count: int, lead: int = 0
) -> list[list[int]]:
    """First tokens of the chunks of every row, ascending; host side.

    Positions are visited by falling entropy. The chunk of t begins ``lead`` tokens
    before it, or with the row; it is accepted if it fits as a whole and begins at least
    ``chunk`` away from every accepted one. Equal entropies go to the larger t. A row
    may get fewer than ``count`` chunks, or none.

    Args:
      entropy_BT: f32[B, T], entropy in nats of the distribution each token came from.
      mask_BT: bool[B, T], tokens that may be audited: one run per row.
      chunk: tokens per chunk.
      count: most chunks per row.
      lead: tokens of a chunk before its anchor, below ``chunk``.
    """
    rows = zip(np.asarray(entropy_BT), np.asarray(mask_BT))
    return [
        _peaks_of_row(entropy_T, mask_T, chunk, count, lead)
        for entropy_T, mask_T in rows
    ]


def _peaks_of_row(entropy_T, mask_T, chunk: int, count: int, lead: int) -> list[int]:
    inside = np.flatnonzero(mask_T)
    if not len(inside):
        return []
    last = inside[-1] + 1 - chunk
    accepted: list[int] = []
    for t in sorted(inside, key=lambda t: (-entropy_T[t], -t)):
        if len(accepted) == count:
            break
        first = max(t - lead, inside[0])
        if first <= last and all(abs(first - other) >= chunk for other in accepted):
            accepted.append(int(first))
    return sorted(accepted)


def priorities(entropy_BT, order: str, rng: np.random.Generator) -> np.ndarray:
    """What ``peaks`` sorts by: the entropy, or a control for studies of it.

    ``random`` ignores the entropy, ``lowest`` turns it around.
    """
    entropy_BT = np.asarray(entropy_BT, np.float32)
    if order == "random":
        return rng.random(entropy_BT.shape, dtype=np.float32)
    return -entropy_BT if order == "lowest" else entropy_BT


def chunk_rate(
    scores: Scores, *, alpha: float = 1.0, samples: int = 10, baseline: str = "none"
) -> jax.Array:
    """pihat of the token's chunk, in [0, 1]; 0 on tokens that were not audited.

    The posterior mean of a Dirichlet-multinomial with concentration ``alpha`` around
    the student's own probability of the chunk. ``baseline`` subtracts a mean of pihat,
    which leaves the mean gradient as it is, lowers its variance and makes weights
    negative; the paper has none:

    ``batch_mean`` the mean over all chunks of the batch. A chunk's own pihat is in it,
    so the gradient shrinks by a factor of about 1 - 1 / chunks.
    ``leave_one_out`` the mean over the chunks of all other rows (0 where there are
    none). Chunks of one row are no independent draws: the later one's prefix holds the
    earlier one.

    Raises:
      ValueError: unknown baseline, or the batch was not audited.
    """
    if baseline not in BASELINES:
        raise ValueError(
            f"chunk_rate: baseline={baseline!r} is unknown; use one of "
            f"{', '.join(BASELINES)}"
        )
    chunk_BT = _audited(scores, "chunk").astype(jnp.int32)
    inside_BT = scores.mask & (chunk_BT >= 0)
    logp_BT = jnp.where(inside_BT, scores.logp["student"], 0.0)
    length_BT = _over_chunk(inside_BT.astype(jnp.float32), chunk_BT, inside_BT)
    mean_BT = _over_chunk(logp_BT, chunk_BT, inside_BT) / jnp.maximum(length_BT, 1.0)
    similarity_BT = _audited(scores, "similarity")
    rate_BT = (similarity_BT + alpha * jnp.exp(mean_BT)) / (samples + alpha)
    # Every chunk counts once, however many tokens it has.
    share_BT = jnp.where(inside_BT, 1.0 / jnp.maximum(length_BT, 1.0), 0.0)
    centre = _baseline(rate_BT * share_BT, share_BT, baseline)
    return jnp.where(inside_BT, rate_BT - centre, 0.0)


def unaudited(scores: Scores) -> jax.Array:
    """1 on tokens outside of all audited chunks, 0 inside."""
    return (_audited(scores, "chunk") < 0).astype(jnp.float32)


def _audited(scores: Scores, name: str) -> jax.Array:
    if name not in scores.extra:
        raise ValueError(
            f"scores.extra has no {name!r}: the batch was not audited; set "
            "audit.chunks above 0"
        )
    return scores.extra[name]


def _over_chunk(values_BT, chunk_BT, inside_BT) -> jax.Array:
    """f32[B, T]: the sum of ``values_BT`` over the chunk that each token lies in."""
    width = values_BT.shape[1]
    # What lies outside of all chunks goes to a segment of its own.
    segment_BT = jnp.where(inside_BT, chunk_BT, width)

    def row(values_T, segment_T):
        sums = jax.ops.segment_sum(values_T, segment_T, num_segments=width + 1)
        return sums[segment_T]

    return jax.vmap(row)(values_BT, segment_BT)


def _baseline(rate_BT, share_BT, baseline: str):
    """The mean rate to subtract, from rates and chunks shared out to tokens."""
    rate_B1 = jnp.sum(rate_BT, axis=1, keepdims=True)
    count_B1 = jnp.sum(share_BT, axis=1, keepdims=True)
    if baseline == "batch_mean":
        return jnp.sum(rate_B1) / jnp.maximum(jnp.sum(count_B1), 1.0)
    if baseline == "leave_one_out":
        others_B1 = jnp.round(jnp.sum(count_B1) - count_B1)
        rest_B1 = jnp.sum(rate_B1) - rate_B1
        return jnp.where(others_B1 > 0, rest_B1 / jnp.maximum(others_B1, 1.0), 0.0)
    return 0.0
