"""A decoder-only transformer: Llama 2/3, Qwen2/2.5, Qwen3 and Mistral, by config.

One pre-norm layer, scanned over parameters that are stacked along a leading [N] axis:

    x = x + W_o attention(rope(W_q h), rope(W_k h), W_v h),   h = rms_norm(x)
    x = x + W_down (silu(W_gate h) * W_up h),                 h = rms_norm(x)

Further dimensions here: S cache slots, Kh key/value heads, G query heads per key/value
head, H width of a head. A cache slot is a place in memory, a position is a place in the
text; the two are independent, so rows of one batch may have gaps at different slots.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jopd.models import rope

_FAR = np.iinfo(
    np.int32
).max  # distance of what cannot be seen, window of those who can
_HIDDEN = -1e30  # finite, so that a row of nothing but padding stays free of NaN
# Runs of queries that attention to the tokens themselves is cut into. On a CPU, 152
# positions: 0.52 s of forward and backward pass whole, 0.42 s in 4 runs, 0.38 s in 8.
_RUNS, _SHORTEST_RUN = 8, 16
_NORMAL = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Everything static about a decoder; hashable.

    Attributes:
      rope_scaling: sorted items of the Hugging Face rope dict; ``()`` is plain rope.
      sliding_window: number of positions a query sees, itself included; 0 is all.
      sliding_layers: for each layer whether it has the window; ``()`` means all have.
      dtype: of compute and activations; norms, rope and softmax are always float32.
      int8: the layers' matrices are int8 with a scale per column, ``models.quantize``.
      remat: recompute each layer in the backward pass, keeping only its input.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    max_positions: int
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: tuple[tuple[str, Any], ...] = ()
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    sliding_window: int = 0
    sliding_layers: tuple[bool, ...] = ()
    activation: str = "silu"
    dtype: str = "float32"
    int8: bool = False
    remat: bool = False

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads={self.heads} is not divisible by kv_heads={self.kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd; rope rotates pairs")
        if self.sliding_layers and len(self.sliding_layers) != self.layers:
            raise ValueError(
                f"sliding_layers has {len(self.sliding_layers)} entries for "
                f"layers={self.layers}"
            )
        if self.activation != "silu":
            raise ValueError(
                f"activation={self.activation!r:.80}; only 'silu' is supported"
            )


class KV(NamedTuple):
    """Keys (rope applied) and values of all layers, slots along axis 4 and axis 3.

    The asymmetry is measured: both products of a decode step then read memory in
    order (XLA CPU, [8, 32, 2, 256, 64]: 10.2 ms per token against 12.9).

    Attributes:
      k: ``[N, B, Kh, H, S]``.
      v: ``[N, B, Kh, S, H]``.
    """

    k: jax.Array
    v: jax.Array


def rope_frequencies(config: DecoderConfig) -> tuple[np.ndarray, float]:
    """``rope.frequencies`` of a config.

    Raises:
      ValueError: unknown ``rope_type``.
    """
    return rope.frequencies(
        config.head_dim,
        config.rope_theta,
        config.max_positions,
        dict(config.rope_scaling),
    )


def _rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    y = x.astype(jnp.float32)
    y *= jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    scale = jnp.expand_dims(scale.astype(jnp.float32), range(x.ndim - 1))
    return (y * scale).astype(x.dtype)


def _attention(q: jax.Array, segments: list[KV], visible_BTS: jax.Array) -> jax.Array:
    """Grouped softmax attention of ``[B, Kh, G, T, H]`` over the segments' slots.

    The segments (cache, new tokens) share one softmax without being joined in memory.
    A query that sees nothing averages everything: finite, and so is its gradient.
    """
    scores = [
        jnp.einsum("bkgth,bkhs->bkgts", q, k, preferred_element_type=jnp.float32)
        for k, _ in segments
    ]
    scores = jnp.concatenate(scores, axis=-1) * q.shape[-1] ** -0.5
    scores = jnp.where(visible_BTS[:, None, None], scores, _HIDDEN)
    probs = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    ends = np.cumsum([v.shape[-2] for _, v in segments])
    read = [
        jnp.einsum("bkgts,bksh->bkgth", p, v)
        for p, (_, v) in zip(jnp.split(probs, ends[:-1], -1), segments, strict=True)
    ]
    return sum(read[1:], start=read[0])


def _self_attention(q: jax.Array, kv: KV, visible_BTS: jax.Array) -> jax.Array:
    """``_attention`` to the tokens themselves, of which none sees one behind it.

    In a few runs of queries, each against the keys up to its end: half of what the
    whole square would compute is hidden.
    """
    length = q.shape[3]
    runs = min(_RUNS, -(-length // _SHORTEST_RUN))
    ends = [length * n // runs for n in range(runs + 1)]
    read = [
        _attention(
            q[:, :, :, start:end],
            [KV(kv.k[..., :end], kv.v[..., :end, :])],
            visible_BTS[:, start:end, :end],
        )
        for start, end in itertools.pairwise(ends)
    ]
    return jnp.concatenate(read, axis=3)


class Layer(nn.Module):
    """One pre-norm layer; ``nn.scan`` stacks its parameters."""

    config: DecoderConfig
    return_kv: bool

    @nn.compact
    def __call__(self, x_BTD, scanned, cos_BTH, sin_BTH, distance_BTS):
        cache, window = scanned
        c, (batch, length, _) = self.config, x_BTD.shape
        groups = c.heads // c.kv_heads

        h = self.norm("attention_norm", x_BTD)
        q = self.linear("q", h, c.heads * c.head_dim, c.qkv_bias)
        k = self.linear("k", h, c.kv_heads * c.head_dim, c.qkv_bias)
        v = self.linear("v", h, c.kv_heads * c.head_dim, c.qkv_bias)
        q, k, v = (a.reshape(batch, length, -1, c.head_dim) for a in (q, k, v))
        if c.qk_norm:
            q, k = self.norm("q_norm", q), self.norm("k_norm", k)
        q, k = rope.rotate(q, cos_BTH, sin_BTH), rope.rotate(k, cos_BTH, sin_BTH)
        q = q.reshape(batch, length, c.kv_heads, groups, c.head_dim)
        q = jnp.moveaxis(q, 1, 3)
        new = KV(jnp.moveaxis(k, 1, 3), jnp.moveaxis(v, 1, 2))
        visible_BTS = distance_BTS < window
        if cache is None:
            read = _self_attention(q, new, visible_BTS)
        else:
            read = _attention(q, [cache, new], visible_BTS)
        read = jnp.moveaxis(read, 3, 1).reshape(batch, length, -1)
        x_BTD = x_BTD + self.linear("o", read, c.width, c.o_bias)

        h = self.norm("mlp_norm", x_BTD)
        gate = nn.silu(self.linear("gate", h, c.ffn))
        h = gate * self.linear("up", h, c.ffn)
        x_BTD = x_BTD + self.linear("down", h, c.width)
        return x_BTD, (new if self.return_kv else None)

    def linear(self, name: str, x: jax.Array, out: int, bias: bool = False):
        kernel = self.param(name, _NORMAL, (x.shape[-1], out))
        # As one matrix of rows: XLA's CPU backend is a third slower on gradients of a
        # product with two batch dimensions. Elsewhere it makes no difference.
        y = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
        if self.config.int8:
            scale = self.param(f"{name}_scale", nn.initializers.ones, (out,))
            y *= scale.astype(x.dtype)[None]
        if bias:
            bias = self.param(f"{name}_bias", nn.initializers.zeros, (out,))
            y += bias.astype(x.dtype)[None]
        return y.reshape(*x.shape[:-1], out)

    def norm(self, name: str, x: jax.Array):
        scale = self.param(name, nn.initializers.ones, (x.shape[-1],))
        return _rms_norm(x, scale, self.config.norm_eps)


class Decoder(nn.Module):
    """Tokens to final hidden states; the head is left to the caller (``head``)."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        valid_BT: jax.Array,
        cache: KV | None = None,
        cache_positions_BS: jax.Array | None = None,
        cache_valid_BS: jax.Array | None = None,
        *,
        segment_BT: jax.Array | None = None,
        return_kv: bool = True,
    ) -> tuple[jax.Array, KV | None]:
        """Runs T tokens per row against a read-only cache and themselves.

        A key is visible to a query iff it is valid, ``key_position <= query_position``
        and, in a layer with a window, ``query_position - key_position < window``.
        Without a cache the tokens of a row, or of its segments, are in the order of
        their positions: what stands behind a query is not looked at.

        Args:
          tokens_BT: i32; any value where not valid.
          positions_BT: i32, place of each token in its text.
          valid_BT: bool, False for padding.
          cache: earlier keys and values; not changed (see ``write``).
          cache_positions_BS: i32, position of what each slot holds.
          cache_valid_BS: bool, False for slots that hold nothing.
          segment_BT: i32, tokens see their own segment only; not with a cache.
          return_kv: False drops the second output, for training.

        Returns:
          Hidden states ``[B, T, D]`` after the final norm, finite but meaningless where
          not valid, and the keys and values of the T tokens.
        """
        c = self.config
        embed = self.param("embed", _NORMAL, (c.vocab_size, c.width))
        if not c.tied:  # declared for ``init``; applied by whoever calls ``head``
            self.param("head", _NORMAL, (c.vocab_size, c.width))
        # Padding may hold any id, and gathering one out of range would give NaN.
        tokens_BT = jnp.where(valid_BT, tokens_BT, 0)
        x_BTD = jnp.take(embed, tokens_BT, axis=0).astype(c.dtype)

        keys = (positions_BT, valid_BT)
        if cache is not None:
            cached = (cache_positions_BS, cache_valid_BS)
            keys = [jnp.concatenate(pair, 1) for pair in zip(cached, keys, strict=True)]
        stack = nn.scan(
            nn.remat(Layer, prevent_cse=False) if c.remat else Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=c.layers,
        )
        x_BTD, new = stack(c, return_kv, name="layers")(
            x_BTD,
            (cache, _windows(c)),
            *_angles(c, positions_BT),
            _distance(positions_BT, *keys, segment_BT),
        )
        scale = self.param("norm", nn.initializers.ones, (c.width,))
        return _rms_norm(x_BTD, scale, c.norm_eps), new


