"""Where training has moved a model's matrices, from the weights before and after.

Geometry of OPD (arXiv:2606.07082): updates of on-policy distillation are said to lie
between those of SFT and of reinforcement learning. They would move fewer weights and
turn principal directions less than SFT, and go into a narrow subspace early and stay in
it. The functions here are the paper's measures, in float64, of one matrix ``[out, in]``
as model files have them. They say what an update did, not whether it was good.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

TOLERANCE = 1e-3  # eta of ``bf16_unchanged``
ANGLES = 512  # directions whose angles are measured, at most
RANK, SHARE = 64, 0.5  # of ``principal``; the paper's text has a share of 0.3, too
TOP = 16  # right singular vectors of an update: its subspace


def bf16_unchanged(w0, w1, eta: float = TOLERANCE) -> np.ndarray:
    """bool[out, in]: |w1 - w0| <= eta max(|w0|, |w1|), both rounded to bfloat16 first.

    Neighbours in bfloat16 are at least 2^-8 of the smaller one apart, so ``eta`` below
    that decides nothing. Weights that were trained in float32 may have moved by less
    than the rounding shows: few of them changed is then no property of the method.
    """
    w0, w1 = (np.asarray(w, jnp.bfloat16).astype(np.float64) for w in (w0, w1))
    return np.abs(w1 - w0) <= eta * np.maximum(np.abs(w0), np.abs(w1))


def principal_angles(w0, w1, k: int = ANGLES) -> np.ndarray:
    """f64[2, k] degrees, ascending: between the k first left, and right, singular
    vectors before and after.

    ``k`` is cut to half of the smaller side: vectors that span it all cannot turn (the
    cut is ours; at the paper's sizes it changes nothing). Where the k-th singular value
    is that of the next, too, the subspace is arbitrary, and so are the angles.
    """
    k = _at_most_half(k, w0)
    (u0, _, v0), (u1, _, v1) = (_svd(w) for w in (w0, w1))
    return np.array(
        [_angles(u0[:, :k], u1[:, :k]), _angles(v0[:k].T, v1[:k].T)],
    )


def _angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between the spans of orthonormal columns; small ones from their sines."""
    inner = a.T @ b
    cosines = np.clip(np.linalg.svd(inner, compute_uv=False), 0, 1)
    sines = np.linalg.svd(b - a @ inner, compute_uv=False)[::-1][: len(cosines)]
    small = cosines**2 > 0.5
    found = np.where(small, np.arcsin(np.clip(sines, 0, 1)), np.arccos(cosines))
    return np.degrees(found)


def spectral_shift(w0, w1) -> float:
    """|sigma(w1) - sigma(w0)|_2 / |sigma(w0)|_2; 0 where both are zero."""
    before, after = (_sizes(w) for w in (w0, w1))
    size, moved = np.linalg.norm(before), np.linalg.norm(after - before)
    return float(moved / size) if size else float(np.inf if moved else 0.0)


def stable_rank(d) -> float | None:
    """|d|_F^2 / |d|_2^2 of an update; None where it is zero."""
    sizes = _sizes(d)
    return float(np.sum(sizes**2) / sizes[0] ** 2) if sizes[0] else None


def hill(d, k: int = TOP) -> float | None:
    """Tail index of singular values: 1 / mean_{i<k} log(sigma_i / sigma_k).

    None where they are all alike or the k-th, of at most as many as there are, is zero.
    """
    sizes = _sizes(d)
    k = min(k, len(sizes))
    if k < 2 or sizes[k - 1] <= _noise(sizes, d):
        return None
    mean = np.mean(np.log(sizes[: k - 1] / sizes[k - 1]))
    return float(1 / mean) if mean > 1e-12 else None


def overlap(reference: np.ndarray, changed: np.ndarray) -> float | None:
    """Share of the changed weights that are in ``reference``; None where none changed.

    Of a random choice it is the share of ``reference``.
    """
    count = np.sum(changed)
    return float(np.sum(reference & changed) / count) if count else None


def low_magnitude(w0, share: float = SHARE) -> np.ndarray:
    """bool[out, in]: the ``share`` of weights that are smallest in absolute value."""
    return ~_largest(np.abs(np.asarray(w0, np.float64)), 1 - share)


def principal(w0, rank: int = RANK, share: float = SHARE) -> np.ndarray:
    """bool[out, in]: the ``share`` of weights that are largest where ``w0`` is rebuilt
    of its ``rank`` first directions, half of the smaller side at most."""
    rank, (u, sizes, v) = _at_most_half(rank, w0), _svd(w0)
    return _largest(np.abs((u[:, :rank] * sizes[:rank]) @ v[:rank]), share)


def subspace_similarity(d1, d2, k: int = TOP) -> float | None:
    """|V1^T V2|_F^2 / k of the first k right singular vectors of two updates.

    1: one subspace; about k / in: no relation. ``k`` is cut to the rank of either; None
    where one is zero.
    """
    (_, first, v1), (_, second, v2) = _svd(d1), _svd(d2)
    ranks = (np.sum(s > _noise(s, d)) for s, d in ((first, d1), (second, d2)))
    k = int(min(k, *ranks))
    return float(np.sum((v1[:k] @ v2[:k].T) ** 2) / k) if k else None


def of_matrix(w0, after: Sequence, *, eta=TOLERANCE, rank=RANK, share=SHARE):
    """All measures of one matrix, a dict for each of its later states.

    ``similarity`` is that with the last state's update.
    """
    low, high = low_magnitude(w0, share), principal(w0, rank, share)
    last = np.subtract(after[-1], w0, dtype=np.float64)
    found = []
    for w1 in after:
        d, same = np.subtract(w1, w0, dtype=np.float64), bf16_unchanged(w0, w1, eta)
        left, right = principal_angles(w0, w1)
        found.append(
            {
                "unchanged": float(np.mean(same)),
                "angle": float(np.mean([left, right])),
                "largest_angle": float(max(left[-1], right[-1])),
                "spectral_shift": spectral_shift(w0, w1),
                "stable_rank": stable_rank(d),
                "hill": hill(d),
                "norm": float(np.linalg.norm(d)),
                "low_overlap": overlap(low, ~same),
                "principal_overlap": overlap(high, ~same),
                "similarity": subspace_similarity(d, last),
                "numbers": d.size,
            }
        )
    return found


def together(matrices: Mapping[str, Mapping[str, float | None]]) -> dict:
    """One number a measure: ``unchanged`` of all weights, others the mean over matrices
    that have one; None where none has."""
    rows = list(matrices.values())
    total = sum(row["numbers"] for row in rows)
    mean = lambda values: float(np.mean(values)) if values else None
    found = {
        key: mean([row[key] for row in rows if row[key] is not None]) for key in rows[0]
    }
    unchanged = sum(row["unchanged"] * row["numbers"] for row in rows) / total
    return found | {"unchanged": unchanged, "numbers": total}


def table(found: Mapping[str, Mapping]) -> str:
    """A markdown table of models and their measures."""
    heads = {
        "unchanged": "unchanged, %",
        "angle": "angle, degrees",
        "spectral_shift": "spectral shift",
        "stable_rank": "stable rank",
        "hill": "Hill index",
        "norm": "norm",
        "low_overlap": "low weights, %",
        "principal_overlap": "principal weights, %",
        "similarity": "similarity to the last",
    }
    lines = [
        f"| model | {' | '.join(heads.values())} |",
        "|---" * (1 + len(heads)) + "|",
    ]
    for name, row in found.items():
        cells = (_said(row[key], heads[key].endswith("%")) for key in heads)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _said(value: float | None, percent: bool) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if percent else f"{value:.3g}"


def _svd(w):
    return np.linalg.svd(np.asarray(w, np.float64), full_matrices=False)


def _sizes(w) -> np.ndarray:
    return np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)


def _noise(sizes: np.ndarray, d) -> float:
    """What a singular value of 0 is in float64, as ``numpy.linalg.matrix_rank``."""
    return sizes[0] * max(np.shape(d)) * np.finfo(np.float64).eps


def _at_most_half(k: int, w) -> int:
    return max(min(k, min(np.shape(w)) // 2), 1)


def _largest(values: np.ndarray, share: float) -> np.ndarray:
    """The ``share`` of largest entries, exactly so many, of equal ones the first."""
    chosen = np.argsort(-values, axis=None, kind="stable")[: round(share * values.size)]
    found = np.zeros(values.size, bool)
    found[chosen] = True
    return found.reshape(values.shape)
