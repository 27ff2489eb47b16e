"""Adapters as directories of the library ``peft``, beside their base: in and out.

``adapter_config.json`` and ``adapter_model.safetensors``; matrices are ``[r, in]`` and
``[out, r]`` per layer there, stacked ``[N, in, r]`` and ``[N, r, out]`` here. As a
model it is read whole, W + s B A, as ``hf.load`` gives any other; ``read`` has it apart
from its base, to be trained further.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jopd.models import files, hf_config, hub, lora
from jopd.models.decoder_config import DecoderConfig

CONFIG, WEIGHTS = files.ADAPTER, "adapter_model.safetensors"
# Keys that would change the numbers, and what they must be: other kinds of adapters.
_ONLY = {
    "peft_type": "LORA",
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_bias": False,
    "use_dora": False,
    "use_qalora": False,
    "alpha_pattern": {},
    "rank_pattern": {},
    "megatron_config": None,
    "modules_to_save": None,
    "trainable_token_indices": None,
}
_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


def is_adapter(folder: Path) -> bool:
    """Whether a directory holds an adapter and no model of its own."""
    return (folder / CONFIG).is_file() and not (folder / files.CONFIG).is_file()


def base_of(folder: Path) -> Path:
    """The directory of an adapter's base; of a model it is that itself.

    Raises:
      FileNotFoundError: the base is not where the adapter says.
      ValueError: another kind of adapter, or a damaged one.
    """
    if not is_adapter(folder):
        return folder
    about = _about(folder)
    name = about["base_model_name_or_path"]
    if not Path(name).is_dir():
        name = hub.joined(name, about.get("revision"))
    try:
        return files.whole(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} is an adapter: its base {error}") from error


def with_tokenizer(path: str | Path) -> Path:
    """``path``, or where an adapter brings no tokenizer the directory of its base."""
    folder = Path(path)
    if is_adapter(folder) and not any((folder / n).is_file() for n in files.TOKENIZERS):
        return base_of(folder)
    return folder


class Added(NamedTuple):
    """A tensor of a base and what an adapter adds to it; read like an open file."""

    file: Any
    a: np.ndarray
    b: np.ndarray
    scale: float

    def get_tensor(self, name: str) -> np.ndarray:
        product = self.b.astype(np.float32) @ self.a.astype(np.float32)
        return self.file.get_tensor(name).astype(np.float32) + self.scale * product


def added(opened: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Open files of a base, with those that the adapter in ``folder`` changes.

    Raises:
      ValueError: it is of another base: a tensor is not there or has another shape.
    """
    about, shapes = _about(folder), files.shapes(opened)
    rank = about["r"]
    scale = about["lora_alpha"] / (math.sqrt(rank) if about["use_rslora"] else rank)
    found = dict(opened)
    for name, (a, b) in _pairs(folder).items():
        wanted = a.shape[:1] + b.shape[1:], (b.shape[0], a.shape[1])
        if wanted != ((rank, rank), shapes.get(name)):
            raise ValueError(
                f"{folder}: its matrices for {name} are {a.shape} and {b.shape} of "
                f"rank {rank}, and its base has {shapes.get(name, 'no such tensor')} "
                "there; give the base that it was trained on"
            )
        found[name] = Added(opened[name], a, b, scale)
    return found


def _about(folder: Path) -> dict[str, Any]:
    about = {"use_rslora": False} | files.read_json(folder / CONFIG)
    for key, only in _ONLY.items():
        if about.get(key, only) != only and about.get(key):
            raise ValueError(
                f"{folder / CONFIG}: {key}={about[key]!r:.80}, and only {only!r} is "
                "read here; merge the adapter into its base with peft"
            )
    kinds = {"r": int, "lora_alpha": int | float, "base_model_name_or_path": str}
    for key, kind in kinds.items():
        if not isinstance(about.get(key), kind) or not about[key]:
            raise ValueError(
                f"{folder / CONFIG}: {key}={about.get(key)!r:.80} says nothing; "
                "correct it"
            )
    return about


