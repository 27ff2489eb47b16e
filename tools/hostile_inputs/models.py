"""Model directories: config, index, weights, generation config, tokenizer.

Right is what transformers' config class makes of the same file, and the tensors of the
files as read here, from the bytes alone.
"""

import json
import random
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import transformers
from safetensors.numpy import load_file, save_file

from hostile_inputs import Case, damage, dump, mutate_json, nasty
from jopd.models import decoder, files, hf, hf_config
from jopd.models.decoder import DecoderConfig
from jopd.setup import inputs

transformers.logging.set_verbosity_error()
TEXT = "12+34=46"
SHAPE = dict(
    vocab_size=18,
    width=8,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=4,
    ffn=12,
    max_positions=64,
)
YARN = dict(rope_type="yarn", factor=2.0, original_max_position_embeddings=32)
FAMILIES = {
    "llama": dict(tied=True),
    "qwen2": dict(qkv_bias=True, sliding_window=5, sliding_layers=(False, True)),
    "qwen3": dict(qk_norm=True, rope_scaling=tuple(sorted(YARN.items()))),
    "mistral": dict(sliding_window=7),
    "mixtral": dict(experts=3, experts_per_token=2, router_normalized=True),
}
CLASSES = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "mixtral": transformers.MixtralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}
KEYS = sorted(hf_config.READ | hf_config.ONLY.keys() | {"sliding", "logit_scale"})
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}


def prepare(scratch: Path):
    clean = {name: _write(scratch / name, name) for name in FAMILIES}
    tokenizer = files.tokenizer(clean["llama"])
    ids = tokenizer(TEXT)["input_ids"]

    def make(rng: random.Random) -> Case:
        folder = scratch / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(clean[rng.choice(list(clean))], folder)
        said = "; ".join(_change(rng, folder) for _ in range(rng.choice([1, 1, 1, 2])))
        return Case(said, (str(folder),), lambda: _read(folder, ids))

    return make


def _write(folder: Path, name: str) -> Path:
    shape = DecoderConfig(**(SHAPE | FAMILIES[name]))
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)
    params = hf._map(lambda _, leaf: draw(leaf), hf._template(shape))
    source = inputs.model_path("demo:student")
    hf.save(folder, shape, params, tokenizer=source, ends=(2,))
    if name == "qwen2":
        _cut_up(folder)
    return folder


def _cut_up(folder: Path) -> None:
    """Two files and an index in place of one."""
    tensors = load_file(folder / files.WEIGHTS)
    (folder / files.WEIGHTS).unlink()
    names = sorted(tensors)
    place = {}
    for part, kept in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{part}-of-00002.safetensors"
        save_file({name: tensors[name] for name in kept}, folder / file)
        place |= dict.fromkeys(kept, file)
    content = {"metadata": {"total_size": 1}, "weight_map": place}
    (folder / files.INDEX).write_text(json.dumps(content))


# What happens to a directory.


def _change(rng: random.Random, folder: Path) -> str:
    try:
        return rng.choice(CHANGES)(rng, folder)
    except Exception as error:  # what it wanted to change is damaged already
        return f"nothing more ({type(error).__name__})"


def _some(rng: random.Random, folder: Path) -> Path:
    return rng.choice(sorted(path for path in folder.iterdir() if path.is_file()))


def _bytes(rng, folder):
    file = _some(rng, folder)
    data, said = damage(rng, file.read_bytes())
    file.write_bytes(data)
    return f"{file.name} {said}"


def _parts(rng, folder):
    file = rng.choice(sorted(folder.glob("*.json")))
    value, said = mutate_json(rng, json.loads(file.read_bytes()))
    file.write_bytes(dump(value))
    return f"{file.name}: {said}"


def _key(rng, folder):
    file, key, value = folder / files.CONFIG, rng.choice(KEYS), nasty(rng)
    file.write_bytes(dump(json.loads(file.read_bytes()) | {key: value}))
    return f"{key}={value!r:.60}"


