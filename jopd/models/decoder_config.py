"""What a decoder is made of, as data: its sizes, and what its layers have."""

import dataclasses
from typing import Any

import flax.linen as nn

# By their names in a config.json.
ACTIVATIONS = {"silu": nn.silu, "gelu_pytorch_tanh": nn.gelu}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Everything static about a decoder; hashable.

    Attributes:
      rope_scaling: sorted items of the Hugging Face rope dict; ``()`` is plain rope.
      local_rope_theta: theta of plain rope in layers with a window; 0: as all others.
      rotary_dim: how many entries of a head rope turns, the first; 0 is all.
      nope_layers: for each layer whether it has no rope; ``()`` means none is so.
      qk_norm, qk_norm_wide: q and k are normed, each head alone or all as one row.
      sliding_window: number of positions a query sees, itself included; 0 is all.
      sliding_layers: for each layer whether it has the window; ``()`` means all have.
      pre_norm, post_norm: norms before, and behind, attention and MLP of each layer.
      norm_offset: added to the scale of every norm.
      attention_scale: of the products of q and k; 0 is ``head_dim ** -0.5``.
      attention_cap: these become ``cap * tanh(product / cap)``; 0 is no cap.
      embed_scale: of token embeddings, rounded to ``dtype``.
      residual_scale: of what attention and MLP add.
      logit_divisor: of logits; the final hidden states are divided by it.
      logit_cap: logits are ``cap * tanh(logits / cap)`` where whoever makes them
        (``losses.heads.logits_of``) is told so; 0 is no cap.
      experts, experts_per_token: of a mixture in the place of each MLP, ``ffn`` wide
        each, see ``models.experts``; 0: there is one MLP that all tokens read.
      router_normalized: weights of a token's experts sum to one.
      lora_rank, lora_scale, lora_targets: of an adapter on some of the layers'
        matrices, see ``models.lora``; rank 0: there is none.
      dtype: of products and what they read; norms, rope, softmax and the sums between
        layers are always float32.
      int8: the layers' matrices are int8 with a scale per column, ``models.quantize``.
      exact: all sums have one order, so that a token has the same bits whatever is read
        with it, see ``exact``; on one device.
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
    local_rope_theta: float = 0.0
    rotary_dim: int = 0
    nope_layers: tuple[bool, ...] = ()
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False
    qk_norm_wide: bool = False
    tied: bool = False
    sliding_window: int = 0
    sliding_layers: tuple[bool, ...] = ()
    activation: str = "silu"
    pre_norm: bool = True
    post_norm: bool = False
    norm_offset: float = 0.0
    attention_scale: float = 0.0
    attention_cap: float = 0.0
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    logit_divisor: float = 1.0
    logit_cap: float = 0.0
    experts: int = 0
    experts_per_token: int = 0
    router_normalized: bool = False
    lora_rank: int = 0
    lora_scale: float = 0.0
    lora_targets: tuple[str, ...] = ()
    dtype: str = "float32"
    int8: bool = False
    exact: bool = False
    remat: bool = False

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads={self.heads} is not divisible by kv_heads={self.kv_heads}"
            )
        for name in ("head_dim", "rotary_dim"):
            if getattr(self, name) % 2:
                raise ValueError(
                    f"{name}={getattr(self, name)} is odd; rope rotates pairs"
                )
        if self.exact and self.experts:
            raise ValueError(
                f"exact=True with experts={self.experts}: a mixture's products have as "
                "many rows as chose an expert, and sums in an order of theirs; "
                "use exact=False"
            )
        if self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token={self.experts_per_token} of experts="
                f"{self.experts}: there are not as many"
            )
        if self.qk_norm and self.qk_norm_wide:
            raise ValueError("qk_norm and qk_norm_wide exclude each other; choose one")
        for name in ("sliding_layers", "nope_layers"):
            entries = len(getattr(self, name))
            if entries not in (0, self.layers):
                raise ValueError(
                    f"{name} has {entries} entries for layers={self.layers}"
                )
        if self.activation not in list(ACTIVATIONS):
            raise ValueError(
                f"activation={self.activation!r:.80}; use {' or '.join(ACTIVATIONS)}"
            )
