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
        whole = np.asarray(layers[name], np.float32)  # [N, in, out]
        scale = np.abs(whole).max(axis=1) / 127.0
        steps = np.where(scale > 0, scale, 1.0)[:, None]
        layers[name] = np.rint(whole / steps).astype(np.int8)
        layers[f"{name}_scale"] = scale.astype(np.float32)
    return dataclasses.replace(config, int8=True), {**params, "layers": layers}
