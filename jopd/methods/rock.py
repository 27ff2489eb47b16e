"""Rock tokens (arXiv:2605.09253): ids that carry much of the KL and hardly lose it.

    R(v) = freq(v) mean KL(v)      over the student's tokens so far

The ids with the highest R are left out of the loss (Rock-Freeze). By a
reader's note the paper ranks them once, by a run that came before, and takes the first
100: ``frozen(ids=...)``. Ranking
by what this run remembers is our extension. Its second stage, the consistency of
contexts, is not built: its thresholds are in no source.
"""

import jax
import jax.numpy as jnp

from jopd.losses import groups
from jopd.types import Memory, Scores


def statistics(
    vocabulary: int, *, decay: float = 1.0, other: str = "teacher"
) -> Memory:
    """How often the student wrote each id and what KL to ``other`` it met there.

    ``(updates i32, f32[V, 2])``: columns are counts and sums of the reverse KL in nats,
    at the student's own tokens; those of earlier updates count ``decay`` times less for
    every update since.
    """

    def step(held, scores: Scores):
        updates, sums_V2 = held
        own_BT = groups.student_tokens(scores)
        met_BT2 = jnp.stack([jnp.ones_like(own_BT), scores.reverse_kl[other]], -1)
        met_BT2 = jnp.where(own_BT[..., None], met_BT2, 0.0)
        # Masked ids may be any value; none of them may count, not even as the last id.
        ids_BT = jnp.where(own_BT, scores.tokens, 0)
        # Apart first: added one by one to a large number, small ones would be lost.
        met_V2 = jnp.zeros_like(sums_V2).at[ids_BT].add(met_BT2)
        return updates + 1, decay * sums_V2 + met_V2

    return Memory(lambda: (jnp.int32(0), jnp.zeros((vocabulary, 2))), step)


def frozen(
    scores: Scores,
    *,
    memory: str = "",
    ids: tuple = (),
    top: int = 100,
    drop_most_frequent: int = 0,
    min_count: int = 2,
    after: int = 0,
    weight: float = 0.0,
    on: str = "label",
    control: bool = False,
) -> jax.Array:
    """``weight`` on tokens whose id is a rock, 1 on all others.

    Rocks are ``ids``, or by ``memory`` (of ``statistics``) the ``top`` ids with the
    highest R, once it holds ``after`` updates; the ``drop_most_frequent`` commonest and
    those met fewer than ``min_count`` times are none. ``on="input"`` asks for the token
    before, as the released code does: what follows a rock is left out. ``control``
    freezes as many other ids of like frequency instead (``neighbours``).

    Raises:
      ValueError: neither ``ids`` nor ``memory`` or both, a control of ``ids``, or
        another ``on``.
    """
    if bool(ids) == bool(memory):
        raise ValueError(
            f"frozen needs either ids or a memory, got ids={ids!r:.80} and memory="
            f"{memory!r}; name one of config.memory, or list the ids"
        )
    if control and ids:
        raise ValueError("control needs a memory: frequencies of ids are counted there")
    if on not in ("label", "input"):
        raise ValueError(f"frozen needs on='label' or 'input', got {on!r}")
    if ids:
        rock_BT = jnp.isin(scores.tokens, jnp.asarray(ids, jnp.int32))
    else:
        updates, sums_V2 = scores.memory[memory]
        rock_V = rocks(
            sums_V2, top=top, drop_most_frequent=drop_most_frequent, min_count=min_count
        )
        if control:
            rock_V = neighbours(rock_V, sums_V2[:, 0], min_count=min_count)
        # Behind a row's end an id may be any value.
        rock_BT = rock_V[jnp.clip(scores.tokens, 0, len(rock_V) - 1)]
        rock_BT &= updates >= after
    if on == "input":
        rock_BT = jnp.pad(rock_BT[:, :-1], ((0, 0), (1, 0)))
    return jnp.where(rock_BT, jnp.float32(weight), 1.0)


def rocks(
    sums_V2: jax.Array, *, top: int, drop_most_frequent: int = 0, min_count: int = 1
) -> jax.Array:
    """bool[V]: the ``top`` ids by count times mean KL, which is the sum of the KL.

    Of equals the lower id is first, in both rankings.
    """
    count_V, sum_V = sums_V2[:, 0], sums_V2[:, 1]
    common_V = _first(count_V, drop_most_frequent)
    able_V = ~common_V & (count_V >= min_count) & (sum_V > 0)
    return able_V & _first(jnp.where(able_V, sum_V, -jnp.inf), top)


def neighbours(
    rock_V: jax.Array, count_V: jax.Array, *, min_count: int = 1
) -> jax.Array:
    """bool[V]: as many ids as there are rocks, none a rock, of like frequency.

    Those nearest to a rock in the order of counts, the commoner of equals first; ids
    met fewer than ``min_count`` times are none, the ``drop_most_frequent`` may be. The
    paper's other ids are of the same frequency, how they were found is not said.
    """
    order = jnp.argsort(-count_V, stable=True)
    place, far = jnp.arange(len(order)), 2 * len(order)
    is_rock = rock_V[order]
    above = jax.lax.cummax(jnp.where(is_rock, place, -far))
    below = jax.lax.cummin(jnp.where(is_rock, place, 2 * far), reverse=True)
    away = jnp.minimum(place - above, below - place)
    able = ~is_rock & (count_V[order] >= min_count)
    nearest = jnp.argsort(jnp.where(able, away, 4 * far), stable=True)
    taken = jnp.arange(len(order)) < jnp.minimum(jnp.sum(rock_V), jnp.sum(able))
    return jnp.zeros(rock_V.shape, bool).at[order[nearest]].set(taken)


def _first(values_V: jax.Array, count: int) -> jax.Array:
    """bool[V]: the ``count`` largest."""
    _, largest = jax.lax.top_k(values_V, min(count, len(values_V)))
    return jnp.zeros(values_V.shape, bool).at[largest].set(True)


def carried(
    scores: Scores,
    *,
    memory: str,
    top: int = 100,
    drop_most_frequent: int = 0,
    min_count: int = 2,
) -> dict[str, jax.Array]:
    """For the log: shares of tokens and KL that fell to rocks so far; NaN at first."""
    sums_V2 = scores.memory[memory][1]
    rock_V = rocks(
        sums_V2, top=top, drop_most_frequent=drop_most_frequent, min_count=min_count
    )
    share_2 = jnp.sum(jnp.where(rock_V[:, None], sums_V2, 0.0), 0) / jnp.sum(sums_V2, 0)
    return {"rock_tokens": share_2[0], "rock_kl": share_2[1]}
