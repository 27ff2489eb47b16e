"""No key of a ``config.json`` is passed over: read, harmless, or refused by name."""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import pytest
import transformers
from transformers.modeling_rope_utils import RopeParameters

from jopd.models import hf, hf_config
from jopd.models.families import FAMILIES
from jopd.models.hf_config import HARMLESS, ONLY, READ
from jopd.models.hf_rope import FULL, ROPE
from raw_configs import CLASSES, outcome, own, small

ROOT = Path(__file__).parents[1] / "fixtures"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "models"
LISTED = READ | HARMLESS | ONLY.keys()


# The lists.


def test_every_family_has_its_class():
    assert CLASSES.keys() == FAMILIES.keys()


def test_every_family_is_in_the_docs():
    table = (ROOT.parents[1] / "docs" / "models.md").read_text()
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE)[1:] == list(FAMILIES)


def test_the_lists_are_apart():
    assert len(LISTED) == len(READ) + len(HARMLESS) + len(ONLY)
    for family in FAMILIES:
        assert not own(family) & (READ | HARMLESS)


@pytest.mark.parametrize("family", CLASSES)
def test_every_field_of_the_class_in_transformers_is_listed(family):
    fields = {field.name for field in dataclasses.fields(CLASSES[family])}
    assert fields | CLASSES[family]().to_dict().keys() <= LISTED | own(family)


@pytest.mark.parametrize("family", CLASSES)
def test_what_transformers_writes_by_default_is_accepted(family):
    raw = json.loads(CLASSES[family]().to_json_string(use_diff=False))
    raw |= {"architectures": [FAMILIES[family].model], "model_type": family}
    hf_config.parse(raw)


def test_settings_of_generation_are_harmless():
    known = transformers.GenerationConfig._get_default_generation_params()
    assert known.keys() <= HARMLESS


@pytest.mark.parametrize("family", CLASSES)
def test_what_the_forward_pass_of_transformers_reads_is_not_harmless(family):
    """Its source, as text: the classes themselves need torch."""
    family = family.removesuffix("_text")
    name = f"transformers.models.{family}.modeling_{family}"
    source = Path(importlib.util.find_spec(name).origin).read_text()
    masks = Path(importlib.util.find_spec("transformers.masking_utils").origin)
    used = set(re.findall(r"\bconfig\.([a-z]\w+)", source))
    used |= set(re.findall(r'getattr\(\s*(?:self\.)?config, "(\w+)"', source))
    used |= set(re.findall(r'getattr\(config, "(\w+)"', masks.read_text()))
    assert {"rms_norm_eps", "rope_parameters", "is_causal"} <= used
    # Dropout is not applied in evaluation; the others choose among equal programs, ask
    # for a loss beside the logits, or draw weights.
    apart = {"attention_dropout", "pad_token_id", "use_cache", "get_text_config"}
    apart |= {"resid_pdrop", "embd_pdrop", "initializer_range"}
    apart |= {"output_router_logits", "router_aux_loss_coef"}
    for key in used & HARMLESS - apart:
        pytest.fail(f"{key} is read there and harmless here")


def test_every_key_of_the_rope_dict_is_read_or_refused():
    for key in RopeParameters.__annotations__:
        for value in ("x", [1.0], {"a": 1}, -1.0, float("nan")):
            raw = small("llama", rope_parameters={"rope_type": "yarn", key: value})
            with pytest.raises(ValueError, match=key if key != "x" else ""):
                hf_config.parse(raw)
    assert RopeParameters.__annotations__.keys() - ROPE == {"mrope_section"}


# What is read is read.

CHANGES = {
    "vocab_size": 49,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 41,
    "max_position_embeddings": 65,
    "head_dim": 8,
    "hidden_act": "gelu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
    "rope_scaling": {"type": "linear", "factor": 2.0},
    "rope_parameters": {"rope_type": "linear", "factor": 2.0},
    "tie_word_embeddings": True,
    "attention_bias": True,
    "architectures": ["LlamaForSequenceClassification"],
    "model_type": "llama",
    "layer_types": ["full_attention", "sliding_attention"],
    "sliding_window": 7,
    "use_sliding_window": True,
    "max_window_layers": 1,
    "original_max_position_embeddings": 32,
}
NEEDED = {  # what else stands there, so that the key has something to say
    "sliding_window": {"use_sliding_window": True, "max_window_layers": 0},
    "use_sliding_window": {"sliding_window": 7, "max_window_layers": 1},
    "max_window_layers": {"use_sliding_window": True, "sliding_window": 7},
    "original_max_position_embeddings": {
        "rope_scaling": {"type": "yarn", "factor": 2.0}
    },
}


@pytest.mark.parametrize("key", sorted(READ))
def test_a_key_that_is_read_changes_something(key):
    before = small("qwen3", **NEEDED.get(key, {}))
    assert not isinstance(outcome(before), str)
    assert outcome(before | {key: CHANGES[key]}) != outcome(before)


OWN = {
    "attention_multiplier": 0.5,
    "attn_logit_softcapping": 40.0,
    "decoder_sparse_step": 2,
    "embedding_multiplier": 12,
    "final_logit_softcapping": 20.0,
    "hidden_activation": "silu",
    "logits_scaling": 8.0,
    "mlp_only_layers": [1],
    "moe_intermediate_size": 12,
    "no_rope_layer_interval": 2,
    "no_rope_layers": [0, 1],
    "norm_topk_prob": True,
    "num_experts": 16,
    "num_experts_per_tok": 3,
    "num_local_experts": 24,
    "partial_rotary_factor": 0.67,
    "query_pre_attn_scalar": 128,
    "residual_multiplier": 0.22,
    "rope_local_base_freq": 1e3,
    "router_jitter_noise": 0.01,
    "sliding_window_pattern": 2,
}


