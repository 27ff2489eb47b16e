"""What a teacher said of gold rows once, kept as Parquet.

A folder of parts, written one by one, so that what was scored is never lost, and
``scores.json``, which says of what teacher and tokenizer they are. A row is found by a
hash of its prompt and solution in the student's tokens, in whatever order rows come.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jopd.teachers.likely import Scores, alike

SETTINGS = "scores.json"
COLUMNS = ("row", "logp", "ids", "likely")


class Table(NamedTuple):
    """Scores by ``key_of`` of a row, of all tokens of its solution."""

    settings: dict[str, Any]
    rows: dict[str, Scores]


def key_of(prompt: np.ndarray, solution: np.ndarray) -> str:
    """Of a row in the student's tokens."""
    parts = np.asarray(prompt, np.int32), np.int32([-1]), np.asarray(solution, np.int32)
    return hashlib.sha256(np.concatenate(parts).tobytes()).hexdigest()[:32]


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """A folder for scores of these ``settings``, or one that has some already.

    Raises:
      ValueError: it has others, or something else. ImportError: no pyarrow.
    """
    _parquet(folder)
    file = folder / SETTINGS
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out={folder} is a file; name a folder")
    if file.exists():
        kept = settings_of(folder)
        differ = [
            f"{key} was {kept.get(key)!r}, is {settings.get(key)!r}"
            for key in sorted(kept.keys() | settings.keys())
            if not _same(key, kept.get(key), settings.get(key))
        ]
        if differ:
            raise ValueError(
                f"{folder} has scores of another kind: {'; '.join(differ)}; choose "
                "another folder, or ask for the same"
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and has no {SETTINGS}; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(dict(settings), indent=2) + "\n")
    temporary.replace(file)


def _same(key: str, kept, now) -> bool:
    """Whether two settings are one; a teacher is known by what it is, not by a name."""
    if key == "teacher":
        return True
    if key != "answers" or not (kept and now):
        return kept == now
    return alike(*(np.array(side.split(), float) for side in (kept, now)))


def settings_of(folder: Path) -> dict[str, Any]:
    """Raises ValueError: no scores there."""
    try:
        found = json.loads((folder / SETTINGS).read_text())
        if not isinstance(found, dict) or not isinstance(found.get("top_k"), int):
            raise ValueError("it holds no settings")
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{folder} has no scores that can be read ({error}); make them with jopd "
            "score --config=... --out=FOLDER, in a new or empty folder"
        ) from None


def append(folder: Path, rows: Mapping[str, Scores]) -> None:
    """One more part; a reader sees the whole of it or nothing."""
    parquet = _parquet(folder)
    import pyarrow

    columns = [
        list(rows),
        *([getattr(s, name).ravel() for s in rows.values()] for name in COLUMNS[1:]),
    ]
    kinds = [pyarrow.string()]
    kinds += [pyarrow.list_(kind()) for kind in (pyarrow.float32, pyarrow.int32)]
    kinds += kinds[1:2]
    table = pyarrow.table(
        {
            name: pyarrow.array(column, kind)
            for name, column, kind in zip(COLUMNS, columns, kinds, strict=True)
        }
    )
    numbers = [int(part.stem[5:]) for part in folder.glob("part-*.parquet")]
    place = folder / f"part-{max(numbers, default=-1) + 1:05}.parquet"
    temporary = place.with_suffix(".tmp")
    parquet.write_table(table, temporary)
    temporary.replace(place)


def read(folder: Path) -> Table:
    """Raises ValueError: nothing there, or a damaged part, by name."""
    settings, parquet = settings_of(folder), _parquet(folder)
    k, found = settings["top_k"], {}
    for place in sorted(folder.glob("part-*.parquet")):
        try:
            columns = parquet.read_table(place, columns=list(COLUMNS))
            for row in zip(*(columns[name] for name in COLUMNS), strict=True):
                key, logp, ids, likely = row[0].as_py(), *(x.values for x in row[1:])
                shape = len(logp), k
                found[key] = Scores(
                    logp.to_numpy(),
                    ids.to_numpy().reshape(shape),
                    likely.to_numpy().reshape(shape),
                )
        except Exception as error:  # of many classes, pyarrow's and others
            why = " ".join(str(error).split())
            raise ValueError(
                f"{place} is damaged ({type(error).__name__}: {why:.120}); remove it, "
                "and have its rows scored again by the same jopd score"
            ) from error
    return Table(settings, found)


def check(
    name: str, folder: str, table: Table, settings: Mapping[str, Any], rows: Sequence
) -> None:
    """Whether ``rows``, (id, prompt, solution), and the tokenizer are those of a table.

    Raises:
      ValueError: names what is other, and the remedy.
    """
    again = f"score them again, jopd score --out=FOLDER, or put back what {folder} saw"
    if table.settings.get("tokenizer") != settings["tokenizer"]:
        raise ValueError(
            f"{name}.path={folder!r} has scores of tokens of another tokenizer than "
            f"the student's; {again}"
        )
    if settings["top_k"] > table.settings["top_k"]:
        raise ValueError(
            f"{name}.top_k={settings['top_k']}, but {folder} has "
            f"{table.settings['top_k']} likely tokens at a place; set it to as many, "
            "or score with more"
        )
    lost = [i for i, prompt, answer in rows if key_of(prompt, answer) not in table.rows]
    if lost:
        raise ValueError(
            f"{name}.path={folder!r} has no scores of {len(lost):,} of {len(rows):,} "
            f"gold rows, such as {lost[0]!r}: other rows (a seed or data.size may "
            f"choose them), another template or other limits of length; {again}"
        )


def _parquet(folder: Path):
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            f"{folder}: stored scores need pyarrow; pip install 'jopd[data]'"
        ) from error
    return parquet
