"""Writes what is measured of every method into README's table.

    python tools/method_table.py

The numbers are those of the runs kept beside ``docs/results/methods.md``, of which
``tools/studies/methods.py`` says what they are and what each is compared with. A row
without any keeps what it says. A test does the same and finds nothing to change.
"""

import re
from pathlib import Path

import numpy as np
import study
from studying import finished, reading, verdicts
from studying.numbers import value_of
from studying.page import commits

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
STUDY = ROOT / "tools" / "studies" / "methods.py"
KEPT = ROOT / "docs" / "results" / "methods"
MEASURED = 5  # columns that are written: greedy, avg@4, difference, seeds, commit
CONFIG = re.compile(r"`configs/(\w+)\.py`")


def results(made: reading.Study) -> dict[str, list[dict]]:
    """Arm -> its kept runs in the order of their seeds; arms without any left out."""
    found = {
        arm: [
            finished.kept(file)
            for seed in reading.seeds_of(made, arm)
            for file in [KEPT / arm / f"seed{seed}.json.gz"]
            if file.exists()
        ]
        for arm in made.arms
    }
    return {arm: runs for arm, runs in found.items() if runs}


def filled(text: str, made: reading.Study, runs: dict[str, list[dict]]) -> str:
    """README with the rows of its table that have runs written anew.

    The arm of a config as it ships has its name.
    """
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        named = CONFIG.search(line)
        if line.startswith("| ") and named and named[1] in runs:
            cells = line.strip().strip("|").split(" | ")
            kept = [cell.strip() for cell in cells[:-MEASURED]]
            new = [*kept, *measured(made, named[1], runs)]
            lines[number] = f"| {' | '.join(new)} |\n"
    return "".join(lines)


def measured(made: reading.Study, arm: str, runs: dict[str, list[dict]]) -> list[str]:
    """The cells of an arm: before and after, to its baseline, seeds, commit."""
    cells = []
    for key in ("accuracy", "avg_at_k"):
        before, after = (
            100 * np.mean([value_of(run, at + key) for run in runs[arm]])
            for at in ("before.", "")
        )
        gain = difference(arm, reading.BEFORE, key, runs)
        cells.append(f"{before:.1f} → {after:.1f}{half(gain)}")
    baseline = reading.baseline_of(made, arm)
    name = baseline.partition(",")[0]  # without its regime
    name = name if " " in name else name.upper()
    if not baseline:
        cells.append("-")
    elif baseline in runs:
        to = difference(arm, baseline, "avg_at_k", runs)
        cells.append(f"{100 * to.mean:+.1f}{half(to)} to {name}")
    else:
        cells.append(f"{name} not yet measured")
    return [*cells, str(len(runs[arm])), commits({arm: runs[arm]})]


def difference(arm: str, against: str, key: str, runs) -> verdicts.Difference:
    claim = dict(arm=arm, against=against, metric=key, direction="higher")
    return verdicts.of_claim(claim, runs)[0]


def half(found: verdicts.Difference) -> str:
    """The wider of the two intervals, of seeds and of prompts."""
    known = [h for h in (found.over_seeds, found.over_prompts) if not np.isnan(h)]
    return f" ± {100 * max(known):.1f}" if known else ""


def main() -> None:
    made = study.load(str(STUDY))
    README.write_text(filled(README.read_text(), made, results(made)))


if __name__ == "__main__":
    main()
