"""What a finished run of a study leaves: read from its folder, or kept in one file.

A run is one dict: its summary, ``config``, ``inputs`` (hashes of models and rows),
``evaluation`` (what each prompt earned) and ``updates`` (the rows of metrics.jsonl
behind the first evaluation). A kept run has of the last only the numbers that its study
reads: some kilobytes, small enough to lie beside the page, which is drawn from them
anew on any machine.
"""

import functools
import gzip
import json
from pathlib import Path

from jopd.setup import inputs, keys
from jopd.training import origins
from studying.reading import Study, updates_read

ALSO = "also-"  # and its name: what a student was measured on besides, in its folder
MAY_LACK = ("evaluation", "inputs")  # of runs of older releases
NO_MATTER = ("data.date", "log.", "checkpoint.", "export.", "compilation_cache")


def read(place: Path) -> dict:
    """A run from its folder, which has ``summary.json``."""
    lines = (place / "metrics.jsonl").read_text().splitlines()
    files = {name: place / f"{name}.json" for name in ("config", *MAY_LACK)}
    found = {
        name: json.loads(file.read_text()) if file.exists() else {}
        for name, file in files.items()
    }
    found["updates"] = [row for row in map(json.loads, lines) if row["step"]]
    found = json.loads((place / "summary.json").read_text()) | found
    for file in sorted(place.glob(f"{ALSO}*.json")):
        name, numbers = file.stem.removeprefix(ALSO), json.loads(file.read_text())
        found["after"] |= {f"{name}.{key}": numbers[key] for key in numbers}
    return found


def keep(run: dict, file: Path, study: Study) -> None:
    """Writes ``run`` to ``file``, whole or not at all."""
    names = {"step", *updates_read(study)}
    rows = [{k: v for k, v in row.items() if k in names} for row in run["updates"]]
    text = json.dumps(run | {"updates": rows}, separators=(",", ":"))
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    # No name and no time inside: the same run is the same file.
    with part.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(text.encode())
    part.replace(file)


def kept(file: Path) -> dict:
    return json.loads(gzip.decompress(file.read_bytes()))


def changed(run: dict, today: dict) -> list[str]:
    """What is otherwise than in ``run``: keys of the config today, and its models.

    A key that came later has the value that it had before there was one.
    """
    now = keys.flatten(today)
    differ = [
        key
        for key, value in keys.flatten(run["config"]).items()
        if not key.startswith(NO_MATTER)
        and now.get(key, "gone") != value
        and not _renamed(key, now)
    ]
    for role in ("student", "teacher"):
        was, path = run["inputs"].get(f"the model {role}"), today[role]["path"]
        if was and _model(path) not in (was, None):
            differ.append(f"{role} ({path})")
    return differ


def _renamed(key: str, now: dict) -> bool:
    """Whether a key is one that only has another name today."""
    old, new = "has_peer", "has_context.of"
    return key.endswith(f".{old}") and f"{key.removesuffix(old)}{new}" in now


@functools.cache
def _model(path: str) -> str | None:
    """The hash of a model directory as runs keep it; None where there is none here."""
    path = inputs.model_path(path)
    return origins.of_model(path) if Path(path).is_dir() else None
