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

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


def int8(
    config: DecoderConfig, params: Mapping[str, object]
) -> tuple[DecoderConfig, dict[str, object]]:
    """The model with its layers' matrices as int8 and a ``NAME_scale`` for each.

    Takes and gives host arrays; a column of zeros stays one.
    """
    layers = dict(params["layers"])
    for name in MATRICES:
        layers |= matrix(name, np.asarray(layers[name]))
    return dataclasses.replace(config, int8=True), {**params, "layers": layers}


def matrix(name: str, whole_NIO: np.ndarray) -> dict[str, np.ndarray]:
    """A matrix of all layers as int8, and its scales f32[N, out]; layer by layer."""
    steps_NIO = np.empty(whole_NIO.shape, np.int8)
    scale_NO = np.empty((len(whole_NIO), whole_NIO.shape[2]), np.float32)
    for layer, whole in enumerate(whole_NIO):
        whole = whole.astype(np.float32)
        scale_NO[layer] = np.abs(whole).max(axis=0) / 127.0
        steps = np.where(scale_NO[layer] > 0, scale_NO[layer], 1.0)
        steps_NIO[layer] = np.rint(whole / steps)
    return {name: steps_NIO, f"{name}_scale": scale_NO}
