"""Prompts that show a teacher a successful rollout of another row of the batch.

``make_annotate`` is an annotation for ``collect.make_collect``. For the teachers whose
context has ``{peer}`` it leaves in the batch

    prompts[name]       the prompt of each row as that teacher reads it
    extra["has_peer"]   f32[B, T], 1 on rows that have a peer, for ``weights.has_peer``

A row's peer is the first other row of the batch that answers the same prompt, holds
student tokens and reached the reward. Without one a row keeps the student's own prompt.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jopd.batches import collect
from jopd.data.dataset import pad_prompts
from jopd.data.sources import Example
from jopd.teachers import roles
from jopd.types import STUDENT, Batch, Rollout

FACTS = ("has_peer",)
Texts = Callable[[Rollout], list[str]]


def choose(group_B, reward_B, student_B, success: float) -> np.ndarray:
    """i32[B]: the row that each row may see, -1 for none.

    The first *other* row of equal ``group_B`` with ``student_B`` and a reward of at
    least ``success``; a row's own success never counts.

    Args:
      group_B: i32[B], rows of equal group answer the same prompt.
      reward_B: f32[B].
      student_B: bool[B], rows that the student wrote; the others neither see nor serve.
    """
    group_B, student_B = np.asarray(group_B), np.asarray(student_B)
    good_B = student_B & (np.asarray(reward_B) >= success)
    may_BB = (group_B[:, None] == group_B) & good_B & student_B[:, None]
    np.fill_diagonal(may_BB, False)
    return np.where(may_BB.any(axis=1), may_BB.argmax(axis=1), -1).astype(np.int32)


def aligned(examples: Sequence[Example], ids: Sequence[str]) -> list[Example]:
    """The examples that a data set kept, in its order: ``ids`` is a subsequence."""
    rows = iter(examples)
    return [next(row for row in rows if row.id == name) for name in ids]


class PeerPrompts(NamedTuple):
    """How the teachers that read another rollout are shown it.

    Attributes:
      contexts: teacher name -> template with ``{peer}``.
      examples: training rows, in the order of the data set.
      encode: examples -> prompt tokens, as those teachers' templates want them.
      widths: padded prompt lengths, ascending; a row whose prompt exceeds the last is
        left without a peer and counted.
      success: reward from which a rollout is one to show.
      remove: regular expression of what is cut from its text (its reasoning, say).
    """

    contexts: Mapping[str, str]
    examples: Sequence[Example]
    encode: Callable[[list[Example]], list[np.ndarray]]
    widths: tuple[int, ...]
    success: float
    remove: str = ""


def make_annotate(
    shown: PeerPrompts, own_prompts: Sequence[np.ndarray], texts_of: Texts
) -> collect.Annotate:
    """``(params, batch, step) -> (batch, facts)``; pure but for ``texts_of``.

    ``own_prompts`` are those of the data set as the student reads them.
    """

    def annotate(params, batch: Batch, step: int):
        del params, step
        rollout = jax.tree.map(np.asarray, batch.rollout)
        student_BT = np.asarray(batch.mask_BT) & (rollout.source_BT == STUDENT)
        student_B = student_BT.any(axis=1)
        peer_B = choose(rollout.group_B, batch.reward_B, student_B, shown.success)
        texts = texts_of(rollout)
        if shown.remove:
            texts = [re.sub(shown.remove, "", text) for text in texts]
        ids = np.asarray(batch.prompt_id_B)
        rows = np.flatnonzero(peer_B >= 0)
        asked = [shown.examples[ids[b]] for b in rows]
        told = [texts[peer_B[b]] for b in rows]
        written = {
            name: shown.encode(roles.in_context(name, context, asked, told))
            if asked
            else []
            for name, context in shown.contexts.items()
        }
        has_B = np.zeros(len(ids), bool)
        has_B[rows] = [
            all(len(prompts[i]) <= shown.widths[-1] for prompts in written.values())
            for i in range(len(rows))
        ]
        prompts = {}
        for name, found in written.items():
            read = [own_prompts[i] for i in ids]
            for b, prompt in zip(rows, found, strict=True):
                read[b] = prompt if has_B[b] else read[b]
            prompts[name] = pad_prompts(read, buckets=shown.widths)
        has_BT = np.broadcast_to(has_B[:, None], student_BT.shape).astype(np.float32)
        batch = batch._replace(
            prompts=batch.prompts | prompts, extra=batch.extra | {"has_peer": has_BT}
        )
        good_B = student_B & (np.asarray(batch.reward_B) >= shown.success)
        return batch, _facts(rollout.group_B, student_B, good_B, has_B, len(rows))

    return annotate


def _facts(group_B, student_B, good_B, has_B, found: int) -> dict[str, float | None]:
    """Shares of student rows with a peer and of groups with a success."""
    if not student_B.any():
        return {"peer/rows": None, "peer/groups": None, "peer/too_long": 0}
    present = np.unique(group_B[student_B])
    return {
        "peer/rows": float(has_B.sum() / student_B.sum()),
        "peer/groups": float(np.isin(present, group_B[good_B]).mean()),
        "peer/too_long": found - int(has_B.sum()),
    }