def _rope(rng, folder):
    rope = {
        "rope_type": rng.choice(["default", "linear", "llama3", "yarn", "dynamic", ""]),
        "factor": rng.choice([2.0, 4, 0, -1.0, None, "2"]),
        "rope_theta": rng.choice([1e4, 5e5, 1, 1.0, 0, None, "x"]),
        "low_freq_factor": rng.choice([1.0, 4.0, None]),
        "high_freq_factor": rng.choice([4.0, 1.0, None]),
        "original_max_position_embeddings": rng.choice([32, 8, 0, None, 1.5]),
        "truncate": rng.choice([True, False, "x"]),
        "beta_fast": rng.choice([32, 1, 0]),
        rng.choice(["type", "extra"]): rng.choice(["linear", None]),
    }
    kept = {key: rope[key] for key in rope if rng.random() < 0.6}
    name = rng.choice(["rope_scaling", "rope_parameters"])
    top = {} if rng.random() < 0.7 else {"original_max_position_embeddings": 16}
    file = folder / files.CONFIG
    file.write_bytes(dump(json.loads(file.read_bytes()) | {name: kept} | top))
    return f"{name}={kept}, {top}"


def _tensor(rng, folder):
    """A tensor with another value, type, shape or name."""
    file = rng.choice(sorted(folder.glob("*.safetensors")))
    tensors = load_file(file)
    name, how = rng.choice(sorted(tensors)), rng.randrange(6)
    tensor = tensors[name].copy()
    if how == 0:
        tensor.flat[rng.randrange(tensor.size)] = rng.choice([np.nan, np.inf, -np.inf])
    elif how == 1:
        tensor = tensor.astype(rng.choice([np.float16, np.float64, np.int8, np.int64]))
    elif how == 2:
        tensor = rng.choice([tensor[:-1], tensor[None], tensor.T, tensor.reshape(-1)])
    elif how == 3:
        tensors[name + "_"] = tensors[name]
    elif how == 4:
        tensors[rng.choice(["lm_head.weight", "extra"])] = tensor
    if how == 5:
        del tensors[name]
    else:
        tensors[name] = np.ascontiguousarray(tensor)
    save_file(tensors, file)
    return f"{file.name}: {name} changed ({how})"


def _more(rng, folder):
    """Files that do not belong there."""
    name = rng.choice(
        [
            "consolidated.safetensors",
            files.WEIGHTS,
            files.INDEX,
            files.ADAPTER,
            "model-00003-of-00002.safetensors",
            "chat_template.jinja",
            "special_tokens_map.json",
            "added_tokens.json",
            "vocab.json",
            "tokenizer.model",
        ]
    )
    other = _some(rng, folder).read_bytes() if rng.random() < 0.5 else rng.randbytes(50)
    (folder / name).write_bytes(other)
    return f"{name} of {len(other)} bytes put there"


def _fewer(rng, folder):
    file = _some(rng, folder)
    file.unlink()
    if rng.random() < 0.3:
        file.mkdir()
    return f"{file.name} gone"


def _index(rng, folder):
    file = folder / files.INDEX
    name = rng.choice(["../model.safetensors", "/etc/passwd", ".", "a.bin", "x\x00y"])
    value = rng.choice([name, name, None, 3, ["model.safetensors"], {}])
    place = {"model.norm.weight": value} if rng.random() < 0.7 else value
    file.write_bytes(dump({"weight_map": place}))
    if rng.random() < 0.7:
        (folder / files.WEIGHTS).unlink(missing_ok=True)
    return f"index: {place!r:.80}"


CHANGES = (_bytes, _bytes, _parts, _parts, _key, _key, _rope, _tensor, _more, _fewer)
CHANGES += (_index,)


# What is read, and what it should be.


def _read(folder: Path, ids: list[int]) -> str | None:
    config, params = hf.load(folder)
    hf.end_ids(folder)
    tokenizer = files.tokenizer(folder)
    untouched = (folder / "tokenizer.json").read_bytes() == _TOKENIZER.read_bytes()
    if untouched and tokenizer(TEXT)["input_ids"] != ids:
        return f"{TEXT!r} is tokenised otherwise"
    return _same_config(folder, config) or _same_tensors(folder, config, params)


_TOKENIZER = Path(inputs.model_path("demo:student"), "tokenizer.json")


