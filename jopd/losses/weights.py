"""Where and how much a term counts: ``Scores -> f32[B, T]``, never differentiated.

The same signature serves advantages (``Term.advantage``): a per-token number computed
at scoring time that a policy-gradient signal multiplies. Functions here need not mask
or stop gradients; ``objective.weigh`` does both.
"""

import jax
import jax.numpy as jnp

from jopd.losses import groups
from jopd.types import SOURCES, Scores


def log_ratio(
    scores: Scores,
    *,
    other: str = "teacher",
    floor: float = -float("inf"),
    bound: float = float("inf"),
) -> jax.Array:
    """log other(y) - log student(y) at scoring time: the negated K1 estimate.

    ``floor`` raises what is below it (REOPOLD, arXiv:2603.11137, equation 7: max(R,
    log(lambda / (1 - lambda)))); ``bound`` cuts both sides at +-bound. Nats. Without
    either, the advantage of on-policy distillation.
    """
    ratio = scores.logp[other] - scores.logp["student"]
    return jnp.clip(ratio, max(floor, -bound), bound)


def power_ratio(scores: Scores, *, alpha: float, other: str = "teacher") -> jax.Array:
    """other(y)^alpha - student(y)^alpha of PowerOPD (arXiv:2606.17199), in [-1, 1].

    The sign of the log-ratio with a bounded size; alpha -> 0 is alpha * log_ratio,
    alpha = 1 the difference of the probabilities. As an advantage its fixed point is
    other = student, but its mean gradient is that of no KL. Raises ValueError unless
    alpha > 0.
    """
    if not alpha > 0:
        raise ValueError(
            f"power_ratio needs alpha > 0, got {alpha}; its limit 0 is log_ratio"
        )
    student, other_ = scores.logp["student"], scores.logp[other]
    return jnp.exp(alpha * other_) - jnp.exp(alpha * student)


def group_reward(scores: Scores, *, std: bool = True, eps: float = 1e-6) -> jax.Array:
    """Advantage of GRPO (arXiv:2402.03300): a row's reward against its own group.

        A = (R - mean R) / (std R + eps)

    over the rows of the batch that answer the same prompt and hold student tokens; the
    standard deviation is the unbiased one (n - 1). ``std=False`` leaves the division
    out (Dr. GRPO, arXiv:2503.20783). Every token of a row has the row's A.

    Exactly 0 for groups of equal rewards and for groups of one row. Gold, teacher and
    masked rows neither enter the mean nor get an advantage. Replayed rows are drawn one
    by one: they count with what is there of their group.
    """
    group = groups.of(scores)
    mean_B = group.total(scores.reward) / jnp.maximum(group.count_B, 1)
    centred_B = scores.reward - mean_B
    if std:
        squares_BB = jnp.square(scores.reward - mean_B[:, None])
        others_B = jnp.maximum(group.count_B - 1, 1)
        variance_B = group.total(squares_BB) / others_B
        centred_B = centred_B / (jnp.sqrt(variance_B) + eps)
    # A mean that is rounded would leave equal rewards an advantage of its error / eps.
    compared_B = group.present_B & ~group.uniform_B
    return _rows(jnp.where(compared_B, centred_B, 0.0), scores)


def accepted(
    scores: Scores, *, other: str = "teacher", inverse: bool = False
) -> jax.Array:
    """The trust mask of TrOPD (arXiv:2606.01249): 1 where a coin accepts the token.

        uniform < min(1, other(y) / student(y))

    the acceptance rule of speculative decoding, with one fresh coin per token and
    update. Its mean over y ~ student is 1 - TV(other, student). ``inverse`` is the
    complement under the same coin: the two masks of one update never overlap. The ratio
    uses the student at scoring time, on fresh rows the one that wrote them.
    """
    ratio = jnp.exp(log_ratio(scores, other=other))
    return ((scores.uniform < ratio) != inverse).astype(jnp.float32)


def first_tokens(scores: Scores, *, count: int) -> jax.Array:
    """1 on the first ``count`` response tokens, 0 after."""
    return (scores.position < count).astype(jnp.float32)


def after_tokens(scores: Scores, *, count: int, rescale: bool = False) -> jax.Array:
    """0 on the first ``count`` response tokens, 1 after (SDFT skips 3).

    ``rescale`` makes it n / k after, of a row's n tokens of one source with k left: a
    mean per sequence is then over the tokens that are left, as in TRL's SDFT.
    """
    after_BT = scores.position >= count
    return _rescaled(after_BT, scores) if rescale else after_BT.astype(jnp.float32)


