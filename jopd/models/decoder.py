"""A decoder-only transformer whose families differ in data only, see DecoderConfig.

One layer, scanned over parameters that are stacked along a leading [N] axis:

    x = x + r post(W_o attention(rope(W_q h), rope(W_k h), W_v h)),   h = pre(x)
    x = x + r post(W_down (act(W_gate h) * W_up h)),                  h = pre(x)

The MLP may be a mixture (``models.experts``). ``pre`` and ``post`` are RMS norms, or
nothing where a config has none there; r is 1 in most.

Further dimensions here: S cache slots, Kh key/value heads, G query heads per key/value
head, H width of a head. A cache slot is a place in memory, a position is a place in the
text; the two are independent, so rows of one batch may have gaps at different slots.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jopd import exact
from jopd.models import attention, experts, rope, sharding
from jopd.models import cache as caches
from jopd.models.attention import FAR
from jopd.models.cache import KV
from jopd.models.decoder_config import ACTIVATIONS, DecoderConfig

_NORMAL = nn.initializers.normal(0.02)
LAYER = "layer_"  # and its number: parameters of one that is apart
STATES = "states"  # what is between layers, a collection


def _within_root(key, shape, dtype=jnp.float32):
    """Uniform within 1 / sqrt(in), for ``[in, out]``."""
    return jax.random.uniform(key, shape, dtype, -1, 1) * shape[0] ** -0.5


def rope_frequencies(config: DecoderConfig) -> tuple[np.ndarray, float]:
    """``rope.frequencies`` of a config.

    Raises:
      ValueError: unknown ``rope_type``.
    """
    return rope.frequencies(
        config.rotary_dim or config.head_dim,
        config.rope_theta,
        config.max_positions,
        dict(config.rope_scaling),
    )


def _rms_norm(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    c = module.config
    ones = nn.initializers.constant(1 - c.norm_offset)
    scale = module.param(name, ones, (x.shape[-1],)).astype(jnp.float32)
    scale = scale + c.norm_offset if c.norm_offset else scale
    y = x.astype(jnp.float32)
    y *= jax.lax.rsqrt(_mean_square(y, c.exact) + c.norm_eps)
    return (y * jnp.expand_dims(scale, range(x.ndim - 1))).astype(x.dtype)


def _mean_square(y: jax.Array, exactly: bool = False) -> jax.Array:
    if exactly:
        rows = y.reshape(-1, y.shape[-1])
        found = exact.in_tiles(lambda rows, _: _mean_square(rows), rows)
        return found.reshape(*y.shape[:-1], 1)
    return jnp.mean(y * y, axis=-1, keepdims=True)


def _times(x: jax.Array, factor: float) -> jax.Array:
    if factor == 1:
        return x
    return (x.astype(jnp.float32) * factor).astype(x.dtype)


class Layer(nn.Module):
    """One layer."""

    config: DecoderConfig
    return_kv: bool
    mesh: jax.sharding.Mesh | None

    @nn.compact
    def __call__(self, x_BTD, own, cos, sin, distance_BTS, order_BS, slot):
        cache, window, kind = own
        cos_BTH, sin_BTH = (cos, sin) if kind is None else (cos[kind], sin[kind])
        c, (batch, length, _) = self.config, x_BTD.shape
        groups = c.heads // c.kv_heads

        h = self.before("attention", x_BTD)
        q = self.linear("q", h, c.heads * c.head_dim, c.qkv_bias)
        k = self.linear("k", h, c.kv_heads * c.head_dim, c.qkv_bias)
        v = self.linear("v", h, c.kv_heads * c.head_dim, c.qkv_bias)
        if c.qk_norm_wide:
            q, k = _rms_norm(self, "q_norm", q), _rms_norm(self, "k_norm", k)
        q, k, v = (a.reshape(batch, length, -1, c.head_dim) for a in (q, k, v))
        if c.qk_norm:
            q, k = _rms_norm(self, "q_norm", q), _rms_norm(self, "k_norm", k)
        q, k = rope.rotate(q, cos_BTH, sin_BTH), rope.rotate(k, cos_BTH, sin_BTH)
        q = q.reshape(batch, length, c.kv_heads, groups, c.head_dim)
        q = jnp.moveaxis(q, 1, 3)
        new = KV(jnp.moveaxis(k, 1, 3), jnp.moveaxis(v, 1, 2))
        visible_BTS = distance_BTS < window
        read, kept = attention.read(c, q, cache, new, visible_BTS, order_BS, slot)
        read = jnp.moveaxis(read, 3, 1).reshape(batch, length, -1)
        read = self.linear("o", read, c.width, c.o_bias)
        x_BTD = x_BTD + self.behind("attention", read)

        h = self.before("mlp", x_BTD)
        h = self.mixture(h) if c.experts else self.mlp(h)
        x_BTD = x_BTD + self.behind("mlp", h)
        x_BTD = sharding.rows_local(x_BTD, self.mesh)
        self.sow(STATES, "behind", x_BTD)  # nothing, unless ``with_states`` asks
        return x_BTD, (kept if self.return_kv else None)

    def mlp(self, h: jax.Array):
        c = self.config
        gate = ACTIVATIONS[c.activation](self.linear("gate", h, c.ffn))
        return self.linear("down", gate * self.linear("up", h, c.ffn), c.width)

    def mixture(self, h: jax.Array):
        shapes = experts.shapes(self.config).items()
        weights = experts.Weights(*(self.expert(*one, h.dtype) for one in shapes))
        read = functools.partial(experts.read, self.config)
        return sharding.on_rows(read, self.mesh)(h, weights)

    def expert(self, name: str, shape: tuple[int, ...], dtype):
        kernel = self.param(f"expert_{name}", _NORMAL, shape).astype(dtype)
        if not self.config.int8 or name == "router":
            return kernel
        ones, columns = nn.initializers.ones, (shape[0], shape[-1])
        scale = self.param(f"expert_{name}_scale", ones, columns)
        return kernel * scale.astype(dtype)[:, None]

    def before(self, block: str, x: jax.Array):
        x = _rms_norm(self, f"{block}_norm", x) if self.config.pre_norm else x
        return x.astype(self.config.dtype)

    def behind(self, block: str, x: jax.Array):
        x = _rms_norm(self, f"{block}_post_norm", x) if self.config.post_norm else x
        return _times(x, self.config.residual_scale).astype(jnp.float32)

    def linear(self, name: str, x: jax.Array, out: int, bias: bool = False):
        kernel = self.param(name, _NORMAL, (x.shape[-1], out))
        # As one matrix of rows: XLA's CPU backend is a third slower on gradients of a
        # product with two batch dimensions. Elsewhere it makes no difference.
        rows = x.reshape(-1, x.shape[-1])
        y = self.product(name, rows, kernel)
        if self.config.int8:
            scale = self.param(f"{name}_scale", nn.initializers.ones, (out,))
            y *= scale.astype(x.dtype)[None]
        if name in self.config.lora_targets:
            y += self.adapter(name, rows, out)
        if bias:
            bias = self.param(f"{name}_bias", nn.initializers.zeros, (out,))
            y += bias.astype(x.dtype)[None]
        return y.reshape(*x.shape[:-1], out)

    def adapter(self, name: str, rows: jax.Array, out: int):
        c, width = self.config, rows.shape[-1]
        a = self.param(f"{name}_a", _within_root, (width, c.lora_rank))
        b = self.param(f"{name}_b", nn.initializers.zeros, (c.lora_rank, out))
        small = self.product(f"{name}_a", rows, a) * c.lora_scale
        return self.product(f"{name}_b", small, b)

    def product(self, name: str, rows: jax.Array, kernel: jax.Array) -> jax.Array:
        if self.config.exact:
            return exact.in_tiles(jnp.matmul, rows, kernel.astype(rows.dtype))
        return sharding.product(rows, kernel, f"layers/{name}", self.mesh)


class Decoder(nn.Module):
    """Tokens to final hidden states; the head is left to the caller (``head``).

    Attributes:
      mesh: devices that rows and parameters are split over; None: one has all.
      apart: layers are written out one after the other, each with parameters of its
        own (``models.apart``). Else they are a loop over a stack, out of which a CPU
        copies a layer before it is read.
    """

    config: DecoderConfig
    mesh: jax.sharding.Mesh | None = None
    apart: bool = False

    @nn.compact
    def __call__(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        valid_BT: jax.Array,
        cache: KV | None = None,
        cache_positions_BS: jax.Array | None = None,
        cache_valid_BS: jax.Array | None = None,
        slot: jax.Array | int | None = None,
        *,
        segment_BT: jax.Array | None = None,
        return_kv: bool = True,
    ) -> tuple[jax.Array, KV | None]:
        """Runs T tokens per row against a cache and themselves.

        A key is visible to a query iff it is valid, ``key_position <= query_position``
        and, in a layer with a window, ``query_position - key_position < window``.
        Without a cache the tokens of a row, or of its segments, are in the order of
        their positions: what stands behind a query is not looked at.

        Args:
          tokens_BT: i32; any value where not valid.
          positions_BT: i32, place of each token in its text.
          valid_BT: bool, False for padding.
          cache: earlier keys and values, their layers apart like the model's.
          cache_positions_BS: i32, position of what each slot holds.
          cache_valid_BS: bool, False for slots that hold nothing.
          slot: where the keys and values of the T tokens begin in the cache that comes
            back; None: they come back alone.
          segment_BT: i32, tokens see their own segment only; not with a cache.
          return_kv: False drops the second output, for training.

        Returns:
          Hidden states ``[B, T, D]`` after the final norm and ``logit_divisor``, finite
          but meaningless where not valid, and keys and values.
        """
        c = self.config
        embed = self.param("embed", _NORMAL, (c.vocab_size, c.width))
        if not c.tied:  # declared for ``init``; applied by whoever calls ``head``
            self.param("head", _NORMAL, (c.vocab_size, c.width))
        # Padding may hold any id, and gathering one out of range would give NaN.
        tokens_BT = jnp.where(valid_BT, tokens_BT, 0)
        x_BTD = sharding.looked_up(embed, tokens_BT, self.mesh).astype(c.dtype)
        x_BTD = sharding.rows_local(x_BTD, self.mesh)
        x_BTD = _times(x_BTD, float(np.asarray(c.embed_scale, jnp.dtype(c.dtype))))
        # Between layers float32: half of what bfloat16 loses is lost in these sums.
        x_BTD = x_BTD.astype(jnp.float32)

        first = slot if self.apart else None  # where it is written before it is read
        keys, order_BS = (positions_BT, valid_BT), None
        if cache is not None:
            cached = (cache_positions_BS, cache_valid_BS)
            keys = [_behind(*pair, first) for pair in zip(cached, keys, strict=True)]
            order_BS = attention.by_position(*keys) if c.exact else None
        if order_BS is not None:
            keys = [jnp.take_along_axis(one, order_BS, axis=1) for one in keys]
        ropes, kind_N = _ropes(c)
        angles = [rope.angles(positions_BT, *one) for one in ropes]
        x_BTD, kept = self.through_layers(
            x_BTD,
            (cache, _windows(c), kind_N),
            # As they are where all layers share them, else stacked for ``kind_N``.
            *(angles[0] if kind_N is None else map(jnp.stack, zip(*angles))),
            attention.distance(positions_BT, *keys, segment_BT),
            order_BS,
            first,
            return_kv=return_kv,
        )
        if slot is not None and not self.apart:
            kept = caches.write(cache, kept, slot)
        # Here, so that it is in all logits, wherever they are made.
        hidden_BTD = _times(_rms_norm(self, "norm", x_BTD), 1 / c.logit_divisor)
        return hidden_BTD.astype(c.dtype), kept

    def through_layers(self, x_BTD, own, *shared, return_kv: bool):
        """One after the other: ``own`` is each layer's, ``shared`` that of all."""
        c = self.config
        kind = nn.remat(Layer, prevent_cse=False) if c.remat else Layer
        if not self.apart:
            stack = nn.scan(
                kind,
                variable_axes={"params": 0, STATES: 0},
                split_rngs={"params": True},
                in_axes=(0, *[nn.broadcast] * len(shared)),
                length=c.layers,
            )
            return stack(c, return_kv, self.mesh, name="layers")(x_BTD, own, *shared)
        kept = []
        for n in range(c.layers):
            layer = kind(c, return_kv, self.mesh, name=f"{LAYER}{n}")
            x_BTD, kv = layer(x_BTD, _own(n, *own), *shared)
            kept.append(kv)
        return x_BTD, KV(*zip(*kept)) if return_kv else None


