"""Layers apart, for writing on a CPU.

XLA reads a layer's matrix out of a stack by copying it first, on a CPU. For many tokens
that is nothing; for a token of each of a few rows it is as long as the product. Written
out one after the other, with parameters and caches of their own, layers are read where
they are (docs/performance.md, "Layers apart").
"""

import functools
import operator
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jopd.models import decoder

# Numbers in all layers, from which it is faster: fewer stay in a processor's caches.
LARGE = 2**24


@functools.lru_cache
def faster(config: decoder.DecoderConfig) -> bool:
    """Whether a model is to write with its layers apart, on the default backend.

    An exact one is not: its bits are proven for layers in a loop.
    """
    if config.exact:
        return False
    shapes = jax.eval_shape(lambda: decoder.init(config, jax.random.key(0)))
    numbers = sum(leaf.size for leaf in jax.tree.leaves(shapes["layers"]))
    return jax.default_backend() == "cpu" and numbers >= LARGE


def parameters(params: Mapping, places: Any = None) -> dict:
    """Those of ``Decoder(apart=True)`` from stacked ones, put to ``places``.

    Views: where the host reads a device's arrays as they are, nothing is copied.
    """
    layers = jax.tree.map(np.asarray, params["layers"])
    own = {
        f"{decoder.LAYER}{n}": jax.tree.map(operator.itemgetter(n), layers)
        for n in range(len(jax.tree.leaves(layers)[0]))
    }
    rest = {name: leaf for name, leaf in params.items() if name != "layers"}
    return rest | jax.device_put(own, places)
