"""``config.json`` of the supported Hugging Face families, to and from DecoderConfig."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jopd.models import hf_rope, lora
from jopd.models.decoder_config import ACTIVATIONS, DecoderConfig
from jopd.models.families import FAMILIES, Family
from jopd.models.hf_rope import positive, wrong
from jopd.models.rope import OF_PHI

_KINDS = {False: hf_rope.FULL, True: hf_rope.SLIDING}

# Every key of a config.json is in one of these lists, read by its family (see
# ``families``) or refused by its name: what is passed over could have changed the
# model's numbers.
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
_NUMBERS_OF_FEW = ("query_pre_attn_scalar", "rope_local_base_freq")
_SIZES_OF_FEW = ("no_rope_layer_interval", "sliding_window_pattern")
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

# Keys that logits do not depend on, whatever they say: notes, labels, ids, how weights
# were drawn, dropout (we train without), how others run or decode, and the loss that
# balances experts (of pretraining; ours are those of the terms).
_HARMLESS = """
    _attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled
    _model_name_or_path _name_or_path _sliding_window_pattern attention_dropout
    attn_implementation attn_pdrop auto_map begin_suppress_tokens bos_token_id
    cache_implementation chunk_size_feed_forward classifier_dropout
    decoder_start_token_id dtype embd_pdrop eos_token_id experts_implementation
    finetuning_task gradient_checkpointing hidden_dropout id2label initializer_range
    is_decoder is_llama_config keys_to_ignore_at_inference label2id loss_type
    max_sequence_length model_max_length name_or_path neftune_noise_alpha num_labels
    output_attentions output_hidden_states output_router_logits pad_token pad_token_id
    prefix pretraining_tp problem_type resid_pdrop return_dict router_aux_loss_coef
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
    "attn_logit_softcapping": None,
    "is_causal": True,
    "is_encoder_decoder": False,
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "pruned_heads": {},
    "qk_layernorm": False,
    "rope_interleaved": False,
    "tie_encoder_decoder": False,
    "use_bidirectional_attention": False,
    "use_mrope": False,
}

_LARGEST = 2**31 - 1
_HUGE = 1e18  # no rope has such an angle; as a whole number it fits no array
_MOST_LAYERS = 4096  # all of them are walked through to see whether tensors are there


def parse(raw: dict[str, Any]) -> DecoderConfig:
    """The decoder that the content of a ``config.json`` describes.

    Raises:
      ValueError: a family, rope type, value or key that is not supported; an absent
        key.
    """
    family = family_of(raw)
    _check_keys(raw, family)
    _check_class(raw, family)
    raw = family.absent | _given(raw, family)
    _check_values(raw, family)
    heads = raw["num_attention_heads"]
    head_dim = raw.get("head_dim") or raw["hidden_size"] // heads
    if head_dim < 2:
        raise wrong("hidden_size", raw["hidden_size"], f"enough for {heads} heads")
    bias = bool(raw.get("attention_bias")) and family.bias
    fields = {
        "vocab_size": raw["vocab_size"],
        "width": raw["hidden_size"],
        "layers": raw["num_hidden_layers"],
        "heads": heads,
        "kv_heads": raw.get("num_key_value_heads") or heads,
        "head_dim": head_dim,
        "ffn": raw["intermediate_size"],
        "max_positions": raw["max_position_embeddings"],
        "norm_eps": raw.get("rms_norm_eps") or family.absent.get("rms_norm_eps", 1e-6),
        "qkv_bias": bias,
        "o_bias": bias,
        "tied": bool(raw.get("tie_word_embeddings", False)),
        "activation": raw.get(family.activation, "silu"),
    }
    fields |= family.fields
    fields |= {
        field: float(raw[key])
        for key, field in family.numbers.items()
        if raw.get(key) is not None
    }
    own = {**family.sizes, **family.switches}
    fields |= {own[key]: raw[key] for key in own if raw.get(key) is not None}
    if "query_pre_attn_scalar" in family.keys:
        fields["attention_scale"] = raw["query_pre_attn_scalar"] ** -0.5
    if "no_rope_layers" in family.keys:
        nope = tuple(_nope(raw))
        fields["nope_layers"] = nope if any(nope) else ()
    if family.root_scale:
        fields["embed_scale"] = raw["hidden_size"] ** 0.5
    fields |= _window(raw, family) | hf_rope.read(raw, family, head_dim)
    if not fields.get("sliding_window"):
        fields.pop("local_rope_theta", None)  # no layer has it
    config = DecoderConfig(**fields)
    hf_rope.check(config)
    return config


