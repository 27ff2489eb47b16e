"""What a run left in its directory: config, hashes of inputs, metrics, samples.

Right is: a config that is what it was goes on, another one does not; of the lines in
metrics and samples all that can be read are kept, up to the step that a run goes on
from, but for a last one that was cut short.
"""

import json
import random
import shutil
from pathlib import Path

from hostile_inputs import Case, damage, dump, mutate_json
from jopd.reporting import metrics
from jopd.setup import keys, shipped
from jopd.setup.config import base_config
from jopd.training import origins, workdir

AT = 4  # the step that the run goes on from
DEFAULTS = keys.flatten(workdir.written(base_config().to_dict()))
FACTS = {"the rows": "3 rows, sha256 ab12", "the tokenizer": "sha256 cd34"}


def prepare(scratch: Path):
    config = workdir.written(shipped.load("opd").to_dict())
    clean = scratch / "clean"
    (clean / "checkpoints" / str(AT)).mkdir(parents=True)
    workdir.write_config(clean, config)
    origins.keep(clean, FACTS)
    writer = metrics.open_writers(clean)
    for step in range(1, 7):
        writer.write(step, {"loss/total": step / 3, "note": "a\u2028b", "none": None})
    writer.close()
    for step, phase in ((0, "before"), (2, "train"), (6, "train"), (6, "after")):
        rows = [{"prompt": "é", "response": "x\u2028y\ud800", "reward": 0.5}]
        workdir.append_samples(clean / "samples.jsonl", step, phase, rows)

    def make(rng: random.Random) -> Case:
        folder = scratch / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(clean, folder)
        said = "; ".join(_change(rng, folder) for _ in range(rng.choice([1, 1, 2])))
        return Case(said, (str(folder),), lambda: _go_on(folder, config))

    return make


def _change(rng: random.Random, folder: Path) -> str:
    file = rng.choice(sorted(folder.glob("*.json*")) or [folder / "config.json"])
    how = rng.random()
    if not file.is_file():
        return "nothing more"
    if how < 0.1:
        file.unlink()
        if rng.random() < 0.5:
            file.mkdir()
        return f"{file.name} gone"
    data = file.read_bytes()
    if how < 0.55:
        data, said = damage(rng, data)
        file.write_bytes(data)
        return f"{file.name} {said}"
    lines = data.split(b"\n") if file.suffix == ".jsonl" else [data]
    at = rng.randrange(len(lines))
    try:
        value, said = mutate_json(rng, json.loads(lines[at]))
    except (ValueError, RecursionError):
        return "nothing more"
    lines[at] = dump(value)
    file.write_bytes(b"\n".join(lines))
    return f"{file.name} line {at}: {said}"


def _go_on(folder: Path, config: dict) -> str | None:
    before = {
        name: _lines(folder / name) for name in ("metrics.jsonl", "samples.jsonl")
    }
    workdir.prepare(folder, config)
    origins.check(folder, FACTS)
    workdir.cut_samples(folder, after=AT, started=True)
    writer = metrics.open_writers(folder, last_step=AT)
    writer.write(AT + 1, {"loss/total": 1.0})
    writer.close()
    kept = json.loads((folder / "config.json").read_bytes())
    free = lambda flat: {k: v for k, v in flat.items() if not workdir.may_change(k)}
    old, new = free(keys.flatten(kept)), free(keys.flatten(config))
    # What an older release did not know is as it is by default, the day any.
    unknown = {key: DEFAULTS[key] for key in DEFAULTS.keys() & new.keys()}
    old = unknown | {"data.date": new["data.date"]} | old
    if any(old.get(key) != new.get(key) for key in old.keys() | new.keys()):
        return "a run of another config goes on"
    if (folder / "inputs.json").exists():
        facts = json.loads((folder / "inputs.json").read_bytes())
        if any(FACTS.get(key) != value for key, value in facts.items()):
            return "a run of other inputs goes on"
    return _kept(folder, before)


def _kept(folder: Path, before: dict) -> str | None:
    rows = _lines(folder / "metrics.jsonl")
    want = [row for row in before["metrics.jsonl"] if row["step"] <= AT]
    if [_bare(row) for row in rows[:-1]] != [_bare(row) for row in want]:
        return f"metrics {rows[:-1]!r:.200}, not {want!r:.200}"
    if rows[-1] != {"step": AT + 1, "loss/total": 1.0}:
        return f"the new line is {rows[-1]}"
    want = [
        row
        for row in before["samples.jsonl"]
        if row["step"] <= AT and row.get("phase") != "after"
    ]
    rows = _lines(folder / "samples.jsonl")
    if [_bare(row) for row in rows] != [_bare(row) for row in want]:
        return f"samples {rows!r:.200}, not {want!r:.200}"
    return None


def _bare(row: dict) -> str:
    """Without NaN, which the strict file holds as null, and without half characters."""
    text = json.dumps(row, ensure_ascii=False).replace("NaN", "null")
    text = text.replace("-Infinity", "null").replace("Infinity", "null")
    return text.encode("utf-8", "replace").decode()


def _lines(path: Path) -> list[dict]:
    """Lines that are an object with a step."""
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", "replace")
    found = []
    for line in text.split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int | float):
            found.append(row)
    return found
