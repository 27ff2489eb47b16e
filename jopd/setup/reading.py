"""Which rows a config trains on and which it holds out, and what it leaves out."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jopd.data import sources
from jopd.data.sources import Example

TASK_ROWS = 20_000  # drawn of a task where data.size does not say how many
HELD_SHARE = 10  # one row in so many at most, where data.eval_rows does not say


class Picked(NamedTuple):
    """Rows before tokenising. ``said``: what was taken of what; ``notes``: warnings."""

    train: list[Example]
    held: list[Example]
    said: tuple[str, ...]
    notes: tuple[str, ...]


def read_examples(config) -> Picked:
    """Training rows, and held-out ones that no training row repeats if it can be.

    Held out is what ``data.eval_path`` or ``data.eval_split`` name, a task's validation
    split, or else rows that the seed draws.

    Raises:
      ValueError, FileNotFoundError: names the source and a remedy.
    """
    c = config.data
    count = c.size or TASK_ROWS if _is_task(c.path) else c.size
    train, said = _read(config, c.path, c.split, count)
    if not (c.eval_path or c.eval_split or _is_task(c.path)):
        return _held_out(config, train, said)
    held, more = _read(config, c.eval_path or c.path, *_of_evaluation(config))
    twins = _shared(train, held)
    notes = [
        f"{twins:,} of {len(held):,} held-out prompts are also trained on, so what is "
        f"measured on them is partly memory; take them out of {c.path} or of "
        f"{c.eval_path or c.path}"
    ]
    said = [*said, *(f"held out: {text}" for text in more)]
    return Picked(train, held, tuple(said), tuple(notes[: twins > 0]))


def _is_task(path: str) -> bool:
    return path.startswith("task:")


def _of_evaluation(config) -> tuple[str, int]:
    """Split and rows of what is read for evaluation."""
    c = config.data
    path = c.eval_path or c.path
    if c.eval_split and sources.is_file(path):
        raise ValueError(
            f"data.eval_split={c.eval_split!r} names a split, and {path} is a file, "
            "which has none; name the file of the held-out rows in data.eval_path"
        )
    if _is_task(path):
        return c.eval_split or "validation", c.eval_rows or config.eval.prompts
    return c.eval_split or c.split, c.eval_rows


def _read(config, path: str, split: str, limit: int) -> tuple[list[Example], list[str]]:
    """Rows of one source, all if ``limit`` is 0, and what was taken of it."""
    c = config.data
    found = sources.read(
        path,
        split=split,
        prompt_column=c.prompt_column,
        answer_column=c.answer_column,
        solution_column=c.solution_column,
        answer_after=c.answer_after,
        fields=tuple(c.fields),
        separator=c.separator,
        count=limit,
        seed=config.seed,
        levels=tuple(c.levels),
    )
    total = len(found)
    if _is_task(path):
        return found, []
    if limit and limit < total:
        return found[:limit], [f"the first {limit:,} of {total:,} rows of {path}"]
    return found, [f"{total:,} rows of {path}"]


def _held_out(config, rows: list[Example], said: list[str]) -> Picked:
    """Some rows drawn by the seed, and the others without those of equal prompts."""
    c, total = config.data, len(rows)
    wanted = c.eval_rows or min(config.eval.prompts, max(total // HELD_SHARE, 1))
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
    repeated = [f"all rows of {c.path} have one prompt: it is trained on and held out"]
    return Picked(train, held, tuple(said), tuple(repeated[: _shared(train, held) > 0]))


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
