"""``config.json`` of the supported Hugging Face families, to and from DecoderConfig."""

import dataclasses
import math
from typing import Any

import numpy as np

from jopd.models import decoder
from jopd.models.decoder import DecoderConfig
from jopd.models.rope import TYPES

FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_KINDS = {False: "full_attention", True: "sliding_attention"}

# Every key of a config.json is in one of these lists or refused by its name: what is
# passed over could have changed the model's numbers.
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
_OPTIONAL_SIZES = (
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "original_max_position_embeddings",
)
_SWITCHES = ("tie_word_embeddings", "attention_bias", "use_sliding_window")
_NUMBERS = ("rms_norm_eps", "rope_theta")
_OTHERS = (
    "architectures",
    "hidden_act",
    "layer_types",
    "max_window_layers",
    "model_type",
    "rope_parameters",
    "rope_scaling",
)
READ = frozenset((*_SIZES, *_OPTIONAL_SIZES, *_SWITCHES, *_NUMBERS, *_OTHERS))

# Keys that a forward pass does not depend on, whatever they say: notes, labels, ids,
# how weights were drawn, dropout (we train without), how others run or decode.
_HARMLESS = """
    _attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled
    _model_name_or_path _name_or_path attention_dropout attn_implementation attn_pdrop
    auto_map begin_suppress_tokens bos_token_id cache_implementation
    chunk_size_feed_forward classifier_dropout decoder_start_token_id dtype embd_pdrop
    eos_token_id experts_implementation finetuning_task gradient_checkpointing
    hidden_dropout id2label initializer_range is_decoder is_llama_config
    keys_to_ignore_at_inference label2id loss_type max_sequence_length model_max_length
    name_or_path neftune_noise_alpha num_labels output_attentions output_hidden_states
    pad_token pad_token_id prefix pretraining_tp problem_type resid_pdrop return_dict
    sep_token_id seq_length task_specific_params tokenizer_class tokenizer_padding_side
    torch_dtype torchscript transformers.js_config transformers_version unk_token_id
    unsloth_fixed unsloth_version use_bfloat16 use_cache use_flash_attention_2
    use_return_dict

    assistant_confidence_threshold assistant_lookbehind bad_words_ids diversity_penalty
    do_sample early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty
    epsilon_cutoff eta_cutoff exponential_decay_length_penalty forced_bos_token_id
    forced_eos_token_id length_penalty max_length min_length no_repeat_ngram_size
    num_assistant_tokens num_assistant_tokens_schedule num_beam_groups num_beams
    num_return_sequences output_scores remove_invalid_values repetition_penalty
    return_dict_in_generate suppress_tokens target_lookbehind temperature top_k top_p
    typical_p
"""
HARMLESS = frozenset(_HARMLESS.split())

# Keys of which we have one value only, the one that they mean where they are absent.
ONLY = {
    "add_cross_attention": False,
    "is_causal": True,
    "is_encoder_decoder": False,
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "pruned_heads": {},
    "qk_layernorm": False,
    "rope_interleaved": False,
    "tie_encoder_decoder": False,
    "use_mrope": False,
}

# Keys of the rope dict: those that some type reads; others may stand there as null.
_ROPE = """
    attention_factor beta_fast beta_slow factor high_freq_factor low_freq_factor mscale
    mscale_all_dim original_max_position_embeddings partial_rotary_factor rope_theta
    rope_type truncate type
"""
ROPE = frozenset(_ROPE.split())
_ROPE_NOTES = ("finetuned",)  # whether weights were trained under it
_LARGEST = 2**31 - 1
_HUGE = 1e18  # no rope has such an angle; as a whole number it fits no array
_MOST_LAYERS = 4096  # all of them are walked through to see whether tensors are there


