"""How much of a gradient is signal: sums over batches of vectors, f32[P] each."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np


class Sums(NamedTuple):
    """What is kept of the gradients of n batches: their sum f32[P] and their norms."""

    total: Any = 0.0
    norms: tuple[float, ...] = ()


def added(sums: Sums, grad) -> Sums:
    return Sums(sums.total + grad, (*sums.norms, float(np.linalg.norm(grad))))


def cosine(one, other) -> float:
    """Of two vectors; NaN where one of them is zero."""
    size = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(np.vdot(one, other)) / size if size else np.nan


def parts(sums: Sums) -> tuple[float, float]:
    """(|mean|^2, v): v is unbiased for the trace of the variance of one gradient,

    v = (sum |g_i|^2 - n |mean|^2) / (n - 1), so |mean|^2 - v / n is for the square of
    the true mean.
    """
    n = len(sums.norms)
    mean = float(np.vdot(sums.total, sums.total)) / n**2
    noise = (float(np.sum(np.square(sums.norms))) - n * mean) / (n - 1)
    return mean, max(noise, 0.0)


def signal_to_noise(sums: Sums) -> float:
    """(|mean|^2 - v / n) / v, not below 0; NaN without any gradient, infinite where all
    are one."""
    mean, noise = parts(sums)
    if not noise:
        return np.inf if mean else np.nan
    return max(mean - noise / len(sums.norms), 0.0) / noise


def ceiling(sums: Sums) -> float:
    """Cosine of the mean with the true one, and so the most that a vector can have with
    it that owes nothing to the same batches; 0 where n batches resolve nothing."""
    mean, noise = parts(sums)
    return float(np.sqrt(max(1 - noise / len(sums.norms) / mean, 0.0))) if mean else 0.0


def spread(values) -> tuple[float, float]:
    """(mean, standard error)."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def measured(grads: Iterable, references: tuple[Sums, Sums]) -> dict:
    """The numbers of a line of tools/gradients.py from one f32[P] a batch."""
    sums, cosines = Sums(), []
    for grad in grads:
        sums = added(sums, grad)
        cosines.append([cosine(grad, one.total) for one in references])
    forward, reverse = (spread(column) for column in zip(*cosines, strict=True))
    return dict(
        mean=float(np.linalg.norm(sums.total)) / len(sums.norms),
        batch=float(np.mean(sums.norms)),
        forward=forward,
        reverse=reverse,
        snr=signal_to_noise(sums),
    )
