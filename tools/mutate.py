"""Plants one bug at a time in a copy of the package and sees whether the tests notice.

    python tools/mutate.py                       # all rows, two at a time
    python tools/mutate.py --only sampling       # rows whose file or kernel matches
    python tools/mutate.py --room losses         # rows of a room; may be repeated
    python tools/mutate.py --list                # all rows, the stale marked; no tests

The rows lie beside the tests, in tests/<room>/planted.toml; docs/tests.md explains
them. Prints a markdown table. Exits 1 if a bug survives, if a row is stale (its text
does not occur exactly once in its file), or if the tests fail without any bug.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md")
COPIED = ("jopd", "tests", "tools", "configs", "docs", "pyproject.toml", *PAGES)
TABLE = "planted.toml"
KEYS = {"file", "kernel", "what", "old", "new"}


class Bug(NamedTuple):
    """In the module ``path``, ``old`` becomes ``new``; then ``test`` must fail.

    ``room`` is a folder of ``jopd`` and of ``tests``, "." for what lies above rooms;
    ``path`` is relative to ``jopd``, ``test`` to ``tests``.
    """

    room: str
    path: str
    kernel: str
    what: str
    old: str
    new: str
    test: str

    @property
    def name(self) -> str:
        return f"{self.path.removesuffix('.py')}.{self.kernel}"


class Outcome(NamedTuple):
    """``caught_by`` names the first failing test; ``trouble``, why there is none."""

    caught_by: str
    trouble: str


def read(path: Path, tests: Path) -> list[Bug]:
    """The rows of one ``planted.toml``; a key too many or too few is an error."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    _check(table.keys() ^ {"bug"}, path, table.keys())
    folder = path.parent.relative_to(tests)
    bugs = []
    for row in table["bug"]:
        _check((row.keys() ^ KEYS) - {"test"}, path, row)
        module = (folder / row.pop("file")).as_posix()
        test = row.pop("test", f"{module}_test.py")
        bugs.append(Bug(folder.as_posix(), f"{module}.py", test=test, **row))
    return bugs


def _check(wrong: set[str], path: Path, found) -> None:
    if wrong:
        raise ValueError(f"{path}: unknown or missing {sorted(wrong)} in {found}")


def planted(root: Path) -> list[Bug]:
    """The rows of all rooms."""
    tests = root / "tests"
    return [bug for path in sorted(tests.rglob(TABLE)) for bug in read(path, tests)]


def selected(bugs: list[Bug], only: str, rooms: list[str]) -> list[Bug]:
    found = [b for b in bugs if only in Path(b.path).stem or only in b.kernel]
    return [bug for bug in found if not rooms or bug.room in rooms]


def stale(bug: Bug, root: Path) -> str:
    """Why a bug cannot be planted in the package under ``root``; "" if it can."""
    path = root / "jopd" / bug.path
    if not path.exists():
        return f"stale: no file jopd/{bug.path}"
    if (count := path.read_text(encoding="utf-8").count(bug.old)) != 1:
        return f"stale: text occurs {count} times in jopd/{bug.path}"
    return ""


def run_tests(test: str, cache: Path, bug: Bug | None = None) -> Outcome:
    """The outcome of one test file on a copy of the project, ``bug`` planted."""
    with tempfile.TemporaryDirectory(prefix="mutate-") as name:
        folder = Path(name)
        for item in COPIED:
            _copy(ROOT / item, folder / item)
        if bug is not None:
            if why := stale(bug, folder):
                return Outcome("", why)
            path = folder / "jopd" / bug.path
            text = path.read_text(encoding="utf-8").replace(bug.old, bug.new)
            path.write_text(text, encoding="utf-8")
        return _pytest(folder, test, cache)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.exists():
        shutil.copy2(source, target)


def _pytest(folder: Path, test: str, cache: Path) -> Outcome:
    # -m pytest puts the copy first on sys.path, before an installed jopd.
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-o", "addopts="]
    command += ["-p", "no:cacheprovider", "--tb=line", f"tests/{test}"]
    # A bug changes few programs: the others come compiled from the run without any.
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode == 0:
        return Outcome("", "survived")
    failed = re.search(r"^FAILED \S+?::(.+?)(?: - |$)", done.stdout, re.MULTILINE)
    if done.returncode == 1 and failed:
        return Outcome(failed.group(1), "")
    # A syntax or import error says nothing about the tests.
    last = (done.stdout + done.stderr).strip().splitlines()[-1:]
    return Outcome("", f"pytest exit {done.returncode}: {' '.join(last)}")


def report(bugs: list[Bug], cache: Path, jobs: int) -> int:
    """Runs the tests without and then with each bug, prints; the exit code."""
    with ThreadPoolExecutor(jobs) as pool:
        tests = sorted({bug.test for bug in bugs if not stale(bug, ROOT)})
        clean = list(pool.map(lambda test: run_tests(test, cache), tests))
        for test, outcome in zip(tests, clean, strict=True):
            if outcome.trouble != "survived":
                why = outcome.caught_by or outcome.trouble
                print(f"{test} fails without any bug: {why}", file=sys.stderr)
                return 1
        print("| kernel | planted bug | caught by |\n|---|---|---|", flush=True)
        outcomes = pool.map(lambda bug: run_tests(bug.test, cache, bug), bugs)
        caught = 0
        for bug, outcome in zip(bugs, outcomes, strict=True):
            verdict = f"`{outcome.caught_by}`" if outcome.caught_by else outcome.trouble
            print(f"| `{bug.name}` | {bug.what} | {verdict} |", flush=True)
            caught += bool(outcome.caught_by)
    print(f"\n{caught} of {len(bugs)} planted bugs caught")
    return 0 if caught == len(bugs) else 1


def inventory(bugs: list[Bug], root: Path) -> int:
    """Prints the rows and how many a room has; the exit code, 1 if any is stale."""
    reasons = [stale(bug, root) for bug in bugs]
    for bug, why in zip(bugs, reasons, strict=True):
        print(f"{bug.name}: {bug.what}" + (f"  [{why}]" if why else ""))
    rooms = Counter(bug.room for bug in bugs)
    print("\n" + ", ".join(f"{room} {count}" for room, count in rooms.items()))
    print(f"{len(bugs)} planted bugs, {sum(map(bool, reasons))} stale")
    return 1 if any(reasons) else 0


def main() -> int:
    bugs = planted(ROOT)
    rooms = sorted({bug.room for bug in bugs})
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a file's or kernel's name")
    parser.add_argument("--room", action="append", choices=rooms, default=[])
    parser.add_argument("--list", action="store_true", help="runs no test")
    parser.add_argument("--jobs", type=int, default=2, help="test runs at a time")
    options = parser.parse_args()
    bugs = selected(bugs, options.only, options.room)
    if not bugs:
        parser.error(f"no row matches --only={options.only}")
    if options.list:
        return inventory(bugs, ROOT)
    with tempfile.TemporaryDirectory(prefix="mutate-cache-") as cache:
        return report(bugs, Path(cache), options.jobs)


if __name__ == "__main__":
    sys.exit(main())
