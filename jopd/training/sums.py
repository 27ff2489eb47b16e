"""Checksums of a checkpoint's files, in a list beside them that vouches for itself.

The list is written right after a checkpoint is complete: the size and checksum of each
file, and the metric that the checkpoint was judged by.
"""

import json
import math
import os
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path

from jopd.reporting import metrics

NAME = "sums.json"


def steps_in(folder: Path) -> list[int]:
    """Steps whose checkpoints are complete in ``folder``, ascending; maybe none."""
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdecimal())


def _files(folder: Path) -> dict[str, Path]:
    """All files of a checkpoint but the list of them, by their names in it."""
    found = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*"))}
    return {n: p for n, p in found.items() if p.is_file() and not n.startswith(NAME)}


def of_file(path: Path) -> list[int]:
    """(bytes, CRC-32): finds every burst up to 32 bits, and all else but one in 2^32.

    500 MB take 0.2 seconds of one core, in a thread beside the updates.
    """
    size, crc = 0, 0
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
    return [size, crc]


def _seal(files: Mapping, metric: float | None) -> int:
    return zlib.crc32(json.dumps([files, metric], sort_keys=True).encode())


def comparable(metric: float | None) -> float | None:
    """A metric that checkpoints can be ranked by; None for NaN, which is never best."""
    return None if metric is None or math.isnan(metric) else float(metric)


def write(folder: Path, metric: float | None, files: Mapping | None = None) -> None:
    """Lists what ``folder`` holds now, or held when ``files`` were listed."""
    if files is None:
        files = {name: of_file(path) for name, path in _files(folder).items()}
    sealed = dict(files=files, metric=metric, seal=_seal(files, metric))
    metrics.write_atomically(folder / NAME, json.dumps(sealed))


def read(folder: Path) -> dict:
    """The list of a checkpoint's files, which vouches for itself.

    Raises:
      OSError: it is damaged, or missing: the process was killed right after a save.
    """
    try:
        found = json.loads((folder / NAME).read_text())
        if _seal(found["files"], found["metric"]) == found["seal"]:
            return found
    except FileNotFoundError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise OSError(f"{NAME} is damaged")


def check(folder: Path, part: str) -> None:
    """Finds what changed in ``part``, or went missing, before orbax reads any of it.

    Without a list orbax judges, which does not see every flipped bit: a warning.

    Raises:
      OSError: names the file.
    """
    try:
        known = read(folder)["files"]
    except FileNotFoundError:
        if part == "state":
            warnings.warn(
                f"{folder} has no {NAME}, as where a process was killed right after a "
                "save: its arrays are taken as they are, without checksums",
                stacklevel=2,
            )
        return
    found = _files(folder)
    for name, (size, crc) in known.items():
        if name not in found:
            raise OSError(f"{name} is missing")
        if found[name].stat().st_size != size:
            here = found[name].stat().st_size
            raise OSError(f"{name} has {here} bytes instead of {size}")
        if name.split(os.sep)[0] in (part, name) and of_file(found[name])[1] != crc:
            raise OSError(f"{name} has changed: its checksum is another")


def listed(folder: Path) -> bool:
    return (folder / NAME).exists()


def metric_of(folder: Path) -> float | None:
    try:
        return comparable(read(folder)["metric"])
    except OSError:
        return None