def parse(raw: dict[str, Any]) -> DecoderConfig:
    """The decoder that the content of a ``config.json`` describes.

    Raises:
      ValueError: a family, rope type, value or key that is not supported; an absent
        key.
    """
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(
            f"model_type={family!r:.80} ({raw.get('architectures')!r:.80}) is not "
            f"supported; supported: {', '.join(FAMILIES)}"
        )
    _check_keys(raw)
    _check_class(raw, family)
    _check_values(raw, family)
    if raw.get("hidden_act", "silu") != "silu":
        raise ValueError(
            f"config.json: hidden_act={raw['hidden_act']!r:.80}, and only 'silu' is "
            "supported; take another model"
        )
    heads = raw["num_attention_heads"]
    head_dim = raw.get("head_dim") or raw["hidden_size"] // heads
    if head_dim < 2:
        raise _wrong("hidden_size", raw["hidden_size"], f"enough for {heads} heads")
    bias = bool(raw.get("attention_bias")) and family in ("llama", "qwen3")
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
        norm_eps=raw.get("rms_norm_eps") or 1e-6,
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=bias or family == "qwen2",
        o_bias=bias,
        qk_norm=family == "qwen3",
        tied=bool(raw.get("tie_word_embeddings", False)),
        **_window(raw, family),
    )
    _check_rope(config)
    return config


def _check_keys(raw: dict[str, Any]) -> None:
    """Refuses what would be passed over: see the lists above."""
    for key, value in raw.items():
        known = key in READ or key in HARMLESS or value is None
        if known or (key in ONLY and value == ONLY[key]):
            continue
        only = f"only {ONLY[key]!r} is supported" if key in ONLY else "not read here"
        raise ValueError(
            f"config.json: {key}={value!r:.80}: {only}, and the model's numbers may "
            "depend on it; take another model, or remove the key if they do not"
        )


def _check_class(raw: dict[str, Any], family: str) -> None:
    named = raw.get("architectures")
    if not named and raw.get("auto_map"):
        raise ValueError(
            f"config.json: auto_map={raw['auto_map']!r:.80} names code of its own, and "
            f"no architectures says what it is; add ['{FAMILIES[family]}'] if it is one"
        )
    if not named:
        return
    names = named if isinstance(named, list) else [named]
    if FAMILIES[family].lower() not in [str(name).lower() for name in names]:
        raise ValueError(
            f"config.json: architectures={named!r:.80}, but of model_type={family!r} "
            f"only {FAMILIES[family]} is supported; take a model that writes text"
        )


def _check_values(raw: dict[str, Any], family: str) -> None:
    """Presence and types; ``true`` is no number."""
    for key in _SIZES:
        if raw.get(key) is None:
            raise ValueError(f"config.json of a {family} model lacks {key!r}")
    most = {"num_hidden_layers": _MOST_LAYERS}
    for key in (*_SIZES, *_OPTIONAL_SIZES):
        value = raw.get(key)
        largest = most.get(key, _LARGEST)
        within = type(value) is int and 1 <= value <= largest
        if value is not None and not within:
            raise _wrong(key, value, f"a whole number from 1 to {largest:,}")
    for key in _SWITCHES:
        if raw.get(key) is not None and type(raw[key]) is not bool:
            raise _wrong(key, raw[key], "true or false")
    for key in _NUMBERS:
        if raw.get(key) is not None and not _positive(raw[key]):
            raise _wrong(key, raw[key], "a number above 0")


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < _HUGE


def _wrong(key: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"config.json: {key}={value!r:.80} is not {wanted}; correct it")


def _check_rope(config: DecoderConfig) -> None:
    """Its formulas give finite frequencies."""
    named = dict(config.rope_scaling)
    try:
        frequencies, factor = decoder.rope_frequencies(config)
    except KeyError as error:
        raise ValueError(f"config.json: rope {named} lacks {error}") from error
    except (ArithmeticError, TypeError) as error:
        raise ValueError(f"config.json: rope {named}: {error}; correct it") from error
    if not (np.isfinite(frequencies).all() and math.isfinite(factor)):
        raise ValueError(
            f"config.json: rope_theta={config.rope_theta}, rope {named} give angles "
            "that are not finite; correct them"
        )


