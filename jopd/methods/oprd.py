"""OPRD, distillation of representations (arXiv:2606.06021): below the head.

On the student's rollouts its states are drawn to the teacher's, layer by layer. No
token is sampled for it: given a rollout the gradient is exact. And a head hides what it
maps to zero; here such a difference counts. Signals over states, see ``losses.states``.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LEAST = 1e-12  # norm below which a state has no direction


def mse(
    states: Mapping[str, jax.Array], *, other: str = "teacher", normalize: bool = False
) -> jax.Array:
    """f32[B, T]: mean over layers and over the D of (h_S - h_T)^2 (equation 6).

    ``normalize`` gives states the length 1 first: (2 - 2 cos) / D, as the released code
    does. The published numbers are without it; with it their README asks for a
    coefficient of 100 to 1000.

    Raises:
      ValueError: states of unlike width; they need ``bridged``.
    """
    own, others = states["student"], states[other]
    if own.shape != others.shape:
        raise ValueError(
            f"oprd.mse compares states of one width; the student's are "
            f"{own.shape[-1]} wide, those of {other!r} {others.shape[-1]}: make a "
            "bridge (tools/fit_bridge.py) and use signal='oprd.bridged'"
        )
    if normalize:
        own, others = _direction(own), _direction(others)
    return jnp.mean(jnp.square(own - others), axis=(-2, -1))


def bridged(
    states: Mapping[str, jax.Array],
    *,
    bridge: str,
    other: str = "teacher",
    normalize: bool = True,
) -> jax.Array:
    """f32[B, T]: mean over layers of |P_S h_S - P_T (h_T - mu)|^2, in r dimensions.

    Equations 14 and 15 of the version in the authors' repository (that of June has no
    bridge). ``normalize`` gives both sides the length 1, which is done there "in
    practice"; the released coefficient is 10. ``bridge`` is a file of
    ``tools/fit_bridge.py``, which nothing trains further.

    Raises:
      ValueError: no such file, or one of other layers or widths than the models have.
    """
    known, own, others = load(str(bridge)), states["student"], states[other]
    layers, _, width = known.student.shape
    needed = (own.shape[-2], own.shape[-1], others.shape[-1])
    there = (layers, width, known.teacher.shape[-1])
    if needed != there:
        say = "{} layers, a student {} and a teacher {} wide".format
        raise ValueError(
            f"bridge={bridge!r} is for {say(*there)}, and the term has {say(*needed)}; "
            "fit one of this pair and these layers: tools/fit_bridge.py"
        )
    pairs = [states[f"{name}/layers"].tolist() for name in ("student", other)]
    if known.layers.tolist() != pairs:
        raise ValueError(
            f"bridge={bridge!r} is between the layers {known.layers.tolist()} of the "
            f"two models, and the term has {pairs}; fit one of these: "
            "tools/fit_bridge.py"
        )
    own = jnp.einsum("btld,lrd->btlr", own, known.student)
    others = jnp.einsum("btld,lrd->btlr", others - known.mean, known.teacher)
    if normalize:
        own, others = _direction(own), _direction(others)
    return jnp.mean(jnp.sum(jnp.square(own - others), axis=-1), axis=-1)


class Bridge(NamedTuple):
    """f32[L, r, D_S], f32[L, r, D_T] and f32[L, D_T], of L pairs of layers.

    ``layers`` [2, L] are the student's and the teacher's, counted from 1.
    """

    student: np.ndarray
    teacher: np.ndarray
    mean: np.ndarray
    layers: np.ndarray


@functools.cache
def load(path: str) -> Bridge:
    """A bridge from its file; raises ValueError as ``bridged`` does."""
    try:
        with np.load(path, allow_pickle=False) as held:
            maps = (np.asarray(held[key], np.float32) for key in Bridge._fields[:3])
            found = Bridge(*maps, np.asarray(held["layers"], np.int32))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"bridge={path!r} cannot be read ({type(error).__name__}: {error!s:.100}); "
            "tools/fit_bridge.py writes one"
        ) from error
    ranks = {found.student.ndim, found.teacher.ndim, found.mean.ndim + 1}
    pairs = {x.shape[0] for x in found[:3]} | {found.layers.shape[-1]}
    if ranks != {3} or len(pairs) > 1 or found.layers.ndim != 2:
        raise ValueError(f"bridge={path!r} holds {[x.shape for x in found]}, no bridge")
    return found


def fit(own: np.ndarray, others: np.ndarray, rank: int, layers) -> Bridge:
    """The bridge between states [N, L, D_S] and [N, L, D_T] of N tokens.

    ``layers`` are the student's and the teacher's L of them.

    P_T are the first ``rank`` principal directions of the teacher's centred states, P_S
    is the linear map that meets them best in the mean square (equation 13). It is
    solved for; the authors train it for 20 epochs.

    Raises:
      ValueError: a rank above a width, or fewer tokens than the student is wide.
    """
    tokens, count, width = own.shape
    most = min(width, others.shape[-1])
    if not 0 < rank <= most:
        raise ValueError(f"rank={rank} must be from 1 to the smaller width, {most}")
    if tokens < width:
        raise ValueError(
            f"{tokens} tokens do not tell {width} dimensions of the student's states "
            "apart; take more prompts"
        )
    found = []
    for layer in range(count):
        h, t = own[:, layer].astype(np.float64), others[:, layer].astype(np.float64)
        mean = t.mean(axis=0)
        _, _, directions = np.linalg.svd(t - mean, full_matrices=False)
        p_t = directions[:rank]
        p_s = np.linalg.lstsq(h, (t - mean) @ p_t.T, rcond=None)[0].T
        found.append((p_s, p_t, mean))
    maps = (np.stack(part).astype(np.float32) for part in zip(*found))
    return Bridge(*maps, np.asarray(layers, np.int32))


def _direction(x: jax.Array) -> jax.Array:
    """Of length 1; a state without length, and its gradient, stay 0."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, LEAST**2))
