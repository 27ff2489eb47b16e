"""The terminal: what is shown, and that a pipe gets plain lines."""

import io
import os
import subprocess
import sys
import textwrap

import pytest
from rich.console import Console
from rich.text import Text

from jopd.reporting import console as c
from jopd.reporting.metrics import compare, show


def render(renderable, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


BEFORE = {
    "accuracy": 0.25,
    "avg_at_k": 0.2,
    "pass_at_k": None,
    "k": 4,
    "truncation_rate": 0.5,
    "repetition_rate": 0.01,
    "mean_length": 1234.4,
    "reverse_kl": 0.5,
    "forward_kl": float("nan"),
    "intervals": {"accuracy": [0.2, 0.3]},
}
AFTER = BEFORE | {
    "accuracy": 0.5,
    "avg_at_k": 0.15,
    "pass_at_k": 0.75,
    "truncation_rate": 0.25,
    "repetition_rate": 0.01,
    "mean_length": 234.0,
    "reverse_kl": 0.625,
    "intervals": {"accuracy": [0.45, 0.55]},
}


def test_compare_knows_what_is_better():
    rows = {r.label: r for r in compare(BEFORE, AFTER)}
    assert list(rows) == [
        "accuracy",
        "avg@4",
        "pass@4",
        "truncation rate",
        "repetition rate",
        "mean length",
        "reverse KL",
    ]
    assert rows["accuracy"] == (
        *("accuracy", "25.0%", "[20.0, 30.0]", "50.0%", "[45.0, 55.0]"),
        *("+25.0 pts", True),
    )
    assert rows["avg@4"][-2:] == ("-5.0 pts", False)
    assert rows["pass@4"][1:] == ("–", "", "75.0%", "", "–", None)
    assert rows["truncation rate"][-2:] == ("-25.0 pts", True)
    assert rows["repetition rate"][-2:] == ("+0.0 pts", None)
    assert rows["mean length"][1:] == ("1,234", "", "234", "", "-1,000", None)
    assert rows["reverse KL"][-2:] == ("+0.125", False)


def test_compare_of_nothing_is_empty():
    assert compare({}, {"accuracy": None}) == []


@pytest.mark.parametrize(
    "args, want",
    [
        ((0.1234, "rate"), "12.3%"),
        ((12345.6, "tokens"), "12,346"),
        ((0.12349, "nats"), "0.123"),
        ((None, "nats"), "–"),
        ((float("inf"), "nats"), "–"),
    ],
)
def test_show(args, want):
    assert show(*args) == want


def test_before_after_table_has_values_intervals_and_paths():
    text = render(c.before_after_table(BEFORE, AFTER, ["runs/x/report.html"]))
    line = next(x for x in text.splitlines() if "accuracy" in x)
    assert line.split("[")[0].split() == ["accuracy", "25.0%"]
    assert "[20.0, 30.0]" in line and "50.0% [45.0, 55.0]" in line
    assert line.strip().endswith("+25.0 pts")
    assert "runs/x/report.html" in text
    assert "forward KL" not in text


def test_evaluations_that_were_asked_otherwise_are_not_comparable():
    shown = lambda before, after: render(
        c.before_after_table(BEFORE | before, AFTER | after)
    )
    asked = dict(prompts=256, k=4)
    assert "not comparable" not in shown(asked, asked)
    assert "not comparable" not in shown({}, dict(prompts=8))  # nobody knows
    text = " ".join(shown(asked, dict(prompts=8, k=2)).split())
    assert "not comparable: eval.prompts 256 before, 8 after and eval.k 4 bef" in text
    text = shown(asked, asked | dict(k=2))
    assert "eval.k" in text and "eval.prompts" not in text
    warm = dict(temperature=1.0, top_p=1.0)
    text = shown(asked | warm, asked | warm | dict(temperature=0.6))
    assert "not comparable: eval.temperature 1.0 before, 0.6 after" in text
    assert "eval.top_p 1.0 before" in shown(warm, dict(temperature=1.0, top_p=0.9))
    looked = shown(dict(leak_pattern="a"), dict(leak_pattern="b"))
    assert "log.leak_pattern a before, b after" in looked
    assert "not comparable" not in shown({}, dict(leak_pattern="b"))


@pytest.mark.parametrize(
    "found, said",
    [
        (dict(accuracy=0.0, truncation_rate=0.97), True),
        (dict(accuracy=0.1, avg_at_k=0.0, truncation_rate=0.6), True),
        (dict(accuracy=0.1, avg_at_k=0.2, truncation_rate=0.97), False),
        (dict(accuracy=0.0, avg_at_k=0.0, truncation_rate=0.5), False),
        (dict(accuracy=None, avg_at_k=None, truncation_rate=1.0), False),
        (dict(accuracy=0.0), False),
    ],
)
def test_a_zero_is_explained_where_most_responses_were_cut(found, said):
    why = "before: " + f"{100 * found.get('truncation_rate', 0):.1f}% of the responses"
    text = render(c.before_after_table(found, AFTER))
    assert (why in text) == said and "after:" not in text
    assert ("after: " in render(c.before_after_table(BEFORE, found))) == said
    console = Console(file=io.StringIO(), width=200, color_system=None)
    c.evaluation(found, console=console)
    assert ("explains the 0" in console.file.getvalue()) == said


def test_startup_table_fits_narrow_and_takes_markup_as_text():
    rows = {
        "student": "Qwen/Qwen3-0.6B [bf16]",
        "parameters": 596049920,
        "teacher": None,
        "compiles": ["generate", "score", "update"],
    }
    text = render(c.startup_table(rows))
    assert "Qwen/Qwen3-0.6B [bf16]" in text and "596,049,920" in text
    assert sum(word in text for word in ("generate\n", "score", "update")) >= 2
    assert "–" in text
    assert max(map(len, render(c.startup_table(rows), width=40).splitlines())) <= 40
    assert render(c.startup_table(list(rows.items()))) == text


METRICS = {
    "loss": 0.5321,
    "kl/reverse": 0.12,
    "length/mean": 181.7,
    "length/truncation_rate": 0.031,
    "speed/tokens_per_second": 1830.2,
    "other": 1,
}


def test_status_leaves_out_what_is_missing():
    assert c.status(METRICS) == (
        "loss 0.532  reverse KL 0.120  length 182  truncated 3.1%  tokens/s 1,830"
    )
    assert c.status({"loss": float("nan")}) == "loss –"


@pytest.mark.parametrize(
    "seconds, want", [(0, "0:00"), (59.6, "1:00"), (7325, "2:02:05"), (None, "–")]
)
def test_duration(seconds, want):
    assert c.duration(seconds) == want


def test_time_left_is_the_recent_pace():
    assert c.time_left([], 10) is None
    assert c.time_left([(5.0, 3)], 10) is None
    assert c.time_left([(5.0, 10)], 10) == 0
    assert c.time_left([(0.0, 2), (4.0, 4)], 10) == 12.0


def run_progress(console, seconds_per_step, steps=10, start=0):
    now = [0.0]
    bar = c.Progress(steps, start_step=start, console=console, clock=lambda: now[0])
    with bar:
        now[0] += 60  # compilation
        for step in range(start + 1, steps + 1):
            now[0] += seconds_per_step
            bar.update(step, METRICS if step % 2 else {"loss": 0.7})
            if step == 5:
                c.warn("something [odd]", console=console)


def test_a_pipe_gets_plain_whole_lines_at_a_steady_pace():
    console = Console(file=io.StringIO(), width=40)
    run_progress(console, 4.0)
    first, *lines = console.file.getvalue().splitlines()
    assert first == "compiling the first update"
    assert [x.split()[1] for x in lines] == [
        "1/10",
        "4/10",
        "something",
        "7/10",
        "10/10",
    ]
    assert "\x1b" not in console.file.getvalue()
    assert lines[1].endswith("left 0:24")  # 6 steps of 4 s: the minute is forgotten
    assert lines[-1].endswith("left 0:00")
    assert "loss 0.700  reverse KL 0.120" in lines[1]  # what a step lacks is kept
    assert lines[2] == "warning: something [odd]"


def test_a_terminal_gets_one_bar_and_warnings_above_it():
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    run_progress(console, 4.0, start=2)
    text = console.file.getvalue()
    assert "step 10/10" in text and "loss 0.700" in text
    assert "something [odd]" in text
    assert "\x1b[" in text


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_narrow_terminal_still_shows_where_the_run_is(width):
    """The numbers at the end give way, never the step or the time that is left."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    run_progress(console, 4.0, steps=1000, start=990)
    plain = Text.from_ansi(console.file.getvalue()).plain
    assert "step 1000/1000" in plain and "left 0:00" in plain
    assert "loss 0.7" in plain
    assert max(map(len, plain.splitlines())) <= width


def test_a_crash_stops_the_bar():
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(KeyError), c.Progress(3, console=console) as bar:
        bar.update(1, {})
        raise KeyError("x")
    assert console.file.getvalue().endswith("\x1b[?25h")  # cursor is back


def test_printing_entry_points(capsys):
    console = Console(width=80)
    c.startup({"student": "a"}, console=console)
    c.say("vocabulary cut [to] 9", console=console)
    c.before_after(BEFORE, AFTER, ["p"], console=console)
    c.warn("w", console=console)
    c.error(ValueError("bad [key]"))
    out, err = capsys.readouterr()
    assert err == "error: bad [key]\n"
    assert (
        "student" in out
        and "vocabulary cut [to] 9\n" in out
        and "accuracy" in out
        and "warning: w" in out
    )


LASTING = """
    import sys
    from jopd.reporting import console
    with console.lasting_streams():
        for step in range(3):
            console.say("x" * 100_000)
            print("y", flush=True)
            print("z", file=sys.stderr)
    print("behind it", flush=True)
    open(sys.argv[1], "w").write("done")
"""


@pytest.mark.parametrize("where", ["a reader that left", "a full disk", "nothing"])
def test_the_end_of_a_stream_is_not_that_of_the_run(where, tmp_path):
    """Nor does the process end with another status when Python flushes at its exit."""
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    stdout = {"a reader that left": writer, "a full disk": full}.get(where)
    words = [sys.executable, "-c", textwrap.dedent(LASTING), tmp_path / "file"]
    if stdout is None:
        words = ["sh", "-c", 'exec "$0" "$@" >&- 2>&-', *words]
    ended = subprocess.run(words, stdout=stdout, stderr=stdout)
    os.close(writer)
    os.close(full)
    assert (ended.returncode, (tmp_path / "file").read_text()) == (0, "done")


def test_a_stream_that_works_gets_everything(capsys):
    with c.lasting_streams():
        print("one")
        print("two", file=sys.stderr)
        assert not sys.stdout.isatty()
    assert capsys.readouterr() == ("one\n", "two\n")


def test_what_an_encoding_lacks_is_a_question_mark(monkeypatch):
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    with c.lasting_streams():
        print("left \u2013 \ud83d!", flush=True)
    assert narrow.buffer.getvalue() == b"left ? ?!\n"
