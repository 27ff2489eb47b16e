"""Which files of a directory are read; a damaged one is a line that names it."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jopd.models import files, hf

ROOT = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def model(tmp_path) -> Path:
    return Path(shutil.copytree(ROOT / "parity_llama", tmp_path / "model"))


@pytest.fixture
def shards(tmp_path) -> Path:
    return Path(shutil.copytree(ROOT / "parity_mistral", tmp_path / "shards"))


def same(a, b) -> bool:
    return all(np.array_equal(a[key], b[key]) for key in ("embed", "norm", "head"))


# Which files.


def test_another_layout_beside_the_weights_is_not_read(model):
    """As in repositories of Mistral; transformers reads model.safetensors."""
    before = hf.load(model)[1]
    other = {"tok_embeddings.weight": np.ones((48, 24), np.float32)}
    save_file(other, model / "consolidated.safetensors")
    assert same(hf.load(model)[1], before)


def test_one_file_comes_before_an_index(shards):
    """transformers looks for model.safetensors first."""
    whole = {}
    for file in shards.glob("*.safetensors"):
        whole |= load_file(file)
    changed = {name: tensor * 2 for name, tensor in whole.items()}
    save_file(changed, shards / files.WEIGHTS, metadata={"format": "pt"})
    norm = hf.load(shards)[1]["norm"]
    np.testing.assert_array_equal(norm, changed["model.norm.weight"])


def test_a_tensor_in_two_files_is_refused(shards):
    first, second, *_ = sorted(shards.glob("*.safetensors"))
    name, tensor = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: tensor + 1}, second)
    with pytest.raises(
        ValueError, match=f"{name} is in {first.name} and in {second.name}"
    ):
        hf.check(shards)


@pytest.mark.parametrize(
    "name", ["../model/model.safetensors", "/etc/passwd", "a\\b.safetensors", "w.bin"]
)
def test_an_index_that_leads_elsewhere_is_refused(shards, model, name):
    edit_index(shards, lambda index: index["weight_map"].update({"x": name}))
    with pytest.raises(ValueError, match=r"index\.json: weight_map is no map"):
        hf.check(shards)


@pytest.mark.parametrize(
    "value", [None, [], {}, "x", 3, {"a": 1}, {"a": None}, {"a": ["b"]}]
)
def test_an_index_without_names_is_refused(shards, value):
    edit_index(shards, lambda index: index.update(weight_map=value))
    with pytest.raises(ValueError, match=r"index\.json: weight_map is no map"):
        hf.check(shards)


def test_an_adapter_beside_the_weights_is_refused(model):
    (model / files.ADAPTER).write_text("{}")
    with pytest.raises(ValueError, match=r"adapter_config\.json; merge the adapter"):
        hf.check(model)


def edit_index(folder: Path, change) -> None:
    index = json.loads((folder / files.INDEX).read_text())
    change(index)
    (folder / files.INDEX).write_text(json.dumps(index))


# Damaged files.

BAD_JSON = {
    "cut": b'{"a": ',
    "empty": b"",
    "no text": b"\xff\xfe\x00{",
    "deep": b'{"a":' + b"[" * 200_000,
    "deep objects": b'{"a":' * 200_000,
    "long number": b'{"a": ' + b"9" * 5000 + b"}",
    "list": b"[1]",
    "text": b'"x"',
    "null": b"null",
    "byte order mark": b'\xef\xbb\xbf{"a": 1}',
}


@pytest.mark.parametrize("content", BAD_JSON.values(), ids=BAD_JSON)
def test_json_that_is_none(shards, content):
    for name in (files.CONFIG, files.INDEX, files.GENERATION):
        kept = (shards / name).read_bytes()
        (shards / name).write_bytes(content)
        with pytest.raises(ValueError, match=name.replace(".", r"\.")) as caught:
            hf.check(shards)
            hf.end_ids(shards)
        assert len(str(caught.value).splitlines()) == 1
        (shards / name).write_bytes(kept)


def test_a_wrong_config_names_its_directory(model):
    (model / files.CONFIG).write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match=r"model: model_type='gpt2'"):
        hf.check(model)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj"])
def test_weights_that_are_no_numbers_are_named(model, value, name):
    weights = load_file(model / files.WEIGHTS)
    (name,) = (n for n in weights if n.startswith(name))
    weights[name].flat[-2:] = value
    save_file(weights, model / files.WEIGHTS, metadata={"format": "pt"})
    size = weights[name].size
    with pytest.raises(ValueError, match=f"model: {name} has 2 of {size:,} values"):
        hf.load(model)


def test_a_value_too_large_for_the_type_is_named(model):
    weights = load_file(model / files.WEIGHTS)
    weights["model.norm.weight"][0] = 1e5
    save_file(weights, model / files.WEIGHTS, metadata={"format": "pt"})
    hf.load(model)
    with pytest.raises(ValueError, match=r"model\.norm\.weight has 1 .* as float16"):
        hf.load(model, dtype="float16")


def test_flipped_bytes_of_a_header_are_an_error_or_change_no_number(model):
    rng = random.Random(0)
    file, clean = model / files.WEIGHTS, (model / files.WEIGHTS).read_bytes()
    before, header = hf.load(model)[1], 8 + int.from_bytes(clean[:8], "little")
    for _ in range(200):
        data = bytearray(clean)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(header)] = rng.randrange(256)
        file.write_bytes(data)
        try:
            after = hf.load(model)[1]
        except ValueError as error:
            assert str(model) in str(error)
            assert len(str(error).splitlines()) == 1
            continue
        assert same(after, before)


# Tokenizers.


@pytest.fixture
def pair(tmp_path) -> Path:
    """The bundled student, with its tokenizer."""
    student = Path(files.__file__).parents[1] / "assets" / "student"
    return Path(shutil.copytree(student, tmp_path / "student"))


@pytest.mark.parametrize("content", BAD_JSON.values(), ids=BAD_JSON)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_is_one_line(pair, name, content):
    (pair / name).write_bytes(content)
    with pytest.raises(ValueError, match="no tokenizer can be loaded from") as caught:
        files.tokenizer(pair)
    assert len(str(caught.value).splitlines()) == 1
    assert str(pair) in str(caught.value)


@pytest.mark.parametrize("template", [5, ["a"], {"default": 1}, [{"name": "x"}], True])
def test_a_template_that_is_no_text_is_refused(pair, template):
    file = pair / "tokenizer_config.json"
    known = json.loads(file.read_text()) | {"chat_template": template}
    file.write_text(json.dumps(known))
    with pytest.raises(ValueError, match=str(pair)):
        files.tokenizer(pair)


def test_a_tokenizer_without_tokens_is_refused(pair):
    """transformers makes one for Qwen2 where tokenizer.json is lacking."""
    (pair / "tokenizer.json").unlink()
    (pair / files.CONFIG).write_text('{"model_type": "qwen2"}')
    with pytest.raises(ValueError, match="has no tokens of its own"):
        files.tokenizer(pair)


def test_code_beside_a_tokenizer_is_not_asked_for(pair):
    """A question on the terminal would hold up a run that nobody looks at."""
    file = pair / "tokenizer_config.json"
    code = {"auto_map": {"AutoTokenizer": ["other.Tokenizer", None]}}
    known = json.loads(file.read_text()) | code | {"tokenizer_class": "Other"}
    file.write_text(json.dumps(known))
    with pytest.raises(ValueError, match="contains custom code"):
        files.tokenizer(pair)


def test_a_gguf_file_is_refused_with_what_converts_it(tmp_path):
    (tmp_path / "small-q4.gguf").touch()
    for path in (tmp_path, tmp_path / "small-q4.gguf"):
        with pytest.raises((ValueError, FileNotFoundError), match="is GGUF") as error:
            hf.check(path)
        command = str(error.value).partition('python -c "')[2].removesuffix('"')
        compile(command, "command", "exec")
        assert f"{str(tmp_path)!r}, gguf_file='small-q4.gguf'" in command
