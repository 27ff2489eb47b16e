"""Prompts that show a teacher other rollouts of the batch, right ones and wrong ones.

``make_annotate`` is an annotation for ``collect.make_collect``. For every teacher whose
context names rollouts it leaves in the batch

    prompts[name]                the prompt of each row as that teacher reads it
    extra["has_context/<name>"]  f32[B, T], 1 on rows that it reads in its context, for
                                 ``weights.has_context``; for panels, too: all of them

``{peer}``, ``{peer2}``, ... are the first, second, ... *other* rows of the batch that
answer the same prompt, hold student tokens and reached the reward; ``{failure}``,
``{failure2}``, ... those that did not reach it. What a row lacks is left out of its
prompt, see ``roles.in_context``. A row that lacks the first that a context names, or
whose prompt is too long, keeps the student's own prompt.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jopd.batches import collect
from jopd.data.dataset import pad_prompts
from jopd.data.sources import Example
from jopd.losses.panel import Panel
from jopd.teachers import roles
from jopd.types import STUDENT, Batch, Rollout

FACT = "has_context/"
Texts = Callable[[Rollout], list[str]]


def choose(
    group_B,
    reward_B,
    student_B,
    success: float,
    *,
    want: str = "success",
    nth: int = 1,
    own: bool = False,
) -> np.ndarray:
    """i32[B]: the row that each row may see, -1 for none.

    The ``nth`` *other* row of equal ``group_B`` with ``student_B`` that is what is
    wanted: a "success", with a reward of at least ``success``, or a "failure", with
    less. A row is not shown itself, unless ``own``.

    Args:
      group_B: i32[B], rows of equal group answer the same prompt.
      reward_B: f32[B].
      student_B: bool[B], rows that the student wrote; the others neither see nor serve.
    """
    group_B, student_B = np.asarray(group_B), np.asarray(student_B)
    wanted_B = (np.asarray(reward_B) >= success) == (want == "success")
    may_BB = (group_B[:, None] == group_B) & (wanted_B & student_B) & student_B[:, None]
    if not own:
        np.fill_diagonal(may_BB, False)
    nth_BB = may_BB & (np.cumsum(may_BB, axis=1) == nth)
    return np.where(nth_BB.any(axis=1), nth_BB.argmax(axis=1), -1).astype(np.int32)


def aligned(examples: Sequence[Example], ids: Sequence[str]) -> list[Example]:
    """The examples that a data set kept, in its order: ``ids`` is a subsequence."""
    rows = iter(examples)
    return [next(row for row in rows if row.id == name) for name in ids]


class PeerPrompts(NamedTuple):
    """How the teachers that read other rollouts are shown them.

    Attributes:
      contexts: teacher name -> template that names rollouts.
      panels: those that some of these teachers may be members of.
      own_failure: whether a rollout is among the failures that it is shown with.
      examples: training rows, in the order of the data set.
      encode: examples -> prompt tokens, as those teachers' templates want them.
      widths: padded prompt lengths, ascending; a row whose prompt exceeds the last is
        left without its context and counted.
      success: reward from which a rollout is one.
      remove: regular expression of what is cut from their texts (reasoning, say).
    """

    contexts: Mapping[str, str]
    examples: Sequence[Example]
    encode: Callable[[list[Example]], list[np.ndarray]]
    widths: tuple[int, ...]
    success: float
    remove: str = ""
    panels: tuple[Panel, ...] = ()
    own_failure: bool = False


class Reading(NamedTuple):
    """What a teacher reads of a batch: prompts, i32[P] each; and bool[B] of its rows:
    ``has_B`` are read in its context, ``too_long_B`` would be, ``partial_B`` are
    without a rollout that the context names."""

    prompts: list[np.ndarray]
    has_B: np.ndarray
    too_long_B: np.ndarray
    partial_B: np.ndarray


def make_annotate(
    shown: PeerPrompts, own_prompts: Sequence[np.ndarray], texts_of: Texts
) -> collect.Annotate:
    """``(params, batch, step) -> (batch, facts)``; pure but for ``texts_of``.

    ``own_prompts`` are those of the data set as the student reads them. The prompts of
    all teachers are padded to one width: few programs, however many teachers.
    """
    fields = sorted({f for c in shown.contexts.values() for f in roles.rollouts_of(c)})

    def annotate(params, batch: Batch, step: int):
        del params, step
        rollout = jax.tree.map(np.asarray, batch.rollout)
        student_BT = np.asarray(batch.mask_BT) & (rollout.source_BT == STUDENT)
        student_B = student_BT.any(axis=1)
        texts = texts_of(rollout)
        if shown.remove:
            texts = [re.sub(shown.remove, "", text) for text in texts]
        told = [{} for _ in texts]
        for field in fields:
            want, nth = roles.rollout_meant(field)
            given = rollout.group_B, batch.reward_B, student_B, shown.success
            how = dict(want=want, nth=nth, own=shown.own_failure and want == "failure")
            for row, other in zip(told, choose(*given, **how)):
                row |= {field: texts[other]} if other >= 0 else {}
        ids = np.asarray(batch.prompt_id_B)
        own = [own_prompts[i] for i in ids]
        found = {name: _read(shown, name, told, ids, own) for name in shown.contexts}
        longest = max(len(p) for reading in found.values() for p in reading.prompts)
        width = min(width for width in shown.widths if width >= longest)
        read = lambda reading: pad_prompts(reading.prompts, buckets=(width,))
        prompts = {name: read(reading) for name, reading in found.items()}
        has = {name: reading.has_B for name, reading in found.items()}
        for one in shown.panels:
            if theirs := [has[name] for name in one.shares if name in has]:
                has[one.name] = np.all(theirs, axis=0)
        serves = _served(shown.panels, has, student_B)
        of_tokens = lambda has_B: np.broadcast_to(has_B[:, None], student_BT.shape)
        extra = {f"{FACT}{k}": of_tokens(v).astype(np.float32) for k, v in has.items()}
        good_B = student_B & (np.asarray(batch.reward_B) >= shown.success)
        facts = _facts(rollout.group_B, student_B, good_B, list(found.values()))
        batch = batch._replace(
            prompts=batch.prompts | prompts,
            extra=batch.extra | extra,
            serves=batch.serves | serves,
        )
        return batch, facts

    return annotate


def _read(shown: PeerPrompts, name: str, told, ids, own_prompts) -> Reading:
    """``told``: for each row the texts that it may be shown, by field."""
    context = shown.contexts[name]
    fields = roles.rollouts_of(context)
    mine = [{field: row[field] for field in fields if field in row} for row in told]
    rows = np.flatnonzero([fields[0] in row for row in mine])
    prompts, encoded = list(own_prompts), []
    if len(rows):
        asked = [shown.examples[ids[b]] for b in rows]
        seen = [mine[b] for b in rows]
        encoded = shown.encode(roles.in_context(name, context, asked, seen))
    fits = np.array([len(p) <= shown.widths[-1] for p in encoded], bool)
    has_B, too_long_B = np.zeros((2, len(mine)), bool)
    has_B[rows], too_long_B[rows] = fits, ~fits
    for b, prompt in zip(rows, encoded, strict=True):
        prompts[b] = prompt if has_B[b] else prompts[b]
    lacks_B = np.array([len(row) < len(fields) for row in mine])
    return Reading(prompts, has_B, too_long_B, has_B & lacks_B)


def _served(panels: Sequence[Panel], has, student_B) -> dict[str, np.ndarray]:
    """bool[B] by name: rows that the sides of guided panels are read for, and rows that
    a panel serves, which have somebody on either side."""
    found = {}
    for one in (one for one in panels if one.kind == "guided"):
        found |= {name: has[name] for name in one.sides if name in has}
        of = lambda names: np.any(
            [has.get(name, np.ones_like(student_B)) for name in names], axis=0
        )
        found[one.name] = of(one.plus) & of(one.minus)
    return found


def _facts(group_B, student_B, good_B, found: list[Reading]) -> dict:
    """Shares of student rows that some teacher reads in its context, of them with a
    rollout left out, and of groups with a success; how many prompts are too long."""
    if not student_B.any():
        nothing = dict.fromkeys(("peer/rows", "peer/partial", "peer/groups"))
        return nothing | {"peer/too_long": 0}
    has_BN = np.stack([reading.has_B for reading in found], axis=1)
    partial = sum(reading.partial_B.sum() for reading in found)
    present = np.unique(group_B[student_B])
    return {
        "peer/rows": float(has_BN.any(axis=1).sum() / student_B.sum()),
        "peer/partial": float(partial / max(has_BN.sum(), 1)),
        "peer/groups": float(np.isin(present, group_B[good_B]).mean()),
        "peer/too_long": int(sum(reading.too_long_B.sum() for reading in found)),
    }
