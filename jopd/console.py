"""What a run says on the terminal, in a notebook, or in the log of a batch job."""

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import rich
from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from jopd.metrics import NONE, compare, show

# Metric, label, how it is written; in the order of the progress line.
_SHOWN = (
    ("loss", "loss", "nats"),
    ("kl/reverse", "reverse KL", "nats"),
    ("length/mean", "length", "tokens"),
    ("length/truncation_rate", "truncated", "rate"),
    ("length/repetition_rate", "repeated", "rate"),
    ("speed/tokens_per_second", "tokens/s", "tokens"),
)


def startup(
    rows: Mapping[str, Any] | Iterable[tuple[str, Any]],
    notes: Iterable[str] = (),
    *,
    console: Console | None = None,
) -> None:
    """Prints what is about to run: models, sizes, devices, phases to compile."""
    console = console or rich.get_console()
    console.print(startup_table(rows))
    for text in notes:
        note(text, console=console)


def before_after(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    paths: Sequence[Any] = (),
    *,
    console: Console | None = None,
) -> None:
    """Prints the evaluations before and after, and where the files of the run are."""
    (console or rich.get_console()).print(before_after_table(before, after, paths))


def note(text: str, *, console: Console | None = None) -> None:
    """Prints one line of news; a progress bar that is running stays below it."""
    _say("", "", text, console)


def warn(text: str, *, console: Console | None = None) -> None:
    """Prints one warning."""
    _say("warning: ", "bold yellow", text, console)


def error(reason: Exception | str, *, console: Console | None = None) -> None:
    """Prints why the run stops, to standard error."""
    _say("error: ", "bold red", str(reason), console or Console(stderr=True))


def _say(prefix: str, style: str, text: str, console: Console | None) -> None:
    line = Text.assemble((prefix, style), text)
    (console or rich.get_console()).print(line, soft_wrap=True)


def say(text: str, *, console: Console | None = None) -> None:
    """Prints one line of news."""
    (console or rich.get_console()).print(Text(text), soft_wrap=True)


def error(reason: BaseException, *, console: Console | None = None) -> None:
    """Prints why a run cannot go on, to standard error unless told otherwise."""
    line = Text.assemble(("error: ", "bold red"), str(reason))
    (console or Console(stderr=True)).print(line, soft_wrap=True)


def startup_table(rows) -> Table:
    """Two columns, names and values; values that are sequences take a line each."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items() if isinstance(rows, Mapping) else rows:
        many = isinstance(value, Sequence) and not isinstance(value, str)
        text = "\n".join(map(_cell, value)) if many else _cell(value)
        table.add_row(Text(str(name)), Text(text))
    return table


def before_after_table(before, after, paths: Sequence[Any] = ()) -> RenderableType:
    """The table of ``metrics.compare``, better changes green, worse ones red."""
    table = Table(box=box.SIMPLE_HEAD, title="evaluation")
    table.title_justify = "left"
    table.add_column("")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right")
    for row in compare(before, after):
        style = {True: "green", False: "red", None: ""}[row.better]
        table.add_row(
            Text(row.label),
            _with_interval(row.before, row.before_interval),
            _with_interval(row.after, row.after_interval),
            Text(row.change, style=style),
        )
    lines = [Text(str(p), style="cyan", overflow="fold") for p in paths]
    return Group(table, *lines)


@contextlib.contextmanager
def progress(
    total_steps: int,
    start_step: int = 0,
    *,
    every_seconds: float = 10.0,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
    """Gives ``show(step, metrics)``, to be called after every step.

    A terminal or a notebook gets a bar, anything else a plain line now and then. Metrics
    that are missing in a step keep the value they had. Time left comes from the last
    steps alone, so that compilation does not spoil it.

    Args:
      total_steps: where the run ends.
      start_step: where it starts, when resumed.
      every_seconds: least time between two plain lines; the first and the last step
        are always written.
      clock: seconds, for tests.
    """
    console = console or rich.get_console()
    marks: deque[tuple[float, int]] = deque(maxlen=20)
    known: dict[str, Any] = {}
    live = console.is_terminal or console.is_jupyter
    place = _bar if live else functools.partial(_lines, every_seconds, clock)
    with place(total_steps, start_step, console) as put:

        def show_step(step: int, metrics: Mapping[str, Any]) -> None:
            known.update(metrics)
            marks.append((clock(), step))
            put(step, status(known, time_left(marks, total_steps)))

        yield show_step


@contextlib.contextmanager
def _bar(total_steps: int, start_step: int, console: Console):
    columns = (
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(bar_width=20),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("compiling", total=total_steps, completed=start_step)
        yield lambda step, text: bar.update(task, completed=step, description=text)


@contextlib.contextmanager
def _lines(every_seconds, clock, total_steps: int, start_step: int, console: Console):
    last = -float("inf")

    def put(step: int, text: str) -> None:
        nonlocal last
        if clock() - last < every_seconds and step < total_steps:
            return
        last = clock()
        note(f"step {step}/{total_steps}  {text}", console=console)

    yield put


def status(metrics: Mapping[str, Any], seconds_left: float | None) -> str:
    """One line, ``loss 0.532  reverse KL 0.120 ...``; absent metrics are left out."""
    parts = [
        f"{label} {show(float(metrics[name]), kind)}"
        for name, label, kind in _SHOWN
        if metrics.get(name) is not None
    ]
    return "  ".join([*parts, f"left {duration(seconds_left)}"])


def time_left(marks: Sequence[tuple[float, int]], total_steps: int) -> float | None:
    """Seconds left at the pace between the first and last ``(seconds, step)`` mark."""
    if len(marks) < 2 or marks[-1][1] <= marks[0][1]:
        return 0.0 if marks and marks[-1][1] >= total_steps else None
    (start, first), (now, step) = marks[0], marks[-1]
    return (total_steps - step) * (now - start) / (step - first)


def duration(seconds: float | None) -> str:
    """``75`` as ``1:15``, ``7325`` as ``2:02:05``, None as an en dash."""
    if seconds is None:
        return NONE
    minutes, second = divmod(round(max(seconds, 0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _with_interval(value: str, interval: str) -> Text:
    return Text.assemble(value, *([(" " + interval, "dim")] if interval else []))


def _cell(value) -> str:
    if value is None:
        return NONE
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
