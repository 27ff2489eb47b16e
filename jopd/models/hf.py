"""Hugging Face directories in and out: ``config.json`` and ``*.safetensors``.

Weights are linear maps ``[out, in]`` per layer there and stacked ``[N, in, out]`` here.
No torch, and no model class of transformers, is involved.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from jopd.models import decoder, files, hf_config, peft
from jopd.models.decoder import DecoderConfig
from jopd.models.families import FAMILIES, Family

_TOP = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
}


def load_config(path: str | Path) -> DecoderConfig:
    """The decoder described by ``config.json`` of a directory or hub id.

    Raises:
      FileNotFoundError: no such directory, or no ``config.json`` in it.
      ValueError: an architecture, rope type or activation that is not supported.
    """
    folder = files.directory(path, [files.CONFIG, files.ADAPTER])
    return _config(peft.base_of(folder))[0]


def check(path: str | Path) -> DecoderConfig:
    """What ``load`` would say of a model, from its config and headers alone."""
    return _opened(path)[0]


def dtype_named(path: str | Path, asked: str = "auto") -> str:
    """``asked``, or for "auto" what ``config.json`` says of its weights: "bfloat16" for
    bfloat16 and float16, else "float32". Of an adapter its base's."""
    if asked != "auto":
        return asked
    raw = files.read_config(
        peft.base_of(files.directory(path, [files.CONFIG, files.ADAPTER]))
    )
    said = raw.get("dtype", raw.get("torch_dtype"))
    half = str(said).removeprefix("torch.") in ("bfloat16", "float16")
    return "bfloat16" if half else "float32"


def end_ids(path: str | Path) -> tuple[int, ...]:
    """Ids that end a response, ascending: ``eos_token_id``, one or a list, of
    ``generation_config.json`` and ``config.json``; ValueError if it is neither."""
    folder, found = peft.base_of(files.directory(path, ["*.json"])), set()
    for file in (folder / files.GENERATION, folder / files.CONFIG):
        given = files.read_json(file).get("eos_token_id") if file.is_file() else None
        ids = given if isinstance(given, list) else [] if given is None else [given]
        if not all(type(one) is int and one >= 0 for one in ids):
            raise ValueError(
                f"{file}: eos_token_id={given!r:.80} is no id nor a list of ids"
            )
        found.update(ids)
    return tuple(sorted(found))


def load(
    path: str | Path, *, dtype: Any = "float32"
) -> tuple[DecoderConfig, dict[str, Any]]:
    """Config and parameters of a directory or hub id, of an adapter those merged.

    Parameters are host (numpy) arrays of ``dtype``, all of them: see ``leaves``.

    Raises:
      FileNotFoundError: something is missing: directory, config, weights, a shard.
      ValueError: see ``load_config``; truncated weights; a missing or unexpected
        tensor, or one of another shape or type. All of it is seen from the headers,
        before any weight is read.
    """
    params: dict[str, Any] = {}
    for (*above, name), leaf in leaves(path, dtype):
        functools.reduce(lambda tree, key: tree.setdefault(key, {}), above, params)[
            name
        ] = leaf
    return check(path), params


