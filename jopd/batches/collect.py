"""From the prompts of a step to the batch of one update: generate, verify, mix.

Rows are collected in this order: fresh student rollouts (or, in a reuse step, rows of
the buffer in their place), replayed rows, gold rows. Their numbers are fixed by the
config, so every update of a run has one of a few shapes; a row that cannot be filled
(an empty buffer, a prompt without a solution) is there with an all-False mask. Then
they are dealt to devices and micro-batches, as many tokens to each.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopd.batches import buffer as replay
from jopd.batches import layout
from jopd.data import rewards
from jopd.data.dataset import Dataset, gold_rows, order, pad_prompts
from jopd.losses.objective import response_mask
from jopd.rollouts.generate import Request
from jopd.types import STUDENT, TEACHER, Batch, Rollout

# ``(params, batch, step) -> (batch, facts)``: adds ``Batch.extra`` on the host.
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


def batch_of(rollout: Rollout, reward_B=None, prompt_id_B=None) -> Batch:
    """A ``Batch`` with its mask; rewards default to 0 and prompt ids to the groups."""
    mask_BT = response_mask(
        rollout.tokens_BT, rollout.prompt_length_B, rollout.length_B
    )
    zeros = np.zeros(len(rollout.length_B), np.float32)
    return Batch(
        rollout=rollout,
        mask_BT=mask_BT,
        reward_B=zeros if reward_B is None else reward_B,
        prompt_id_B=rollout.group_B if prompt_id_B is None else prompt_id_B,
    )


def ask(
    dataset: Dataset,
    ids: np.ndarray,
    *,
    copies: int,
    buckets,
    limit: int,
    prefixes: Sequence[np.ndarray] | None = None,
) -> Request:
    """A request for ``copies`` rows of each prompt, those of a prompt side by side.

    ``prefixes`` are response tokens, one array for each of ``ids``, from which its rows
    go on; ``limit`` counts them too.
    """
    prompts = [dataset.prompts[i] for i in ids for _ in range(copies)]
    given = prompts
    if prefixes is not None:
        heads = [prefix for prefix in prefixes for _ in range(copies)]
        given = [np.concatenate(pair) for pair in zip(prompts, heads, strict=True)]
    tokens_BP, length_B = pad_prompts(given, buckets=buckets)
    prompt_length_B = np.asarray([len(prompt) for prompt in prompts], np.int32)
    rows = len(prompts)
    behind_BP = np.arange(tokens_BP.shape[1]) >= prompt_length_B[:, None]
    return Request(
        tokens_BP=tokens_BP,
        length_B=length_B,
        prompt_length_B=prompt_length_B,
        limit_B=(limit - (length_B - prompt_length_B)).astype(np.int32),
        row_B=np.arange(rows, dtype=np.int32),
        prefix_source_BP=np.where(behind_BP, TEACHER, STUDENT).astype(np.int32),
    )


def first_part(responses: Sequence[np.ndarray], share: float) -> list[np.ndarray]:
    """The first ``floor(share * length)`` tokens of each response (TrOPD's prefix)."""
    return [response[: math.floor(share * len(response))] for response in responses]


def responses(tokenizer, rollout: Rollout) -> list[str]:
    """Decoded responses, special tokens left out. Host side."""
    tokens_BT = np.asarray(rollout.tokens_BT)
    starts, ends = np.asarray(rollout.prompt_length_B), np.asarray(rollout.length_B)
    rows = [row[s:e] for row, s, e in zip(tokens_BT, starts, ends)]
    return tokenizer.batch_decode(rows, skip_special_tokens=True)


def rewarded(batch: Batch, texts, dataset: Dataset, verifier) -> Batch:
    """``batch`` with the rewards of its responses; its groups are data set ids."""
    answers = [dataset.answers[i] for i in np.asarray(batch.rollout.group_B)]
    return batch._replace(reward_B=rewards.reward_rows(verifier, texts, answers))


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

    def annotate(params, batch: Batch, step: int):
        facts: dict[str, float | None] = {}
        for one in annotations:
            batch, found = one(params, batch, step)
            facts |= found
        return batch, facts

    return annotate


def with_serves(batch: Batch, served: dict[str, np.ndarray]) -> Batch:
    """Adds, by prompt id, which rows models with a route serve (bool[prompts] each)."""
    ids = np.asarray(batch.prompt_id_B)
    return batch._replace(serves={name: rows[ids] for name, rows in served.items()})


def stack(batches: list[Batch]) -> Batch:
    """Joins batches along rows; on the host."""
    return jax.tree.map(lambda *xs: np.concatenate(xs), *jax.device_get(batches))


def empty_buffer(mix: Mix, width: int) -> replay.Buffer | None:
    """The buffer a run starts with, or None if its mix needs none."""
    if not mix.buffered:
        return None
    zeros = jnp.zeros((1, width), jnp.int32)
    like = batch_of(
        Rollout(
            tokens_BT=zeros,
            prompt_length_B=zeros[:, 0],
            length_B=zeros[:, 0],
            finished_B=zeros[:, 0] > 0,
            behavior_logp_BT=zeros.astype(jnp.float32),
            source_BT=zeros,
            group_B=zeros[:, 0],
            age_B=zeros[:, 0],
        ),
        reward_B=jnp.zeros(1, jnp.float32),
    )
    capacity = mix.capacity or max(mix.least_capacity, 8 * mix.replayed)
    return replay.init(capacity, like)


def is_on_policy(mix: Mix, seed: int, step: int) -> bool:
    """The coin of GKD: one per update, a pure function of seed and step."""
    if not mix.fresh:
        return False
    draw = np.random.default_rng([seed, step, 1]).random()
    return bool(draw < mix.on_policy_probability)


def make_collect(
    *,
    generate: Callable[[Any, Request, jax.Array], Rollout],
    dataset: Dataset,
    tokenizer,
    verifier,
    mix: Mix,
    seed: int,
    prompt_buckets: tuple[int, ...],
    length_buckets: tuple[int, ...],
    max_new_tokens: int,
    place: Callable[[Batch], Batch],
    prefix: Callable[[np.ndarray, int], list[np.ndarray]] | None = None,
    annotate: Annotate | None = None,
    shards: int = 1,
    accumulate: int = 1,
):
    """``(params, buffer, step) -> (buffer, Collected)``; everything else is bound here.

    ``prefix`` gives the response tokens from which the rollouts of some prompts start
    at a step. ``annotate`` sees every batch once its rows are mixed and cut to a
    bucket, and may add facts per token that weights read (``Batch.extra``).
    ``verifier`` rewards fresh rollouts; None leaves 0, for whoever wants them later.

    ``place`` puts a finished batch on the devices. Until then rows are on the host and
    the buffer is on one device: mixing is a few small arrays, and one operation after
    the other over several devices would cost more than the copy (and can hang virtual
    ones). All randomness is a function of ``seed`` and ``step``, so a resumed run
    collects what the uninterrupted one would.
    """
    width = length_buckets[-1]
    prompts = mix.fresh // mix.group_size
    golden = functools.partial(gold_batch, dataset, width=width)
    add, tick = jax.jit(replay.add), jax.jit(replay.tick)
    sample = jax.jit(replay.sample, static_argnums=2, static_argnames="max_age")

    def fresh_rows(params, ids, step: int, key) -> Batch:
        asked = ask(
            dataset,
            ids,
            copies=mix.group_size,
            buckets=prompt_buckets,
            limit=max_new_tokens,
            prefixes=None if prefix is None else prefix(ids, step),
        )
        rolled = jax.device_get(generate(params, asked, key))
        group_B = np.repeat(ids, mix.group_size).astype(np.int32)
        batch = fit(batch_of(rolled._replace(group_B=group_B)), width)
        if verifier is None:
            return batch
        return rewarded(batch, responses(tokenizer, rolled), dataset, verifier)

    def collect(params, buffer, step: int):
        started = time.perf_counter()
        ids = order(
            step,
            prompts_per_step=max(prompts, mix.gold, 1),
            size=len(dataset.prompts),
            seed=seed,
        )
        key = jax.random.fold_in(jax.random.key(seed), step)
        fresh, parts = None, []
        if not is_on_policy(mix, seed, step):
            # Its own stream of rows: as many prompts as the batch has rows.
            ids = order(
                step,
                prompts_per_step=mix.rows,
                size=len(dataset.prompts),
                seed=seed + 1,
            )
            parts = [golden(ids, count=mix.rows)]
        else:
            reused = step % mix.updates_per_rollout != 0
            if not reused:
                stream = jax.random.fold_in(key, 0)
                fresh = fresh_rows(params, ids[:prompts], step, stream)
                parts.append(fresh)
            drawn = mix.replayed + mix.fresh * reused
            if drawn:
                parts.append(
                    sample(
                        buffer,
                        jax.random.fold_in(key, 1),
                        drawn,
                        max_age=mix.max_age_steps,
                    )
                )
            if mix.gold:
                parts.append(golden(ids, count=mix.gold))
        if buffer is not None:
            buffer = tick(buffer if fresh is None else add(buffer, fresh))
        batch = trim(stack(parts), length_buckets)
        coins = np.random.default_rng([seed, step, 2])
        batch = batch._replace(
            uniform_BT=coins.random(batch.mask_BT.shape, dtype=np.float32)
        )
        facts = {}
        if annotate is not None:
            batch, facts = annotate(params, batch, step)
        batch, order_B = layout.dealt(batch, shards, accumulate)
        batch = place(batch)
        seconds = time.perf_counter() - started
        return buffer, Collected(batch, fresh, seconds, order_B, facts)

    return collect
