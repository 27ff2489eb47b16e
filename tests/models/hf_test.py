"""Hugging Face directories: what is written is what was read; refusals are clear."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from jopd.models import decoder, hf, hf_config
from jopd.models.decoder import DecoderConfig
from jopd.setup.inputs import model_path

ROOT = Path(__file__).parents[1] / "fixtures"
FIXTURES = sorted(ROOT.glob("parity_*"))


@pytest.fixture(params=FIXTURES, ids=lambda path: path.name.removeprefix("parity_"))
def fixture(request) -> Path:
    return request.param


@pytest.fixture
def model(tmp_path) -> Path:
    """A model directory to break."""
    return Path(shutil.copytree(ROOT / "parity_llama", tmp_path / "model"))


def tensors(folder: Path) -> dict[str, np.ndarray]:
    merged = {}
    for file in folder.glob("*.safetensors"):
        merged |= load_file(file)
    return merged


def edit_config(folder: Path, **changes) -> None:
    """Sets keys of config.json; None drops one."""
    raw = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in raw.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# Round trips.


def test_load_and_save_is_identical_in_every_byte(fixture, tmp_path):
    config, params = hf.load(fixture)
    hf.save(tmp_path / "again", config, params, source=fixture)
    before, after = tensors(fixture), tensors(tmp_path / "again")
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype
        assert before[name].tobytes() == after[name].tobytes()
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (fixture / name).read_bytes()


def test_one_fixture_is_bfloat16_and_one_is_in_shards():
    assert {t.dtype.name for t in tensors(ROOT / "parity_qwen3").values()} == {
        "bfloat16"
    }
    assert len(list((ROOT / "parity_mistral").glob("*.safetensors"))) > 1


def test_without_source_the_config_is_made(fixture, tmp_path):
    config, params = hf.load(fixture, dtype="bfloat16")
    config = dataclasses.replace(config, dtype="bfloat16", remat=True)
    hf.save(tmp_path / "new", config, params)
    again, loaded = hf.load(tmp_path / "new", dtype="bfloat16")
    assert again == dataclasses.replace(config, dtype="float32", remat=False)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    raw = json.loads((tmp_path / "new" / "config.json").read_text())
    assert raw["torch_dtype"] == "bfloat16"
    kinds = {tensor.dtype.name for tensor in tensors(tmp_path / "new").values()}
    assert kinds == {"bfloat16"}


def test_load_gives_stacked_host_arrays_of_the_dtype(fixture):
    config, params = hf.load(fixture, dtype="bfloat16")
    assert config == hf.load_config(fixture)
    shapes = jax.eval_shape(lambda: decoder.init(config, jax.random.key(0)))
    for leaf, like in zip(jax.tree.leaves(params), jax.tree.leaves(shapes)):
        assert isinstance(leaf, np.ndarray)
        assert leaf.shape == like.shape
        assert leaf.dtype.name == "bfloat16"


@pytest.mark.parametrize("case", ["llama3", "yarn_attention_factor", "linear"])
def test_old_rope_keys_mean_the_same(case, tmp_path):
    folder = Path(shutil.copytree(ROOT / f"parity_{case}", tmp_path / "old"))
    new = hf.load_config(folder)
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type")
    edit_config(
        folder,
        rope_parameters=None,
        rope_theta=theta,
        rope_scaling={"type": kind, **rope},
    )
    assert hf.load_config(folder) == new


def test_theta_alone_at_top_level(model):
    edit_config(model, rope_parameters=None, rope_theta=123.0, rope_scaling=None)
    config = hf.load_config(model)
    assert (config.rope_theta, config.rope_scaling) == (123.0, ())


def test_window_keys(tmp_path):
    folder = Path(shutil.copytree(ROOT / "parity_qwen2_window", tmp_path / "m"))
    config = hf.load_config(folder)
    assert (config.sliding_window, config.sliding_layers) == (5, (False, True))
    edit_config(folder, layer_types=None)
    assert hf.load_config(folder) == config
    edit_config(folder, use_sliding_window=False)
    assert hf.load_config(folder).sliding_window == 0
    edit_config(folder, use_sliding_window=True, max_window_layers=0)
    config = hf.load_config(folder)
    assert (config.sliding_window, config.sliding_layers) == (5, ())


def test_a_tied_model_may_bring_an_equal_head(tmp_path):
    folder = Path(shutil.copytree(ROOT / "parity_qwen3", tmp_path / "m"))
    embed, head = "model.embed_tokens.weight", "lm_head.weight"
    edit_weights(folder, lambda w: w.update({head: w[embed]}))
    config, params = hf.load(folder)
    assert "head" not in params
    hf.save(tmp_path / "n", config, params, source=folder)
    assert tensors(tmp_path / "n").keys() == tensors(folder).keys()
    edit_weights(folder, lambda w: w.update({head: w[embed] + 1}))
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        hf.load(folder)


def test_old_inv_freq_buffers_are_passed_over(model):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(model, lambda w: w.update({name: np.ones(3, np.float32)}))
    hf.load(model)


# Saving.


def test_save_copies_tokenizer_files(model, tmp_path):
    (model / "tokenizer.json").write_text("theirs")
    config, params = hf.load(model)
    hf.save(tmp_path / "a", config, params, source=model)
    assert (tmp_path / "a" / "tokenizer.json").read_text() == "theirs"
    other = tmp_path / "tokenizer"
    other.mkdir()
    (other / "vocab.json").write_text("other")
    hf.save(tmp_path / "b", config, params, source=model, tokenizer=other)
    assert (tmp_path / "b" / "vocab.json").read_text() == "other"
    assert not (tmp_path / "b" / "tokenizer.json").exists()


def test_a_crash_leaves_nothing_half_written(model, tmp_path, monkeypatch):
    config, params = hf.load(model)
    before = hf.file_hash(model)

    def crash(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(hf, "_save_tokenizer", crash)
    for target in (tmp_path / "new", model):
        with pytest.raises(OSError, match="disk full"):
            hf.save(target, config, params)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert hf.file_hash(model) == before


def test_save_replaces_a_model_even_its_own_source(model):
    config, params = hf.load(model)
    hf.save(model, config, jax.tree.map(lambda x: x + 1, params), source=model)
    _, again = hf.load(model)
    np.testing.assert_array_equal(again["norm"], params["norm"] + 1)
    mode = (model / "model.safetensors").stat().st_mode
    assert mode == (model / "config.json").stat().st_mode


def test_save_refuses_to_replace_what_is_no_model(model, tmp_path):
    config, params = hf.load(model)
    (tmp_path / "notes").mkdir()
    hf.save(tmp_path / "notes", config, params)
    shutil.rmtree(tmp_path / "notes")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a model directory"):
        hf.save(tmp_path / "notes", config, params)


def test_save_refuses_what_does_not_fit(model, tmp_path):
    config, params = hf.load(model)
    other = dataclasses.replace(config, ffn=41)
    with pytest.raises(ValueError, match=r"gate.*24, 40.*24, 41"):
        hf.save(tmp_path / "a", other, params)
    with pytest.raises(ValueError, match=r"than params: ffn=40, not 41$"):
        hf.save(tmp_path / "a", other, params, source=model)
    odd = dataclasses.replace(config, qk_norm=True, qkv_bias=True)
    with pytest.raises(ValueError, match=r"no config.json of .*qwen3"):
        hf_config.describe(odd, "float32")
    assert not (tmp_path / "a").exists()


def test_ends_are_read_from_both_files(model):
    edit_config(model, eos_token_id=7)
    (model / "generation_config.json").write_text('{"eos_token_id": [15, 2]}')
    assert hf.end_ids(model) == (2, 7, 15)
    (model / "generation_config.json").write_text('{"eos_token_id": 2}')
    edit_config(model, eos_token_id=None)
    assert hf.end_ids(model) == (2,)
    (model / "generation_config.json").unlink()
    assert hf.end_ids(model) == ()
    edit_config(model, eos_token_id=[2, -1])
    with pytest.raises(ValueError, match=r"eos_token_id=\[2, -1\] is no id"):
        hf.end_ids(model)


@pytest.mark.parametrize("given", ["2", [2, "x"], True, 1.5, {"a": 1}])
def test_an_end_that_is_no_id(model, given):
    edit_config(model, eos_token_id=given)
    with pytest.raises(ValueError, match=r"config\.json: eos_token_id=.* is no id"):
        hf.end_ids(model)


class Seven:
    """A tokenizer that ends with 7 and has nothing else."""

    eos_token_id = 7

    def save_pretrained(self, folder):
        Path(folder, "tokenizer.json").write_text("{}")


def test_without_source_the_ends_are_the_tokenizers(model, tmp_path):
    config, params = hf.load(model)
    hf.save(tmp_path / "new", config, params, tokenizer=Seven())
    raw = json.loads((tmp_path / "new" / "config.json").read_text())
    # transformers would put its own default, 2, where nothing is said.
    assert (raw["eos_token_id"], raw["bos_token_id"]) == (7, None)
    assert hf.end_ids(tmp_path / "new") == (7,)
    assert hf.load_config(tmp_path / "new") == config


def test_ends_are_written_for_whoever_generates(model, tmp_path):
    config, params = hf.load(model)
    (model / "generation_config.json").write_text('{"top_p": 0.9, "eos_token_id": 3}')
    for ends, written in (((), 3), ((5,), 5), ((5, 3), [5, 3])):
        hf.save(tmp_path / "new", config, params, source=model, ends=ends)
        found = json.loads((tmp_path / "new" / "generation_config.json").read_text())
        bos = {"bos_token_id": 1} if ends else {}
        assert found == {"top_p": 0.9, "eos_token_id": written} | bos


def test_ends_come_with_bos_and_pad(tmp_path):
    """Of the tokenizer's files where neither config says them: the bundled student."""
    source = model_path("demo:student")
    config, params = hf.load(source)
    hf.save(tmp_path / "new", config, params, source=source, ends=(1,))
    found = transformers.GenerationConfig.from_pretrained(tmp_path / "new")
    assert (found.eos_token_id, found.pad_token_id) == (1, 0)
    assert found.bos_token_id is None  # its tokenizer has none
    tokenizer = tmp_path / "new" / "tokenizer_config.json"
    said = json.loads(tokenizer.read_text()) | {"bos_token": {"content": "<eos>"}}
    tokenizer.write_text(json.dumps(said))
    edit_config(tmp_path / "new", pad_token_id=7)
    hf.save(tmp_path / "b", config, params, source=tmp_path / "new", ends=(1,))
    found = json.loads((tmp_path / "b" / "generation_config.json").read_text())
    assert found == {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    (tmp_path / "new" / "generation_config.json").unlink()
    hf.save(tmp_path / "c", config, params, source=tmp_path / "new", ends=(1,))
    found = json.loads((tmp_path / "c" / "generation_config.json").read_text())
    assert found == {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 7}


def test_file_hash_sees_every_weight_file(tmp_path):
    folder = Path(shutil.copytree(ROOT / "parity_mistral", tmp_path / "m"))
    before = hf.file_hash(folder)
    edit_config(folder, extra=1)
    assert hf.file_hash(folder) == before
    last = sorted(folder.glob("*.safetensors"))[-1]
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    assert hf.file_hash(folder) != before


# Refusals.


def test_missing_directory_and_config(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        hf.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        hf.load_config(tmp_path)


def test_unreachable_hub_is_one_clear_error():
    with pytest.raises(FileNotFoundError, match="as a hub id it could not be fetched"):
        hf.load("nobody-at-all/no-such-model")


def test_no_weights(model):
    (model / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no \*.safetensors"):
        hf.load(model)


def test_missing_shard(tmp_path):
    folder = Path(shutil.copytree(ROOT / "parity_mistral", tmp_path / "m"))
    last = sorted(folder.glob("*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of them are missing: {last.name}"):
        hf.load(folder)


@pytest.mark.parametrize("keep", [0, 5, 300, -4])
def test_truncated_weights(model, keep):
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated"):
        hf.load(model)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"model_type": "gemma3"},
            r"'gemma3'.*supported: llama, mistral, qwen2, qwen3, gemma2, gemma3_text",
        ),
        ({"hidden_act": "gelu"}, "config.json: hidden_act='gelu', and only 'silu'"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "'longrope' is not supported"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "per-layer"),
        ({"rope_parameters": {"rope_type": "linear"}}, "lacks 'factor'"),
        ({"hidden_size": None}, "lacks 'hidden_size'"),
        (
            {
                "model_type": "mistral",
                "architectures": None,
                "layer_types": ["full_attention"] * 2,
            },
            "Ministral",
        ),
    ],
)
def test_unsupported_configs(model, changes, text):
    edit_config(model, **changes)
    with pytest.raises(ValueError, match=text):
        hf.load_config(model)


def test_config_that_is_no_json(model):
    (model / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        hf.load_config(model)


def test_tensors_that_do_not_fit_are_all_named(model):
    def spoil(weights):
        weights["lm_head.weight"] = weights["lm_head.weight"][:-1]
        weights["model.extra"] = weights.pop("model.norm.weight")

    edit_weights(model, spoil)
    with pytest.raises(ValueError) as caught:
        hf.load(model)
    for text in (
        "in 3 tensors",
        "lm_head.weight is (47, 24), expected (48, 24)",
        "model.norm.weight (24,) is missing",
        "model.extra (24,) is unexpected",
    ):
        assert text in str(caught.value)


def test_quantised_weights(model):
    name = "model.norm.weight"
    edit_weights(model, lambda w: w.update({name: w[name].astype(np.int8)}))
    with pytest.raises(ValueError, match=r"model: model\.norm\.weight is of type I8"):
        hf.load(model)


def test_config_is_hashable():
    configs = {hf.load_config(folder) for folder in FIXTURES}
    assert len(configs) == len(FIXTURES)
    assert all(isinstance(config, DecoderConfig) for config in configs)
