"""Feeds damaged and malicious inputs to the code that reads them; judges the answers.

    python tools/hostile.py --inputs 20000             # all kinds, one after the other
    python tools/hostile.py --kind models --inputs 500
    python tools/hostile.py --again models:17          # one input, with its traceback

Kinds are the modules of tools/hostile_inputs. Every input is drawn from seed, kind and
number alone and is run in this process, by the functions that a run itself calls, for
at most ``--limit`` seconds. What comes of it is one of

    right      accepted, and equal to what an independent reading gives
    error      refused by one line that names the thing, from a raise of this project
    traceback  any other exception, or a line that names nothing
    hang       the limit passed
    wrong      accepted, and not what the independent reading gives

Prints a markdown table of counts, then each fault with the command that shows it again.
Exits 1 if there is a traceback, a hang or a wrong one.
"""

import argparse
import ast
import collections
import faulthandler
import functools
import importlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a mangled path may look like a hub id
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import jopd  # noqa: E402

# Shares of --inputs.
KINDS = {
    "configs": 0.12,
    "rows": 0.32,
    "answers": 0.1,
    "models": 0.15,
    "templates": 0.12,
    "replies": 0.13,
    "workdirs": 0.03,
    "checkpoints": 0.03,
}
CLASSES = ("right", "error", "traceback", "hang", "wrong")
FAULTS = CLASSES[2:]
REAL = sys.__stderr__  # not what a test may put in its place
PACKAGE = str(Path(jopd.__file__).parent)


class Hang(BaseException):
    """Raised by the alarm; nothing of the project catches it."""


def stop(*_):
    """The handler of the alarm."""
    raise Hang


class Outcome(NamedTuple):
    """``what`` is the class of an input, ``said`` the error or what is wrong."""

    what: str
    said: str
    place: str = ""


def judge(case, limit: float) -> Outcome:
    """Runs a case: see ``hostile_inputs.Case``."""
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        wrong = case.run()
    except Hang:
        return Outcome("hang", f"more than {limit} s")
    except Exception as error:
        return refused(error, case.names)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return Outcome("wrong", wrong) if wrong else Outcome("right", "")


def refused(error: Exception, names: tuple[str, ...]) -> Outcome:
    """One line that names the thing, raised by us on purpose, or a traceback."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    said = f"{type(error).__name__}: {error}"
    ours = frame.filename.startswith(PACKAGE) and meant(frame.filename, frame.lineno)
    clean = isinstance(error, ValueError | OSError | ImportError) and ours
    if not clean:
        return Outcome("traceback", said, place)
    if len(str(error).splitlines()) != 1:
        return Outcome("traceback", f"not one line: {said!r}", place)
    if len(str(error)) > 5000 or not any(name in str(error) for name in names):
        return Outcome("traceback", f"names none of {names}: {said}", place)
    return Outcome("error", said, place)


def meant(file: str, line: int) -> bool:
    """Whether the line belongs to a ``raise`` statement."""
    return any(first <= line <= last for first, last in raises(file))


@functools.cache
def raises(file: str) -> list[tuple[int, int]]:
    tree = ast.parse(Path(file).read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return [(node.lineno, node.end_lineno) for node in found]


def draw(kind: str, number: int, seed: int) -> random.Random:
    return random.Random(f"{seed}/{kind}/{number}")


def run_kind(kind: str, numbers: range, args, scratch: Path) -> list[Outcome]:
    module = importlib.import_module(f"hostile_inputs.{kind}")
    make = module.prepare(scratch)
    outcomes = []
    for number in numbers:
        # Code that does not come back to Python hears no alarm: it ends the process.
        faulthandler.dump_traceback_later(10 * args.limit, exit=True, file=REAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case = make(draw(kind, number, args.seed))
            outcomes.append(judge(case, args.limit))
    faulthandler.cancel_dump_traceback_later()
    return outcomes


def again(name: str, args, scratch: Path) -> None:
    """One input with all that is known about it."""
    kind, number = name.split(":")
    make = importlib.import_module(f"hostile_inputs.{kind}").prepare(scratch)
    case = make(draw(kind, int(number), args.seed))
    print(case.said)
    print("wrong:", case.run())


def table(counts: dict[str, collections.Counter]) -> str:
    lines = ["| kind | inputs | " + " | ".join(CLASSES) + " |"]
    lines.append("|---" * (len(CLASSES) + 2) + "|")
    total = sum(counts.values(), collections.Counter())
    for kind, found in (*counts.items(), ("all", total)):
        cells = [f"{n:,}" for n in (found.total(), *(found[c] for c in CLASSES))]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def faults(found: dict[str, list[Outcome]], seed: int, most: int) -> list[str]:
    """Each place and class of fault once, with how often and how to see it again."""
    groups = collections.defaultdict(list)
    for kind, outcomes in found.items():
        for number, outcome in enumerate(outcomes):
            if outcome.what in FAULTS:
                short = outcome.place or outcome.said[:40]
                groups[kind, outcome.what, short].append((number, outcome.said))
    ranked = sorted(groups.items(), key=lambda group: -len(group[1]))
    return [
        f"{len(rows)} x {kind} {what} {short}: {rows[0][1][:300]!r}\n"
        f"    python tools/hostile.py --seed {seed} --again {kind}:{rows[0][0]}"
        for (kind, what, short), rows in ranked[:most]
    ]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1000, help="of all kinds")
    parser.add_argument("--kind", choices=KINDS, help="all inputs of this kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=5.0, help="seconds an input")
    parser.add_argument("--again", help="KIND:NUMBER, one input alone")
    parser.add_argument("--most", type=int, default=40, help="faults to list")
    args = parser.parse_args(words)

    before = signal.signal(signal.SIGALRM, stop)
    shares = {args.kind: 1.0} if args.kind else KINDS
    found, began = {}, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if args.again:
            again(args.again, args, Path(folder))
            return 0
        for kind, share in shares.items():
            scratch = Path(folder, kind)
            scratch.mkdir()
            numbers = range(round(args.inputs * share))
            found[kind] = run_kind(kind, numbers, args, scratch)
    signal.signal(signal.SIGALRM, before)
    print(table({k: collections.Counter(o.what for o in v) for k, v in found.items()}))
    print(f"\nseed {args.seed}, {time.perf_counter() - began:.0f} s")
    listed = faults(found, args.seed, args.most)
    print("\n".join(["", *listed] if listed else []))
    return bool(listed)


if __name__ == "__main__":
    sys.exit(main())