def last_tokens(scores: Scores, *, count: int, rescale: bool = True) -> jax.Array:
    """0 but on the last ``count`` response tokens of a row (OPRD takes 2000).

    ``rescale`` is that of ``after_tokens``.
    """
    length_B = jnp.sum(scores.mask, axis=1, keepdims=True)
    last_BT = scores.position >= length_B - count
    return _rescaled(last_BT, scores) if rescale else last_BT.astype(jnp.float32)


def _rescaled(kept_BT: jax.Array, scores: Scores) -> jax.Array:
    """n / k on what is kept: of n tokens of a row and a source k are.

    A prefix is not the student's, and no part of a mean over the student's tokens.
    """
    weight_BT = jnp.zeros(kept_BT.shape, jnp.float32)
    for source in SOURCES.values():
        own_BT = scores.mask & (scores.source == source)
        left_BT = own_BT & kept_BT
        n_B, k_B = (jnp.sum(x, 1, keepdims=True) for x in (own_BT, left_BT))
        weight_BT = jnp.where(left_BT, n_B / jnp.maximum(k_B, 1), weight_BT)
    return weight_BT


def finished(scores: Scores) -> jax.Array:
    """0 on rows that were cut before an end, 1 on those that ended.

    Rows without an end are left out of the loss: TRL's ``mask_truncated_completions``
    and the control "drop truncated" of StableOPD (arXiv:2604.08527). With the
    normaliser "weights" the mean is over what is kept, as in TRL.
    """
    return _rows(scores.finished.astype(jnp.float32), scores)


def before_end(scores: Scores) -> jax.Array:
    """0 on the last token of a row that ended, its stop token, 1 on all others.

    The end itself is neither rewarded nor punished (PowerOPD's authors' script,
    arXiv:2606.17199, ``TERMINAL_STOP_TARGET=mask``). A row that a stop string ended
    loses the token that completed it.
    """
    following_BT = jnp.pad(scores.mask[:, 1:], ((0, 0), (0, 1)))
    last_BT = scores.mask & ~following_BT
    return 1.0 - (last_BT & scores.finished[:, None]).astype(jnp.float32)


def within(scores: Scores, *, start: tuple = (), end: tuple = ()) -> jax.Array:
    """1 behind the first ``start`` of a response and before the next ``end``, else 0.

    Marks are ids of tokens, one or several in a row, as the tokenizer writes them: the
    id of <think> and that of </think>, say. Without ``start`` from the first token on
    (where the template has opened the thought, or to end at the mark of the answer),
    without ``end``, or where it never comes, to the last. The marks have 0.

    Byte pairs may join an end of a mark with what stands beside it, and then other ids
    stand there and are not found: look at the ids of real responses; special tokens
    never join. Raises ValueError for ids that are no whole numbers, or no mark at all.
    """
    for name, ids in (("start", start), ("end", end)):
        whole = isinstance(ids, tuple | list) and all(type(v) is int for v in ids)
        if not whole or not (start or end):
            raise ValueError(
                f"within needs start or end, a tuple of ids; got {name}={ids!r:.80}"
            )
    at_T = jnp.arange(scores.mask.shape[1])
    opened_B = jnp.zeros(len(scores.mask), jnp.int32)
    if start:
        opened_B = _first(start, scores, opened_B) + len(start)
    inside_BT = at_T >= opened_B[:, None]
    if end:
        inside_BT = inside_BT & (at_T < _first(end, scores, opened_B)[:, None])
    return (inside_BT & scores.mask).astype(jnp.float32)


def entropy_above(
    scores: Scores, *, threshold: float, of: str = "teacher"
) -> jax.Array:
    """1 where the entropy (nats) of the named model is at least ``threshold``."""
    return (scores.entropy[of] >= threshold).astype(jnp.float32)


def entropy_top_share(
    scores: Scores, *, share: float, of: str = "student", source: str = "student"
) -> jax.Array:
    """1 on the ``share`` of a batch's tokens with the highest entropy of ``of``.

    REOPOLD's second stage (arXiv:2603.11137, equation 8): H >= tau, with tau the batch
    quantile that keeps the top share. Counted over the response tokens of ``source``
    ("any" for all): name the term's own. Keeps the nearest whole number of tokens, at
    least one, and every token that ties with the last. share = 1 keeps all.
    Raises ValueError unless 0 < share <= 1.
    """
    if not 0 < share <= 1:
        raise ValueError(
            f"entropy_top_share needs 0 < share <= 1, got {share}; it is the part of "
            "the tokens that is kept"
        )
    inside_BT = groups.written_by(scores, source)
    entropy_BT = jnp.where(inside_BT, scores.entropy[of], -jnp.inf)
    kept = jnp.round(share * jnp.sum(inside_BT)).astype(jnp.int32)
    descending = -jnp.sort(-entropy_BT.ravel())
    threshold = descending[jnp.maximum(kept, 1) - 1]
    return (inside_BT & (entropy_BT >= threshold)).astype(jnp.float32)


