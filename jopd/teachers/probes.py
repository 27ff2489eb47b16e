"""How often a teacher answers a prompt itself: its responses, scored by the verifier.

``make_annotate`` is an annotation for ``collect.make_collect``. It leaves in the batch

    extra["teacher_pass"]   f32[B, T], mean reward of the teacher's own responses to the
                            prompt of a row with student tokens, 0 on other rows
"""

from collections.abc import Callable

import numpy as np

from jopd.batches import collect
from jopd.types import STUDENT, Batch

FACTS = ("teacher_pass",)
# ``(prompt ids, step) -> f32``, the mean reward of the teacher's responses to each.
Ask = Callable[[np.ndarray, int], np.ndarray]


def make_annotate(ask: Ask) -> collect.Annotate:
    """``(params, batch, step) -> (batch, facts)``; every prompt is asked once."""

    def annotate(params, batch: Batch, step: int):
        del params
        source_BT = np.asarray(batch.rollout.source_BT)
        student_BT = np.asarray(batch.mask_BT) & (source_BT == STUDENT)
        student_B = student_BT.any(axis=1)
        ids = np.asarray(batch.prompt_id_B)
        asked, place = np.unique(ids[student_B], return_inverse=True)
        rate = ask(asked, step) if len(asked) else np.zeros(0, np.float32)
        rate_B = np.zeros(len(ids), np.float32)
        rate_B[student_B] = rate[place]
        rate_BT = np.broadcast_to(rate_B[:, None], student_BT.shape)
        mean = float(rate.mean()) if len(asked) else None
        extra = batch.extra | {"teacher_pass": rate_BT}
        return batch._replace(extra=extra), {"probes/pass": mean}

    return annotate


def in_parts(ids: np.ndarray, size: int) -> list[np.ndarray]:
    """``ids`` in arrays of ``size``, the last filled up with its first."""
    parts = [ids[start : start + size] for start in range(0, len(ids), size)]
    return [np.append(part, np.repeat(part[:1], size - len(part))) for part in parts]
