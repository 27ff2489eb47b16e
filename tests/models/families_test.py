"""What each family reads, by which defaults, and what it refuses."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jopd.models import decoder, hf, hf_config
from jopd.models.families import FAMILIES
from jopd.models.hf_rope import FULL, SLIDING
from raw_configs import CLASSES, outcome, own, small

ROOT = Path(__file__).parents[1] / "fixtures"
# Phi-4-mini's, in small: heads of 6.
LONG = {"type": "longrope", "short_factor": [1.0, 1.1, 1.5], "long_factor": [2.0] * 3}
NESTED = {
    FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    SLIDING: {"rope_type": "default", "rope_theta": 1e4},
}


@pytest.mark.parametrize("family", list(CLASSES)[4:])
def test_defaults_are_those_of_transformers(family):
    """Every key that may be absent is; layers enough for each period."""
    sizes = {"vocab_size": 48, "hidden_size": 48, "intermediate_size": 40}
    sizes |= {"num_attention_heads": 8, "num_hidden_layers": 13}
    theirs = CLASSES[family](**sizes)
    ours = hf_config.parse(small(family, **sizes, num_key_value_heads=None))
    assert ours.kv_heads == (getattr(theirs, "num_key_value_heads", None) or 8)
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or 6)
    assert ours.tied == theirs.tie_word_embeddings
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.activation == getattr(theirs, FAMILIES[family].activation)
    if hasattr(theirs, "query_pre_attn_scalar"):
        assert ours.attention_scale == theirs.query_pre_attn_scalar**-0.5
    row = FAMILIES[family]
    for key, field in {**row.numbers, **row.sizes, **row.switches}.items():
        assert getattr(ours, field) == (getattr(theirs, key) or 0)
    kinds = getattr(theirs, "layer_types", None)
    if kinds:
        slides = [kind == SLIDING for kind in kinds]
        assert list(ours.sliding_layers or [False] * 13) == slides


def test_older_keys_of_gemma_3_mean_the_same():
    new = outcome(small("gemma3_text", rope_parameters=NESTED, num_hidden_layers=6))
    assert (new.rope_theta, new.local_rope_theta) == (1e6, 1e4)
    assert dict(new.rope_scaling) == {"rope_type": "linear", "factor": 8.0}
    scaling = {"rope_type": "linear", "factor": 8.0}
    old = small("gemma3_text", rope_scaling=scaling, num_hidden_layers=6)
    assert outcome(old) == new
    old |= {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6}
    assert outcome(old) == new


@pytest.mark.parametrize("key", ["attn_logit", "final_logit"])
def test_a_cap_of_null_is_none(key):
    """Where the key is absent, Gemma 2 has one."""
    field = FAMILIES["gemma2"].numbers[f"{key}_softcapping"]
    plain, without = small("gemma2"), small("gemma2") | {f"{key}_softcapping": None}
    assert getattr(outcome(plain), field) > 0 == getattr(outcome(without), field)


def test_older_keys_of_olmo_3_mean_the_same():
    """Its 7B, as published: the scaling is not for layers with a window."""
    yarn = {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.2079}
    yarn |= {"original_max_position_embeddings": 8192}
    raw = small("olmo3", num_hidden_layers=4, rope_scaling=yarn, rope_theta=5e5)
    found = outcome(raw)
    assert (found.rope_theta, found.local_rope_theta) == (5e5, 5e5)
    assert dict(found.rope_scaling) == yarn
    assert found.sliding_layers == (True, True, True, False)
    plain = outcome(small("olmo3", num_hidden_layers=4))
    assert (plain.rope_theta, plain.local_rope_theta) == (5e5, 0)


def test_layers_without_rope():
    layers = {"num_hidden_layers": 8}
    usual = outcome(small("smollm3", **layers))
    assert usual.nope_layers == ((False,) * 3 + (True,)) * 2
    named = small("smollm3", **layers, no_rope_layers=[1, 1, 1, 0] * 2 + [7 % 2] * 3)
    assert outcome(named) == usual
    all_turn = outcome(small("smollm3", no_rope_layers=[1, 1]))
    assert all_turn == outcome(small("smollm3")) and all_turn.nope_layers == ()
    window = {"use_sliding_window": True, "sliding_window": 5, "no_rope_layers": [1, 0]}
    assert outcome(small("smollm3", **window)).sliding_layers == (False, True)
    kinds = window | {"layer_types": [SLIDING, FULL]}
    assert outcome(small("smollm3", **kinds)).sliding_layers == (True, False)


def test_longrope_is_read_up_to_the_context_that_it_was_trained_in():
    """There transformers turns by the short divisors, beyond it by the long ones."""
    old = small("phi3", rope_scaling=LONG, original_max_position_embeddings=16)
    found = outcome(old)
    assert found.max_positions == 16
    scaling = dict(found.rope_scaling)
    assert scaling["factor"] == 4.0 and scaling["short_factor"] == (1.0, 1.1, 1.5)
    turns, factor = decoder.rope_frequencies(found)
    want = 1e4 ** -(np.arange(3) / 3) / [1.0, 1.1, 1.5]
    np.testing.assert_allclose(turns, want, rtol=1e-6)
    assert factor == pytest.approx((1 + np.log(4) / np.log(16)) ** 0.5)
    for name in ("su", "yarn"):
        raw = small("phi3", rope_scaling=LONG | {"type": name})
        assert outcome(raw | {"original_max_position_embeddings": 16}) == found
    inside = {**LONG, "original_max_position_embeddings": 16, "rope_theta": 1e4}
    assert outcome(small("phi3", rope_parameters=inside)) == found


def test_a_part_of_each_head_is_rotated():
    sizes = {"hidden_size": 32, "num_attention_heads": 4}
    half = {"partial_rotary_factor": 0.5}
    for given in (half, {"rope_parameters": half | {"rope_theta": 1e4}}):
        assert outcome(small("phi3", **sizes, **given)).rotary_dim == 4
    whole = outcome(small("phi3", **sizes, partial_rotary_factor=1.0))
    assert whole == outcome(small("phi3", **sizes)) and whole.rotary_dim == 0
    inner = {"rope_parameters": {"partial_rotary_factor": 0.75}} | half
    assert outcome(small("phi3", **sizes, **inner)).rotary_dim == 6


@pytest.mark.parametrize("family", list(CLASSES)[4:])
def test_null_is_the_default_of_other_keys(family):
    keys = {key for key in own(family) if not key.endswith("capping")}
    nothing = small(family) | dict.fromkeys(keys)
    assert outcome(nothing) == outcome(small(family))


def test_local_rope_goes_with_the_window():
    all_full = small("gemma3_text", layer_types=[FULL] * 2)
    assert outcome(all_full).local_rope_theta == 0
    one = {FULL: {"rope_theta": 1e4}, SLIDING: {"rope_theta": 1e4}}
    assert outcome(small("gemma3_text", rope_parameters=one)).local_rope_theta == 0


@pytest.mark.parametrize(
    ("family", "changes", "text"),
    [
        (
            "gemma3_text",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
            "rope_parameters=.* is not one object for full_attention and one for",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {SLIDING: {"rope_type": "linear", "factor": 2.0}}},
            "rope_type='linear' of sliding_attention is not supported",
        ),
        ("gemma3_text", {"hidden_activation": "gelu"}, "hidden_activation='gelu', and"),
        ("gemma3_text", {"hidden_activation": ["silu"]}, r"hidden_activation=\['silu"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "50.0: only None is"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "only False is"),
        ("gemma3_text", {"final_logit_softcapping": -1}, "-1 is not a number above 0"),
        ("gemma3_text", {"query_pre_attn_scalar": 0}, "=0 is not a number above 0"),
        ("smollm3", {"no_rope_layers": [1]}, r"=\[1\] is not a list of 2 times 0 or 1"),
        ("smollm3", {"no_rope_layers": [1, True]}, "is not a list of 2 times 0 or 1"),
        ("smollm3", {"no_rope_layers": "10"}, "is not a list of 2 times 0 or 1"),
        ("smollm3", {"no_rope_layer_interval": 0}, "=0 is not a whole number"),
        ("smollm3", {"mlp_bias": True}, "mlp_bias=True: only False is supported"),
        ("phi3", {"partial_rotary_factor": 1.5}, "=1.5 is not a part of 1 that makes"),
        ("phi3", {"partial_rotary_factor": 0.9}, "0.9 is not .* pairs of a head of 6"),
        ("phi3", {"partial_rotary_factor": "x"}, "'x' is not a part of 1"),
        (
            "phi3",
            {"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 3}},
            "rope short_factor=None is not a list of numbers above 0",
        ),
        (
            "phi3",
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "'linear' is not",
        ),
        ("phi3", {"rope_scaling": LONG | {"short_factor": [1.0] * 2}}, "list of 3 num"),
        (
            "phi3",
            {"rope_scaling": LONG | {"long_factor": [1.0, 0]}},
            "long_factor=.1.0",
        ),
        ("llama", {"rope_scaling": LONG}, "rope_type='longrope' is not supported"),
        ("granite", {"logits_scaling": 0}, "logits_scaling=0 is not a number above 0"),
        ("granite", {"residual_multiplier": "1"}, "='1' is not a number above 0"),
        ("gemma3_text", {"sliding_window_pattern": 0}, "=0 is not a whole number"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, r"=\[0\]: only \[\] is supported"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "=2: only 1 is supported"),
        ("qwen3_moe", {"use_sliding_window": True}, "True: only False is supported"),
        ("qwen3_moe", {"num_experts": 0}, "num_experts=0 is not a whole number"),
        ("qwen3_moe", {"norm_topk_prob": 1}, "norm_topk_prob=1 is not true or false"),
        ("mixtral", {"num_experts_per_tok": 9}, "experts_per_token=9 of experts=8"),
        ("mixtral", {"router_jitter_noise": 0.1}, "=0.1: only 0.0 is supported"),
        ("gemma3_text", {"rope_local_base_freq": "x"}, "='x' is not a number above 0"),
    ],
)
def test_what_a_family_refuses(family, changes, text):
    with pytest.raises(ValueError, match=text):
        hf_config.parse(small(family, **changes))


def test_a_window_of_null_is_refused_where_layers_slide():
    raw = small("gemma3_text") | {"sliding_window": None}
    assert "sliding_window=None, but layer_types=[] of a gemma3_text" in outcome(raw)


def test_a_missing_expert_is_named(tmp_path):
    folder = Path(shutil.copytree(ROOT / "parity_mixtral", tmp_path / "m"))
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"{name} \(40, 24\) is missing"):
        hf.load(folder)


def test_a_shared_tensor_of_another_width_is_named(tmp_path):
    folder = Path(shutil.copytree(ROOT / "parity_phi3", tmp_path / "m"))
    name = "model.layers.1.self_attn.qkv_proj.weight"
    weights = load_file(folder / "model.safetensors")
    weights[name] = weights[name][:-1]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"qkv_proj.weight is \(39, 24\), expected"):
        hf.load(folder)