def leaves(
    path: str | Path, dtype: Any = None
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """A model's parameters one by one: its place in the tree and a host array.

    Who puts each where it belongs before the next is read never holds the whole model
    on the host. ``dtype`` None: as on file. Raises as ``load`` does.
    """
    config, opened, folder, family = _opened(path)

    def read(name: str) -> np.ndarray:
        tensor = opened[name].get_tensor(name)
        with np.errstate(over="ignore"):  # said below, with the name
            tensor = tensor.astype(dtype or tensor.dtype, copy=False)
        _check_finite(tensor, f"{folder}: {name}")
        return tensor

    for place, like in _flat(_template(config)):
        if place[0] != "layers":
            yield place, read(_TOP[place[0]])
            continue
        rows, stacked = _rows(config, family, place[1]), None
        for i in range(config.layers):
            names = _layer_names(config, family, i, place[1])
            if _of_experts(family, place[1]):
                layer = np.stack([read(name).T for name in names])
            else:
                layer = read(names[0])[rows].T
            if stacked is None:
                stacked = np.empty(like.shape, layer.dtype)
            stacked[i] = layer
        yield place, stacked


def save(
    path: str | Path,
    config: DecoderConfig,
    params: Mapping,
    *,
    source: str | Path | None = None,
    tokenizer: Any = None,
    ends: Sequence[int] = (),
    card: str = "",
) -> None:
    """Writes a directory that transformers loads.

    It is built under another name and moved into place whole. An existing model
    directory is replaced.

    Args:
      path: directory to write.
      config: what ``params`` belongs to.
      params: the parameters, on the host or on devices.
      source: directory or hub id the model came from. Its ``config.json``, tokenizer
        and generation config are kept as they are, and each tensor gets the dtype it
        has there: what was loaded and not changed is written back bit for bit. Without
        it the config is made from ``config`` and tensors keep the dtype they have.
      tokenizer: directory to copy tokenizer files from, or an object with
        ``save_pretrained``; default those of ``source``.
      ends: ids that end a response, for ``generation_config.json``, where whoever
        generates looks for them, with bos and pad where it lacks them; default those
        of ``source`` or of the tokenizer.
      card: what ``README.md`` says; empty: there is none, but one that somebody wrote
        into ``path`` stays.

    Raises:
      FileExistsError: ``path`` holds something that is not a model.
      ValueError: parameters do not fit ``config``, or ``config`` not ``source``.
    """
    with files.replacing(Path(path), files.CONFIG, "a model directory") as new:
        dtypes = {}
        if source is None:
            names = ("eos_token_id", "bos_token_id", "pad_token_id")
            ids = {name: getattr(tokenizer, name, None) for name in names}
            raw = hf_config.describe(config, str(params["embed"].dtype))
            family = FAMILIES[raw["model_type"]]
            # Said also where there is none: transformers would take its own defaults.
            files.write_json(new / files.CONFIG, raw | ids)
            ends = ends or [ids["eos_token_id"]] * (ids["eos_token_id"] is not None)
        else:
            source = files.whole(source)
            base = peft.base_of(source)
            family = _check_source(config, base)
            dtypes = files.dtypes(files.open_weights(base), base)
            files.copy(base, new, (files.CONFIG, files.GENERATION))
            source = peft.with_tokenizer(source)
        tensors = _flatten(config, family, params, dtypes)
        save_file(tensors, new / files.WEIGHTS, metadata={"format": "pt"})
        # safetensors makes files that only their owner may read.
        (new / files.WEIGHTS).chmod((new / files.CONFIG).stat().st_mode)
        _save_tokenizer(source if tokenizer is None else tokenizer, new)
        files.write_card(new, card)
        if ends:
            file = new / files.GENERATION
            known = files.read_json(file) if file.exists() else {}
            known = _special_ids(new) | known
            known["eos_token_id"] = ends[0] if len(ends) == 1 else list(ends)
            files.write_json(file, known)


def file_hash(path: str | Path) -> str:
    """sha256 of the weight files in the order of their names, for the run record."""
    folder = files.directory(path, ["*.json", "*.safetensors"])
    digest = hashlib.sha256()
    base = peft.base_of(folder)
    own = [folder / peft.WEIGHTS] * (base != folder)
    for file in (*files.weight_files(base), *own):
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _opened(path: str | Path) -> tuple[DecoderConfig, dict[str, Any], Path, Family]:
    folder = files.whole(path)
    base = peft.base_of(folder)
    (config, family), opened = _config(base), files.open_weights(base)
    _check(config, family, opened, base)
    if base != folder:
        opened = peft.added(opened, folder)
    return config, opened, folder, family


def _config(folder: Path) -> tuple[DecoderConfig, Family]:
    raw = files.read_config(folder)
    try:
        return hf_config.parse(raw), hf_config.family_of(raw)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _save_tokenizer(tokenizer: Any, target: Path) -> None:
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(target)
    elif tokenizer is not None:
        known = files.directory(tokenizer, list(files.TOKENIZERS))
        files.copy(known, target, files.TOKENIZERS)


def _special_ids(folder: Path) -> dict[str, int]:
    """``bos_token_id`` and ``pad_token_id``, as far as config or tokenizer say them."""
    config, said, written = (
        files.read_json(folder / name) if (folder / name).is_file() else {}
        for name in (files.CONFIG, "tokenizer_config.json", "tokenizer.json")
    )
    ids = {one["content"]: one["id"] for one in written.get("added_tokens") or ()}
    found = {}
    for name in ("bos", "pad"):
        token = said.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        given = config.get(f"{name}_token_id")
        found[f"{name}_token_id"] = ids.get(token) if given is None else given
    return {key: one for key, one in found.items() if type(one) is int and one >= 0}


# Tensors.


@functools.lru_cache(maxsize=8)
def _template(config: DecoderConfig) -> dict[str, Any]:
    """Shapes of all parameters, without making them."""
    return jax.eval_shape(lambda: decoder.init(config, jax.random.key(0)))


def _map(function, tree: Any, place: tuple[str, ...] = ()) -> Any:
    if not isinstance(tree, Mapping):
        return function(place, tree)
    return {key: _map(function, sub, (*place, key)) for key, sub in tree.items()}


def _flat(tree: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple, Any]]:
    """Leaves with their places, in the order of the tree."""
    for key, sub in tree.items():
        if isinstance(sub, Mapping):
            yield from _flat(sub, (*place, key))
        else:
            yield (*place, key), sub