def _same_config(folder: Path, config: DecoderConfig) -> str | None:
    raw = json.loads((folder / files.CONFIG).read_bytes())
    # Null is the default here, and an error or nothing in transformers.
    absent = {key for key in ("rms_norm_eps", "rope_theta") if raw.get(key) is None}
    given = {key: value for key, value in raw.items() if key not in absent}
    theirs = CLASSES[raw["model_type"]](**given)
    heads = theirs.num_attention_heads
    want = {
        "vocab_size": theirs.vocab_size,
        "width": theirs.hidden_size,
        "layers": theirs.num_hidden_layers,
        "heads": heads,
        "kv_heads": theirs.num_key_value_heads,
        "head_dim": getattr(theirs, "head_dim", None) or theirs.hidden_size // heads,
        "ffn": theirs.intermediate_size,
        "max_positions": theirs.max_position_embeddings,
        "norm_eps": theirs.rms_norm_eps,
        "rope_theta": theirs.rope_parameters["rope_theta"],
        "tied": bool(theirs.tie_word_embeddings),
    }
    for key, value in want.items():
        if getattr(config, key) != value:
            return f"{key} is {getattr(config, key)}, {value} in transformers"
    return _same_rope(theirs, config) or _same_window(theirs, config)


def _same_rope(theirs, config: DecoderConfig) -> str | None:
    theirs.standardize_rope_params()  # as before angles are made
    rope = {k: v for k, v in theirs.rope_parameters.items() if v is not None}
    kind = rope.get("rope_type", "default")
    ours = dict(config.rope_scaling) or {"rope_type": "default"}
    if ours["rope_type"] != kind:
        return f"rope {ours}, {rope} in transformers"
    read = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL),
        "yarn": ("factor", _ORIGINAL, "beta_fast", "beta_slow", "truncate"),
    }[kind]
    for key in read:
        if ours.get(key) != rope.get(key):
            return f"rope {key}: {ours}, {rope} in transformers"
    frequencies, factor = decoder.rope_frequencies(config)
    if not (np.isfinite(frequencies).all() and np.isfinite(factor)):
        return f"rope {ours} is not finite"
    return None


_ORIGINAL = "original_max_position_embeddings"


def _same_window(theirs, config: DecoderConfig) -> str | None:
    layers = config.layers
    window = getattr(theirs, "sliding_window", None)
    slides = [window is not None] * layers
    if theirs.model_type == "llama":
        slides = [False] * layers
    elif theirs.model_type not in ("mistral", "mixtral"):
        slides = [kind == "sliding_attention" for kind in theirs.layer_types]
    ours = list(config.sliding_layers) or [config.sliding_window > 0] * layers
    if ours != slides or (any(slides) and window != config.sliding_window):
        return f"windows {config.sliding_window} {ours}, {window} {slides} there"
    return None


def _same_tensors(folder: Path, config: DecoderConfig, params) -> str | None:
    found = _parse(folder)
    family = hf_config.family_of(json.loads((folder / files.CONFIG).read_bytes()))
    for key, leaf in params.items():
        if key != "layers" and not np.array_equal(leaf, found[hf._TOP[key]]):
            return f"{key} is not what the file holds"
    for key, stacked in params["layers"].items():
        for i in range(config.layers):
            names = hf._layer_names(config, family, i, key)
            parts = stacked[i] if len(names) > 1 else [stacked[i]]
            same = (np.array_equal(p, found[n].T) for p, n in zip(parts, names))
            if not all(same):
                return f"layer {i} {key} is not what the file holds"
    if not all(np.isfinite(leaf).all() for leaf in params["layers"].values()):
        return "values that are not finite"
    return None


def _parse(folder: Path) -> dict[str, np.ndarray]:
    """Tensors of the files that transformers would read, from their bytes."""
    names = [files.WEIGHTS]
    if not (folder / files.WEIGHTS).is_file():
        names = [path.name for path in folder.glob("*.safetensors")]
        if (folder / files.INDEX).is_file():
            index = json.loads((folder / files.INDEX).read_bytes())
            names = sorted(set(index["weight_map"].values()))
    found = {}
    for name in names:
        data = (folder / name).read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        for key, entry in json.loads(data[8:start]).items():
            if key != "__metadata__":
                first, last = (start + offset for offset in entry["data_offsets"])
                flat = np.frombuffer(data[first:last], DTYPES[entry["dtype"]])
                found[key] = flat.reshape(entry["shape"]).astype(np.float32)
    return found
