"""Writes what is measured of every method into README's table, and what it adds.

    python tools/method_table.py

The numbers are those of the runs kept beside ``docs/results/methods.md``, of which
``tools/studies/methods.py`` says what they are and what each is compared with. A row
without any says so. ``docs/methods/sizes.md`` has the lines of config, code
and tests. A test does the same and finds nothing to change.
"""

import ast
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
LINES, MEASURED = 3, 5  # a column, and the last ones: greedy, avg@4, difference, ...
UNKNOWN = ["-", "-", "not yet measured", "-", "-"]
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
    """README with the rows of its table written anew.

    The arm of a config as it ships has its name.
    """
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        named = CONFIG.search(line)
        if line.startswith("| ") and named:
            cells = line.strip().strip("|").split(" | ")
            kept = [cell.strip() for cell in cells[:-MEASURED]]
            kept[LINES] = str(lines_of_config(ROOT / "configs" / f"{named[1]}.py"))
            found = measured(made, named[1], runs) if named[1] in runs else UNKNOWN
            lines[number] = f"| {' | '.join([*kept, *found])} |\n"
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


def sizes() -> str:
    """The page of what each config adds to the library."""
    rows = []
    for config in sorted((ROOT / "configs").glob("*.py")):
        text, lines = config.read_text(), lines_of_config(config)
        own = sorted(set(re.findall(r'"(\w+)\.\w+"', text)))
        files = [ROOT / "jopd" / "methods" / f"{name}.py" for name in own]
        code = [f"`{f.name}` {lines_of_code(f)}" for f in files if f.exists()]
        named = sorted({*own, config.stem})
        tests = [ROOT / "tests" / "methods" / f"{name}_test.py" for name in named]
        tried = [f"`{f.name}` {lines_of_code(f)}" for f in tests if f.exists()]
        code += [
            f"`{file}` {lines_of_code(ROOT / 'jopd' / file)}"
            for file in USED.get(config.stem, ())
        ]
        more = ", ".join(code) or "none", ", ".join(tried) or "`methods_test.py`"
        rows.append(f"| `{config.stem}` | {lines} | {more[0]} | {more[1]} |")
    return SIZES + "\n".join(rows) + "\n"


def lines_of_config(config: Path) -> int:
    """Of ``get_config``, without blank ones and comments."""
    text = config.read_text()
    body = text[text.index("def get_config") :].splitlines()
    return sum(not re.fullmatch(r"\s*(#.*)?", line) for line in body)


# Files beside ``methods/`` that came with a config; others may use them.
USED = {
    "adwin": ("losses/segments.py",),
    "cgtr": ("teachers/gate.py",),
    "omniopd": ("teachers/audit.py", "teachers/similarity.py"),
    "oprd": ("losses/states.py",),
    "restricted_opd": ("losses/supports.py",),
    "tgopd": ("teachers/probes.py",),
    "trb": ("rollouts/behavior.py",),
}
SIZES = """# What a method adds

Lines of `get_config`, of code and of tests, without blank ones, comments and
docstrings. A method is a config, at most a file in `jopd/methods/`, and its tests. No
file of `jopd/training/`, `jopd/batches/` or `jopd/rollouts/` names a method or a file
of `jopd/methods/` (`tests/method_table_test.py`), so none is edited for one. What
several share, such as memories of earlier updates, facts of logits or supports, is in
`jopd/losses/`, signals and weights in `losses/signals.py` and `losses/weights.py`,
where configs without a file of their own have theirs.

| config | lines | code that came with it | its own tests |
|---|---|---|---|
"""


def lines_of_code(path: Path) -> int:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            body[:] = body[1:] or [ast.Pass()]
    return sum(bool(line.strip()) for line in ast.unparse(tree).splitlines())


def main() -> None:
    (ROOT / "docs" / "methods" / "sizes.md").write_text(sizes())
    made = study.load(str(STUDY))
    README.write_text(filled(README.read_text(), made, results(made)))


if __name__ == "__main__":
    main()