def _layer_names(
    config: DecoderConfig, family: Family, layer: int, key: str
) -> list[str]:
    """The tensor of a layer's parameter, or those of all experts."""
    name = f"model.layers.{layer}.{family.layer[key]}"
    times = config.experts if _of_experts(family, key) else 1
    return [name.format(expert) for expert in range(times)]


def _of_experts(family: Family, key: str) -> bool:
    """Whether a parameter ``[N, E, in, out]`` is a tensor of each expert on file."""
    return "{}" in family.layer[key]


def _rows(config: DecoderConfig, family: Family, key: str) -> slice:
    """Where a parameter lies in its tensor, which it may share."""
    layers, start = _template(config)["layers"], 0
    for other in itertools.takewhile(lambda other: other != key, family.layer):
        if other in layers and family.layer[other] == family.layer[key]:
            start += layers[other].shape[-1]
    return slice(start, start + layers[key].shape[-1])


def _shapes(config: DecoderConfig, family: Family) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor such a model has on file."""
    tree = dict(_template(config))
    layers = tree.pop("layers")
    shapes = {_TOP[key]: leaf.shape for key, leaf in tree.items()}
    for key, leaf in layers.items():
        for i in range(config.layers):
            *within, out = leaf.shape[2 if _of_experts(family, key) else 1 :]
            for name in _layer_names(config, family, i, key):
                before = shapes[name][0] if name in shapes else 0  # of the same tensor
                shapes[name] = (before + out, *within)
    return shapes


def _check(config: DecoderConfig, family: Family, opened: Mapping, folder: Path):
    files.dtypes(opened, folder)  # refuses quantised weights
    expected = _shapes(config, family)
    found = files.shapes(opened)
    # Llama checkpoints of old carry this buffer, which is computed from the config.
    found = {n: s for n, s in found.items() if not n.endswith("rotary_emb.inv_freq")}
    if config.tied and _TOP["head"] in found:
        _check_tied(found.pop(_TOP["head"]), opened, folder)
    faults = [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    faults += [f"{n} {expected[n]} is missing" for n in expected if n not in found]
    faults += [f"{n} {found[n]} is unexpected" for n in found if n not in expected]
    if faults:
        raise ValueError(
            f"{folder}: weights do not fit config.json in {len(faults)} tensors: "
            + "; ".join(faults[:5])
        )


def _check_finite(tensor: np.ndarray, name: str) -> None:
    odd = np.count_nonzero(~np.isfinite(tensor))
    if odd:
        raise ValueError(
            f"{name} has {odd:,} of {tensor.size:,} values that are NaN or infinite as "
            f"{tensor.dtype}; fetch the model again, or take an earlier checkpoint"
        )


def _check_tied(head_shape: tuple[int, ...], opened: Mapping, folder: Path) -> None:
    embed, head = (opened[_TOP[k]].get_tensor(_TOP[k]) for k in ("embed", "head"))
    if not np.array_equal(embed, head, equal_nan=True):
        raise ValueError(
            f"{folder}: config.json says tie_word_embeddings, yet {_TOP['head']} "
            f"{head_shape} is not {_TOP['embed']} {embed.shape}; set it to false"
        )


def _flatten(config: DecoderConfig, family: Family, params: Mapping, dtypes: Mapping):
    """Tensors by their name on file, in the dtypes given there or their own."""
    found = _map(lambda _, leaf: tuple(leaf.shape), params)
    expected = _map(lambda _, leaf: tuple(leaf.shape), _template(config))
    if found != expected:
        raise ValueError(f"params have shapes {found}, config asks for {expected}")

    tensors, parts = {}, collections.defaultdict(list)
    for key, leaf in params.items():
        if key != "layers":
            tensors[_TOP[key]] = np.asarray(leaf)
    for key in (key for key in family.layer if key in params["layers"]):
        for i, layer in enumerate(np.asarray(params["layers"][key])):
            names = _layer_names(config, family, i, key)
            each = layer if _of_experts(family, key) else [layer]
            for name, part in zip(names, each, strict=True):
                parts[name].append(part.T)
    tensors |= {n: p[0] if len(p) == 1 else np.concatenate(p) for n, p in parts.items()}
    if config.tied and _TOP["head"] in dtypes:
        tensors[_TOP["head"]] = tensors[_TOP["embed"]]
    return {
        name: np.ascontiguousarray(tensor, dtypes.get(name, tensor.dtype))
        for name, tensor in tensors.items()
    }


def _check_source(config: DecoderConfig, source: Path) -> Family:
    theirs, family = _config(source)
    ours, theirs = map(dataclasses.asdict, (hf_config.architecture(config), theirs))
    if other := [key for key in ours if ours[key] != theirs[key]]:
        told = ", ".join(f"{key}={theirs[key]}, not {ours[key]}" for key in other)
        raise ValueError(f"source {source} is another model than params: {told}")
    return family