def _rope(raw: dict) -> tuple[float, tuple[tuple[str, Any], ...]]:
    """Theta and the rest, from ``rope_parameters`` (transformers 5) or older keys."""
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise _wrong("rope_scaling", rope, "an object of keys")
    if rope.get("rope_theta", 1) is None:  # transformers would put nothing there
        raise _wrong("rope_theta", None, "a number above 0")
    rope = {k: v for k, v in rope.items() if v is not None and k not in _ROPE_NOTES}
    _check_rope_keys(rope)
    theta = rope.pop("rope_theta", raw.get("rope_theta") or 10000.0)
    kind = rope.pop("type", "default")
    kind = rope.pop("rope_type", kind)
    if kind not in TYPES:
        raise ValueError(
            f"config.json: rope_type={kind!r:.80} is not supported; take a model with "
            f"one of {', '.join(TYPES)}"
        )
    rope.pop("partial_rotary_factor", None)
    if kind == "default":
        return float(theta), ()
    if kind in ("llama3", "yarn"):
        # On the top level, as Phi writes it, it comes first: so in transformers.
        original = raw.get("original_max_position_embeddings")
        place = "original_max_position_embeddings"
        rope.setdefault(place, raw["max_position_embeddings"])
        rope[place] = original or rope[place]
    return float(theta), tuple(sorted({"rope_type": kind, **rope}.items()))


def _check_rope_keys(rope: dict[str, Any]) -> None:
    nested = [key for key, value in rope.items() if isinstance(value, dict)]
    if nested or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"rope {rope}: per-layer and partial rope are not supported")
    for key, value in rope.items():
        if key not in ROPE:
            raise ValueError(
                f"config.json: {key}={value!r:.80} in the rope parameters is not read "
                f"here, and the model's numbers may depend on it; known are "
                f"{', '.join(sorted(ROPE))}"
            )
        if key == "truncate" and type(value) is not bool:
            raise _wrong(f"rope {key}", value, "true or false")
        if key in ("type", "rope_type") and not isinstance(value, str):
            raise _wrong(f"rope {key}", value, "a name")
        if key not in ("type", "rope_type", "truncate") and not _positive(value):
            raise _wrong(f"rope {key}", value, "a number above 0")


def _window(raw: dict, family: str) -> dict[str, Any]:
    """Which layers see how far. Absent keys mean what they mean in transformers."""
    kinds = _layer_types(raw)
    if family == "mistral" and kinds:
        raise ValueError(
            "layer_types in a mistral config.json means Ministral, which is not "
            f"supported; supported: {', '.join(FAMILIES)}"
        )
    if family == "mistral":
        return {"sliding_window": raw.get("sliding_window", 4096) or 0}
    slide = family != "llama" and raw.get("use_sliding_window")
    if not slide and _KINDS[True] in kinds:
        raise ValueError(
            f"config.json: layer_types={kinds!r:.80} slide, but use_sliding_window is "
            f"{raw.get('use_sliding_window')!r} (model_type={family!r}); correct one"
        )
    if not slide:
        return {}
    first = raw.get("max_window_layers", 28)
    if type(first) is not int:
        raise _wrong("max_window_layers", first, "a whole number")
    kinds = kinds or [_KINDS[i >= first] for i in range(raw["num_hidden_layers"])]
    slides = tuple(kind == _KINDS[True] for kind in kinds)
    window = raw.get("sliding_window", 4096) or 0
    if not window or not any(slides):
        return {}
    return {"sliding_window": window, "sliding_layers": () if all(slides) else slides}


def _layer_types(raw: dict) -> list[str]:
    """``layer_types``, one of two kinds for each layer, or nothing."""
    kinds = raw.get("layer_types")
    if kinds is None:
        return []
    known = list(_KINDS.values())
    if not isinstance(kinds, list) or any(kind not in known for kind in kinds):
        raise _wrong("layer_types", kinds, f"a list of {' and '.join(known)}")
    if len(kinds) != raw["num_hidden_layers"]:
        raise ValueError(
            f"config.json: layer_types has {len(kinds)} entries for num_hidden_layers="
            f"{raw['num_hidden_layers']}; correct one"
        )
    return kinds


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
