"""Reverse KL over training seconds: runs of this library beside logs of others.

    python tools/bench/quality.py --runs jopd=runs/stories --logs "TRL=trl.log" \\
        --picture=quality.png

A run is a work directory made with ``--config.eval.every_steps``. A log has lines like
``seconds 30 updates 28 tokens 114688 reverse_kl 0.81``. Neither counts the seconds in
which the student is measured. Every curve is compared with where the first log ends,
the mean of its last measurements, since one of them is noise: when was it reached?
"""

import argparse
import itertools
import json
import re
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LAST = 5  # measurements that say where a curve ends
LINE = re.compile(r"seconds (\S+) updates (\d+) tokens \d+ reverse_kl (\S+)")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="+", default=[], metavar="NAME=DIR")
    parser.add_argument("--logs", nargs="+", required=True, metavar="NAME=FILE")
    parser.add_argument("--picture", type=Path, required=True)
    return parser.parse_args()


def of_run(directory: Path) -> list[tuple[float, int, float]]:
    """(seconds, updates, reverse KL) of every evaluation; compiling counts."""
    summary = json.loads((directory / "summary.json").read_text())
    rows = [
        json.loads(line)
        for line in (directory / "metrics.jsonl").read_text().splitlines()[1:]
    ]  # the first is of step 0
    seconds = itertools.accumulate(row["speed/seconds_step"] for row in rows)
    found = [(0.0, 0, summary["before"]["reverse_kl"])]
    found += [
        (spent, row["step"], row["eval/reverse_kl"])
        for spent, row in zip(seconds, rows, strict=True)
        if "eval/reverse_kl" in row
    ]
    spent = sum(row["speed/seconds_step"] for row in rows)
    return [*found, (spent, rows[-1]["step"], summary["after"]["reverse_kl"])]


def of_log(path: Path) -> list[tuple[float, int, float]]:
    """The same of a log."""
    found = LINE.findall(path.read_text())
    return [(float(seconds), int(at), float(kl)) for seconds, at, kl in found]


def ending(curve) -> float:
    """Mean reverse KL of the last measurements."""
    return statistics.fmean(kl for _, _, kl in curve[-LAST:])


def reached(curve, level: float) -> float | None:
    """Seconds to the first measurement that is at the level or below it."""
    return next((seconds for seconds, _, kl in curve if kl <= level), None)


def named(pairs, read) -> dict[str, list]:
    split = (pair.rsplit("=", 1) for pair in pairs)
    return {name: read(Path(path)) for name, path in split}


def main() -> None:
    args = parse_arguments()
    peers = named(args.logs, of_log)
    curves = named(args.runs, of_run) | peers
    level = ending(next(iter(peers.values())))
    print(f"| | updates | seconds | mean of last {LAST} | seconds to {level:.3f} |")
    print("|---|---|---|---|---|")
    figure, panel = plt.subplots(figsize=(7, 4))
    for name, curve in curves.items():
        seconds, updates, _ = curve[-1]
        when = reached(curve, level)
        shown = "never" if when is None else f"{when:.0f}"
        cells = (name, f"{updates:,}", f"{seconds:.0f}", f"{ending(curve):.3f}", shown)
        print(f"| {' | '.join(cells)} |")
        panel.plot([x for x, _, _ in curve], [y for _, _, y in curve], label=name)
    panel.axhline(level, color="grey", linewidth=0.8, linestyle=":")
    panel.set_xlabel("training seconds")
    panel.set_ylabel("reverse KL on own samples, nats per token")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.2)
    panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(args.picture, dpi=110)


if __name__ == "__main__":
    main()
