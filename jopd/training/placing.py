"""Where the rows of a batch go: to devices and micro-batches, packed or not."""

import jax
import jax.numpy as jnp

from jopd.batches import collect, layout
from jopd.data.dataset import Dataset
from jopd.models import attention, sharding
from jopd.setup.experiment import Experiment
from jopd.types import Batch


def deal_rows(e: Experiment):
    """``Batch -> (Batch, order_B)`` of training rows, for ``collect.make_collect``.

    Rows are dealt so that devices and micro-batches have as many tokens each, given
    what the teachers read and whom they serve, packed, and put on their devices.
    """
    own = {
        name: train
        for name, (train, _) in e.rows.own_prompts.items()
        if name not in e.without_logits
    }
    parts = sharding.row_shards(e.mesh), e.config.optimizer.accumulate

    def deal(batch: Batch):
        batch, order_B = layout.dealt(batch, *parts)
        batch = collect.with_prompts(batch, own)
        batch = collect.with_serves(batch, e.rows.served)
        if e.config.objective.packing:
            start = attention.KEYS if e.config.student.exact else 1
            alike = e.rows.peers.contexts if e.rows.peers else ()
            how = dict(start=start, alike=alike)
            batch = layout.with_packing(batch, e.widths.rows, *parts, **how)
        return put(e, batch), order_B

    return deal


def place_rows(e: Experiment, own_prompts: dict[str, Dataset] | None = None):
    """``Batch -> Batch``: rows as they are, on the devices that work on them.

    ``own_prompts`` are what other models read, by model: the prompts of the data set
    that the rows come from.
    """
    return lambda batch: put(e, collect.with_prompts(batch, own_prompts or {}))


def put(e: Experiment, batch: Batch) -> Batch:
    rows = sharding.rows(e.mesh)
    return jax.device_put(jax.tree.map(jnp.asarray, batch), rows)
