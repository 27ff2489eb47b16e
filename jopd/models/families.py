"""What tells the Hugging Face families apart, as data: a row for each.

``hf_config`` reads ``config.json`` by it, ``hf`` the tensors.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jopd.models.rope import OF_PHI, TYPES

_LAYER = {
    "attention_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k": "self_attn.k_proj.weight",
    "k_bias": "self_attn.k_proj.bias",
    "k_norm": "self_attn.k_norm.weight",
    "v": "self_attn.v_proj.weight",
    "v_bias": "self_attn.v_proj.bias",
    "o": "self_attn.o_proj.weight",
    "o_bias": "self_attn.o_proj.bias",
    "mlp_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
_BEHIND = {
    "attention_post_norm": "post_attention_layernorm.weight",
    "mlp_norm": "pre_feedforward_layernorm.weight",
    "mlp_post_norm": "post_feedforward_layernorm.weight",
}
_WINDOW = {"sliding_window": 4096}
_GEMMA = {
    "tie_word_embeddings": True,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
}
_OLMO = {"pre_norm": False, "post_norm": True, "qk_norm_wide": True}
_EXPERTS = {
    "expert_router": "mlp.gate.weight",
    "expert_gate": "mlp.experts.{}.gate_proj.weight",
    "expert_up": "mlp.experts.{}.up_proj.weight",
    "expert_down": "mlp.experts.{}.down_proj.weight",
}
_MIXTRAL_EXPERTS = {
    "expert_router": "block_sparse_moe.gate.weight",
    "expert_gate": "block_sparse_moe.experts.{}.w1.weight",
    "expert_up": "block_sparse_moe.experts.{}.w3.weight",
    "expert_down": "block_sparse_moe.experts.{}.w2.weight",
}
_MULTIPLIERS = {
    "attention_multiplier": "attention_scale",
    "embedding_multiplier": "embed_scale",
    "logits_scaling": "logit_divisor",
    "residual_multiplier": "residual_scale",
}


class Family(NamedTuple):
    """How a family of models is written down.

    Attributes:
      model: the class, as ``architectures`` names it.
      layer: parameter -> its tensor, behind ``model.layers.N.``. Parameters of one
        tensor are its rows, one behind the other in this order; {} is the expert.
      fields: of DecoderConfig, the same in all of its models.
      numbers: key of ``config.json`` that few families read -> field it sets.
      sizes: key of ``config.json`` that few families read, whole numbers -> field.
      switches: the same of what is true or false.
      keys: such keys that do not set one field.
      only: keys of which we have one value only, the one that they mean where absent.
      absent: what keys that are not there mean, where it is not the usual.
      bias: whether ``attention_bias`` is read.
      activation: key that names it.
      slides: layers with a window: "none", "all", "asked" (where
        ``use_sliding_window`` says so) or "most" (all but each ``period``-th), unless
        ``layer_types`` says which.
      ropes: types of rope it may have.
      local_theta: key of theta in layers with a window, whose rope is plain; "": there
        is one rope for all layers.
      root_scale: embeddings are multiplied by the root of their width.
    """

    model: str
    layer: Mapping[str, str] = _LAYER
    fields: Mapping[str, Any] = {}
    numbers: Mapping[str, str] = {}
    sizes: Mapping[str, str] = {}
    switches: Mapping[str, str] = {}
    keys: frozenset[str] = frozenset()
    only: Mapping[str, Any] = {}
    absent: Mapping[str, Any] = {}
    bias: bool = True
    activation: str = "hidden_act"
    slides: str = "none"
    period: int = 0
    ropes: tuple[str, ...] = TYPES
    local_theta: str = ""
    root_scale: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM", absent=_WINDOW, bias=False, slides="all"),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        fields={"qkv_bias": True},
        absent=_WINDOW,
        bias=False,
        slides="asked",
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        fields={"qk_norm": True},
        absent=_WINDOW | {"head_dim": 128},
        slides="asked",
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        layer=_LAYER | _BEHIND,
        fields={"post_norm": True, "norm_offset": 1.0},
        numbers={
            "attn_logit_softcapping": "attention_cap",
            "final_logit_softcapping": "logit_cap",
        },
        keys=frozenset({"hidden_activation", "query_pre_attn_scalar"}),
        absent=_GEMMA
        | _WINDOW
        | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        activation="hidden_activation",
        slides="most",
        period=2,
        root_scale=True,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        layer=_LAYER | _BEHIND,
        fields={"qk_norm": True, "post_norm": True, "norm_offset": 1.0},
        numbers={"final_logit_softcapping": "logit_cap"},
        keys=frozenset(
            {
                "hidden_activation",
                "query_pre_attn_scalar",
                "rope_local_base_freq",
                "sliding_window_pattern",
            }
        ),
        absent=_GEMMA | _WINDOW | {"rope_theta": 1e6, "rope_local_base_freq": 1e4},
        activation="hidden_activation",
        slides="most",
        period=6,
        local_theta="rope_local_base_freq",
        root_scale=True,
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        layer=_LAYER | _BEHIND,
        fields=_OLMO,
        absent={"rms_norm_eps": 1e-5},
    ),
    # Scaling in the older keys is that of layers without a window, theta that of all.
    "olmo3": Family(
        "Olmo3ForCausalLM",
        layer=_LAYER | _BEHIND,
        fields=_OLMO,
        absent=_WINDOW | {"rms_norm_eps": 1e-5, "rope_theta": 5e5},
        slides="most",
        period=4,
        local_theta="rope_theta",
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        keys=frozenset({"no_rope_layers", "no_rope_layer_interval"}),
        absent={
            "tie_word_embeddings": True,
            "num_key_value_heads": 4,
            "rope_theta": 2e6,
            "no_rope_layer_interval": 4,
        },
        slides="asked",
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        layer=_LAYER
        | dict.fromkeys(("q", "k", "v"), "self_attn.qkv_proj.weight")
        | dict.fromkeys(("gate", "up"), "mlp.gate_up_proj.weight"),
        keys=frozenset({"partial_rotary_factor"}),
        absent={"rms_norm_eps": 1e-5},
        bias=False,
        slides="all",
        ropes=OF_PHI,
    ),
    "granite": Family(
        "GraniteForCausalLM",
        numbers=_MULTIPLIERS,
        absent=dict.fromkeys(_MULTIPLIERS, 1.0),
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        layer=_LAYER | _EXPERTS,
        fields={"qk_norm": True},
        # ``num_local_experts`` is how newer files say ``num_experts``.
        sizes={
            "num_experts": "experts",
            "num_local_experts": "experts",
            "num_experts_per_tok": "experts_per_token",
            "moe_intermediate_size": "ffn",
        },
        switches={"norm_topk_prob": "router_normalized"},
        only={
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "use_sliding_window": False,
        },
        absent={
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "num_key_value_heads": 4,
        },
    ),
    "mixtral": Family(
        "MixtralForCausalLM",
        layer=_LAYER | _MIXTRAL_EXPERTS,
        fields={"router_normalized": True},
        sizes={
            "num_local_experts": "experts",
            "num_experts_per_tok": "experts_per_token",
        },
        only={"router_jitter_noise": 0.0},
        absent={
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
        },
        bias=False,
        slides="all",
    ),
}
