"""Rotary position embedding, with the context extensions of published models."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TYPES = ("default", "linear", "llama3", "yarn")
OF_PHI = ("default", "longrope")


def frequencies(
    head_dim: int, theta: float, max_positions: int, scaling: Mapping[str, Any]
) -> tuple[np.ndarray, float]:
    """Angles per position ``f32[H / 2]`` and the factor on their cosines and sines.

    ``f_i = theta^(-2i/H)``, then by ``rope_type``: ``linear`` divides by ``factor``;
    ``llama3`` divides where the wavelength is long against the original context and
    blends in between; ``yarn`` (arXiv:2309.00071, eq. 22-23) blends by the number of
    rotations in the original context and sharpens attention (``0.1 ln(factor) + 1``);
    ``longrope`` (arXiv:2402.13753) has a divisor for each i and sharpens attention by
    ``sqrt(1 + ln(factor) / ln(original))``. Its short divisors are meant, those up to
    the original context: beyond it all of a text turns by the long ones.

    Args:
      head_dim: H, even.
      max_positions: of the model as scaled; read by ``yarn`` without a ``factor``.
      scaling: the Hugging Face rope dict without theta; ``{}`` is plain rope.

    Raises:
      ValueError: unknown ``rope_type``.
    """
    # transformers forms the exponents in float32; so do we, or positions drift apart.
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
    plain = 1.0 / theta ** exponents.astype(np.float64)
    match scaling.get("rope_type", "default"):
        case "default":
            scaled, factor = plain, 1.0
        case "linear":
            scaled, factor = plain / scaling["factor"], 1.0
        case "llama3":
            scaled, factor = _llama3(plain, scaling), 1.0
        case "yarn":
            scaled, factor = _yarn(plain, head_dim, theta, max_positions, scaling)
        case "longrope":
            scaled = plain / np.asarray(scaling["short_factor"])
            factor = _longrope_attention(scaling)
        case other:
            raise ValueError(
                f"rope_type={other!r} is not supported; use one of {TYPES}"
            )
    return scaled.astype(np.float32), factor


def angles(positions_BT: jax.Array, frequencies_H: np.ndarray, factor: float):
    """Cosines and sines of each position, f32[B, T, H / 2] each, times ``factor``."""
    turned_BTH = positions_BT.astype(jnp.float32)[..., None] * frequencies_H[None, None]
    return jnp.cos(turned_BTH) * factor, jnp.sin(turned_BTH) * factor


def rotate(x_BTKH: jax.Array, cos_BTH: jax.Array, sin_BTH: jax.Array) -> jax.Array:
    """Rotates the pairs ``(i, i + R / 2)``, the Hugging Face order.

    R is twice the width of the angles; entries of a head behind the first R stay.
    """
    turned, kept = jnp.split(x_BTKH, [2 * cos_BTH.shape[-1]], axis=-1)
    low, high = jnp.split(turned.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos_BTH[:, :, None], sin_BTH[:, :, None]
    rotated = jnp.concatenate([low * cos - high * sin, high * cos + low * sin], -1)
    rotated = rotated.astype(x_BTKH.dtype)
    return jnp.concatenate([rotated, kept], -1) if kept.shape[-1] else rotated


def _longrope_attention(scaling: Mapping) -> float:
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    longer, original = scaling["factor"], scaling["original_max_position_embeddings"]
    return math.sqrt(1 + math.log(longer) / math.log(original)) if longer > 1 else 1.0


def _llama3(plain: np.ndarray, scaling: Mapping) -> np.ndarray:
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    rotations = scaling["original_max_position_embeddings"] * plain / (2 * np.pi)
    keep = np.clip((rotations - low) / (high - low), 0.0, 1.0)
    return plain * (keep + (1 - keep) / scaling["factor"])


def _yarn(plain: np.ndarray, head_dim, theta, max_positions, scaling: Mapping):
    original = scaling["original_max_position_embeddings"]
    factor = scaling.get("factor") or max_positions / original

    def dimension(rotations):  # whose angle makes that many turns in the old context
        turns = math.log(original / (rotations * 2 * math.pi))
        return head_dim * turns / (2 * math.log(theta))

    low = dimension(scaling.get("beta_fast") or 32)
    high = dimension(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low or 0.001
    keep = 1 - np.clip((np.arange(len(plain)) - low) / width, 0.0, 1.0)
    return plain * (keep + (1 - keep) / factor), _yarn_attention(scaling, factor)


def _yarn_attention(scaling: Mapping, factor: float) -> float:
    def sharpen(mscale):
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return sharpen(scaling["mscale"]) / sharpen(scaling["mscale_all_dim"])
    return sharpen(1.0)
