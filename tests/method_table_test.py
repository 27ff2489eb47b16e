"""README's table of methods says what the kept runs say."""

import re
import sys

import numpy as np
import pytest

import runs

sys.path.insert(0, str(runs.ROOT / "tools"))  # a folder of commands, not a package
import method_table
import study


@pytest.fixture(scope="module")
def made():
    return study.load(str(method_table.STUDY))


def ran(seed: int, before: int, after: int) -> dict:
    """Of 8 prompts so many are solved, in every sample; a commit a seed."""
    phases = {"before": before, "after": after}
    earned = {phase: (np.arange(8) < n).astype(float) for phase, n in phases.items()}
    return {
        "seed": seed,
        "git_commit": f"{seed}" * 40,
        "evaluation": {
            phase: {"prompts": "p", "greedy": list(r), "sampled": [[x] for x in r]}
            for phase, r in earned.items()
        },
        **{
            phase: {"accuracy": r.mean(), "avg_at_k": r.mean()}
            for phase, r in earned.items()
        },
    }


def test_what_methods_add_is_as_the_tool_writes_it():
    page = runs.ROOT / "docs" / "methods" / "sizes.md"
    assert page.read_text() == method_table.sizes()


def test_no_room_that_runs_a_method_names_one():
    package = runs.ROOT / "jopd"
    own = {path.stem for path in (package / "methods").glob("[a-z]*.py")}
    configs = {path.stem for path in (runs.ROOT / "configs").glob("*.py")}
    names = re.compile(rf"\b({'|'.join(sorted(own | configs))})\b")
    for room in ("training", "batches", "rollouts"):
        for path in (package / room).glob("*.py"):
            assert not names.search(path.read_text()), path


def test_readme_is_as_the_tool_writes_it(made):
    text = method_table.README.read_text()
    kept = method_table.results(made)
    assert method_table.filled(text, made, kept) == text


def test_every_config_of_the_table_is_an_arm_with_a_baseline(made):
    rows = method_table.README.read_text().splitlines()
    named = [method_table.CONFIG.search(row) for row in rows if row.startswith("| ")]
    names = {found[1] for found in named if found}
    assert names <= made.arms.keys() and len(names) >= 31
    alone = {name for name in names if not method_table.reading.baseline_of(made, name)}
    assert alone == {"sft", "grpo"}  # what the others are compared with


def test_a_row_is_written_from_its_runs(made):
    text = "x\n| A | p | `configs/gkd.py` | 3 | `digits` | a | b | c | d | e |\n| B |\n"
    kept = {"gkd": [ran(0, 2, 6), ran(1, 2, 8)], "opd": [ran(0, 2, 3), ran(1, 2, 4)]}
    found = method_table.filled(text, made, kept).splitlines()
    assert found[0] == "x" and found[2] == "| B |"
    start = "| A | p | `configs/gkd.py` | 6 | `digits` | "
    # Over seeds: gains of .5 and .75, so .625 ± 12.7 x .125; of .375 and .5 to OPD.
    want = "25.0 → 87.5 ± 158.8 | 25.0 → 87.5 ± 158.8 | +43.8 ± 79.4 to OPD | 2 | "
    assert found[1] == f"{start}{want}0000000, 1111111 |"
    alone = method_table.filled(text, made, {"gkd": kept["gkd"][:1]})
    # One seed: the interval over prompts, of which half got it newly right.
    assert (
        "| 25.0 → 75.0 ± 44.7 | " in alone and "| OPD not yet measured | 1 |" in alone
    )
    none = method_table.filled(text, made, {}).splitlines()
    assert none == ["x", f"{start}- | - | not yet measured | - | - |", "| B |"]