def with_states(model: Decoder, params, layers: tuple[int, ...], *words, **more):
    """A pass without cache that keeps what is behind some layers, counted from 1.

    Returns:
      (hidden [B, T, D] as of ``Decoder``, states [B, T, L, D] of the same type). That
      behind the last layer has the final norm, but not what divides logits, as in the
      ``hidden_states`` of transformers. All are kept until the few are chosen.
    """
    read = functools.partial(model.apply, {"params": params}, return_kv=False)
    (hidden_BTD, _), found = read(*words, **more, mutable=[STATES])
    (behind_NBTD,) = found[STATES]["layers"]["behind"]
    c = model.config
    last_BTD = _times(hidden_BTD, c.logit_divisor)
    states = (last_BTD if n == c.layers else behind_NBTD[n - 1] for n in layers)
    return hidden_BTD, jnp.stack([x.astype(hidden_BTD.dtype) for x in states], axis=2)


def _own(n: int, cache: KV | None, window_N, kind_N):
    """What layer ``n`` has for itself."""
    cache = None if cache is None else KV(cache.k[n], cache.v[n])
    return cache, window_N[n], None if kind_N is None else kind_N[n]


def _behind(cached_BS, own_BT, slot) -> jax.Array:
    if slot is None:
        return jnp.concatenate([cached_BS, own_BT], axis=1)
    return jax.lax.dynamic_update_slice_in_dim(cached_BS, own_BT, slot, axis=1)