def _windows(config: DecoderConfig) -> jax.Array:
    """Window of each layer, i32[N]."""
    slides = config.sliding_layers or (True,) * config.layers
    return jnp.where(np.array(slides), config.sliding_window or _FAR, _FAR)


def _angles(config: DecoderConfig, positions_BT: jax.Array):
    frequencies_H, factor = rope_frequencies(config)
    return rope.angles(positions_BT, frequencies_H, factor)


def _distance(positions_BT, key_positions_BS, key_valid_BS, segment_BT) -> jax.Array:
    """How far each query looks back at each key, i32[B, T, S]; _FAR if it must not."""
    distance_BTS = positions_BT[:, :, None] - key_positions_BS[:, None]
    seen_BTS = key_valid_BS[:, None] & (distance_BTS >= 0)
    if segment_BT is not None:
        seen_BTS = seen_BTS & (segment_BT[:, :, None] == segment_BT[:, None])
    return jnp.where(seen_BTS, distance_BTS, _FAR)


def init(config: DecoderConfig, key: jax.Array, dtype: Any = "float32") -> dict:
    """Random parameters as Hugging Face draws them: N(0, 0.02), norms 1, biases 0."""
    tokens_BT = jnp.zeros((1, 1), jnp.int32)
    decoder = Decoder(dataclasses.replace(config, remat=False))

    @jax.jit
    def draw(key):
        params = decoder.init(key, tokens_BT, tokens_BT, tokens_BT == 0)["params"]
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    return draw(key)


