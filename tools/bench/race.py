r"""Runs several commands in turn and compares what they measured of themselves.

    python tools/bench/race.py --rounds=3 --json=race.json \
        "jopd=python tools/bench/step.py" "peer=python path/to/peer.py"

Every command ends with a line of JSON; ``--keys`` of it are compared, each as the
median over the rounds, with the ratio of every command to the first; ``ABOUT`` is shown
for those who say it. The rounds go A B A B, so that what else the machine does meets
all of them alike.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import time
from pathlib import Path

KEYS = ("seconds_per_step", "generate_seconds", "train_seconds", "peak_rss_gib")
ABOUT = (
    "score_seconds",
    "update_seconds",
    "limit_seconds",
    "share_of_limit",
    "seconds_to_first_step",
    "compile_seconds",
    "compilations",
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keys", nargs="+", default=KEYS)
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    return parser.parse_args()


def measure(name: str, command: str) -> dict:
    """The last line of a command as JSON."""
    done = subprocess.run(
        shlex.split(command), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name} failed ({done.returncode}):\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def hardware() -> dict:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        model = names[0].partition(": ")[2] if names else model
    return {"processor": model, "cores": os.cpu_count(), "system": platform.system()}


def table(found: dict[str, list[dict]], keys) -> str:
    names = list(found)
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for key in keys:
        middles = [_middle(found[name], key) for name in names]
        cells = [f"{middles[0]:.3f}"]
        cells += [f"{value:.3f} ({value / middles[0]:.2f}x)" for value in middles[1:]]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    for key in ABOUT:
        said = [all(key in run for run in found[name]) for name in names]
        if any(said):
            cells = [
                f"{_middle(found[name], key):.3f}" if known else ""
                for name, known in zip(names, said)
            ]
            lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _middle(runs: list[dict], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def main() -> None:
    args = parse_arguments()
    commands = dict(word.split("=", 1) for word in args.commands)
    found = {name: [] for name in commands}
    for number in range(args.rounds):
        for name, command in commands.items():
            found[name].append(measure(name, command))
            value = found[name][-1][args.keys[0]]
            print(f"round {number + 1}  {name}  {args.keys[0]} {value}", flush=True)
    print(f"\n{table(found, args.keys)}")
    if args.json:
        about = {
            "date": time.strftime("%Y-%m-%d"),
            "hardware": hardware(),
            "commands": commands,
            "runs": found,
        }
        args.json.write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
