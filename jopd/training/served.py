"""Teachers behind servers read responses, and say how probable their tokens are."""

import numpy as np

from jopd.batches import collect
from jopd.setup.experiment import Experiment
from jopd.teachers import served
from jopd.teachers.likely import Scores
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
        extra = batch.extra | extra_of(name, found)
        return batch._replace(extra=extra), facts | {f"served/{name}_unknown": lost}

    return annotate


def unknown(shape: tuple[int, int], k: int) -> Scores:
    """Of places of which nothing is known; ids are distinct there, too."""
    ids = np.broadcast_to(np.arange(k, dtype=np.int32), (*shape, k)).copy()
    even = np.full((*shape, k), -np.log(max(k, 1)), np.float32)
    return Scores(np.full(shape, UNKNOWN, np.float32), ids, even)


def extra_of(name: str, found: Scores) -> dict[str, np.ndarray]:
    """What ``losses.elsewhere`` reads."""
    own = {f"logp/{name}": found.logp}
    if found.ids.shape[-1]:
        own |= {f"likely_ids/{name}": found.ids, f"likely_logp/{name}": found.likely}
    return own


def make_scored(e: Experiment, name: str):
    """``Batch -> Batch`` of held-out rows, with the log-probabilities in it."""
    read = make_read(e, name, held=True)
    return lambda batch: batch._replace(extra={f"logp/{name}": read(batch).logp})


def make_read(e: Experiment, name: str, *, held: bool = False):
    """``Batch -> Scores`` of all places, f32[B, T] and [B, T, K]; ``UNKNOWN``
    outside of the mask, where the teacher's route leaves a row out, and where its
    server did not answer.

    ``held``: of the rows that are held out.
    """
    prompts = e.rows.read_by(name, held=held).prompts
    client = e.served[name]
    routed = None if held else e.rows.served.get(name)

    def read(batch: Batch) -> Scores:
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
        found = unknown(mask_BT.shape, client.top_k)
        for b, scores in zip(rows, client.score(asked), strict=True):
            if scores is not None:
                for whole, part in zip(found, scores, strict=True):
                    whole[b, starts[b] : stops[b]] = part
        return found

    return read
