"""Adapters as directories that the library ``peft`` loads beside their base.

``adapter_config.json`` and ``adapter_model.safetensors``; matrices are ``[r, in]`` and
``[out, r]`` per layer there, stacked ``[N, in, r]`` and ``[N, r, out]`` here.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from jopd.models import files, hf_config
from jopd.models.decoder_config import DecoderConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def modules(config: DecoderConfig, source: str | Path) -> dict[str, str]:
    """Matrix -> its linear map in the model at ``source``, behind ``layers.N.``.

    Raises:
      ValueError: a target is part of a larger matrix there, which PEFT adapts whole.
    """
    raw = files.read_config(files.directory(source, [files.CONFIG]))
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
) -> None:
    """Writes an adapter, and the tokenizer of ``source`` beside it.

    Args:
      path: directory to write; an adapter that is there is replaced.
      config: the adapted shape, see ``lora.adapted``.
      adapter: its parameters, ``{"layers": {"q_a": ..., "q_b": ...}}``.
      source: directory or hub id of the base, by which the adapter names it.
      alpha, rank_stabilized: as ``lora.adapted`` had them.

    Raises:
      FileExistsError: ``path`` holds something that is no adapter.
      ValueError: see ``modules``.
    """
    path, where = Path(path), modules(config, source)
    foreign = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if foreign and not (path / CONFIG).is_file():
        raise FileExistsError(
            f"{path} exists and is not an adapter (no {CONFIG}); remove it or save "
            "elsewhere"
        )
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(source),
        "r": config.lora_rank,
        "lora_alpha": alpha,
        "use_rslora": rank_stabilized,
        "target_modules": sorted({name.rpartition(".")[2] for name in where.values()}),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as tmp:
        new = Path(tmp, "new")
        new.mkdir()
        (new / CONFIG).write_text(json.dumps(about, indent=2) + "\n")
        save_file(_tensors(where, adapter), new / WEIGHTS, metadata={"format": "pt"})
        # safetensors makes files that only their owner may read.
        (new / WEIGHTS).chmod((new / CONFIG).stat().st_mode)
        files.copy(
            files.directory(source, list(files.TOKENIZERS)), new, files.TOKENIZERS
        )
        if path.exists():
            path.rename(Path(tmp, "old"))
        new.rename(path)


def _tensors(where: Mapping[str, str], adapter: Mapping) -> dict[str, np.ndarray]:
    found = {}
    for name, module in where.items():
        for part, whole in (("a", "lora_A"), ("b", "lora_B")):
            for i, matrix in enumerate(np.asarray(adapter["layers"][f"{name}_{part}"])):
                place = f"base_model.model.model.layers.{i}.{module}.{whole}.weight"
                found[place] = np.ascontiguousarray(matrix.T)
    return found
