"""KAT, the KL agreement trap (arXiv:2606.09471): on rollouts that are there, or while
they are written.

A student that has lost its way, in a loop perhaps, takes the teacher along: given that
prefix the teacher goes on as it did, their KL is small, and tokens are spent on what
corrects nothing. z_t is the mean KL over the last ``window`` tokens; where it stays
below a threshold for ``patience`` windows in a row, one a token, the response is cut
back to the start of the first of them. The threshold is a quantile of the smallest z of
earlier rollouts, so that a known share of them is spared.
"""

import jax
import jax.numpy as jnp

from jopd.losses import groups
from jopd.types import Memory, Scores

CUTS = ("start", "trigger")


def before_agreement(
    scores: Scores,
    *,
    memory: str = "",
    threshold: float = -1.0,
    spared: float = 0.3,
    window: int = 64,
    patience: int = 4,
    exempt: int = 16,
    warmup_steps: int = 50,
    least: int = 512,
    cut: str = "start",
    fact: str = "",
    other: str = "teacher",
) -> jax.Array:
    """0 from where student and ``other`` only agree to the end of the row, 1 before.

        z_t = mean of KL(student || other) over t - window + 1 .. t
        trigger = first t with z below the threshold at t - patience + 1 .. t

    The KL is the exact one, or a named ``fact`` (the paper's: of the student's 64
    likeliest tokens and a rest).

    ``cut="start"`` (the paper's text) leaves out all from the first token of the first
    of those windows, ``"trigger"`` (its pseudo-code) all behind the trigger. Windows
    lie in the student's own tokens and behind the first ``exempt`` of the response.

    The threshold, in nats, is the one given, or with a ``memory`` of ``minima`` its
    quantile 1 - ``spared``: the share of earlier rollouts that never fell below it.
    Below ``warmup_steps`` updates or ``least`` rollouts in it nothing is cut.

    Raises:
      ValueError: neither a threshold nor a memory or both, or another ``cut``.
    """
    if cut not in CUTS:
        raise ValueError(
            f"before_agreement needs cut='start' or 'trigger', got {cut!r}"
        )
    rule = dict(spared=spared, warmup_steps=warmup_steps, least=least)
    tau = _tau("before_agreement", scores.memory, memory, threshold, **rule)
    z_BT = windowed(scores, window=window, exempt=exempt, fact=fact, other=other)
    caught_B, trigger_B = _caught(z_BT, tau, patience)
    place_T = jnp.arange(z_BT.shape[1])
    last_B = trigger_B if cut == "trigger" else trigger_B - patience - window + 1
    kept_BT = (place_T <= last_B[:, None]) | ~caught_B[:, None]
    return kept_BT.astype(jnp.float32)


def agreement(
    seen,
    *,
    memory: str = "",
    threshold: float = -1.0,
    spared: float = 0.3,
    mean_over: int = 64,
    patience: int = 4,
    exempt: int = 16,
    warmup_steps: int = 50,
    least: int = 512,
) -> tuple[jax.Array, jax.Array]:
    """Rollouts that end at the trigger of ``before_agreement``, and what is behind it.

    A rule of early stops (``rollouts.stops.Seen``). ``mean_over`` is the window of z
    there; the KL is that of the sampler's temperature. Rows that ended by themselves
    since the last look are left alone, and the first ``exempt`` tokens are those behind
    a prefix. It must see ``mean_over + patience - 2`` tokens and a block:
    ``early_stop.window=0`` is all of them.

    Raises:
      ValueError: as ``before_agreement``; nobody reads along.
    """
    if seen.reverse_kl_BW is None:
        raise ValueError("agreement compares with a teacher, and none reads along")
    rule = dict(spared=spared, warmup_steps=warmup_steps, least=least)
    tau = _tau("agreement", seen.memory, memory, threshold, **rule)
    width = seen.reverse_kl_BW.shape[1]
    number_BW = seen.count_B[:, None] - width + jnp.arange(width)
    first = exempt + mean_over - 1
    z_BW = _means(seen.reverse_kl_BW, number_BW >= 0, number_BW >= first, mean_over)
    caught_B, trigger_B = _caught(z_BW, tau, patience)
    return caught_B, width - trigger_B  # the newest token is behind all that is seen


