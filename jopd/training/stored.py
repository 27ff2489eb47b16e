"""Scores of gold rows: written once by a teacher, then read by runs without it."""

import functools
import json
from pathlib import Path

import jax
import numpy as np

from jopd.batches import collect
from jopd.models import sharding
from jopd.setup import experiment, inputs
from jopd.setup.experiment import Experiment
from jopd.setup.model import padded
from jopd.teachers import likely, roles, stored
from jopd.teachers.likely import Scores
from jopd.training import origins, own_tokens, served
from jopd.types import GOLD, TEACHER, Batch


def make_annotate(e: Experiment, name: str) -> collect.Annotate:
    """Adds what is stored of the gold rows of every batch, and of gold prefixes."""
    table, train = e.stored[name], e.rows.train
    k = e.teachers[name].top_k
    given = {GOLD} | ({TEACHER} if e.config.rollout.prefix.source == "gold" else set())

    def annotate(params, batch: Batch, step: int):
        del params, step
        found = served.unknown(batch.mask_BT.shape, k)
        source_BT = np.asarray(batch.rollout.source_BT)
        starts = np.asarray(batch.rollout.prompt_length_B)
        inside_BT = np.isin(source_BT, list(given)) & np.asarray(batch.mask_BT)
        for b in np.flatnonzero(inside_BT.any(axis=1)):
            index = int(np.asarray(batch.prompt_id_B)[b])
            solution = train.solutions[index]
            scores = table.rows[stored.key_of(train.prompts[index], solution)]
            places = np.flatnonzero(inside_BT[b])
            at = places - starts[b]
            found.logp[b, places] = scores.logp[at]
            found.ids[b, places] = scores.ids[at, :k]
            found.likely[b, places] = scores.likely[at, :k]
        extra = batch.extra | served.extra_of(name, found)
        return batch._replace(extra=extra), {}

    return annotate


def check_teacher(name: str, teacher: roles.Teacher) -> None:
    """Raises ValueError for a teacher that moves, or is stored already."""
    if teacher.weights not in ("path", "initial", "served"):
        raise ValueError(
            f"{name}.weights={teacher.weights!r}: scores are stored of a teacher that "
            "stays as it is; use path, initial or served"
        )
    if roles.reads_rollouts(teacher):
        raise ValueError(
            f"{name}.context={teacher.context!r} shows other rollouts, which gold rows "
            "lack"
        )


def settings(e: Experiment, name: str, top_k: int) -> dict:
    """What a folder of scores is of."""
    teacher, kwargs = e.teachers[name], e.config.data.teacher_template_kwargs.to_dict()
    found = {
        "teacher": teacher.model or teacher.path or f"the {teacher.weights} student",
        "dtype": teacher.dtype,
        "context": teacher.context,
        "template": json.dumps(kwargs, sort_keys=True, default=str),
        "tokens": "its own" if name in e.of_own_tokens else "the student's",
        "top_k": top_k,
        "tokenizer": inputs.rules_of(e.rows.tokenizer),
    }
    if name in e.served:
        return found | {"answers": origins.answers(e.served[name])}
    own = teacher.path if teacher.weights == "path" else e.config.student.path
    return found | {"weights": origins.of_model(inputs.model_path(own))}


def write(
    e: Experiment, folder: Path, name: str, *, top_k: int, progress
) -> tuple[int, int]:
    """Scores all gold rows that a folder has not yet.

    ``progress(done, of)`` is told after every part. Returns how many it wrote, and how
    many a server left unanswered.

    Raises:
      ValueError: no gold rows, a folder of other scores, or likely tokens of a teacher
        that has none.
    """
    train = e.rows.train
    having = [i for i, answer in enumerate(train.solutions) if answer is not None]
    if not having:
        raise ValueError("no row has a solution, and only solutions are scored")
    if top_k and name in e.of_own_tokens:
        raise ValueError(
            f"--top_k={top_k}: {name} has tokens of its own, and the likeliest of them "
            "are none of the student's; use --top_k=0"
        )
    served_k = e.served[name].top_k if name in e.served else e.shape.vocabulary
    top_k = min(top_k, served_k)  # all there are
    stored.begin(folder, settings(e, name, top_k))
    known, read = stored.read(folder).rows, make_read(e, name, top_k)
    key = lambda i: stored.key_of(train.prompts[i], train.solutions[i])
    left = [i for i in having if key(i) not in known]
    left.sort(key=lambda i: len(train.prompts[i]) + len(train.solutions[i]))
    rows, width = e.config.eval.batch_rows or e.mix.rows, e.widths.rows[-1]
    rows += -rows % e.mesh.devices.size
    wrote = 0
    for first in range(0, len(left), rows):
        some = left[first : first + rows]
        batch = collect.gold_batch(train, some, count=rows, width=width)
        found = read(batch)
        starts = np.asarray(batch.rollout.prompt_length_B)
        part = {}
        for b, i in enumerate(some):
            places = slice(starts[b], starts[b] + len(train.solutions[i]))
            scores = Scores(*(leaf[b, places] for leaf in found))
            # What a server lost is asked again; what tokens of another teacher's own
            # cannot say stays unknown.
            if name not in e.served or (scores.logp <= 0).all():
                part[key(i)] = scores
        if part:
            stored.append(folder, part)
        wrote += len(part)
        progress(min(first + rows, len(left)), len(left))
    return wrote, len(left) - wrote


def make_read(e: Experiment, name: str, top_k: int):
    """``Batch -> Scores`` of all places, [B, T] and [B, T, K]."""
    if name in e.served:
        return served.make_read(e, name)
    if name in e.of_own_tokens:
        read = own_tokens.make_read(e, name)
        none = lambda logp: np.zeros((*logp.shape, 0))
        of = lambda logp: Scores(logp, none(logp).astype(np.int32), none(logp))
        return lambda batch: of(read(batch)[0].logp)
    prompts, model = e.rows.read_by(name).prompts, e.models[name]
    columns = e.shape.vocabulary
    place = functools.partial(jax.device_put, device=sharding.rows(e.mesh))
    cut = dict(columns=columns, chunk=experiment.chunk_tokens(e.config, columns))

    def read(batch: Batch) -> Scores:
        rollout, ids_B = batch.rollout, np.asarray(batch.prompt_id_B)
        found = served.unknown(batch.mask_BT.shape, top_k)
        starts, ends = np.asarray(rollout.prompt_length_B), np.asarray(rollout.length_B)
        rows = [
            np.concatenate([prompts[i], row[start:end]])
            for i, row, start, end in zip(
                ids_B, np.asarray(rollout.tokens_BT), starts, ends
            )
        ]
        longest = max(map(len, rows))
        tokens_BT = np.zeros((len(rows), padded(longest, longest)), np.int32)
        for b, row in enumerate(rows):
            tokens_BT[b, : len(row)] = row
        length_B = np.asarray([len(row) for row in rows], np.int32)
        params = e.frozen.get(name, e.params)
        given = params, *place((tokens_BT, length_B))
        answers = jax.device_get(likely.scores(model, *given, k=top_k, **cut))
        for b, i in enumerate(ids_B):
            first = len(prompts[i]) - 1
            for whole, part in zip(found, answers, strict=True):
                whole[b, starts[b] : ends[b]] = part[b, first : length_B[b] - 1]
        return found

    return read
