"""Optax chains from plain values."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

SCHEDULES = ("constant", "linear", "cosine", "step")
OF_TERMS = (*SCHEDULES, "hold")  # of coefficients
OPTIMIZERS = ("adamw", "adam", "muon", "sgd", "lion", "adafactor")


def warmup_updates(warmup: float, steps: int) -> int:
    """Updates below the peak: below 1 a share of ``steps``, else their number."""
    return round(warmup * steps) if warmup < 1 else int(warmup)


def schedule(
    name: str,
    peak: float,
    *,
    steps: int,
    warmup_steps: int = 0,
    start: float = 0.0,
    end: float = 0.0,
    hold: int = 0,
) -> optax.Schedule:
    """A number by update: warm-up to ``peak``, then on to ``end`` over the rest.

    Update s of a warm-up of W is (s + 1) / (W + 1) of the way from ``start`` to the
    peak: the first one moves.
    "constant" stays at the peak, "linear" and "cosine" go to ``end``, up or down, and
    "step" is the peak before update ``steps`` and ``end`` from it on. "hold" stays at
    the peak until update ``hold``, goes to ``end`` at ``steps`` like "cosine", and is 0
    after (SG-OPD, arXiv:2606.09304).

    Raises:
      ValueError: unknown name; the known ones are listed.
    """
    rest = max(steps - warmup_steps, 1)
    if name == "constant":
        body = optax.constant_schedule(peak)
    elif name == "linear":
        body = optax.linear_schedule(peak, end, rest)
    elif name == "cosine":
        decay = optax.cosine_decay_schedule(1.0, rest)
        body = lambda step: end + (peak - end) * decay(step)
    elif name == "step":
        body = lambda step: jnp.where(step < rest, peak, end)
    elif name == "hold":
        hold = max(hold - warmup_steps, 0)
        decay = optax.cosine_decay_schedule(1.0, max(rest - hold, 1))
        held = lambda step: end + (peak - end) * decay(jnp.maximum(step - hold, 0))
        body = lambda step: jnp.where(step <= rest, held(step), 0.0)
    else:
        raise ValueError(f"unknown schedule {name!r}; known: {', '.join(OF_TERMS)}")
    if not warmup_steps:
        return body
    warmup = lambda step: start + (peak - start) * (step + 1) / (warmup_steps + 1)
    return optax.join_schedules([warmup, body], [warmup_steps])


def build(
    name: str,
    learning_rate: optax.Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
    project_rank: int = 0,
    project_at: int = 0,
) -> optax.GradientTransformation:
    """Gradient clipping by global norm (0 is off) and then the named optimizer.

    With ``project_rank`` the gradient goes through ``project`` before all else.

    ``muon`` orthogonalises the momentum (``b1``) of the layers' matrices, scaled to the
    size of Adam's updates (Liu et al., arXiv:2502.16982), so that one learning rate
    serves both; embedding, head, norms and biases go to AdamW with ``b1`` and ``b2``.

    Raises:
      ValueError: unknown name; the known ones are listed.
    """
    chain = [project(project_rank, project_at)] if project_rank else []
    chain += [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    if name == "adamw":
        chain.append(optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay))
    elif name == "adam":
        chain.append(optax.adam(learning_rate, b1, b2, eps))
    elif name == "muon":
        chain.append(
            optax.contrib.muon(
                learning_rate,
                beta=b1,
                weight_decay=weight_decay,
                adam_b1=b1,
                adam_b2=b2,
                adam_weight_decay=weight_decay,
                muon_weight_dimension_numbers=_stacked_matrices,
                consistent_rms=0.2,
            )
        )
    elif name == "sgd":
        chain.append(optax.sgd(learning_rate))
    elif name == "lion":
        chain.append(optax.lion(learning_rate, b1, b2, weight_decay=weight_decay))
    elif name == "adafactor":
        chain.append(optax.adafactor(learning_rate))
    else:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")
    return optax.chain(*chain)


def _stacked_matrices(params):
    """Which parameters muon takes: ``[N, in, out]``, each of the N layers by itself."""
    matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return jax.tree.map(lambda leaf: matrix if leaf.ndim == 3 else None, params)


class Projection(NamedTuple):
    """Of each projected matrix its state before update 0 and the basis that it got.

    ``count`` updates were made. Both trees hold float32, the basis ``[..., in, rank]``.
    """

    count: jax.Array
    start: Any
    basis: Any


def project(rank: int, at: int) -> optax.GradientTransformation:
    """Leaves of a gradient what lies where its matrix had moved by update ``at``.

        g <- g V V^T,   V the first ``rank`` right singular vectors of W_at - W_0

    from update ``at`` on, and nothing before: whether training needs more than the
    subspace that it went into early (Geometry of OPD, arXiv:2606.07082; there rank 16
    after about a fifth of the run). ``in`` is what V spans: W is ``[out, in]`` in the
    paper, ``[..., in, out]`` here.

    It is the gradient that is projected, not the update: moments of Adam and weight
    decay leave the subspace (with plain SGD what comes after stays inside). Which
    matrices is not stated; here all of the layers (inferred), each by itself, not
    embedding and head. A matrix with a side of at most ``rank`` is left alone.
    """

    def init(params):
        zeros = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), params)
        none = jax.tree.map(lambda w: jnp.zeros((*w.shape[:-1], rank)), params)
        return Projection(jnp.int32(0), zeros, none)

    def update(grads, state, params):
        count, start, basis = state
        now = jax.tree.map(lambda w: w.astype(jnp.float32), params)
        # Not in ``init``: a copy of parameters that are given away later.
        start = jax.tree.map(lambda w0, w: jnp.where(count == 0, w, w0), start, now)
        basis = jax.lax.cond(
            count == at,
            lambda: jax.tree.map(lambda w0, w: _directions(w - w0, rank), start, now),
            lambda: basis,
        )
        onto = lambda g, v: jnp.where(count < at, g, _onto(g, v))
        return jax.tree.map(onto, grads, basis), Projection(count + 1, start, basis)

    inside = optax.GradientTransformation(init, update)
    return optax.masked(inside, lambda params: projected(params, rank))


def projected(params, rank: int):
    """Which parameters ``project`` changes: stacks of matrices wider than ``rank``."""
    return jax.tree.map(lambda w: len(w.shape) > 2 and min(w.shape[-2:]) > rank, params)


def _directions(moved: jax.Array, rank: int) -> jax.Array:
    """[..., in, rank]: those of what comes in, for updates [..., in, out]."""
    return jnp.linalg.svd(moved, full_matrices=False)[0][..., :rank]


def _onto(grad: jax.Array, basis: jax.Array) -> jax.Array:
    product = lambda form, *of: jnp.einsum(form, *of, precision="highest")
    inside = product("...ir,...io->...ro", basis, grad.astype(basis.dtype))
    return product("...ir,...ro->...io", basis, inside).astype(grad.dtype)
