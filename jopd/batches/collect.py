"""From the prompts of a step to the batch of one update: generate, verify, mix.

Rows are collected in this order: fresh student rollouts (or, in a reuse step, rows of
the buffer in their place), replayed rows, gold rows. Their numbers are fixed by the
config, so every update of a run has one of a few shapes; a row that cannot be filled
(an empty buffer, fewer solutions than gold rows) is there with an all-False mask. Then
they are dealt to devices and micro-batches, as many tokens to each.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopd.batches import buffer as replay
from jopd.batches.asking import RowSet, Writer, batch_of, fresh_rows
from jopd.data.dataset import Dataset, gold_rows, order, pad_prompts
from jopd.types import Batch, Rollout

# ``(student, batch, step) -> (batch, facts)``: adds ``Batch.extra`` on the host.
Annotate = Callable[[Any, Batch, int], tuple[Batch, dict[str, float | None]]]


class Mix(NamedTuple):
    """Rows of one update by where they come from, and how rollouts are reused."""

    fresh: int
    replayed: int
    gold: int
    group_size: int
    on_policy_probability: float = 1.0
    capacity: int = 0
    max_age_steps: int = 8
    updates_per_rollout: int = 1

    @property
    def prompts(self) -> int:
        return self.fresh // self.group_size

    @property
    def rows(self) -> int:
        return self.fresh + self.replayed + self.gold

    @property
    def buffered(self) -> bool:
        return self.replayed > 0 or self.updates_per_rollout > 1

    @property
    def least_capacity(self) -> int:
        """Rows the buffer must hold: all that enter it, or leave it, at one time."""
        reused = self.fresh * (self.updates_per_rollout > 1)
        return max(self.fresh, self.replayed + reused)


class Collected(NamedTuple):
    """The batch of one update, and the fresh rollouts as sampled (or None).

    ``facts`` are numbers about the annotation of the batch, to be logged. ``order_B``
    says which collected row each row of the batch is, fresh ones counted first.
    """

    batch: Batch
    fresh: Batch | None
    seconds: float
    order_B: np.ndarray
    facts: dict[str, float | None] = {}  # never changed in place


def rows_of_mix(
    *, student: float, gold: float, replay: float, prompts: int, group_size: int
) -> tuple[int, int, int]:
    """(fresh, replayed, gold) rows from the shares of a config.

    Shares are relative to the ``prompts * group_size`` student rows; without a student
    share all rows of an update are gold.
    """
    base = prompts * group_size
    if student == 0:
        return 0, 0, base
    return base, round(base * replay / student), round(base * gold / student)


def fit(batch: Batch, width: int) -> Batch:
    """Pads or cuts every ``[B, T]`` array on the right to ``width``; on the host."""

    def pad(array):
        if array.ndim < 2:
            return array
        kept = array[:, :width]
        return np.pad(kept, ((0, 0), (0, width - kept.shape[1])))

    return jax.tree.map(pad, batch)


def trim(batch: Batch, buckets: tuple[int, ...]) -> Batch:
    """Cuts every ``[B, T]`` array to the smallest bucket that holds the longest row."""
    longest = int(np.max(batch.rollout.length_B))
    width = min(bucket for bucket in buckets if bucket >= longest)
    return jax.tree.map(lambda x: x[:, :width] if x.ndim > 1 else x, batch)


def gold_batch(dataset: Dataset, ids, *, count: int, width: int) -> Batch:
    """``count`` gold rows of the prompts ``ids``, first come first served.

    Prompts without a solution are passed over; what is then missing is masked rows.
    """
    having = [i for i in ids if dataset.solutions[i] is not None][:count]
    some = having or [
        int(np.flatnonzero([s is not None for s in dataset.solutions])[0])
    ]
    filled = some + [some[0]] * (count - len(some))
    batch = batch_of(gold_rows(dataset, filled, width=width))
    present_B = np.arange(count) < len(having)
    return batch._replace(mask_BT=np.asarray(batch.mask_BT) & present_B[:, None])


def golden_rows(
    dataset: Dataset, solved, ids, step: int, *, count: int, seed: int, width: int
) -> Batch:
    """``count`` gold rows: of the prompts ``ids``, then of others that are ``solved``.

    Where few prompts have a solution (or one that fits), those of an update alone would
    leave most of its gold rows empty. The others are a stream of epochs of their own,
    a function of ``seed`` and ``step``.
    """
    if np.isin(ids, solved).sum() < count and len(solved):
        others = order(step, prompts_per_step=count, size=len(solved), seed=seed + 2)
        ids = [*ids, *(i for i in dict.fromkeys(solved[others]) if i not in ids)]
    return gold_batch(dataset, ids, count=count, width=width)


def with_prompts(batch: Batch, own: dict[str, Dataset]) -> Batch:
    """Adds the prompts of models that read others than the student, by prompt id."""
    ids = np.asarray(batch.prompt_id_B)
    prompts = {}
    for name, dataset in own.items():
        longest = max(len(prompt) for prompt in dataset.prompts)
        prompts[name] = pad_prompts(
            [dataset.prompts[i] for i in ids], buckets=(longest,)
        )
    return batch._replace(prompts=batch.prompts | prompts)


def in_turn(annotations: Sequence[Annotate]) -> Annotate | None:
    """One annotation after the other as one; None where there is none."""
    if not annotations:
        return None

    def annotate(student, batch: Batch, step: int):
        facts: dict[str, float | None] = {}
        for one in annotations:
            batch, found = one(student, batch, step)
            facts |= found
        return batch, facts

    return annotate


def with_serves(batch: Batch, served: dict[str, np.ndarray]) -> Batch:
    """Adds, by prompt id, which rows models with a route serve (bool[prompts] each)."""
    ids = np.asarray(batch.prompt_id_B)
    routed = {name: rows[ids] for name, rows in served.items()}
    return batch._replace(serves=batch.serves | routed)


def stack(batches: list[Batch]) -> Batch:
    """Joins batches along rows; on the host."""
    return jax.tree.map(lambda *xs: np.concatenate(xs), *jax.device_get(batches))


def empty_buffer(mix: Mix, width: int) -> replay.Buffer | None:
    """The buffer a run starts with, or None if its mix needs none."""
    if not mix.buffered:
        return None
    tokens_BT = jnp.zeros((1, width), jnp.int32)
    row_B, logp_BT = tokens_BT[:, 0], tokens_BT.astype(jnp.float32)
    rollout = Rollout(
        *(tokens_BT, row_B, row_B, row_B > 0, logp_BT),
        *(tokens_BT, row_B, row_B),
    )
    like = batch_of(rollout, reward_B=jnp.zeros(1, jnp.float32))
    capacity = mix.capacity or max(mix.least_capacity, 8 * mix.replayed)
    return replay.init(capacity, like)


def is_on_policy(mix: Mix, seed: int, step: int) -> bool:
    """The coin of GKD: one per update, a pure function of seed and step."""
    if not mix.fresh:
        return False
    draw = np.random.default_rng([seed, step, 1]).random()
    return bool(draw < mix.on_policy_probability)


def visited(mix: Mix) -> int:
    """Prompts of the data set that an update goes on by; an epoch is all of them."""
    return max(mix.prompts, mix.gold, 1)


def make_collect(
    rows: RowSet,
    writer: Writer,
    mix: Mix,
    *,
    seed: int,
    widths: tuple[int, ...],
    deal: Callable[[Batch], tuple[Batch, np.ndarray]],
    prefix: Callable[[np.ndarray, int], list[np.ndarray]] | None = None,
    horizon: Callable[[Any, int], int] | None = None,
    annotate: Annotate | None = None,
):
    """``(student, buffer, step) -> (buffer, Collected)``, all else bound.

    ``student`` is what the writer and ``annotate`` take.

    Until ``deal`` puts them on the devices, rows are on the host and the buffer is on
    one device: mixing is a few small arrays, and one operation after the other over
    several devices would cost more than the copy (and can hang virtual ones). All
    randomness is a function of ``seed`` and ``step``, so a resumed run collects what
    the uninterrupted one would.

    Args:
      widths: padded lengths of whole rows, ascending.
      deal: gives rows to devices and micro-batches and puts them there; with the batch
        it returns its ``Collected.order_B``.
      prefix: ``(prompt ids, step) -> response tokens`` that rollouts start from.
      horizon: ``(student, step) -> tokens`` that rollouts may have at most, not above
        the writer's limit, which it is without one.
      annotate: sees every batch once its rows are mixed and cut, and may add facts per
        token that weights read (``Batch.extra``).
    """
    visit = functools.partial(order, size=len(rows.dataset.prompts))
    per_step = visited(mix)
    solved = np.flatnonzero([one is not None for one in rows.dataset.solutions])
    golden = functools.partial(
        golden_rows, rows.dataset, solved, seed=seed, width=widths[-1]
    )
    add, tick = jax.jit(replay.add), jax.jit(replay.tick)
    sample = jax.jit(replay.sample, static_argnums=2, static_argnames="max_age")

    def off_policy(step: int) -> list[Batch]:
        # Its own stream of rows: as many prompts as the batch has rows.
        ids = visit(step, prompts_per_step=mix.rows, seed=seed + 1)
        return [golden(ids, step, count=mix.rows)]

    def on_policy(student, buffer, step: int):
        ids = visit(step, prompts_per_step=per_step, seed=seed)
        key = jax.random.fold_in(jax.random.key(seed), step)
        reused = step % mix.updates_per_rollout != 0
        fresh, parts, means = None, [], {}
        if not reused:
            own, stream = ids[: mix.prompts], jax.random.fold_in(key, 0)
            heads = None if prefix is None else prefix(own, step)
            now, limits = writer, {}
            if horizon is not None:
                now = writer._replace(limit=horizon(student, step))
                limits = {"rollout/horizon": now.limit}
            fresh, means = fresh_rows(
                rows, now, student, own, stream, mix.group_size, heads
            )
            means |= limits
            fresh = fit(fresh, widths[-1])
            parts.append(fresh)
        if drawn := mix.replayed + mix.fresh * reused:
            stream = jax.random.fold_in(key, 1)
            parts.append(sample(buffer, stream, drawn, max_age=mix.max_age_steps))
        if mix.gold:
            parts.append(golden(ids, step, count=mix.gold))
        return fresh, parts, means

    def collect(student, buffer, step: int):
        started = time.perf_counter()
        if is_on_policy(mix, seed, step):
            fresh, parts, means = on_policy(student, buffer, step)
        else:
            fresh, parts, means = None, off_policy(step), {}
        if buffer is not None:
            buffer = tick(buffer if fresh is None else add(buffer, fresh))
        batch, facts = with_coins(trim(stack(parts), widths), seed, step), {}
        if annotate is not None:
            batch, facts = annotate(student, batch, step)
        batch, order_B = deal(batch)
        seconds = time.perf_counter() - started
        return buffer, Collected(batch, fresh, seconds, order_B, facts | means)

    return collect


def with_coins(batch: Batch, seed: int, step: int) -> Batch:
    """Adds one uniform draw per token, a function of seed and step."""
    coins = np.random.default_rng([seed, step, 2])
    drawn_BT = coins.random(batch.mask_BT.shape, dtype=np.float32)
    return batch._replace(uniform_BT=drawn_BT)
