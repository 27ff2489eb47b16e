"""Low-rank adapters (LoRA, arXiv:2106.09685): a small tree beside a frozen model.

    y = x W + s (x A) B,   s = alpha / r,  or alpha / sqrt(r) where rank-stabilized
                                           (rsLoRA, arXiv:2312.03732)

W ``[N, in, out]`` is the base's and frozen, A ``[N, in, r]`` and B ``[N, r, out]`` are
all that is trained, kept and differentiated. B begins at 0, so the model begins as its
base. An adapter is the part of a decoder's parameters that a base lacks, so base and
adapter are one model by joining two dicts: nothing is copied.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jopd.models import decoder
from jopd.models.decoder_config import DecoderConfig
from jopd.models.quantize import ATTENTION, MATRICES

OF_ADAPTER = re.compile(r"_(a|b)$")


def adapted(
    config: DecoderConfig,
    *,
    rank: int,
    alpha: float = 32.0,
    rank_stabilized: bool = False,
    targets: str = ".",
) -> DecoderConfig:
    """``config`` with an adapter on ``targeted(targets)``; rank 0 is no adapter.

    Experts are frozen with the rest of the base: an adapter of each would be as many.
    """
    if not rank:
        return config
    scale = alpha / (math.sqrt(rank) if rank_stabilized else rank)
    found = targeted(targets, matrices(config))
    return dataclasses.replace(
        config, lora_rank=rank, lora_scale=scale, lora_targets=found
    )


def matrices(config: DecoderConfig) -> tuple[str, ...]:
    """Those of a layer that may have an adapter."""
    return ATTENTION if config.experts else MATRICES


def targeted(targets: str, matrices: tuple[str, ...] = MATRICES) -> tuple[str, ...]:
    """Those of q, k, v, o, gate, up and down that a pattern finds; experts have none.

    Raises:
      ValueError: a malformed pattern, or one that finds none of them.
    """
    try:
        found = tuple(name for name in matrices if re.search(targets, name))
    except re.error as error:
        raise ValueError(
            f"student.lora.targets={targets!r} is no regular expression: {error}"
        ) from error
    if not found:
        raise ValueError(
            f"student.lora.targets={targets!r} finds none of the matrices "
            f"{', '.join(matrices)}; '.' finds all of them"
        )
    return found


def without(config: DecoderConfig) -> DecoderConfig:
    """The shape of the base alone, and of what is merged."""
    return dataclasses.replace(config, lora_rank=0, lora_scale=0.0, lora_targets=())


def start(config: DecoderConfig, key: jax.Array) -> dict[str, Any]:
    """A fresh adapter: A uniform within 1 / sqrt(in), as PEFT draws it, B zeros."""

    @jax.jit
    def draw(key):
        layers = decoder.init(config, key)["layers"]
        return {name: leaf for name, leaf in layers.items() if OF_ADAPTER.search(name)}

    return {"layers": draw(key)}


def joined(params: Mapping, base: Mapping | None) -> Mapping:
    """A whole model of an adapter and its base; what is whole already as it is."""
    if not base or "embed" in params:
        return params
    return {**base, "layers": {**base["layers"], **params["layers"]}}


def merged(config: DecoderConfig, params: Mapping) -> tuple[DecoderConfig, Mapping]:
    """(shape, parameters) of the same model without an adapter, W + s A B.

    Products and sums are in float32, the result has the base's type.
    """
    if not config.lora_rank:
        return config, params
    layers = dict(params["layers"])
    for name in config.lora_targets:
        a, b = (layers.pop(f"{name}_{part}") for part in "ab")
        layers[name] = _added(layers[name], a, b, config.lora_scale)
    return without(config), {**params, "layers": layers}


@jax.jit
def _added(base: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    product = jnp.einsum("nir,nro->nio", a.astype(jnp.float32), b.astype(jnp.float32))
    return (base.astype(jnp.float32) + scale * product).astype(base.dtype)
