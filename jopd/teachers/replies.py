"""Replies kept on disk, each under a hash of the whole request."""

import hashlib
import json
import os
import threading
import warnings
from pathlib import Path


def file_of(folder: Path | None, *request) -> Path | None:
    """Where the reply to ``request`` is, or will be."""
    if folder is None:
        return None
    name = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    return folder / name[:2] / f"{name}.json"


def texts(path: Path | None, n: int) -> list[str] | None:
    """The ``n`` texts of a reply; None where none is kept, or a damaged one."""
    if path is None or not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())
        found = content["texts"]
        whole = isinstance(found, list) and all(isinstance(x, str) for x in found)
        if not whole or len(found) != n:
            raise ValueError(f"not {n} texts")
        if content.get("sha256", _sum(found)) != _sum(found):
            raise ValueError("other texts than were kept")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        warnings.warn(f"{path} is damaged ({why:.80}); it is asked again", stacklevel=2)
        return None
    return found


def check(folder: Path | None) -> None:
    """Raises ValueError where no reply could be kept: each of them costs something."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "writable.json", {})
        (folder / "writable.json").unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"remote.cache_dir={str(folder)!r} cannot be written ({error.strerror}); "
            "choose another"
        ) from error


def write(path: Path, value: dict) -> None:
    """A reader sees the whole file or none, whoever else writes the same one."""
    if "texts" in value:
        value = value | {"sha256": _sum(value["texts"])}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.{threading.get_ident()}.tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)


def _sum(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
