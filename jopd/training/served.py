"""Teachers behind servers read responses, and say how probable their tokens are."""

import functools

import jax
import numpy as np

from jopd.batches import collect
from jopd.models import sharding
from jopd.setup import experiment
from jopd.setup.experiment import Experiment
from jopd.teachers import likely, served
from jopd.teachers.likely import Scores
from jopd.teachers.spans import UNKNOWN
from jopd.types import Batch


def make_annotate(e: Experiment, name: str) -> collect.Annotate:
    """Adds ``logp/<name>`` to every batch, with what is likely where that is asked for,
    and what it cost to the metrics."""
    read, client = make_read(e, name), e.served[name]
    choose = make_choice(e, name)

    def annotate(params, batch: Batch, step: int):
        del step
        before = client.counts()
        found = read(batch, choose(params, batch))
        known_BT = found.logp != UNKNOWN
        mask_BT = np.asarray(batch.mask_BT)
        lost = float((~known_BT[mask_BT]).mean()) if mask_BT.any() else None
        spent = {key: value - before[key] for key, value in client.counts().items()}
        facts = {f"served/{name}_{key}": value for key, value in spent.items()}
        extra = batch.extra | extra_of(name, found)
        return batch._replace(extra=extra), facts | {f"served/{name}_unknown": lost}

    return annotate


def make_choice(e: Experiment, name: str):
    """``(params, Batch) -> i32[B, T, K]``: the student's likeliest tokens at the places
    of its tokens, to ask about; None where the teacher's own are asked for."""
    if e.teachers[name].support == "teacher":
        return lambda params, batch: None
    columns, k = e.shape.vocabulary, e.served[name].top_k
    cut = dict(columns=columns, chunk=experiment.chunk_tokens(e.config, columns))
    place = functools.partial(jax.device_put, device=sharding.rows(e.mesh))

    def choose(params, batch: Batch) -> np.ndarray:
        rollout = batch.rollout
        given = place((np.asarray(rollout.tokens_BT), np.asarray(rollout.length_B)))
        found = likely.scores(e.models["student"], params, *given, k=k, **cut)
        return np.pad(jax.device_get(found.ids), ((0, 0), (1, 0), (0, 0)))

    return choose


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
    return lambda batch: batch._replace(
        extra=batch.extra | {f"logp/{name}": read(batch).logp}
    )


def make_read(e: Experiment, name: str, *, held: bool = False):
    """``(Batch, ids) -> Scores`` of all places, f32[B, T] and [B, T, K]; ``UNKNOWN``
    outside of the mask, where the teacher's route leaves a row out, and where its
    server did not answer. ``ids`` are those of ``make_choice``.

    ``held``: of the rows that are held out.
    """
    prompts = e.rows.read_by(name, held=held).prompts
    client = e.served[name]
    routed = None if held else e.rows.served.get(name)

    def read(batch: Batch, ids_BTK=None) -> Scores:
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
            ids = None if ids_BTK is None else ids_BTK[b, starts[b] : stops[b]]
            row = np.concatenate([prompt, response])
            asked.append(served.Asked(row, len(prompt), ids))
        chosen = e.teachers[name].support == "student"
        k = 0 if chosen and ids_BTK is None else client.top_k
        found = unknown(mask_BT.shape, k)
        for b, scores in zip(rows, client.score(asked), strict=True):
            if scores is not None:
                for whole, part in zip(found, scores, strict=True):
                    whole[b, starts[b] : stops[b]] = part
        return found

    return read
