"""Matrices of a frozen model in eight bits: a quarter of the memory of float32.

Every column of a layer's matrix has its own scale (symmetric, round to nearest):

    s_j = max_i |W_ij| / 127,   Q_ij = round(W_ij / s_j),   x W  ~  (x Q) s

Activations, embeddings, head, norms and biases keep their type. Products are made in
the activations' type, so this saves memory, not arithmetic. What it costs in nats is
measured by ``tools/bench/precision.py``.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jopd.models.decoder import DecoderConfig

ATTENTION = ("q", "k", "v", "o")
MATRICES = (*ATTENTION, "gate", "up", "down")
OF_EXPERTS = ("expert_gate", "expert_up", "expert_down")


def int8(
    config: DecoderConfig, params: Mapping[str, object]
) -> tuple[DecoderConfig, dict[str, object]]:
    """The model with its layers' matrices as int8 and a ``NAME_scale`` for each.

    Takes and gives host arrays; a column of zeros stays one.
    """
    layers = dict(params["layers"])
    for name in layers.keys() & {*MATRICES, *OF_EXPERTS}:
        layers |= matrix(name, np.asarray(layers[name]))
    return dataclasses.replace(config, int8=True), {**params, "layers": layers}


def matrix(name: str, whole: np.ndarray) -> dict[str, np.ndarray]:
    """A matrix ``[N, in, out]``, or of experts ``[N, E, in, out]``, as int8, and its
    scales f32[N, out] or f32[N, E, out]; made layer by layer."""
    steps = np.empty(whole.shape, np.int8)
    scales = np.empty((*whole.shape[:-2], whole.shape[-1]), np.float32)
    for layer, values in enumerate(whole):
        values = values.astype(np.float32)
        scales[layer] = np.abs(values).max(axis=-2) / 127.0
        step = np.where(scales[layer] > 0, scales[layer], 1.0)[..., None, :]
        steps[layer] = np.rint(values / step)
    return {name: steps, f"{name}_scale": scales}
