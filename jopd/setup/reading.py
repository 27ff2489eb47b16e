"""Which rows a config trains on and which it holds out, and what it leaves out."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jopd.data import sources, tables
from jopd.data.sources import Example

TASK_ROWS = 20_000  # drawn of a task where data.size does not say how many
HELD_ROWS = 256  # where data.eval_rows does not say, and of a file at most
HELD_SHARE = 10  # one row in so many


class Picked(NamedTuple):
    """Rows before tokenising. ``said``: what was taken of what; ``notes``: warnings."""

    train: list[Example]
    held: list[Example]
    said: tuple[str, ...]
    notes: tuple[str, ...]

    def digests(self) -> dict[str, str]:
        parts = {"training rows": self.train, "held-out rows": self.held}
        return {name: digest(rows) for name, rows in parts.items()}


def read_examples(config) -> Picked:
    """Training rows, and held-out ones that no training row repeats if it can be.

    Held out is what ``data.eval_path`` or ``data.eval_split`` name, a task's validation
    split, or else rows that the seed draws.

    Raises:
      ValueError, FileNotFoundError: names the source and a remedy.
    """
    c = config.data
    _check_weights(c)
    _check_split("split", c.split if c.split != "train" else "", c.path)
    parts = _read(config, c.path, c.split, c.size or TASK_ROWS)
    rows, said = [row for part in parts for row in part.rows], _said(parts)
    if len(parts) == 1 and c.size and c.size < len(rows):
        said = [f"the first {c.size:,} of {said[0]}"]
        rows = rows[: c.size]
    if not (c.eval_path or c.eval_split or _is_task(c.path)):
        picked = _held_out(config, rows, said)
    else:
        picked = _evaluated(config, rows, said)
    return _mixed(config, picked, parts) if len(parts) > 1 else picked


def digest(rows: Sequence[Example]) -> str:
    """How many rows there are, and a hash of all that is in them."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(row, default=str).encode())
    return f"{len(rows):,} rows, sha256 {found.hexdigest()}"


class Part(NamedTuple):
    """Rows of what stands between two commas of a path."""

    name: str
    files: int
    rows: list[Example]


def _is_task(path: str) -> bool:
    return path.startswith("task:")


def _check_weights(c) -> None:
    parts = len(tables.parts_of(c.path))
    if c.weights and len(c.weights) != parts:
        raise ValueError(
            f"data.weights={tuple(c.weights)} has {len(c.weights)} numbers, and "
            f"data.path={c.path!r} names {parts} sources; give one for each"
        )
    if parts > 1 and "task:" in c.path:
        raise ValueError(
            f"data.path={c.path!r} mixes the bundled task with other rows, whose "
            "verifiers differ; name the one or the others"
        )


def _check_split(key: str, split: str, path: str) -> None:
    files = [file for part in tables.parts_of(path) for file in part]
    if split and any(map(tables.is_file, files)):
        raise ValueError(
            f"data.{key}={split!r} names a split, and {path} is a file, which has "
            "none; name the file in data.path, that of held-out rows in data.eval_path"
        )


def _read(config, path: str, split: str, count: int) -> list[Part]:
    """All rows of every part of a path; a task gives ``count``."""
    c, found = config.data, []
    names = tables.parts_of(path)
    alone = sum(map(len, names)) == 1
    for files in names:
        rows = [
            row if alone else row._replace(id=f"{Path(file).name}:{row.id}")
            for file in files
            for row in sources.read(
                file,
                split=split,
                prompt_column=c.prompt_column,
                answer_column=c.answer_column,
                solution_column=c.solution_column,
                answer_after=c.answer_after,
                template=c.template,
                fields=tuple(c.fields),
                separator=c.separator,
                count=count,
                seed=config.seed,
                levels=tuple(c.levels),
                roles=tuple(c.roles),
            )
        ]
        found.append(rows)
    written = path.split(",") if len(names) > 1 else [path]
    shown = zip(written, names, _unique(found), strict=True)
    return [Part(name.strip(), len(files), rows) for name, files, rows in shown]


def _unique(parts: list[list[Example]]) -> list[list[Example]]:
    """The same rows, of which no two have one id."""
    seen: set[str] = set()

    def named(row: Example) -> Example:
        name, again = row.id, 1
        while name in seen:
            name, again = f"{row.id}#{again}", again + 1
        seen.add(name)
        return row if name == row.id else row._replace(id=name)

    return [[named(row) for row in part] for part in parts]


def _said(parts: list[Part]) -> list[str]:
    shown = lambda part: f" ({part.files} files)" if part.files > 1 else ""
    return [
        f"{len(part.rows):,} rows of {part.name}{shown(part)}{_lacking(part.rows)}"
        for part in parts
        if not _is_task(part.name)
    ]


def _lacking(rows: list[Example]) -> str:
    """How many rows have no gold response or answer, where others do."""
    counts = {
        "gold response": sum(row.solution is None for row in rows),
        "answer": sum(row.answer is None for row in rows),
    }
    found = [f"{n:,} without {what}" for what, n in counts.items() if 0 < n < len(rows)]
    return f" ({', '.join(found)})" if found else ""


