"""How many responses say what they cannot know: a pattern looked for in their text."""

import re
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jopd.batches import collect
from jopd.types import STUDENT, Batch, Rollout

Texts = Callable[[Rollout], list[str]]


def rate(pattern: str, texts: Sequence[str]) -> float | None:
    """Share of the texts in which the regular expression occurs; None without texts."""
    if not len(texts):
        return None
    return float(np.mean([re.search(pattern, text) is not None for text in texts]))


def make_annotate(pattern: str, texts_of: Texts) -> collect.Annotate:
    """An annotation that adds ``leak/rate`` of the fresh rollouts of a batch."""

    def annotate(params, batch: Batch, step: int):
        del params, step
        rollout = jax.tree.map(np.asarray, batch.rollout)
        own_BT = np.asarray(batch.mask_BT) & (rollout.source_BT == STUDENT)
        fresh_B = own_BT.any(axis=1) & (rollout.age_B == 0)
        if not fresh_B.any():
            return batch, {"leak/rate": None}
        fresh = jax.tree.map(lambda x: x[fresh_B], rollout)
        return batch, {"leak/rate": rate(pattern, texts_of(fresh))}

    return annotate
