"""BERT sentence encoders in JAX: mean-pooled embeddings and their cosine.

    similarity = load_similarity("all-MiniLM-L6-v2")
    similarity(["The cat sat."], ["A cat was sitting."])

Reads ``config.json``, ``model.safetensors`` and the tokenizer of a Hugging Face
directory of type ``bert``, with a folder of sentence-transformers around it or without.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopd.models import files

ROWS = 64  # texts encoded at one time
_MOST = 2**20  # of layers, heads, positions, widths: more is damage
SHORTEST = 16  # padded tokens of the narrowest program; then doubled


class EncoderConfig(NamedTuple):
    """What of ``config.json`` the forward pass needs; static."""

    layers: int
    heads: int
    eps: float
    longest: int
    width: int


class Encoder(NamedTuple):
    config: EncoderConfig
    params: dict[str, Any]
    tokenizer: Any


def load(path: str | Path) -> Encoder:
    """An encoder from a directory.

    Raises:
      FileNotFoundError: no such directory, config or weights.
      ValueError: another architecture, activation or pooling, or a missing tensor.
    """
    folder = Path(path).expanduser()
    for name in (files.CONFIG, files.WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"audit.encoder={str(path)!r}: no {name} there; name a BERT directory "
                "in Hugging Face format"
            )
    config = _config(folder)
    opened = {
        name: file
        for name, file in files.open_weights(folder).items()
        if "position_ids" not in name and "pooler" not in name
    }
    files.dtypes(opened, folder)
    params = {
        name.removeprefix("bert."): jnp.asarray(file.get_tensor(name), jnp.float32)
        for name, file in opened.items()
    }
    _check(config, params, folder)
    return Encoder(config, params, files.tokenizer(folder))


def _config(folder: Path) -> EncoderConfig:
    read = files.read_json(folder / files.CONFIG)
    for key, want in (
        ("model_type", "bert"),
        ("hidden_act", "gelu"),
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
    ):
        if read.get(key, want) != want:
            raise ValueError(
                f"{folder}: {key}={read[key]!r} is not supported, only {want!r} is"
            )
    _check_pooling(folder)
    layers, heads, positions, width = (
        _count(read.get(key), key, folder)
        for key in (
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
            "hidden_size",
        )
    )
    eps = read.get("layer_norm_eps", 1e-12)
    if not isinstance(eps, float) or not 0 < eps < 1 or width % heads:
        raise ValueError(
            f"{folder}: layer_norm_eps={eps!r}, hidden_size={width}, "
            f"num_attention_heads={heads} make no BERT; correct config.json"
        )
    return EncoderConfig(layers, heads, eps, min(positions, _longest(folder)), width)


def _count(value: Any, key: str, folder: Path) -> int:
    if type(value) is not int or not 1 <= value <= _MOST:
        raise ValueError(
            f"{folder}: {key}={value!r:.40} is no whole number from 1 to {_MOST:,}"
        )
    return value


def _longest(folder: Path) -> int:
    """Tokens that sentence-transformers would cut texts to."""
    file = folder / "sentence_bert_config.json"
    limit = files.read_json(file).get("max_seq_length") if file.exists() else None
    return _count(limit, "max_seq_length", folder) if limit is not None else 10**9


def _check_pooling(folder: Path) -> None:
    file = folder / "1_Pooling" / files.CONFIG
    if file.exists() and not files.read_json(file).get("pooling_mode_mean_tokens"):
        raise ValueError(f"{folder}: pools otherwise than by the mean over tokens")


def _check(config: EncoderConfig, params: dict[str, Any], folder: Path) -> None:
    missing = sorted(set(_names(config)) - set(params))
    if missing:
        raise ValueError(f"{folder}: the tensor {missing[0]!r} is missing")
    for name in _names(config):
        array, ends = params[name], (config.width, params[_INNER].shape[0])
        if array.ndim > 2 or array.shape[-1] not in ends or not array.size:
            raise ValueError(
                f"{folder}: {name} is {array.shape}, hidden_size={config.width}; take "
                "the weights that belong to config.json"
            )
        if not jnp.isfinite(array).all():
            raise ValueError(f"{folder}: {name} has values that are NaN or infinite")


def _names(config: EncoderConfig) -> list[str]:
    """Tensors that the forward pass reads."""
    top = [f"embeddings.{kind}_embeddings.weight" for kind in _EMBEDDINGS]
    modules = ["embeddings.LayerNorm"]
    for i in range(config.layers):
        modules += [f"encoder.layer.{i}.{name}" for name in _MODULES]
    return top + [f"{name}.{part}" for name in modules for part in ("weight", "bias")]


_INNER = "encoder.layer.0.intermediate.dense.bias"
_EMBEDDINGS = ("word", "position", "token_type")
_MODULES = (
    *(f"attention.self.{name}" for name in ("query", "key", "value")),
    *("attention.output.dense", "attention.output.LayerNorm"),
    *("intermediate.dense", "output.dense", "output.LayerNorm"),
)


def encode(params, tokens_BT, valid_BT, *, config: EncoderConfig) -> jax.Array:
    """Unit-length sentence embeddings f32[B, D]: the mean over valid tokens.

    Args:
      tokens_BT: i32, special tokens included, padded on the right.
      valid_BT: bool, False on padding, which is neither attended to nor averaged.
    """
    norm = functools.partial(_norm, params, eps=config.eps)
    embed = lambda kind: params[f"embeddings.{kind}_embeddings.weight"]
    x_BTD = embed("word")[tokens_BT] + embed("position")[: tokens_BT.shape[1]]
    x_BTD = norm("embeddings.LayerNorm", x_BTD + embed("token_type")[0])
    for i in range(config.layers):
        at = f"encoder.layer.{i}"
        mixed = _attention(params, at, x_BTD, valid_BT, config.heads)
        x_BTD = norm(f"{at}.attention.output.LayerNorm", x_BTD + mixed)
        inner = jax.nn.gelu(
            _dense(params, f"{at}.intermediate.dense", x_BTD), approximate=False
        )
        inner = _dense(params, f"{at}.output.dense", inner)
        x_BTD = norm(f"{at}.output.LayerNorm", x_BTD + inner)
    kept_BTD = jnp.where(valid_BT[..., None], x_BTD, 0.0)
    mean_BD = jnp.sum(kept_BTD, 1) / jnp.maximum(jnp.sum(valid_BT, 1)[:, None], 1)
    return mean_BD / jnp.maximum(jnp.linalg.norm(mean_BD, axis=1, keepdims=True), 1e-12)


def _dense(params, name: str, x):
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def _norm(params, name: str, x, *, eps: float):
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + eps)
    return centred * scale * params[f"{name}.weight"] + params[f"{name}.bias"]


def _attention(params, at: str, x_BTD, valid_BT, heads: int):
    rows, width, size = x_BTD.shape
    split = lambda name: _dense(params, f"{at}.attention.self.{name}", x_BTD).reshape(
        rows, width, heads, size // heads
    )
    mixed = jax.nn.dot_product_attention(
        *(split("query"), split("key"), split("value")),
        mask=valid_BT[:, None, None, :],
    )
    return _dense(params, f"{at}.attention.output.dense", mixed.reshape(x_BTD.shape))


def make_embed(encoder: Encoder):
    """``texts -> f32[n, D]`` on the host; a few programs, by padded width."""
    compiled = jax.jit(functools.partial(encode, config=encoder.config))

    def embed(texts: Sequence[str]) -> np.ndarray:
        ids = encoder.tokenizer(
            list(texts), truncation=True, max_length=encoder.config.longest
        )["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found = [None] * len(ids)
        for first in range(0, len(ids), ROWS):
            rows = order[first : first + ROWS]
            tokens, valid = _padded([ids[i] for i in rows], encoder.config.longest)
            values = np.asarray(compiled(encoder.params, tokens, valid))
            for i, value in zip(rows, values):
                found[i] = value
        return np.stack(found)

    return embed


def _padded(ids: list[list[int]], longest: int):
    """``ROWS`` rows of one of few widths; those that fill up have one valid token."""
    width, needed = SHORTEST, max(len(row) for row in ids)
    while width < needed:
        width *= 2
    width = max(min(width, longest), needed)
    tokens, valid = np.zeros((ROWS, width), np.int32), np.zeros((ROWS, width), bool)
    valid[:, 0] = True
    for row, one in enumerate(ids):
        tokens[row, : len(one)] = one
        valid[row, : len(one)] = True
    return tokens, valid


def load_similarity(path: str | Path):
    """``(texts, others) -> f32[n]``: cosines of embeddings, negative ones as 0."""
    embed = make_embed(load(path))

    def similarity(a: Sequence[str], b: Sequence[str]) -> np.ndarray:
        unique = list(dict.fromkeys([*a, *b]))
        if not unique:
            return np.zeros(0, np.float32)
        place = {text: i for i, text in enumerate(unique)}
        values = embed(unique)
        left, right = (values[[place[text] for text in texts]] for texts in (a, b))
        return np.clip(np.sum(left * right, axis=1), 0.0, 1.0)

    return similarity