def _evaluated(config, rows: list[Example], said: list[str]) -> Picked:
    """Rows for evaluation from a source or a split of their own."""
    c = config.data
    path = c.eval_path or c.path
    split, count = c.eval_split or c.split, c.eval_rows
    _check_split("eval_split", c.eval_split, path)
    if _is_task(path):
        split, count = c.eval_split or "validation", count or HELD_ROWS
    parts = _read(config, path, split, count)
    held = [row for part in parts for row in part.rows][: count or None]
    said = [*said, *(f"held out: {text}" for text in _said(parts))]
    twins = _shared(rows, held)
    notes = [
        f"{twins:,} of {len(held):,} held-out prompts are also trained on, so what is "
        f"measured on them is partly memory; take them out of {c.path} or of {path}"
    ]
    return Picked(rows, held, tuple(said), tuple(notes[: twins > 0]))


def _held_out(config, rows: list[Example], said: list[str]) -> Picked:
    """Some rows drawn by the seed, and the others without those of equal prompts."""
    c, total = config.data, len(rows)
    wanted = c.eval_rows or min(HELD_ROWS, max(total // HELD_SHARE, 1))
    if wanted >= total:
        raise ValueError(
            f"{c.path} has {total:,} rows: too few to hold {wanted:,} out for "
            "evaluation; give data.eval_path, more rows, or a lower data.eval_rows (0: "
            f"one in {HELD_SHARE})"
        )
    train, held = hold_out(rows, wanted, config.seed)
    said = [*said, f"{len(held):,} of them held out by seed {config.seed}"]
    twins = total - len(train) - len(held)
    if twins:
        said += [f"{twins:,} with a held-out prompt left out of training"]
    notes = [f"all rows of {c.path} have one prompt: it is trained on and held out"]
    shared = _shared(train, held) > 0
    return Picked(train, held, tuple(said), tuple(notes[:shared]))


def _mixed(config, picked: Picked, parts: list[Part]) -> Picked:
    """Training rows of several parts in the shares of ``data.weights``.

    ``data.size`` is how many there are; without it, and without weights, all.
    """
    c = config.data
    if not c.weights and not c.size:
        return picked
    places = {row.id: n for n, part in enumerate(parts) for row in part.rows}
    trained: list[list[Example]] = [[] for _ in parts]
    for row in picked.train:
        trained[places[row.id]].append(row)
    weights = tuple(c.weights) or tuple(map(len, trained))
    train = mixed(trained, weights, c.size or len(picked.train), config.seed)
    counts = np.bincount([places[row.id] for row in train], minlength=len(parts))
    shares = [f"{n:,} from {part.name}" for n, part in zip(counts, parts, strict=True)]
    if 0 in counts:
        key = f"data.weights={tuple(c.weights)}" if c.weights else f"data.size={c.size}"
        raise ValueError(
            f"{key}: {', '.join(shares)} of {len(train):,} training rows; raise "
            "data.size, or the share in data.weights of what gives none"
        )
    said = (*picked.said, "trained on: " + ", ".join(shares))
    return picked._replace(train=train, said=said)


def mixed(
    parts: Sequence[Sequence[Example]],
    weights: Sequence[float],
    total: int,
    seed: int,
) -> list[Example]:
    """``total`` rows, of every part as many as its weight says.

    A part gives all of its rows as often as they fit in, and of what is then lacking
    rows that the seed draws.
    """
    ends = np.round(total * np.cumsum([0, *weights]) / np.sum(weights)).astype(int)
    found: list[Example] = []
    for number, (rows, count) in enumerate(zip(parts, np.diff(ends), strict=True)):
        times, rest = divmod(int(count), max(len(rows), 1))
        drawn = np.random.default_rng([seed, 0, 2, number]).permutation(len(rows))
        found += [*rows] * times + [rows[at] for at in sorted(drawn[:rest])]
    return found


def hold_out(
    rows: Sequence[Example], wanted: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """(training rows, held-out rows), both in the order of ``rows``.

    At most ``wanted`` rows of different prompts are drawn; rows with their prompts are
    in neither list. Where all prompts are one, rows are drawn whatever they ask.
    """
    keys = [_key(row) for row in rows]
    if len(set(keys)) == 1:
        keys = list(range(len(rows)))
    wanted = min(wanted, len(set(keys)) - 1)
    drawn: dict = {}
    # Not the stream of ``dataset.order``, which is [seed, epoch].
    for at in np.random.default_rng([seed, 0, 1]).permutation(len(rows)):
        if len(drawn) < wanted:
            drawn.setdefault(keys[at], at)
    train = [row for row, key in zip(rows, keys, strict=True) if key not in drawn]
    return train, [rows[at] for at in sorted(drawn.values())]


def _key(row: Example) -> str:
    """Equal where two prompts are, white space around a text aside."""
    asked = row.prompt
    return asked.strip() if isinstance(asked, str) else json.dumps(asked, default=str)


def _shared(train: Sequence[Example], held: Sequence[Example]) -> int:
    """How many held-out rows have a prompt that is trained on."""
    known = {_key(row) for row in train}
    return sum(_key(row) in known for row in held)
