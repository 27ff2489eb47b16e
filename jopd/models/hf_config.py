"""``config.json`` of the supported Hugging Face families, to and from DecoderConfig."""

import dataclasses
from typing import Any

from jopd.models import decoder
from jopd.models.decoder import DecoderConfig

FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_KINDS = {False: "full_attention", True: "sliding_attention"}


def parse(raw: dict[str, Any]) -> DecoderConfig:
    """The decoder that the content of a ``config.json`` describes.

    Raises:
      ValueError: a family, rope type or switch that is not supported; an absent key.
    """
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise ValueError(
            f"model_type={family!r} ({raw.get('architectures')}) is not supported; "
            f"supported: {', '.join(FAMILIES)}"
        )
    if raw.get("mlp_bias"):
        raise ValueError("mlp_bias=true is not supported; only models without it are")
    try:
        heads = raw["num_attention_heads"]
        head_dim = raw.get("head_dim") or raw["hidden_size"] // heads
        bias = bool(raw.get("attention_bias", False)) and family in ("llama", "qwen3")
        theta, scaling = _rope(raw)
        config = DecoderConfig(
            vocab_size=raw["vocab_size"],
            width=raw["hidden_size"],
            layers=raw["num_hidden_layers"],
            heads=heads,
            kv_heads=raw.get("num_key_value_heads") or heads,
            head_dim=head_dim,
            ffn=raw["intermediate_size"],
            max_positions=raw["max_position_embeddings"],
            norm_eps=raw.get("rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            qkv_bias=bias or family == "qwen2",
            o_bias=bias,
            qk_norm=family == "qwen3",
            tied=bool(raw.get("tie_word_embeddings", False)),
            activation=raw.get("hidden_act", "silu"),
            **_window(raw, family),
        )
        decoder.rope_frequencies(config)
    except KeyError as error:
        raise ValueError(f"config.json of a {family} model lacks {error}") from error
    return config


def _rope(raw: dict) -> tuple[float, tuple[tuple[str, Any], ...]]:
    """Theta and the rest, from ``rope_parameters`` (transformers 5) or older keys."""
    rope = dict(raw.get("rope_scaling") or raw.get("rope_parameters") or {})
    theta = float(rope.pop("rope_theta", raw.get("rope_theta", 10000.0)))
    kind = rope.pop("type", "default")
    kind = rope.pop("rope_type", kind)
    rope = {key: value for key, value in rope.items() if value is not None}
    nested = [key for key, value in rope.items() if isinstance(value, dict)]
    if nested or rope.pop("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"rope {rope}: per-layer and partial rope are not supported")
    if kind == "default":
        return theta, ()
    if kind in ("llama3", "yarn"):
        rope.setdefault(
            "original_max_position_embeddings", raw["max_position_embeddings"]
        )
    return theta, tuple(sorted({"rope_type": kind, **rope}.items()))


def _window(raw: dict, family: str) -> dict[str, Any]:
    """Which layers see how far. Absent keys mean what they mean in transformers."""
    if family == "mistral" and raw.get("layer_types"):
        raise ValueError(
            "layer_types in a mistral config.json means Ministral, which is not "
            f"supported; supported: {', '.join(FAMILIES)}"
        )
    if family == "mistral":
        return {"sliding_window": raw.get("sliding_window", 4096) or 0}
    if family == "llama" or not raw.get("use_sliding_window"):
        return {}
    first = raw.get("max_window_layers", 28)
    kinds = raw.get("layer_types") or [
        _KINDS[i >= first] for i in range(raw["num_hidden_layers"])
    ]
    slides = tuple(kind == _KINDS[True] for kind in kinds)
    window = raw.get("sliding_window", 4096) or 0
    if not window or not any(slides):
        return {}
    return {"sliding_window": window, "sliding_layers": () if all(slides) else slides}


def describe(config: DecoderConfig, dtype: str) -> dict[str, Any]:
    """The content of a ``config.json`` for a decoder that came from none.

    Raises:
      ValueError: no supported family has this combination of switches.
    """
    family = _family(config)
    rope = dict(config.rope_scaling) or {"rope_type": "default"}
    raw = {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        "torch_dtype": dtype,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": config.activation,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        "attention_bias": config.qkv_bias,
        "tie_word_embeddings": config.tied,
        "sliding_window": config.sliding_window or None,
    }
    # Not for mistral: transformers takes one with layer_types for a ministral.
    if family in ("qwen2", "qwen3"):
        slides = config.sliding_layers or (config.sliding_window > 0,) * config.layers
        raw["layer_types"] = [_KINDS[slide] for slide in slides]
        raw["use_sliding_window"] = config.sliding_window > 0
    if parse(raw) != architecture(config):
        raise ValueError(f"no {family} config.json describes {config}")
    return raw


def _family(config: DecoderConfig) -> str:
    if config.qk_norm:
        return "qwen3"
    if config.qkv_bias and not config.o_bias:
        return "qwen2"
    return "mistral" if config.sliding_window else "llama"


def architecture(config: DecoderConfig) -> DecoderConfig:
    """What a file can say of a decoder: all but how we run it."""
    return dataclasses.replace(config, dtype="float32", remat=False)
