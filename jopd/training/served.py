"""Teachers behind servers read responses, and say how probable their tokens are."""

import numpy as np

from jopd.batches import collect
from jopd.setup.experiment import Experiment
from jopd.teachers import served
from jopd.teachers.spans import UNKNOWN
from jopd.types import Batch


def make_annotate(e: Experiment, name: str) -> collect.Annotate:
    """Adds ``logp/<name>`` to every batch, with what is likely where that is asked for,
    and what it cost to the metrics."""
    read, client = make_read(e, name), e.served[name]

    def annotate(params, batch: Batch, step: int):
        del params, step
        before = client.counts()
        found = read(batch)
        known_BT = found.logp != UNKNOWN
        mask_BT = np.asarray(batch.mask_BT)
        lost = float((~known_BT[mask_BT]).mean()) if mask_BT.any() else None
        spent = {key: value - before[key] for key, value in client.counts().items()}
        facts = {f"served/{name}_{key}": value for key, value in spent.items()}
        own = {f"logp/{name}": found.logp}
        if found.ids.shape[-1]:
            own |= {f"likely_ids/{name}": found.ids}
            own |= {f"likely_logp/{name}": found.likely}
        return batch._replace(extra=batch.extra | own), facts | {
            f"served/{name}_unknown": lost
        }

    return annotate


def make_scored(e: Experiment, name: str):
    """``Batch -> Batch`` of held-out rows, with the log-probabilities in it."""
    read = make_read(e, name, held=True)
    return lambda batch: batch._replace(extra={f"logp/{name}": read(batch).logp})


def make_read(e: Experiment, name: str, *, held: bool = False):
    """``Batch -> served.Scores`` of all places, f32[B, T] and [B, T, K]; ``UNKNOWN``
    outside of the mask, where the teacher's route leaves a row out, and where its
    server did not answer.

    ``held``: of the rows that are held out.
    """
    prompts = e.rows.read_by(name, held=held).prompts
    client = e.served[name]
    routed = None if held else e.rows.served.get(name)

    def read(batch: Batch) -> served.Scores:
        mask_BT, ids_B = np.asarray(batch.mask_BT), np.asarray(batch.prompt_id_B)
        tokens_BT = np.asarray(batch.rollout.tokens_BT)
        starts = np.asarray(batch.rollout.prompt_length_B)
        stops = np.asarray(batch.rollout.length_B)
        asks_B = mask_BT.any(axis=1)
        if routed is not None:
            asks_B &= routed[ids_B]
        rows, asked = np.flatnonzero(asks_B), []
        for b in rows:
            prompt, response = prompts[ids_B[b]], tokens_BT[b, starts[b] : stops[b]]
            asked.append(served.Asked(np.concatenate([prompt, response]), len(prompt)))
        most = (*mask_BT.shape, client.top_k)
        found = served.Scores(
            np.full(mask_BT.shape, UNKNOWN, np.float32),
            # Distinct ids, also where they say nothing.
            np.broadcast_to(np.arange(client.top_k, dtype=np.int32), most).copy(),
            np.full(most, -np.log(max(client.top_k, 1)), np.float32),
        )
        for b, scores in zip(rows, client.score(asked), strict=True):
            if scores is not None:
                for whole, part in zip(found, scores, strict=True):
                    whole[b, starts[b] : stops[b]] = part
        return found

    return read
