"""The generator of hostile inputs: what it calls a fault, and a share of its inputs."""

import sys
import time

import pytest

import runs

sys.path.insert(0, str(runs.ROOT / "tools"))  # a folder of commands, not a package
import hostile
from hostile_inputs import Case

from jopd.models import files


def judged(run, *names: str) -> str:
    return hostile.judge(Case("", names, run), limit=0.2).what


@pytest.fixture(autouse=True)
def alarm():
    """The handler that the command installs, for as long as a test takes."""
    before = hostile.signal.signal(hostile.signal.SIGALRM, hostile.stop)
    yield
    hostile.signal.signal(hostile.signal.SIGALRM, before)


def test_right_and_wrong_are_what_the_case_says():
    assert judged(lambda: None) == "right"
    assert judged(lambda: "3 for 4") == "wrong"


def test_only_a_line_of_ours_that_names_the_thing_is_an_error(tmp_path):
    refuse = lambda: files.read_config(tmp_path)
    assert judged(refuse, str(tmp_path)) == "error"
    assert judged(refuse, "another name") == "traceback"
    assert judged(lambda: int("x"), "x") == "traceback"
    assert judged(lambda: files.shapes({"x": 3}), "x") == "traceback"


def test_what_does_not_end_is_a_hang():
    assert judged(lambda: time.sleep(5)) == "hang"


def test_an_input_is_a_function_of_seed_kind_and_number():
    draws = lambda *key: hostile.draw(*key).random()
    assert draws("rows", 3, 0) == draws("rows", 3, 0)
    assert len({draws("rows", 3, 0), draws("rows", 4, 0), draws("rows", 3, 1)}) == 3


@pytest.mark.slow
def test_a_share_of_the_inputs_meets_no_fault(capsys, monkeypatch):
    """About a minute; docs/faults.md has the whole run."""
    monkeypatch.setattr(hostile, "KINDS", SHARES)
    faults = hostile.main(["--inputs", "3000", "--seed", "11", "--limit", "20"])
    said = capsys.readouterr().out
    print(said)
    assert not faults
    rows = [line.split("|")[1:] for line in said.splitlines() if "|" in line]
    for kind in SHARES:  # some of each are accepted: they are not all refused alike
        counts = next(row for row in rows if row[0].strip() == kind)
        assert int(counts[2].replace(",", "")) > 0


SHARES = {
    "configs": 0.06,
    "rows": 0.3,
    "models": 0.1,
    "templates": 0.2,
    "replies": 0.32,
    "checkpoints": 0.02,
}
