"""Which device, micro-batch and bin the rows of a batch go to. Host side."""

import functools
from collections.abc import Collection

import jax
import numpy as np

from jopd.batches import packing
from jopd.types import Batch


def dealt(batch: Batch, shards: int, accumulate: int) -> tuple[Batch, np.ndarray]:
    """The rows in an order that gives devices and micro-batches as many tokens each.

    Device s has the s-th run of rows, its micro-batch g every ``accumulate``-th of them
    from the g-th on, see ``step.split_rows``. Also that order, i32[B].
    """
    if shards * accumulate == 1:
        return batch, np.arange(len(batch.reward_B), dtype=np.int32)
    parts = packing.even(_needed(batch), shards * accumulate)
    order_B = parts.reshape(shards, accumulate, -1).swapaxes(1, 2).ravel()
    return jax.tree.map(lambda leaf: np.asarray(leaf)[order_B], batch), order_B


def _needed(batch: Batch) -> np.ndarray:
    """Tokens of each row, 0 for one that nobody needs."""
    needed_B = np.asarray(batch.mask_BT).any(axis=1)
    return np.where(needed_B, batch.rollout.length_B, 0)


def with_packing(
    batch: Batch,
    widths: tuple[int, ...],
    shards: int,
    accumulate: int = 1,
    *,
    start: int = 1,
    alike: Collection[str] = (),
) -> Batch:
    """Adds how every model may read the rows side by side, each from a multiple of
    ``start`` on; rows without a mask not. The ``alike`` get bins of one number, so that
    programs are those of one of them.

    Micro-batches are packed each for itself, as if each were a device's rows: those
    that ``step.split_rows`` makes of the batch, packings included.
    """
    rollout, found = batch.rollout, {}
    parts = shards * accumulate
    # Row j * accumulate + g of a device is row j of its micro-batch g.
    apart = lambda x_B: (
        np.asarray(x_B).reshape(shards, -1, accumulate).swapaxes(1, 2).ravel()
    )
    length_B = _needed(batch)
    columns = rollout.tokens_BT.shape[1]
    plan = functools.partial(packing.plan, shards=parts, start=start)
    found[""] = plan(apart(length_B), columns=columns, widths=widths)

    def under(name: str, least: int = 1):
        prompt_BP, prompt_length_B = batch.prompts[name]
        shift_B = np.asarray(prompt_length_B) - rollout.prompt_length_B
        total = prompt_BP.shape[1] + columns
        return plan(
            apart(np.where(length_B > 0, length_B + shift_B, 0)),
            columns=total,
            widths=(total,),
            shift_B=apart(shift_B),
            places=columns,
            least=least,
        )

    found |= {name: under(name) for name in batch.prompts}
    bins = {name: found[name] and found[name].source_SRW.shape[1] for name in alike}
    if len(set(bins.values())) > 1:
        whole = None in bins.values()
        found |= {
            name: None if whole else under(name, max(bins.values())) for name in bins
        }
    packed = {name: plan for name, plan in found.items() if plan is not None}
    return batch._replace(packing=packed)