def _pairs(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tensor of the base -> A ``[r, in]`` and B ``[out, r]``."""
    file, found = folder / WEIGHTS, {}
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} is not there, truncated or no safetensors file ({error}); fetch "
            "it again"
        ) from error
    for name, tensor in tensors.items():
        place = _TENSOR.fullmatch(name)
        if not place or tensor.ndim != 2:
            raise ValueError(
                f"{file}: {name} {tensor.shape} is no matrix of an adapter of linear "
                "maps; merge the adapter into its base with peft"
            )
        found.setdefault(f"{place[1]}.weight", {})[place[2]] = tensor
    for name, pair in found.items():
        if len(pair) != 2:
            raise ValueError(
                f"{file}: {name} has only lora_{min(pair)}; fetch it again"
            )
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}


class Adapter(NamedTuple):
    """An adapter apart from its base.

    Attributes:
      settings: what ``lora.adapted`` takes: rank, alpha, rank_stabilized and targets.
      params: ``{"layers": {"q_a": f32[N, in, r], "q_b": f32[N, r, out], ...}}``.
      base: directory or hub id of the model that it was trained on, as it says.
    """

    settings: dict[str, Any]
    params: dict[str, dict[str, np.ndarray]]
    base: str


def read(path: str | Path, config: DecoderConfig, source: str | Path) -> Adapter:
    """The adapter at ``path``, to be trained further on the model at ``source``.

    Raises:
      ValueError: it is no adapter; it adapts what is not trained here, or a matrix in
        some of the layers; or it is of another base than one of shape ``config``.
    """
    folder = files.directory(path, [CONFIG, WEIGHTS])
    if not is_adapter(folder):
        raise ValueError(
            f"{path} is no adapter: it has no {CONFIG}, or a {files.CONFIG}; a model "
            "is named by student.path"
        )
    about, names = _about(folder), _matrices(config, source)
    in_layer = lambda name: name[max(name.find("layers."), 0) :]
    pairs = {in_layer(name): pair for name, pair in _pairs(folder).items()}
    layers, found = range(config.layers), {}
    for name, tensor in names.items():
        own = [pairs.pop(f"layers.{i}.{tensor}", None) for i in layers]
        if all(own):
            a, b = zip(*own)
            found[f"{name}_a"], found[f"{name}_b"] = _stacked(a), _stacked(b)
        elif any(own):
            pairs[f"{name} in {sum(map(bool, own))} layers"] = own
    if pairs or not found:
        raise ValueError(
            f"{folder}, of {about['base_model_name_or_path']}, adapts "
            f"{next(iter(pairs), 'nothing')}; what can be trained further on {source} "
            f"is {', '.join(names)}, each in all of its {config.layers} layers. As "
            "student.path, it is merged and trained whole"
        )
    settings = dict(
        rank=about["r"],
        alpha=float(about["lora_alpha"]),
        rank_stabilized=about["use_rslora"],
        targets=f"^({'|'.join(name for name in names if f'{name}_a' in found)})$",
    )
    adapted = lora.adapted(config, **settings)
    wanted = jax.eval_shape(lambda: lora.start(adapted, jax.random.key(0)))["layers"]
    for name, leaf in found.items():
        if leaf.shape != wanted[name].shape:
            raise ValueError(
                f"{folder}: its {name} is {leaf.shape}, and one of rank {about['r']} "
                f"on {source} {wanted[name].shape}; it was trained on "
                f"{about['base_model_name_or_path']}, which student.path is to name"
            )
    base = hub.joined(about["base_model_name_or_path"], about.get("revision"))
    return Adapter(settings, {"layers": found}, base)


def _stacked(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Of a layer each, as they are here."""
    return np.stack([np.asarray(matrix, np.float32).T for matrix in matrices])


def _matrices(config: DecoderConfig, source: str | Path) -> dict[str, str]:
    """Matrix -> its tensor behind ``layers.N.``, of those that stand for themselves."""
    folder = base_of(files.directory(source, [files.CONFIG, CONFIG]))
    names = hf_config.family_of(files.read_config(folder)).layer
    alone = list(names.values())
    known = lora.matrices(config)
    return {name: names[name] for name in known if alone.count(names[name]) == 1}


def modules(config: DecoderConfig, source: str | Path) -> dict[str, str]:
    """Matrix -> its linear map in the model at ``source``, behind ``layers.N.``.

    Raises:
      ValueError: a target is part of a larger matrix there, which PEFT adapts whole;
        or there is no model there but another adapter.
    """
    folder = files.directory(source, [files.CONFIG, CONFIG])
    if is_adapter(folder):
        raise ValueError(
            f"{source} is an adapter itself, and what is trained on top of it can only "
            "be written merged; set export.adapter=False"
        )
    raw = files.read_config(folder)
    names = hf_config.family_of(raw).layer
    found = {name: names[name].removesuffix(".weight") for name in config.lora_targets}
    tensors = list(names.values())
    if parts := [name for name in found if tensors.count(names[name]) > 1]:
        raise ValueError(
            f"{source} keeps {', '.join(parts)} in larger matrices, and PEFT has no "
            "adapter of a part; set export.adapter=False for a merged model"
        )
    return found


def save(
    path: str | Path,
    config: DecoderConfig,
    adapter: Mapping,
    *,
    source: str | Path,
    alpha: float,
    rank_stabilized: bool,
    card: str = "",
) -> None:
    """Writes an adapter, and the tokenizer of ``source`` beside it.

    Args:
      path: directory to write; an adapter that is there is replaced.
      config: the adapted shape, see ``lora.adapted``.
      adapter: its parameters, ``{"layers": {"q_a": ..., "q_b": ...}}``.
      source: directory or hub id of the base, by which the adapter names it.
      alpha, rank_stabilized: as ``lora.adapted`` had them.
      card: as ``hf.save`` takes it.

    Raises:
      FileExistsError: ``path`` holds something that is no adapter.
      ValueError: see ``modules``.
    """
    where = modules(config, source)
    base, revision = str(source), None
    if not Path(source).is_dir():
        base, revision = hub.split(source)
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": config.lora_rank,
        "lora_alpha": alpha,
        "use_rslora": rank_stabilized,
        "target_modules": sorted({name.rpartition(".")[2] for name in where.values()}),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    with files.replacing(Path(path), CONFIG, "an adapter") as new:
        (new / CONFIG).write_text(json.dumps(about, indent=2) + "\n")
        save_file(_tensors(where, adapter), new / WEIGHTS, metadata={"format": "pt"})
        # safetensors makes files that only their owner may read.
        (new / WEIGHTS).chmod((new / CONFIG).stat().st_mode)
        known = files.directory(source, list(files.TOKENIZERS))
        files.copy(known, new, files.TOKENIZERS)
        files.write_card(new, card)


def _tensors(where: Mapping[str, str], adapter: Mapping) -> dict[str, np.ndarray]:
    found = {}
    for name, module in where.items():
        for part, whole in (("a", "lora_A"), ("b", "lora_B")):
            for i, matrix in enumerate(np.asarray(adapter["layers"][f"{name}_{part}"])):
                place = f"base_model.model.model.layers.{i}.{module}.{whole}.weight"
                found[place] = np.ascontiguousarray(matrix.T)
    return found
