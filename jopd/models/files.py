"""The files of a Hugging Face directory: which ones belong to a model, read safely.

Whatever is wrong with a file is one ``ValueError`` that names it, or a
``FileNotFoundError``.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from jopd.models import hub

TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG, GENERATION = "config.json", "generation_config.json"
ADAPTER = "adapter_config.json"
CARD = "README.md"
ABOUT = (CARD, "LICENSE*")  # what people read of a model
# A card without this line is somebody's own: it stays, and ours goes beside it.
MARK = "<!-- Written by jopd, anew with every export; remove this line to keep it. -->"
OTHER_CARD = "README.jopd.md"


def directory(path: str | Path, patterns: Sequence[str]) -> Path:
    """A local directory, or that of a hub id, see ``hub.fetch``."""
    folder = Path(path)
    if folder.suffix == ".gguf" and folder.is_file():
        raise ValueError(f"{path} is no directory of a model: {_convert(folder)}")
    return folder if folder.is_dir() else hub.fetch(str(path), tuple(patterns))


def _convert(file: Path) -> str:
    """How a GGUF file becomes what is read here; transformers wants torch for it."""
    given = f"{str(file.parent)!r}, gguf_file={file.name!r}"
    return (
        f'{file.name} is GGUF, which is not read; convert it: python -c "from '
        "transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"[x.from_pretrained({given}).save_pretrained('converted') for x in (M, T)]\""
    )


def whole(path: str | Path) -> Path:
    """The directory of a model with its weights and tokenizer."""
    return directory(path, ["*.json", "*.safetensors", *TOKENIZERS, *ABOUT])


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
      ValueError: no JSON, JSON nested too deeply, no UTF-8, or no object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(
            f"{file} is not valid JSON: {error}; fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{file} holds {content!r:.40}, not an object of keys; fetch it again"
        )
    return content


def write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        packed = sorted(folder.glob("*.gguf"))
        said = _convert(packed[0]) if packed else "is it a model directory?"
        raise FileNotFoundError(f"{folder} has no {CONFIG}; {said}")
    return read_json(folder / CONFIG)


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers would read: one, those of the index, or all.

    Raises:
      FileNotFoundError: there are none, or the index names absent ones.
      ValueError: the index is damaged or leads out of the folder, or an adapter that
        transformers would add lies beside the weights.
    """
    if (folder / ADAPTER).is_file():
        raise ValueError(
            f"{folder} has an {ADAPTER}; merge the adapter into the weights, or "
            "remove the file to take the weights without it"
        )
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _indexed(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{folder} has no *.safetensors; convert other weight formats first"
        )
    return files


def _indexed(folder: Path) -> list[Path]:
    held = read_json(folder / INDEX).get("weight_map")
    names = list(held.values()) if isinstance(held, dict) else [None]
    odd = [n for n in names if not isinstance(n, str) or not re.fullmatch(_PLAIN, n)]
    if odd or not names:
        raise ValueError(
            f"{folder / INDEX}: weight_map is no map from tensors to *.safetensors in "
            f"this folder ({held if odd == [None] else odd[:1]!r:.80}); fetch it again"
        )
    names = sorted(set(names))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise FileNotFoundError(
            f"{folder}: {INDEX} names {len(names)} files, {len(absent)} of them "
            f"are missing: {', '.join(absent[:5])}; fetch the model again"
        )
    return [folder / name for name in names]


_PLAIN = r"[^/\\\0]+\.safetensors"


def open_weights(folder: Path) -> dict[str, Any]:
    """Open file of each tensor; only headers are read.

    Raises:
      ValueError: a damaged file, or a tensor that two files have.
    """
    found: dict[str, Any] = {}
    place: dict[str, Path] = {}
    for file in weight_files(folder):
        try:
            opened = safe_open(file, framework="np")
            names = list(opened.keys())
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{file} is truncated or no safetensors file ({error}); fetch it again"
            ) from error
        for name in names:
            if name in found:
                raise ValueError(
                    f"{folder}: {name} is in {place[name].name} and in {file.name}; "
                    "keep the file that belongs to this model"
                )
        found |= dict.fromkeys(names, opened)
        place |= dict.fromkeys(names, file)
    return found


def tokenizer(path: str | Path) -> Any:
    """The tokenizer beside a model.

    Raises:
      ValueError: there is none, or one of its files is damaged; names the directory.
    """
    # Only its tokenizers are used: that it has no models without PyTorch is no news.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    try:
        # Left open, it would ask on the terminal whether to run code of the directory.
        loaded = transformers.AutoTokenizer.from_pretrained(
            path, trust_remote_code=False
        )
        loaded("")  # some settings are read only here
    except Exception as error:  # of any class: it depends on which key is damaged
        reason = (str(error).splitlines() or [""])[0].rstrip(" :")
        raise ValueError(
            f"no tokenizer can be loaded from {str(path)!r}: {type(error).__name__}: "
            f"{reason:.200}; put tokenizer.json and tokenizer_config.json "
            "beside the weights"
        ) from error
    if not loaded.get_vocab().keys() - loaded.get_added_vocab().keys():
        # What some classes make of a folder that lacks the file.
        raise ValueError(
            f"the tokenizer of {str(path)!r} has no tokens of its own; put "
            "tokenizer.json beside the weights"
        )
    templates = loaded.chat_template
    for one in templates.values() if isinstance(templates, dict) else [templates]:
        if one is not None and not isinstance(one, str):
            raise ValueError(
                f"{str(path)!r}: chat_template is {one!r:.60}, not text; correct "
                "tokenizer_config.json or put a chat_template.jinja beside it"
            )
    return loaded


@contextlib.contextmanager
def replacing(path: Path, mark: str, what: str) -> Iterator[Path]:
    """A new folder that takes the place of ``path`` once the block has ended well.

    A card that somebody wrote there stays, and a new one is then ``OTHER_CARD``.

    Raises:
      FileExistsError: ``path`` holds something, and no ``mark`` that it is ``what``.
    """
    holds = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if holds and not (path / mark).is_file():
        raise FileExistsError(
            f"{path} exists and is not {what} (no {mark}); remove it or save elsewhere"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as tmp:
        new = Path(tmp, "new")
        new.mkdir()
        yield new
        own = path / CARD
        if own.is_file() and MARK not in own.read_text("utf-8", errors="replace"):
            if (new / CARD).is_file():
                (new / CARD).rename(new / OTHER_CARD)
            shutil.copyfile(own, new / CARD)
        if path.exists():
            path.rename(Path(tmp, "old"))
        new.rename(path)


def write_card(folder: Path, text: str) -> None:
    """``README.md`` with the text; without one there is none."""
    if text:
        (folder / CARD).write_text(text, encoding="utf-8", errors="replace")


def copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Those of the files that the source has."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def shapes(opened: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor on file, read from the headers."""
    return {name: tuple(f.get_slice(name).get_shape()) for name, f in opened.items()}


_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def dtypes(opened: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Dtype of each tensor on file, read from the headers; ValueError: of no float."""
    names = {name: file.get_slice(name).get_dtype() for name, file in opened.items()}
    for name, kind in names.items():
        if kind not in _DTYPES:
            raise ValueError(
                f"{folder}: {name} is of type {kind}, which is not supported; convert "
                f"weights to one of {', '.join(_DTYPES)}"
            )
    return {name: _DTYPES[kind] for name, kind in names.items()}