@pytest.mark.parametrize("family", CLASSES)
def test_a_key_of_one_family_changes_something_there_and_is_refused_elsewhere(family):
    for key in own(family):
        assert outcome(small(family)) != outcome(small(family) | {key: OWN[key]})
    for key in OWN.keys() - own(family):
        said = outcome(small(family) | {key: OWN[key]})
        assert f"config.json: {key}={OWN[key]!r}: " in said


@pytest.mark.parametrize("key", sorted(HARMLESS))
def test_a_harmless_key_changes_nothing(key):
    for value in (None, 3, "x", [1], {"a": 1}, True):
        assert outcome(small("llama") | {key: value}) == outcome(small("llama"))


@pytest.mark.parametrize("family", CLASSES)
def test_null_is_the_default_of_transformers(family):
    default = CLASSES[family]()
    found = hf_config.parse(small(family) | {"rms_norm_eps": None, "rope_theta": None})
    assert found == hf_config.parse(small(family))
    assert found.norm_eps == default.rms_norm_eps
    rope = default.rope_parameters
    assert found.rope_theta == rope.get(FULL, rope)["rope_theta"]


def test_a_head_of_qwen_3_is_as_wide_as_there_where_nothing_says_so():
    assert outcome(small("qwen3")).head_dim == CLASSES["qwen3"]().head_dim


def test_notes_within_the_rope_dict_are_harmless():
    rope = {"type": "linear", "factor": 2.0}
    plain = outcome(small("llama", rope_scaling=rope))
    assert plain.rope_scaling
    assert outcome(small("llama", rope_scaling=rope | {"finetuned": True})) == plain
    said = outcome(small("llama") | {"hidden_act": None})
    assert said.startswith("config.json: hidden_act=None, and only 'silu'")


@pytest.mark.parametrize("key", sorted(ONLY))
def test_a_key_with_one_value_refuses_others(key):
    plain = outcome(small("llama"))
    assert outcome(small("llama") | {key: ONLY[key]}) == plain
    assert outcome(small("llama") | {key: None}) == plain
    other = not ONLY[key] if isinstance(ONLY[key], bool) else 0.5
    assert f"config.json: {key}={other!r}: only" in outcome(
        small("llama") | {key: other}
    )


@pytest.mark.parametrize("value", [True, False, 0, 1.5, "alibi", [1], {}])
def test_an_unknown_key_is_named(value):
    said = outcome(small("llama") | {"position_embedding_type": value})
    assert f"position_embedding_type={value!r}: not read here" in said
    assert outcome(small("llama") | {"what": None}) == outcome(small("llama"))


def test_original_positions_on_the_top_level_come_first():
    """transformers 5.24, modeling_rope_utils: the attribute overrides the dict's."""
    rope = {"rope_type": "llama3", "factor": 8.0}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    inside = rope | {"original_max_position_embeddings": 16}
    want = hf_config.parse(small("llama", rope_parameters=inside))
    for given in (rope, rope | {"original_max_position_embeddings": 8}):
        raw = small("llama", rope_scaling=given, original_max_position_embeddings=16)
        assert hf_config.parse(raw) == want
    plain = hf_config.parse(small("llama"))
    raw = small("llama", original_max_position_embeddings=16)  # no type that reads it
    assert hf_config.parse(raw) == plain


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hidden_size": "24"}, "hidden_size='24' is not a whole number"),
        ({"hidden_size": 3, "head_dim": 1}, "hidden_size=3 is not enough for 4 heads"),
        ({"vocab_size": True}, "vocab_size=True is not a whole number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 is not"),
        ({"num_attention_heads": 0}, "num_attention_heads=0 is not"),
        ({"num_key_value_heads": 3}, "kv_heads=3"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan is not a number above 0"),
        ({"rms_norm_eps": 10**30}, "rms_norm_eps=1000.* is not a number above 0"),
        ({"rope_theta": "1e4"}, "rope_theta='1e4' is not a number"),
        ({"rope_parameters": [1]}, r"\[1\] is not an object"),
        ({"rope_scaling": {"type": "default", "factor": [2]}}, r"factor=\[2\] is not"),
        (
            {"rope_scaling": {"type": "ntk"}},
            "config.json: rope_type='ntk' .*one of default",
        ),
        ({"architectures": [], "auto_map": {"": "x.Y"}}, "auto_map=.* code of its own"),
        ({"layer_types": ["chunked_attention"] * 2}, "chunked_attention"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false' is not true"),
        ({"architectures": ["LlamaModel"]}, "architectures=.*LlamaModel"),
        ({"quantization_config": {"bits": 4}}, "quantization_config=.*without"),
    ],
)
def test_wrong_values_are_named(family, changes, text):
    with pytest.raises(ValueError, match=text):
        hf_config.parse(small(family, **changes))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_layers_that_slide_without_a_window_are_refused(family):
    kinds = ["full_attention", "sliding_attention"]
    with pytest.raises(ValueError, match=r"layer_types=.* slide, but"):
        hf_config.parse(small(family, layer_types=kinds))
    with pytest.raises(ValueError, match="3 entries for num_hidden_layers=2"):
        hf_config.parse(small(family, layer_types=[*kinds, kinds[0]]))


def test_real_configs_load():
    found = sorted(SHARED.glob("*/config.json"))
    if not found:
        pytest.skip(f"no configs of real models in {SHARED}")
    for file in found:
        config = hf.load_config(file.parent)
        assert config.vocab_size == json.loads(file.read_text())["vocab_size"]