def head(params: Mapping) -> jax.Array:
    """The output projection ``[V, D]``: logits are ``hidden @ head.T``."""
    return params["head"] if "head" in params else params["embed"]


def count(params: Mapping) -> int:
    """Number of parameters; a tied head counts once, scales of int8 do not."""
    return sum(
        math.prod(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if not path[-1].key.endswith("_scale")
    )


def empty_cache(config: DecoderConfig, batch: int, slots: int, dtype: Any = None) -> KV:
    """A zeroed cache of ``slots`` slots, in the config's dtype unless told.

    ``write(empty_cache(config, batch, more_slots), cache, 0)`` grows a cache.
    """
    lead = (config.layers, batch, config.kv_heads)
    dtype = jnp.dtype(dtype or config.dtype)
    return KV(
        k=jnp.zeros((*lead, config.head_dim, slots), dtype),
        v=jnp.zeros((*lead, slots, config.head_dim), dtype),
    )


def write(cache: KV, new: KV, slot: jax.Array | int) -> KV:
    """``cache`` with ``new`` in slots ``slot, slot + 1, ...`` of all rows and layers.

    A ``new`` that does not fit is moved back until it does, as
    ``lax.dynamic_update_slice`` has it; the caller counts its slots.
    """
    put = jax.lax.dynamic_update_slice_in_dim
    return KV(
        k=put(cache.k, new.k.astype(cache.k.dtype), slot, axis=4),
        v=put(cache.v, new.v.astype(cache.v.dtype), slot, axis=3),
    )