def _given(raw: dict[str, Any], family: Family) -> dict[str, Any]:
    """Without those of the family's own keys that are null, which says nothing but of
    a cap."""
    own = keys_of(family)
    null = {key for key in own if raw.get(key) is None and not key.endswith("capping")}
    return {key: value for key, value in raw.items() if key not in null}


def keys_of(family: Family) -> frozenset[str]:
    """Keys of ``config.json`` that few families read, this one among them."""
    named = family.numbers, family.sizes, family.switches, family.only.keys() - READ
    return family.keys.union(*named)


def family_of(raw: Mapping[str, Any]) -> Family:
    """The row of ``FAMILIES`` that ``model_type`` names; ValueError if none."""
    name = raw.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(
            f"model_type={name!r:.80} ({raw.get('architectures')!r:.80}) is not "
            f"supported; supported: {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def _check_keys(raw: dict[str, Any], family: Family) -> None:
    """Refuses what would be passed over: see the lists above."""
    own = keys_of(family)
    one_value = {key: ONLY[key] for key in ONLY if key not in own} | {**family.only}
    for key, value in raw.items():
        single = key in one_value
        known = key in READ or key in own or key in HARMLESS
        if value is None or (value == one_value[key] if single else known):
            continue
        if key == "quantization_config":
            raise ValueError(
                f"config.json: {key}={value!r:.80}: quantised weights are not read; "
                "take the model without it, and teacher.quantize='int8' where memory "
                "is short"
            )
        only = f"only {one_value[key]!r} is supported" if single else "not read here"
        raise ValueError(
            f"config.json: {key}={value!r:.80}: {only}, and the model's numbers may "
            "depend on it; take another model, or remove the key if they do not"
        )


def _check_class(raw: dict[str, Any], family: Family) -> None:
    named = raw.get("architectures")
    if not named and raw.get("auto_map"):
        raise ValueError(
            f"config.json: auto_map={raw['auto_map']!r:.80} names code of its own, and "
            f"no architectures says what it is; add ['{family.model}'] if it is one"
        )
    if not named:
        return
    names = named if isinstance(named, list) else [named]
    if family.model.lower() not in [str(name).lower() for name in names]:
        raise ValueError(
            f"config.json: architectures={named!r:.80}, but of model_type="
            f"{raw['model_type']!r} only {family.model} is supported; take a model "
            "that writes text"
        )


def _check_values(raw: dict[str, Any], family: Family) -> None:
    """Presence and types; ``true`` is no number."""
    for key in _SIZES:
        if raw.get(key) is None:
            raise ValueError(
                f"config.json of a {raw['model_type']} model lacks {key!r}"
            )
    most = {"num_hidden_layers": _MOST_LAYERS}
    for key in (*_SIZES, *_OPTIONAL_SIZES, *_SIZES_OF_FEW, *family.sizes):
        value = raw.get(key)
        largest = most.get(key, _LARGEST)
        within = type(value) is int and 1 <= value <= largest
        if value is not None and not within:
            raise wrong(key, value, f"a whole number from 1 to {largest:,}")
    for key in (*_SWITCHES, *family.switches):
        if raw.get(key) is not None and type(raw[key]) is not bool:
            raise wrong(key, raw[key], "true or false")
    for key in (*_NUMBERS, *_NUMBERS_OF_FEW, *family.numbers):
        if raw.get(key) is not None and not positive(raw[key]):
            raise wrong(key, raw[key], "a number above 0")
    if raw.get(family.activation, "silu") not in list(ACTIVATIONS):
        raise ValueError(
            f"config.json: {family.activation}={raw[family.activation]!r:.80}, and "
            f"only {' and '.join(map(repr, ACTIVATIONS))} are supported; take another "
            "model"
        )


def _window(raw: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Which layers see how far. Absent keys mean what they mean in transformers."""
    kinds = _layer_types(raw)
    if raw["model_type"] == "mistral" and kinds:
        raise ValueError(
            "layer_types in a mistral config.json means Ministral, which is not "
            f"supported; supported: {', '.join(FAMILIES)}"
        )
    asked = family.slides != "asked" or raw.get("use_sliding_window")
    if not (asked and family.slides != "none") and _KINDS[True] in kinds:
        raise ValueError(
            f"config.json: layer_types={kinds!r:.80} slide, but use_sliding_window is "
            f"{raw.get('use_sliding_window')!r} (model_type={raw['model_type']!r}); "
            "correct one"
        )
    if not asked:
        return {}
    window, usual = raw.get("sliding_window"), _usual(raw, family)
    slides = [kind == _KINDS[True] for kind in kinds] or usual
    if not window and any(slides) and (kinds or family.slides == "most"):
        raise ValueError(
            f"config.json: sliding_window={window!r}, but layer_types={kinds!r:.80} of "
            f"a {raw['model_type']} model slide; correct one"
        )
    if not window or not any(slides):
        return {}
    whole = all(slides)
    return {"sliding_window": window, "sliding_layers": () if whole else tuple(slides)}


def _usual(raw: Mapping[str, Any], family: Family) -> list[bool]:
    """Which layers slide where ``layer_types`` does not say so."""
    layers = range(raw["num_hidden_layers"])
    if family.slides == "most":
        period = raw.get("sliding_window_pattern") or family.period
        return [(i + 1) % period > 0 for i in layers]
    if "no_rope_layers" in family.keys:
        return _nope(raw)
    if family.slides == "asked":
        first = raw.get("max_window_layers", 28)
        if type(first) is not int:
            raise wrong("max_window_layers", first, "a whole number")
        return [i >= first for i in layers]
    return [family.slides == "all" for _ in layers]


def _nope(raw: Mapping[str, Any]) -> list[bool]:
    """Which layers have no rope; ``no_rope_layers`` has a 0 for those, else a 1."""
    given, layers = raw.get("no_rope_layers"), raw["num_hidden_layers"]
    if given is None:
        interval = raw["no_rope_layer_interval"]
        return [(i + 1) % interval == 0 for i in range(layers)]
    entries = isinstance(given, list) and all(type(x) is int for x in given)
    if not entries or not {0, 1} >= set(given) or len(given) < layers:
        raise wrong("no_rope_layers", given, f"a list of {layers} times 0 or 1")
    return [rotates == 0 for rotates in given[:layers]]


def _layer_types(raw: dict) -> list[str]:
    """``layer_types``, one of two kinds for each layer, or nothing."""
    kinds = raw.get("layer_types")
    if kinds is None:
        return []
    known = list(_KINDS.values())
    if not isinstance(kinds, list) or any(kind not in known for kind in kinds):
        raise wrong("layer_types", kinds, f"a list of {' and '.join(known)}")
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
    for name in FAMILIES:
        raw = _describe(name, config, dtype)
        try:
            if parse(raw) == architecture(config):
                return raw
        except ValueError:
            continue  # it cannot say that
    raise ValueError(
        f"no config.json of {', '.join(FAMILIES)} describes {config}; change a switch"
    )


def _describe(name: str, config: DecoderConfig, dtype: str) -> dict[str, Any]:
    """The nearest that a family has."""
    family = FAMILIES[name]
    raw = {
        "architectures": [family.model],
        "model_type": name,
        "torch_dtype": dtype,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        family.activation: config.activation,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": hf_rope.describe(config, family),
        "attention_bias": config.qkv_bias,
        "tie_word_embeddings": config.tied,
        "sliding_window": config.sliding_window or None,
    }
    # Not for mistral: transformers takes one with layer_types for a ministral.
    if family.slides in ("asked", "most"):
        slides = config.sliding_layers or (config.sliding_window > 0,) * config.layers
        raw["layer_types"] = [_KINDS[slide] for slide in slides]
    if family.slides == "asked":
        raw["use_sliding_window"] = config.sliding_window > 0
    for key, field in family.numbers.items():
        raw[key] = getattr(config, field) or None
    for key, field in {**family.sizes, **family.switches}.items():
        raw[key] = getattr(config, field)
    if family.ropes == OF_PHI:  # there the key on the top level is read, or its default
        place = "original_max_position_embeddings"
        raw[place] = dict(config.rope_scaling).get(place, config.max_positions)
    if "no_rope_layers" in family.keys:
        nope = config.nope_layers or (False,) * config.layers
        raw["no_rope_layers"] = [int(not none) for none in nope]
    if "query_pre_attn_scalar" in family.keys and config.attention_scale:
        raw["query_pre_attn_scalar"] = round(config.attention_scale**-2)
    return raw


def architecture(config: DecoderConfig) -> DecoderConfig:
    """What a file can say of a decoder: all but how we run it."""
    computed = dict(dtype="float32", exact=False, remat=False)
    return dataclasses.replace(lora.without(config), **computed)
