"""Metric writers (JSON lines, TensorBoard, Weights & Biases) and how numbers read."""

import importlib
import json
import math
import os
import types
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np


class Writers(NamedTuple):
    """``write(step, metrics)`` and ``close()`` over all writers that are open."""

    write: Callable[[int, Mapping[str, Any]], None]
    close: Callable[[], None]


class Comparison(NamedTuple):
    """One line of the table of evaluations, as text.

    Attributes:
      label: such as ``avg@4``.
      before, after: the value; an en dash where there is none.
      before_interval, after_interval: its 95% interval, or an empty string.
      change: with its sign, or an en dash.
      better: True, False, or None where the change says neither.
    """

    label: str
    before: str
    before_interval: str
    after: str
    after_interval: str
    change: str
    better: bool | None


# Key in an evaluation, label, how it is written, sign of a change for the better.
EVALUATION = (
    ("accuracy", "accuracy", "rate", 1),
    ("avg_at_k", "avg@{k}", "rate", 1),
    ("pass_at_k", "pass@{k}", "rate", 1),
    ("truncation_rate", "truncation rate", "rate", -1),
    ("repetition_rate", "repetition rate", "rate", -1),
    ("leak_rate", "leak rate", "rate", -1),
    ("mean_length", "mean length", "tokens", 0),
    ("reverse_kl", "reverse KL", "nats", -1),
    ("forward_kl", "forward KL", "nats", -1),
    ("sampled_kl", "reverse KL, sampled", "nats", -1),
)
# What an evaluation is asked, and the key that says it, which a resumed run may change.
ASKED = {
    "prompts": "eval.prompts",
    "k": "eval.k",
    "temperature": "eval.temperature",
    "top_p": "eval.top_p",
    "max_new_tokens": "eval.max_new_tokens",
    "leak_pattern": "log.leak_pattern",
}
NONE = "\u2013"


def open_writers(
    workdir: str | Path,
    *,
    last_step: int = 0,
    tensorboard: bool = False,
    wandb: str | None = None,
    name: str = "",
    config: Mapping[str, Any] = types.MappingProxyType({}),
) -> Writers:
    """Opens the writers of a run; on processes other than the first they do nothing.

    What is written of the last step once more joins its line. Values are numbers, 0-d
    arrays, booleans, strings or None. ``metrics.jsonl`` is strict JSON, so NaN and
    infinities become ``null``; the others get them as they are.

    Args:
      workdir: folder of the run, created when missing.
      last_step: the step the run goes on from. Lines of later steps are dropped, since
        they will be written again.
      tensorboard: also write event files to ``<workdir>/tensorboard``.
      wandb: name of a Weights & Biases project. None: off. Its run is found again when
        this one is resumed; steps that it has already are not taken twice.
      name, config: of the run, for Weights & Biases.

    Raises:
      ImportError: a writer is asked for whose package is not installed.
    """
    if jax.process_index() != 0:
        return Writers(lambda step, metrics: None, lambda: None)
    workdir = Path(workdir)
    makers = []
    if tensorboard:
        module = _import("tensorboardX", "tensorboard=True")
        makers.append(lambda: _tensorboard(module, workdir, last_step))
    if wandb is not None:
        package = _import("wandb", "wandb")
        about = dict(project=wandb, name=name or None, config=dict(config))
        makers.append(lambda: _wandb(package, workdir, about))
    workdir.mkdir(parents=True, exist_ok=True)
    writers = [_jsonl(workdir / "metrics.jsonl", last_step), *(m() for m in makers)]

    def write(step: int, metrics: Mapping[str, Any]) -> None:
        row = {name: _plain(name, value) for name, value in metrics.items()}
        for writer in writers:
            writer.write(int(step), row)

    def close() -> None:
        for writer in writers:
            writer.close()

    return Writers(write, close)


def check_trackers(tensorboard: bool, wandb: str) -> None:
    """Raises ImportError where one is asked for whose package is not installed."""
    if tensorboard:
        _import("tensorboardX", "log.tensorboard=True")
    if wandb:
        _import("wandb", f"log.wandb_project={wandb!r}")