def log_ratio_above(
    scores: Scores, *, threshold: float, other: str = "teacher"
) -> jax.Array:
    """1 where log other(y) - log student(y) is at least ``threshold``."""
    return (log_ratio(scores, other=other) >= threshold).astype(jnp.float32)


def log_ratio_below(
    scores: Scores, *, threshold: float, other: str = "teacher"
) -> jax.Array:
    """1 where ``log_ratio_above`` is 0: the tokens outside of a static trust region."""
    return 1.0 - log_ratio_above(scores, threshold=threshold, other=other)


def staleness(scores: Scores, *, decay: float) -> jax.Array:
    """decay ** age of the row, in updates since it was sampled; fresh rows weigh 1."""
    return _rows(jnp.float32(decay) ** scores.age.astype(jnp.float32), scores)


def importance(
    scores: Scores, *, low: float = 0.0, high: float = float("inf")
) -> jax.Array:
    """student(y) / behavior(y) at scoring time, truncated to [low, high].

    Corrects replayed rows for signals that do not carry a ratio of their own.
    """
    ratio = jnp.exp(scores.logp["student"] - scores.behavior_logp)
    return jnp.clip(ratio, low, high)


def random_rows(scores: Scores, *, drop: float) -> jax.Array:
    """1 on rows that a coin keeps, 0 on the share ``drop`` that it leaves out.

    What a filter of rows is to be compared with (no paper's own). A fresh coin per row
    and update, that of the row's first place.
    """
    kept_B = scores.uniform[:, :1] >= drop
    return jnp.broadcast_to(kept_B.astype(jnp.float32), scores.mask.shape)


def random_end(scores: Scores, *, rate: float, exempt: int = 0) -> jax.Array:
    """1 until a coin ends the row, which it does at every token with ``rate``; then 0.

    What a rule that cuts rows is to be compared with: where it cuts says nothing. The
    first ``exempt`` response tokens are never the end; the one that ends is left out.
    """
    ends_BT = scores.mask & (scores.position >= exempt) & (scores.uniform < rate)
    return (jnp.cumsum(ends_BT, axis=1) == 0).astype(jnp.float32)


def rewarded(
    scores: Scores, *, least: float = -float("inf"), below: float = float("inf")
) -> jax.Array:
    """1 on rows with ``least`` <= reward < ``below``, 0 on others: right or wrong ones.

    Raises ValueError where no reward is both.
    """
    if not least < below:
        raise ValueError(f"rewarded(least={least}, below={below}) keeps no row")
    kept_B = (scores.reward >= least) & (scores.reward < below)
    return _rows(kept_B.astype(jnp.float32), scores)


def has_context(scores: Scores, *, of: str = "teacher") -> jax.Array:
    """1 on rows that the teacher ``of`` reads in its context, 0 on those it cannot.

    For contexts that show other rollouts (``teachers.peers``): a row may lack the first
    that one names, or be too long in it. With the normaliser "weights" a term's mean is
    then over the tokens of rows that have it. Of a panel: rows that all of its members
    with such contexts read in theirs. Raises ValueError where nobody reads rollouts.
    """
    fact = f"has_context/{of}"
    if fact not in scores.extra:
        raise ValueError(
            f"scores.extra has no {fact!r}: {of!r} reads no other rollouts; name "
            "{peer} or {failure} in its context"
        )
    return scores.extra[fact]


def _rows(values_B: jax.Array, scores: Scores) -> jax.Array:
    """A number per row on all of its tokens; f64 stays f64."""
    return jnp.broadcast_to(values_B[:, None], scores.mask.shape)


def _first(ids: tuple, scores: Scores, least_B: jax.Array) -> jax.Array:
    """i32[B]: where ``ids`` first begin in a response, from a place on; T: nowhere."""
    width = scores.mask.shape[1]
    written_BT = jnp.where(scores.mask, scores.tokens, -1)
    ahead = jnp.pad(written_BT, ((0, 0), (0, len(ids))), constant_values=-1)
    here = [ahead[:, j : j + width] == one for j, one in enumerate(ids)]
    found_BT = jnp.all(jnp.stack(here), axis=0)
    found_BT = found_BT & (jnp.arange(width) >= least_B[:, None])
    return jnp.where(jnp.any(found_BT, axis=1), jnp.argmax(found_BT, axis=1), width)
