"""Whether the first texts of a server are continuations at all."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jopd.teachers.similarity import Similarity

# Of all texts; what is above leaves hardly a chunk with all of its samples.
MOST_UNUSABLE = 0.5
FEWEST_CHUNKS = 8  # that say something about likeness


class Pairs(NamedTuple):
    """The student's chunks, each as often as it has samples, and those samples."""

    written: list[str]
    others: list[str]


def of_audit(
    counts: Mapping, pairs: Pairs, alike: np.ndarray, similarity: Similarity
) -> str:
    """What the first audit brought, in a line.

    Args:
      counts: ``remote.KINDS`` of this audit.
      alike: f64[chunks, samples], similarities of ``pairs``.

    Raises:
      ValueError: most texts are empty, refusals or repetitions of what was there, or
        they are no more like the student's chunks than those of other chunks are.
    """
    chunks, samples = alike.shape
    shares = {
        name: counts[name] / counts["texts"]
        for name in ("empty", "refused", "restated")
    }
    line = f"first texts of the teacher: {counts['texts']:,.0f}, of them " + ", ".join(
        f"{share:.0%} {name}" for name, share in shares.items()
    )
    if chunks:
        equal = np.mean(
            [
                len(set(pairs.others[i : i + samples])) == 1
                for i in range(0, chunks * samples, samples)
            ]
        )
        line += f"; all {samples} equal in {equal:.0%} of {chunks} chunks"
    wrong = sum(shares.values()) > MOST_UNUSABLE
    if chunks >= FEWEST_CHUNKS:
        own, others = float(alike.mean()), _shuffled(pairs, similarity, samples)
        line += f"; similarity {own:.3f}, to those of other chunks {others:.3f}"
        wrong |= own - others < 1e-6  # rounding of equal ones
    if wrong:
        raise ValueError(
            f"{line}: these are no continuations of the student's texts. Look at them "
            "in remote.cache_dir, try another remote.api or remote.model, or set "
            "audit.judge_first=False if they are meant"
        )
    return line


def _shuffled(pairs: Pairs, similarity: Similarity, samples: int) -> float:
    """Mean similarity to the samples of a chunk half the list away, of another row."""
    away = len(pairs.others) // samples // 2 * samples
    turned = pairs.others[away:] + pairs.others[:away]
    return float(np.mean(similarity(pairs.written, turned), dtype=np.float64))