def read(path: str | Path) -> list[dict[str, Any]]:
    """All lines of a run's ``.jsonl`` file, without a last one that was cut short.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a line before the last is not JSON with a ``step``.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    # Not splitlines: it also cuts at U+2028 and the like, which JSON strings may hold.
    lines = text.rstrip("\n").split("\n")
    rows = []
    for number, line in enumerate(lines if text else [], 1):
        try:
            row = json.loads(line, parse_constant=lambda _: None)
            if type(row) is not dict or type(row.get("step")) not in (int, float):
                raise ValueError("no step")
            rows.append(row)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}, line {number} is not JSON with a step: {line[:60]!r}; mend "
                "or delete it"
            ) from error
    return rows


def write_atomically(path: str | Path, text: str) -> None:
    """Replaces a file as a whole: a reader sees the old text or the new, never half.

    Half a surrogate pair, which a model may write, is no text: it becomes "?".
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Comparison]:
    """Two evaluations side by side, without the lines that neither of them has.

    An evaluation maps the keys of ``EVALUATION`` to numbers (None: not measured), and
    may hold ``k`` and ``intervals``, which maps a key to ``[low, high]``.
    """
    k = after.get("k") or before.get("k") or "k"
    rows = []
    for key, label, kind, sign in EVALUATION:
        old, new = _number(before.get(key)), _number(after.get(key))
        if old is None and new is None:
            continue
        delta = None if old is None or new is None else new - old
        spans = [
            _interval((e.get("intervals") or {}).get(key), kind)
            for e in (before, after)
        ]
        rows.append(
            Comparison(
                label.format(k=k),
                *(show(old, kind), spans[0], show(new, kind), spans[1]),
                show(delta, kind, signed=True),
                None if not delta or not sign else delta * sign > 0,
            )
        )
    return rows


def cut_short(found: Mapping[str, Any]) -> str | None:
    """Why nothing was right, where truncation explains it: most responses were cut."""
    rates = [_number(found.get(key)) for key in ("accuracy", "avg_at_k")]
    cut = _number(found.get("truncation_rate"))
    if 0.0 not in rates or cut is None or cut <= 0.5:
        return None
    return (
        f"{show(cut, 'rate')} of the responses were cut before they ended, which "
        "explains the 0: raise eval.max_new_tokens (at 0 rollout.max_new_tokens), or "
        "see what ends a response"
    )


def asked_otherwise(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """What two evaluations were asked differently, as a resumed run may have them."""
    changed = [
        f"{key} {before[name]} before, {after[name]} after"
        for name, key in ASKED.items()
        if name in before and name in after and before[name] != after[name]
    ]
    if not changed:
        return None
    return f"not comparable: {' and '.join(changed)}"


def show(value: float | None, kind: str, *, signed: bool = False) -> str:
    """A number as people read it: ``kind`` is ``rate``, ``tokens`` or ``nats``."""
    value = _number(value)
    if value is None:
        return NONE
    sign = "+" if signed else ""
    if kind == "rate":
        return f"{100 * value:{sign}.1f}" + (" pts" if signed else "%")
    return f"{value:{sign},.0f}" if kind == "tokens" else f"{value:{sign}.3f}"


def _interval(bounds, kind: str) -> str:
    if not bounds or None in map(_number, bounds):
        return ""
    low, high = (show(bound, kind).removesuffix("%") for bound in bounds)
    return f"[{low}, {high}]"


def _number(value) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _jsonl(path: Path, last_step: int) -> Writers:
    rows = (
        [row for row in read(path) if row["step"] <= last_step] if path.exists() else []
    )
    write_atomically(path, _lines(rows))
    file, at = path.open("a", encoding="utf-8"), rows[-1]["step"] if rows else None

    def write(step, row):
        nonlocal file, at
        row = {"step": step} | {name: _finite(value) for name, value in row.items()}
        if step == at:
            known = read(path)
            file.close()
            write_atomically(path, _lines([*known[:-1], known[-1] | row]))
            file = path.open("a", encoding="utf-8")
        else:
            file.write(_lines([row]))
            file.flush()
        at = step

    return Writers(write, lambda: file.close())


def _lines(rows: Iterable[Mapping]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _tensorboard(module, workdir: Path, last_step: int) -> Writers:
    # purge_step hides what a run wrote after the checkpoint it resumes from.
    folder = str(workdir / "tensorboard")
    writer = module.SummaryWriter(folder, purge_step=last_step + 1)

    def write(step, row):
        for name, value in row.items():
            if isinstance(value, (int, float)):
                writer.add_scalar(name, value, step)

    return Writers(write, writer.close)


def _wandb(module, workdir: Path, about: dict) -> Writers:
    known = workdir / "wandb" / "jopd_run_id"
    if not known.exists():
        known.parent.mkdir(exist_ok=True)
        write_atomically(known, uuid.uuid4().hex)
    run = module.init(dir=str(workdir), id=known.read_text(), resume="allow", **about)
    return Writers(lambda step, row: run.log(dict(row), step=step), run.finish)


def _import(package: str, option: str):
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{option} needs the package {package}, which is not installed; run "
            f"`pip install {package}` or switch it off"
        ) from error


def _plain(name: str, value) -> bool | int | float | str | None:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if np.ndim(value) != 0:
        raise ValueError(
            f"metric {name!r} has shape {np.shape(value)}; reduce it to one number"
        )
    return value.item()


def _finite(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value
