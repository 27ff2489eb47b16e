"""Adapters: what they add, what is trained, and the directory that PEFT reads."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import runs
from jopd.models import decoder, files, hf, lora, peft
from jopd.setup import inputs

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


@pytest.fixture
def saved(tmp_path):
    """(directory of an adapter, its base, its shape and the whole model)."""
    made = runs.make_model(tmp_path / "base", seed=0, layers=2)
    shape, params = hf.load(made)
    adapted = lora.adapted(shape, rank=2, alpha=5.0, rank_stabilized=True)
    adapter = away(lora.start(adapted, KEY))
    given = dict(source=made, alpha=5.0, rank_stabilized=True)
    peft.save(tmp_path / "out", adapted, adapter, **given)
    return tmp_path / "out", made, adapted, lora.joined(adapter, params)


def test_what_is_written_is_read_as_the_whole_model(saved, tmp_path):
    folder, base, adapted, whole = saved
    shape, params = hf.load(folder)
    assert (shape, hf.load_config(folder)) == (hf.load_config(base),) * 2
    _, want = lora.merged(adapted, whole)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), params, want)
    assert hf.file_hash(folder) != hf.file_hash(base)
    assert hf.end_ids(folder) == hf.end_ids(base)
    hf.save(tmp_path / "merged", shape, params, source=folder)
    again = hf.load(tmp_path / "merged")[1]
    jax.tree.map(np.testing.assert_array_equal, params, again)
    for file in files.TOKENIZERS:
        (folder / file).unlink(missing_ok=True)
    assert inputs.load_tokenizer(str(folder)).get_vocab()  # its base's
    with pytest.raises(
        ValueError, match=r"out is an adapter itself, .*export.adapter="
    ):
        peft.modules(adapted, folder)


def drop_a_layer(folder):
    kept = load_file(folder / peft.WEIGHTS)
    left = {name: kept[name] for name in kept if "layers.0.self_attn.k" not in name}
    save_file(left, folder / peft.WEIGHTS)


def test_what_is_trained_further_is_what_was_written(saved):
    folder, base, adapted, whole = saved
    found = peft.read(folder, hf.load_config(base), base)
    assert lora.adapted(hf.load_config(base), **found.settings) == adapted
    assert found.base == str(base)
    want = {x: whole["layers"][x] for x in found.params["layers"]}
    assert len(want) == 14
    jax.tree.map(np.testing.assert_array_equal, found.params["layers"], want)


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda f: edit(f, r=3), "its q_a is .*, and one of rank 3 on .*base"),
        (
            lambda f: rename(f, "layers.0.self_attn.k_proj", "lm_head"),
            "adapts model.lm_head.weight; what can be .*base is q, k, v, o, gate",
        ),
        (drop_a_layer, "adapts k in 1 layers; what can be"),
        (lambda f: rename(f, "q_proj", "z_proj"), "adapts layers.0.self_attn.z_proj"),
        (lambda f: rename(f, "model.layers", "model.stages"), "adapts .*model.stages"),
        (lambda f: (f / files.CONFIG).write_text("{}"), "out is no adapter"),
    ],
)
def test_an_adapter_that_cannot_be_trained_further(saved, damage, said):
    folder, base, *_ = saved
    damage(folder)
    with pytest.raises(ValueError, match=said) as caught:
        peft.read(folder, hf.load_config(base), base)
    assert "\n" not in str(caught.value)


def edit(folder, **changes):
    file = folder / peft.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rename(folder, old: str, new: str):
    tensors = load_file(folder / peft.WEIGHTS)
    renamed = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / peft.WEIGHTS)


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda f: edit(f, use_dora=True), "use_dora=True, and only False is read"),
        (lambda f: edit(f, peft_type="IA3"), "peft_type='IA3', and only 'LORA'"),
        (lambda f: edit(f, rank_pattern={"q": 8}), "rank_pattern={'q': 8}, and only"),
        (lambda f: edit(f, modules_to_save=["lm_head"]), "modules_to_save="),
        (lambda f: edit(f, r=0), "r=0 says nothing"),
        (lambda f: edit(f, lora_alpha="5"), "lora_alpha='5' says nothing"),
        (lambda f: edit(f, r=3), "of rank 3, and its base has"),
        (lambda f: (f / peft.CONFIG).write_text("{"), "is not valid JSON"),
        (lambda f: (f / peft.WEIGHTS).unlink(), "is not there, truncated or no"),
        (lambda f: (f / peft.WEIGHTS).write_bytes(b"x" * 9), "is not there, truncated"),
        (
            lambda f: rename(f, "q_proj", "z_proj"),
            "z_proj.weight are .* no such tensor",
        ),
        (lambda f: rename(f, "lora_A", "lora_E"), "is no matrix of an adapter"),
        (lambda f: rename(f, "q_proj.lora_A", "x.lora_A"), "has only lora_"),
    ],
)
def test_an_adapter_that_cannot_be_read_is_one_line(saved, damage, said):
    damage(saved[0])
    with pytest.raises(ValueError, match=said) as caught:
        hf.load(saved[0])
    assert "\n" not in str(caught.value)


def test_an_adapter_of_another_or_no_base_is_said(saved, tmp_path):
    folder = saved[0]
    other = runs.make_model(tmp_path / "other", layers=1, width=32)
    edit(folder, base_model_name_or_path=str(other))
    with pytest.raises(ValueError, match=r"give the base that it was trained on"):
        hf.load(folder)
    edit(folder, base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(
        FileNotFoundError, match=r"out is an adapter: its base .*gone is"
    ):
        hf.load(folder)


def test_peft_and_transformers_read_it(saved):
    torch, library = pytest.importorskip("torch"), pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    folder, made, adapted, whole = saved
    model = AutoModelForCausalLM.from_pretrained(made, torch_dtype=torch.float32)
    model = library.PeftModel.from_pretrained(model, folder)
    ids = np.arange(6)[None] % adapted.vocab_size
    with torch.no_grad():
        theirs = model(torch.tensor(ids)).logits.numpy()
    ours = np.asarray(hidden(adapted, whole) @ decoder.head(whole).T)
    softmax = lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True))
    np.testing.assert_allclose(softmax(ours), softmax(theirs), atol=1e-4)
