"""Replies kept on disk, each under a hash of the whole request."""

import hashlib
import json
import os
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

FIELDS = {"texts", "numbers"}  # that a reply may be read for


def file_of(folder: Path | None, *request) -> Path | None:
    """Where the reply to ``request`` is, or will be."""
    if folder is None:
        return None
    name = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    return folder / name[:2] / f"{name}.json"


class Kept(NamedTuple):
    """A reply on disk, or the place of one: ``count`` values of a ``kind``.

    ``path`` None: nothing is kept.
    """

    path: Path | None
    field: str
    count: int
    kind: type | tuple[type, ...]


def read(kept: Kept) -> list | None:
    """The values of a reply; None where none is kept, or a damaged one."""
    path, field, count, kind = kept
    if path is None or not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())
        found = content[field]
        whole = isinstance(found, list) and all(isinstance(x, kind) for x in found)
        if not whole or len(found) != count:
            raise ValueError(f"not {count} {field}")
        if content.get("sha256", _sum(found)) != _sum(found):
            raise ValueError(f"other {field} than were kept")
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
    for field in FIELDS & value.keys():
        value = value | {"sha256": _sum(value[field])}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.{threading.get_ident()}.tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)


def _sum(values: list) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