def _tau(who: str, memories, memory: str, threshold, *, spared, warmup_steps, least):
    """The threshold that is given, or that of a memory; -1 where there is none yet."""
    if bool(memory) == (threshold >= 0):
        raise ValueError(
            f"{who} needs either a threshold from 0 on or a memory, got "
            f"threshold={threshold} and memory={memory!r}"
        )
    if not memory:
        return threshold
    updates, pushed, _ = held = memories[memory]
    ready = (updates >= warmup_steps) & (pushed >= least)
    return jnp.where(ready, quantile(held, 1 - spared), -1.0)


def _caught(z_BT: jax.Array, tau, patience: int) -> tuple[jax.Array, jax.Array]:
    """Which rows have a trigger, and where, i32[B]."""
    low_BT = (z_BT < tau).astype(jnp.int32)
    caught_BT = _sums(low_BT, patience) == patience
    return jnp.any(caught_BT, axis=1), jnp.argmax(caught_BT, axis=1)


def windowed(
    scores: Scores,
    *,
    window: int,
    exempt: int,
    fact: str = "",
    other: str = "teacher",
) -> jax.Array:
    """z, f32[B, T]; inf where a window is not whole, not the student's or exempt."""
    own_BT = groups.student_tokens(scores)
    kl_BT = scores.facts[fact] if fact else scores.reverse_kl[other]
    return _means(kl_BT, own_BT, scores.position >= exempt + window - 1, window)


def _means(kl_BT: jax.Array, own_BT, eligible_BT, window: int) -> jax.Array:
    """z of windows that are whole, of a row's own tokens and eligible; else inf."""
    kl_BT = jnp.where(own_BT, kl_BT, 0.0)
    whole_BT = _sums(own_BT.astype(jnp.int32), window) == window
    return jnp.where(whole_BT & eligible_BT, _sums(kl_BT, window) / window, jnp.inf)


def _sums(values_BT: jax.Array, width: int) -> jax.Array:
    """Sum of the ``width`` values up to and with each; before a row there is nothing.

    Of each window by itself: differences of running sums would cancel.
    """
    padded = jnp.pad(values_BT, ((0, 0), (width - 1, 0)))
    zero = values_BT.dtype.type(0)
    return jax.lax.reduce_window(padded, zero, jax.lax.add, (1, width), (1, 1), "valid")


def minima(
    vocabulary: int,
    *,
    window: int = 64,
    exempt: int = 16,
    capacity: int = 4096,
    fact: str = "",
    other: str = "teacher",
) -> Memory:
    """The smallest z of each of the last ``capacity`` fresh rollouts, in nats.

    ``(updates i32, pushed i32, f32[capacity])``, the oldest overwritten first; rollouts
    without a whole window are passed over. Where nothing ends rollouts early
    (``configs/kat.py``) they are whole, also those that the paper ends at the trigger,
    so their minima and tau are lower than its own. One queue for all devices; the
    paper has one per worker.
    """
    del vocabulary

    def start():
        return jnp.int32(0), jnp.int32(0), jnp.full(capacity, jnp.inf)

    def step(held, scores: Scores):
        updates, pushed, queue = held
        z_BT = windowed(scores, window=window, exempt=exempt, fact=fact, other=other)
        low_B = jnp.min(z_BT, axis=1)
        new_B = (scores.age == 0) & jnp.isfinite(low_B)
        number_B, count = jnp.cumsum(new_B) - 1, jnp.sum(new_B)
        newest_B = new_B & (number_B >= count - capacity)
        place_B = jnp.where(
            newest_B, (pushed % capacity + number_B) % capacity, capacity
        )
        return updates + 1, pushed + count, queue.at[place_B].set(low_B, mode="drop")

    return Memory(start, step)


def quantile(held, share) -> jax.Array:
    """Of the rollouts in a queue of ``minima``, between two of them linearly."""
    _, pushed, queue = held
    ascending = jnp.sort(queue)
    count = jnp.clip(pushed, 1, len(queue))
    place = share * (count - 1)
    below = jnp.floor(place).astype(jnp.int32)
    above = jnp.minimum(below + 1, count - 1)
    low, high = ascending[below], ascending[above]
    return jnp.where(high > low, low + (place - below) * (high - low), low)


def levels(scores: Scores, *, memory: str, spared: float) -> dict[str, jax.Array]:
    """For the log: the threshold in nats, NaN of an empty queue, and its rollouts."""
    held = scores.memory[memory]
    found = quantile(held, 1 - spared)
    return {
        "threshold": jnp.where(jnp.isinf(found), jnp.nan, found),
        "rollouts": jnp.minimum(held[1], len(held[2])),
    }
