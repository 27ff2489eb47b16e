"""The planted bugs keep up with the code, and the tool says where they do not."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import runs

sys.path.insert(0, str(runs.ROOT / "tools"))  # a folder of commands, not a package
import mutate

TESTS = runs.ROOT / "tests"
FILES = sorted(TESTS.rglob(mutate.TABLE))
ROW = """
[[bug]]
file = "sums"
kernel = "total"
what = "sign"
old = "return x + y"
new = "return x - y"
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_every_bug_can_be_planted(path):
    """What a row replaces occurs exactly once, and its kernel and tests exist."""
    for bug in mutate.read(path, TESTS):
        assert not mutate.stale(bug, runs.ROOT), (bug.name, bug.what)
        assert bug.new != bug.old, (bug.name, bug.what)
        assert bug.kernel in defined(runs.ROOT / "jopd" / bug.path), bug.name
        assert (TESTS / bug.test).is_file(), (bug.name, bug.test)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_a_bug_is_no_slip_of_the_pen(path, tmp_path):
    """A name that is not defined would be caught by any test that gets there."""
    for number, bug in enumerate(mutate.read(path, TESTS)):
        text = (runs.ROOT / "jopd" / bug.path).read_text().replace(bug.old, bug.new)
        (tmp_path / f"{number}_{Path(bug.path).name}").write_text(text)
    words = ["ruff", "check", "--isolated", "--no-cache", "--select=F821,F823"]
    child = subprocess.run([*words, str(tmp_path)], capture_output=True, text=True)
    assert child.returncode == 0, child.stdout


def defined(path: Path) -> set[str]:
    """The names of the functions and classes of a module, nested ones too."""
    nodes = ast.walk(ast.parse(path.read_text()))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in nodes if isinstance(node, kinds)}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A package with one module in one room, and one row for it."""
    for folder in ("jopd", "tests"):
        (tmp_path / folder / "room").mkdir(parents=True)
    text = "def total(x, y):\n    return x + y\n"
    (tmp_path / "jopd" / "room" / "sums.py").write_text(text)
    (tmp_path / "tests" / "room" / mutate.TABLE).write_text(ROW)
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    return tmp_path


def listed(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mutate.py", "--list", *words])
    return mutate.main()


def test_a_row_is_read(project):
    (bug,) = mutate.planted(project)
    assert (bug.room, bug.name, bug.what) == ("room", "room/sums.total", "sign")
    assert (bug.path, bug.test) == ("room/sums.py", "room/sums_test.py")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def total(x, y):\n    return y + x\n", "text occurs 0 times"),
        ("return x + y\n" * 2, "text occurs 2 times"),
        (None, "no file jopd/room/sums.py"),
    ],
)
def test_a_stale_row_is_told(project, monkeypatch, capsys, text, why):
    assert listed(monkeypatch) == 0
    assert "1 planted bugs, 0 stale" in capsys.readouterr().out
    path = project / "jopd" / "room" / "sums.py"
    path.unlink() if text is None else path.write_text(text)
    assert listed(monkeypatch) == 1
    told = capsys.readouterr().out
    assert f"room/sums.total: sign  [stale: {why}" in told
    assert "1 planted bugs, 1 stale" in told


def test_a_stale_row_fails_a_run(project, capsys):
    (project / "jopd" / "room" / "sums.py").write_text("")
    assert mutate.report(mutate.planted(project), project / "cache", jobs=1) == 1
    assert "| sign | stale: text occurs 0 times" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (ROW + 'tset = "room/sums_test.py"\n', "tset"),
        (ROW.replace('what = "sign"\n', ""), "what"),
        (ROW.replace("[[bug]]", "[[bugs]]"), "bugs"),
    ],
)
def test_a_wrong_key_is_refused(project, row, why):
    path = project / "tests" / "room" / mutate.TABLE
    path.write_text(row)
    with pytest.raises(ValueError, match=rf"unknown or missing .*'{why}'"):
        mutate.planted(project)


def test_rows_are_chosen_by_room_file_and_kernel():
    bugs = mutate.planted(runs.ROOT)
    assert {bug.room for bug in mutate.selected(bugs, "", ["data"])} == {"data"}
    assert {bug.path for bug in mutate.selected(bugs, "stops", [])} == {
        "rollouts/stops.py"
    }
    chosen = mutate.selected(bugs, "jsd", ["losses"])
    assert {bug.kernel for bug in chosen} == {"jsd", "top_k_jsd"}
