"""Mixtures of experts: each token is read by the few MLPs that its router chooses.

    p = softmax(W_r h),   S = the k largest of p,
    y = sum_{e in S} w_e W_down,e (act(W_gate,e h) * W_up,e h)

w is p over S, or p / sum_S p where a family says so. Nothing is dropped and no expert
has a capacity: tokens are ordered by expert, and the products of all experts are one
``jax.lax.ragged_dot`` each. Dimensions: E experts, K of them per token, F their width,
M tokens. The losses that balance experts while a model is pretrained are not added.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopd.models.decoder_config import ACTIVATIONS, DecoderConfig


class Weights(NamedTuple):
    """Matrices of one layer.

    Attributes:
      router: [D, E].
      gate, up: [E, D, F].
      down: [E, F, D].
    """

    router: jax.Array
    gate: jax.Array
    up: jax.Array
    down: jax.Array


def shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Of ``Weights``, by name and in order."""
    within = config.experts, config.width, config.ffn
    back = config.experts, config.ffn, config.width
    router = config.width, config.experts
    return dict(zip(Weights._fields, (router, within, within, back), strict=True))


def read(config: DecoderConfig, x: jax.Array, weights: Weights) -> jax.Array:
    """``mixture`` as a config has it, of rows [..., D]."""
    found = mixture(
        x.reshape(-1, config.width),
        weights,
        per_token=config.experts_per_token,
        normalized=config.router_normalized,
        activation=ACTIVATIONS[config.activation],
    )
    return found.reshape(x.shape)


def route(
    scores_ME: jax.Array, per_token: int, normalized: bool
) -> tuple[jax.Array, jax.Array]:
    """(weights f32[M, K], experts i32[M, K]) of router scores, best first."""
    probs_ME = jax.nn.softmax(scores_ME.astype(jnp.float32), axis=-1)
    weight_MK, expert_MK = jax.lax.top_k(probs_ME, per_token)
    if normalized:
        weight_MK = weight_MK / jnp.sum(weight_MK, axis=-1, keepdims=True)
    return weight_MK, expert_MK


def mixture(
    rows_MD: jax.Array,
    weights: Weights,
    *,
    per_token: int,
    normalized: bool,
    activation: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """[M, D] in the precision of ``rows_MD``; router and sums are float32."""
    scores_ME = jnp.einsum(
        "md,de->me", rows_MD, weights.router, preferred_element_type=jnp.float32
    )
    weight_MK, expert_MK = route(scores_ME, per_token, normalized)
    order = jnp.argsort(expert_MK.reshape(-1), stable=True)
    tokens_E = jnp.bincount(expert_MK.reshape(-1), length=weights.gate.shape[0])
    sorted_ = rows_MD[order // per_token]
    each = lambda x, kernel: jax.lax.ragged_dot(x, kernel, tokens_E.astype(jnp.int32))
    gate = activation(each(sorted_, weights.gate))
    found = each(gate * each(sorted_, weights.up), weights.down)
    # Back to the tokens by a gather: a sum in one order, whatever the experts were.
    place = jnp.argsort(order)
    found_MKD = found[place].reshape(*expert_MK.shape, -1).astype(jnp.float32)
    return jnp.sum(found_MKD * weight_MK[..., None], axis=1).astype(rows_MD.dtype)
