"""Optax chains from plain values."""

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
) -> optax.GradientTransformation:
    """Gradient clipping by global norm (0 is off) and then the named optimizer.

    ``muon`` orthogonalises the momentum (``b1``) of the layers' matrices, scaled to the
    size of Adam's updates (Liu et al., arXiv:2502.16982), so that one learning rate
    serves both; embedding, head, norms and biases go to AdamW with ``b1`` and ``b2``.

    Raises:
      ValueError: unknown name; the known ones are listed.
    """
    chain = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
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
