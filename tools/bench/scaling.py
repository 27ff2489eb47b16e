"""How an update's cost grows with rows and with their length; a table and a plot.

    python tools/bench/scaling.py --picture=scaling.png --json=scaling.json

Runs ``tools/bench/step.py`` at 1, 2, 4 and 8 times as many rows, then at as many times
the new tokens. Linear cost is a level line of seconds per token.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STEP = Path(__file__).with_name("step.py")
TIMES = (1, 2, 4, 8)
KEYS = {
    "seconds_per_step": "whole update",
    "generate_seconds": "sampling",
    "train_seconds": "scoring and update",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(args, batch: int, new: int) -> dict:
    words = [sys.executable, str(STEP), f"--batch={batch}", f"--new={new}"]
    words += [f"--vocab={args.vocab}", f"--steps={args.steps}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def line(name: str, size: int, found: dict) -> str:
    tokens = found["new_tokens_per_step"]
    cells = [name, f"{size}", f"{tokens:,.0f}"]
    cells += [f"{found[key]:.3f}" for key in KEYS]
    cells += [f"{tokens / found['seconds_per_step']:,.0f}"]
    cells += [f"{found['peak_rss_gib']:.2f}"]
    return f"| {' | '.join(cells)} |"


def plot(results: dict[str, list[tuple[int, dict]]], target: Path) -> None:
    """A panel per thing that grows: microseconds per token, by part."""
    figure, axes = plt.subplots(1, len(results), figsize=(10, 3.6), sharey=True)
    for panel, (name, rows) in zip(axes, results.items(), strict=True):
        for key, label in KEYS.items():
            each = [1e6 * row[key] / row["new_tokens_per_step"] for _, row in rows]
            panel.plot([size for size, _ in rows], each, marker="o", label=label)
        panel.set_xscale("log", base=2)
        panel.set_xticks([size for size, _ in rows], [str(size) for size, _ in rows])
        panel.set_xlabel(name)
        panel.grid(alpha=0.2)
    axes[0].set_ylim(bottom=0)  # after all lines, so that none is cut
    axes[0].set_ylabel("microseconds per new token")
    axes[0].legend(fontsize=8, loc="center")
    figure.tight_layout()
    figure.savefig(target, dpi=110)


def main() -> None:
    args = parse_arguments()
    grids = {
        f"rows, {args.new} new tokens each": [
            (args.batch * n, (args.batch * n, args.new)) for n in TIMES
        ],
        f"new tokens of {args.batch} rows": [
            (args.new * n, (args.batch, args.new * n)) for n in TIMES
        ],
    }
    print(f"| | | new tokens | {' | '.join(KEYS.values())} | tokens/s | peak GiB |")
    print("|---" * (len(KEYS) + 5) + "|")
    results = {}
    for name, cases in grids.items():
        results[name] = []
        for size, case in cases:
            found = measure(args, *case)
            results[name].append((size, found))
            print(line(name, size, found), flush=True)
    plot(results, args.picture)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
