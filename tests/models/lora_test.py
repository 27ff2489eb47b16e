"""Adapters: what they add, what is trained, and the directory that PEFT reads."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import runs
from jopd.models import decoder, hf, lora, peft

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def base():
    shape = decoder.DecoderConfig(
        vocab_size=11,
        width=8,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=4,
        ffn=12,
        max_positions=16,
        qkv_bias=True,
    )
    return shape, decoder.init(shape, jax.random.key(1))


def away(adapter):
    """The adapter somewhere else than at its start."""
    leaves, tree = jax.tree.flatten(adapter)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [x + 0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]
    return jax.tree.unflatten(tree, moved)


def hidden(shape, params):
    tokens = jnp.arange(6)[None] % shape.vocab_size
    place = jnp.arange(6)[None]
    model = decoder.Decoder(shape)
    return model.apply({"params": params}, tokens, place, place >= 0, return_kv=False)[
        0
    ]


def test_it_begins_as_its_base(base):
    shape, params = base
    adapted = lora.adapted(shape, rank=3)
    adapter = lora.start(adapted, KEY)
    assert adapter.keys() == {"layers"} and len(adapter["layers"]) == 14
    for name, leaf in adapter["layers"].items():
        matrix = params["layers"][name[:-2]]
        rows, columns = matrix.shape[1:]
        assert leaf.shape == ((2, rows, 3) if name.endswith("_a") else (2, 3, columns))
        if name.endswith("_b"):
            assert not leaf.any()
        else:
            assert 0.7 * rows**-0.5 < jnp.abs(leaf).max() <= rows**-0.5
            assert not jnp.array_equal(leaf[0], leaf[1])  # a draw of its own a layer
    whole = lora.joined(adapter, params)
    np.testing.assert_array_equal(hidden(adapted, whole), hidden(shape, params))


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_it_adds_its_scaled_product(base, rank_stabilized):
    shape, params = base
    made = dict(rank=4, alpha=6.0, rank_stabilized=rank_stabilized, targets="^(q|up)$")
    adapted = lora.adapted(shape, **made)
    assert adapted.lora_targets == ("q", "up")
    whole = lora.joined(away(lora.start(adapted, KEY)), params)
    scale = 6.0 / 2 if rank_stabilized else 6.0 / 4
    by_hand = dict(params["layers"])
    for name in ("q", "up"):
        a, b = (np.asarray(whole["layers"][f"{name}_{part}"], float) for part in "ab")
        by_hand[name] = np.asarray(by_hand[name], float) + scale * (a @ b)
    by_hand = {k: jnp.asarray(v, jnp.float32) for k, v in by_hand.items()}
    want = hidden(shape, {**params, "layers": by_hand})
    np.testing.assert_allclose(hidden(adapted, whole), want, atol=2e-5)
    merged_shape, merged = lora.merged(adapted, whole)
    assert merged_shape == shape
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    for name in ("q", "up", "k"):
        found = merged["layers"][name]
        np.testing.assert_allclose(found, by_hand[name], atol=1e-6)
    assert np.abs(want - hidden(shape, params)).max() > 0.1
    assert lora.merged(shape, params) == (shape, params)


def test_the_gradient_is_the_adapters_alone(base):
    shape, params = base
    adapted = lora.adapted(shape, rank=2)
    adapter = lora.start(adapted, KEY)
    loss = lambda own: (hidden(adapted, lora.joined(own, params)) ** 3).sum()
    found = jax.grad(loss)(adapter)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, adapter)
    for name, leaf in found["layers"].items():
        assert leaf.any() == name.endswith("_b")  # B is 0, so A moves nothing yet


def test_what_is_whole_stays_as_it_is(base):
    _, params = base
    assert lora.joined(params, None) is params
    assert lora.joined(params, {"other": 1}) is params


@pytest.mark.parametrize(
    "targets, said",
    [("zz", "finds none of the matrices q, k, v, o"), ("(", "no regular expression")],
)
def test_a_pattern_that_finds_nothing_is_said(targets, said):
    with pytest.raises(ValueError, match=rf"student.lora.targets=.*{said}"):
        lora.targeted(targets)


def test_the_directory_holds_what_adds_up_to_the_merged_model(tmp_path):
    made = runs.make_model(tmp_path / "base", seed=0, layers=2)
    shape, params = hf.load(made)
    adapted = lora.adapted(shape, rank=2, alpha=5.0, targets="^(v|down)$")
    adapter = away(lora.start(adapted, KEY))
    whole = lora.joined(adapter, params)
    given = dict(source=made, alpha=5.0, rank_stabilized=False)
    for _ in range(2):  # an adapter is replaced
        peft.save(tmp_path / "out", adapted, adapter, **given)
    about = json.loads((tmp_path / "out" / peft.CONFIG).read_text())
    assert about["target_modules"] == ["down_proj", "v_proj"] and about["r"] == 2
    assert about["base_model_name_or_path"] == str(made)
    assert (tmp_path / "out" / "tokenizer.json").exists()
    tensors = load_file(tmp_path / "out" / peft.WEIGHTS)
    assert len(tensors) == 2 * 2 * 2
    _, merged = lora.merged(adapted, whole)
    for name, module in (("v", "self_attn.v_proj"), ("down", "mlp.down_proj")):
        for layer in (0, 1):
            place = f"base_model.model.model.layers.{layer}.{module}"
            a, b = (tensors[f"{place}.lora_{x}.weight"].astype(float) for x in "AB")
            want = params["layers"][name][layer] + 5 / 2 * (b @ a).T
            np.testing.assert_allclose(merged["layers"][name][layer], want, atol=1e-5)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(FileExistsError, match=r"other exists and is not an adapter"):
        peft.save(tmp_path / "other", adapted, adapter, **given)


def test_peft_and_transformers_read_it(tmp_path):
    torch, library = pytest.importorskip("torch"), pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    made = runs.make_model(tmp_path / "base", seed=0, layers=2)
    shape, params = hf.load(made)
    adapted = lora.adapted(shape, rank=2, alpha=5.0, rank_stabilized=True)
    adapter = away(lora.start(adapted, KEY))
    whole = lora.joined(adapter, params)
    given = dict(source=made, alpha=5.0, rank_stabilized=True)
    peft.save(tmp_path / "out", adapted, adapter, **given)
    model = AutoModelForCausalLM.from_pretrained(made, torch_dtype=torch.float32)
    model = library.PeftModel.from_pretrained(model, tmp_path / "out")
    ids = np.arange(6)[None] % shape.vocab_size
    with torch.no_grad():
        theirs = model(torch.tensor(ids)).logits.numpy()
    ours = np.asarray(hidden(adapted, whole) @ decoder.head(whole).T)
    softmax = lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))
    np.testing.assert_allclose(softmax(ours), softmax(theirs), atol=1e-4)
