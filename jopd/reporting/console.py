"""What a run says on the terminal, in a notebook, or in the log of a batch job."""

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import rich
import rich.progress
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from jopd.reporting.metrics import NONE, asked_otherwise, compare, cut_short, show
from jopd.teachers.secrecy import hidden

# Metric, label, how it is written; in the order of the progress line.
_SHOWN = (
    ("loss", "loss", "nats"),
    ("kl/reverse", "reverse KL", "nats"),
    ("length/mean", "length", "tokens"),
    ("length/truncation_rate", "truncated", "rate"),
    ("length/repetition_rate", "repeated", "rate"),
    ("speed/tokens_per_second", "tokens/s", "tokens"),
)


class _Lasting:
    """A stream whose end is not that of the run: from a failed write on it is silent.

    A reader that leaves, a full disk and a closed terminal all fail with an OSError.
    What its encoding cannot say becomes a "?".
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._silenced():
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:  # half a pair, or a narrow encoding
                known = text.encode(error.encoding, "replace")
                self._stream.write(known.decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        with self._silenced():
            self._stream.flush()

    @contextlib.contextmanager
    def _silenced(self):
        try:
            yield
        except OSError:
            # At the file itself, so that what is still buffered meets no error either.
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


@contextlib.contextmanager
def lasting_streams():
    """What is printed inside may be lost, but ends nothing."""
    before = sys.stdout, sys.stderr
    # A process without a terminal may have none at all.
    sys.stdout, sys.stderr = (s and _Lasting(s) for s in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def startup(rows: Iterable[tuple[str, Any]], *, console: Console | None = None) -> None:
    """Prints what is about to run: models, sizes, devices, phases to compile."""
    (console or rich.get_console()).print(startup_table(rows))


def before_after(
    before: Mapping, after: Mapping, paths=(), *, console: Console | None = None
) -> None:
    """Prints the evaluations before and after, and where the files of the run are."""
    (console or rich.get_console()).print(before_after_table(before, after, paths))


def evaluation(found: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Prints one evaluation."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False, title="evaluation")
    table.title_justify = "left"
    for row in compare(found, found):
        table.add_row(row.label, _with_interval(row.after, row.after_interval))
    (console or rich.get_console()).print(Group(table, *_explained([("", found)])))


def examination(findings, nats, advice, *, console: Console | None = None) -> None:
    """Prints what ``jopd doctor`` found: a line for each check, nats, what to set."""
    style = {"ok": "green", "warn": "bold yellow", "fail": "bold red"}
    lines = Table(box=None, show_header=False, padding=(0, 1))
    for overflow in ("ellipsis", "ellipsis", "fold"):
        lines.add_column(overflow=overflow, no_wrap=overflow == "ellipsis")
    for one in findings:
        state = Text(one.state, style=style[one.state])
        lines.add_row(state, Text(one.check, style="dim"), Text(hidden(one.line)))
    console = console or rich.get_console()
    console.print(lines)
    if nats:
        console.print(_nats_table(nats))
    for line in advice:
        say(f"set   {line}", console=console)


def _nats_table(rows) -> Table:
    """Nats a token: a row for each kind of tokens, a column for each model."""
    table = Table(box=box.SIMPLE_HEAD, title="nats a token")
    table.title_justify = "left"
    models = list(dict.fromkeys(model for *_, model, _ in rows))
    table.add_column("")
    for model in models:
        table.add_column(model, justify="right")
    kinds = list(dict.fromkeys((text, kind) for text, kind, *_ in rows))
    known = {(text, kind, model): nats for text, kind, model, nats in rows}
    for text, kind in kinds:
        cells = [known.get((text, kind, model)) for model in models]
        shown = [NONE if nats is None else f"{nats:.2f}" for nats in cells]
        table.add_row(f"{text}: {kind}", *shown)
    return table


def say(text: str, *, console: Console | None = None) -> None:
    """Prints one line of news; a progress bar that is running stays below it."""
    (console or rich.get_console()).print(Text(text), soft_wrap=True)


def warn(text: str, *, console: Console | None = None) -> None:
    """Prints one warning."""
    line = Text.assemble(("warning: ", "bold yellow"), text)
    (console or rich.get_console()).print(line, soft_wrap=True)


def error(reason: BaseException, *, console: Console | None = None) -> None:
    """Prints why a run cannot go on, to standard error unless told otherwise."""
    line = Text.assemble(("error: ", "bold red"), hidden(str(reason)))
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
    """The table of ``metrics.compare``, better changes green, worse ones red; of a run
    without evaluations its paths alone."""
    lines = [Text(str(p), style="cyan", overflow="fold") for p in paths]
    if not before and not after:
        return Group(*lines)
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
    why = _explained([("before: ", before), ("after: ", after)])
    if otherwise := asked_otherwise(before, after):
        why.append(Text(f"warning: {otherwise}", style="yellow"))
    return Group(table, *why, *lines)


def _explained(evaluations: Iterable[tuple[str, Mapping]]) -> list[Text]:
    """A line for every evaluation whose 0 is one of truncation."""
    why = [(when, cut_short(found)) for when, found in evaluations]
    return [Text(when + text, style="yellow") for when, text in why if text]


class Progress:
    """A progress bar; where there is no terminal, a plain line now and then instead.

    Use as a context manager and call ``update`` after every step. Metrics that are
    missing in a step keep the value they had. Time left comes from the last steps
    alone, so that compilation does not spoil it.

    Args:
      total_steps: where the run ends.
      start_step: where it starts, when resumed.
      every_seconds: least time between two plain lines; the first and the last step
        are always written.
      clock: seconds, for tests.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        start_step: int = 0,
        every_seconds: float = 10.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._console = console or rich.get_console()
        self._total, self._every, self._clock = total_steps, every_seconds, clock
        self._first = start_step
        self._marks: deque[tuple[float, int]] = deque(maxlen=20)
        self._known: dict[str, Any] = {}
        self._printed = -float("inf")
        self._bar = None
        if self._console.is_terminal or self._console.is_jupyter:
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("step {task.completed}/{task.total}"),
                rich.progress.BarColumn(bar_width=20),
                rich.progress.TextColumn("left {task.fields[left]}"),
                # Only this one gives way where a terminal is narrow.
                rich.progress.TextColumn(
                    "{task.description}",
                    markup=False,
                    table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
                ),
                console=self._console,
                expand=True,
            )
            steps = dict(total=total_steps, completed=start_step)
            self._bar.add_task("compiling", left=NONE, **steps)

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        elif self._first < self._total:
            say("compiling the first update", console=self._console)
        return self

    def __exit__(self, *error) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows that ``step`` steps are done, with the metrics of the last one."""
        now = self._clock()
        self._known |= metrics
        self._marks.append((now, step))
        text = status(self._known)
        left = duration(time_left(self._marks, self._total))
        if self._bar:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=step, description=text, left=left)
        elif now - self._printed >= self._every or step >= self._total:
            self._printed = now
            parts = f"step {step}/{self._total}", text, f"left {left}"
            say("  ".join(filter(None, parts)), console=self._console)


def status(metrics: Mapping[str, Any]) -> str:
    """One line, ``loss 0.532  reverse KL 0.120 ...``; absent metrics are left out."""
    parts = [
        f"{label} {show(float(metrics[name]), kind)}"
        for name, label, kind in _SHOWN
        if metrics.get(name) is not None
    ]
    return "  ".join(parts)


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
