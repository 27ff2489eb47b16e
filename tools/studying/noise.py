"""How much of a gradient is signal: sums over batches of vectors, f32[P] each."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Reference(NamedTuple):
    """The gradients of an exact divergence: f32[n, P], and their sum."""

    grads: np.ndarray
    total: np.ndarray


def cosine(one, other) -> float:
    """Of two vectors; NaN where one of them is zero."""
    size = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(np.vdot(one, other)) / size if size else np.nan


def others(reference: Reference, number: int):
    """f32[P]: mean gradient of all batches but one."""
    return (reference.total - reference.grads[number]) / (len(reference.grads) - 1)


def signal_to_noise(total, norms) -> float:
    """(|mean|^2 - v / n) / v from the sum of n gradients and their norms.

    v = (sum |g_i|^2 - n |mean|^2) / (n - 1) is unbiased for the trace of the variance,
    so the numerator is for the square of the true mean. Not below 0; NaN without any
    gradient, infinite where all are one.
    """
    n = len(norms)
    mean = float(np.vdot(total, total)) / n**2
    noise = max((float(np.sum(np.square(norms))) - n * mean) / (n - 1), 0.0)
    if not noise:
        return np.inf if mean else np.nan
    return max(mean - noise / n, 0.0) / noise


def spread(values) -> tuple[float, float]:
    """(mean, standard error)."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def measured(grads: Iterable, references: tuple[Reference, Reference]) -> dict:
    """The numbers of a ``Row`` from one f32[P] a batch, of which it keeps only sums."""
    total, norms, cosines = 0.0, [], []
    for number, grad in enumerate(grads):
        total = total + grad
        norms.append(float(np.linalg.norm(grad)))
        cosines.append([cosine(grad, others(one, number)) for one in references])
    forward, reverse = (spread(column) for column in zip(*cosines, strict=True))
    return dict(
        mean=float(np.linalg.norm(total)) / len(norms),
        batch=float(np.mean(norms)),
        forward=forward,
        reverse=reverse,
        snr=signal_to_noise(total, norms),
    )