def _slides(config: DecoderConfig) -> np.ndarray:
    """Which layers have the window, bool[N]."""
    slides = config.sliding_layers or (True,) * config.layers
    return np.array(slides) & (config.sliding_window > 0)


def _windows(config: DecoderConfig) -> jax.Array:
    """Window of each layer, i32[N]."""
    return jnp.where(_slides(config), config.sliding_window or FAR, FAR)


def _ropes(config: DecoderConfig) -> tuple[list, jax.Array | None]:
    """The ropes that occur, and which of them each layer has, i32[N]; None: there is
    only one."""
    found, kind_N = [rope_frequencies(config)], np.zeros(config.layers, np.int32)
    if config.local_rope_theta:
        plain = dataclasses.replace(
            config, rope_theta=config.local_rope_theta, rope_scaling=()
        )
        kind_N[_slides(config)] = len(found)
        found.append(rope_frequencies(plain))
    if any(config.nope_layers):
        kind_N[np.array(config.nope_layers)] = len(found)
        found.append((np.zeros_like(found[0][0]), 1.0))  # rotates by nothing
    return found, jnp.asarray(kind_N) if len(found) > 1 else None


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
    """The output projection ``[V, D]``: logits are ``hidden @ head.T``, up to a cap."""
    return params["head"] if "head" in params else params["embed"]


def count(params: Mapping) -> int:
    """Number of parameters; a tied head counts once, scales of int8 do not."""
    return sum(
        math.prod(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if not path[-1].key.endswith("_scale")
    )
