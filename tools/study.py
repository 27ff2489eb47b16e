"""Runs methods x seeds on equal terms and writes a page of results.

    python tools/study.py tools/studies/bundled.py --out=runs/bundled \\
        --page=docs/results/bundled.md

A study is a Python file with

    TITLE, ABOUT   heading and a paragraph for the page
    ARMS           name -> dict(config="stableopd", overrides={"key": value},
                   seeds=(0, 1, 2)); seeds may be left out
    SEEDS          default seeds
    GRID           learning rates that every arm is tuned over; empty: each config's own
    TUNE_SEED      seed of the tuning runs, none of the reported ones
    COMMON         overrides of every run: the budget
    METRICS        columns: keys of ``after`` in summary.json ("before.x": of
                   ``before``) or of the summary itself; or "mean x", "max x", "min x",
                   "last x" of key x over the updates in metrics.jsonl
    CURVES         metrics.jsonl keys to plot, with their labels
    START          arm whose student, before training, is the first line; may be missing
    BEST           key of ``after`` that tuning maximises ("-reverse_kl" minimises)
    FOUND          what was seen, written by hand after the runs; may be missing

Every run is its own process and work directory. A run that left ``summary.json`` is
done, one that was cut off goes on from its checkpoint, so the same command resumes a
study. Nothing is tuned for one arm alone: the page shows the whole grid. ``--jobs=N``
runs N at a time, each on its own share of the cores: small models leave cores idle, so
two runs on one core each end sooner than one after the other on two.
"""

import argparse
import json
import os
import queue
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from scipy import stats

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
CAN_PIN = hasattr(os, "sched_setaffinity")  # Linux


class Study(NamedTuple):
    """What the file of a study says."""

    title: str
    about: str
    arms: dict[str, dict]
    seeds: tuple[int, ...]
    grid: tuple[float, ...]
    tune_seed: int
    common: dict[str, Any]
    metrics: dict[str, str]
    curves: dict[str, str]
    best: str
    start: str
    found: str


def load(path: str) -> Study:
    found = runpy.run_path(path)
    study = Study(
        title=found["TITLE"],
        about=found["ABOUT"],
        arms=found["ARMS"],
        seeds=tuple(found["SEEDS"]),
        grid=tuple(found.get("GRID", ())),
        tune_seed=found.get("TUNE_SEED", 1000),
        common=found.get("COMMON", {}),
        metrics=found["METRICS"],
        curves=found.get("CURVES", {}),
        best=found.get("BEST", "avg_at_k"),
        start=found.get("START", ""),
        found=found.get("FOUND", ""),
    )
    for name in study.arms:
        if study.grid and study.tune_seed in seeds_of(study, name):
            raise SystemExit(
                f"TUNE_SEED={study.tune_seed} is a reported seed of {name!r}; tuning "
                "must not see what is reported"
            )
    return study


def seeds_of(study: Study, arm: str) -> tuple[int, ...]:
    return tuple(study.arms[arm].get("seeds", study.seeds))


def command(study: Study, arm: str, seed: int, rate: float | None, out: Path):
    """The words of one run; later overrides win over earlier ones."""
    spec = study.arms[arm]
    keys = {**study.common, **spec.get("overrides", {}), "seed": seed}
    if rate is not None:
        keys["optimizer.learning_rate"] = rate
    config = ROOT / "configs" / f"{spec['config']}.py"
    words = [sys.executable, "-m", "jopd.main", f"--config={config}"]
    return [
        *words,
        f"--workdir={out}",
        *(f"--config.{key}={value}" for key, value in keys.items()),
    ]


def folder(out: Path, arm: str, seed: int, rate: float | None) -> Path:
    tuned = "" if rate is None else f"-lr{rate:g}"
    return out / arm / f"seed{seed}{tuned}"


class Runner:
    """Runs arms, a few at a time; each on cores of its own."""

    def __init__(self, study: Study, out: Path, jobs: int = 1):
        self.study, self.out = study, out
        self.cores = queue.Queue()
        cores = sorted(os.sched_getaffinity(0)) if CAN_PIN else []
        for share in np.array_split(np.asarray(cores, int), jobs):
            self.cores.put(set(share.tolist()))
        self.pool = ThreadPoolExecutor(jobs)

    def all(self, asked: list[tuple[str, int, float | None]]) -> list[dict]:
        """Summaries of (arm, seed, rate) triples; the first failure ends the study."""
        futures = [self.pool.submit(self.one, *words) for words in asked]
        try:
            return [future.result() for future in futures]
        except BaseException:
            self.pool.shutdown(wait=False, cancel_futures=True)
            raise

    def one(self, arm: str, seed: int, rate: float | None) -> dict:
        """One run to its end, or what it left when it already had one."""
        place = folder(self.out, arm, seed, rate)
        summary = place / "summary.json"
        if not summary.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            words = command(self.study, arm, seed, rate, place)
            print(" ".join(words[2:]), flush=True)
            log = place.with_name(place.name + ".log")
            code = self.start(words, log)
            if code or not summary.exists():
                raise SystemExit(f"{arm} seed {seed} failed (exit {code}); see {log}")
        return json.loads(summary.read_text()) | {"folder": place}

    def start(self, words: list[str], log: Path) -> int:
        cores = self.cores.get()
        try:
            with log.open("w") as file:
                process = subprocess.Popen(
                    words,
                    stdout=file,
                    stderr=file,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                )
                if cores:
                    # Right after the start, long before the run counts its cores.
                    os.sched_setaffinity(process.pid, cores)
                return process.wait()
        finally:
            self.cores.put(cores)


def score(study: Study, summary: dict) -> float:
    """What tuning maximises; a missing or infinite number is the worst."""
    key = study.best.removeprefix("-")
    value = summary["after"].get(key)
    if value is None or not np.isfinite(value):
        return -np.inf
    return -value if study.best.startswith("-") else value


def tune(study: Study, runner: Runner) -> dict[str, dict[float, float]]:
    """arm -> learning rate -> score on the tuning seed."""
    asked = [(arm, study.tune_seed, rate) for arm in study.arms for rate in study.grid]
    scores = {arm: {} for arm in study.arms}
    for (arm, _, rate), summary in zip(asked, runner.all(asked), strict=True):
        scores[arm][rate] = score(study, summary)
    return scores


def chosen(scores: dict[float, float]) -> float | None:
    """The best learning rate; the lower one of equals; None without a grid."""
    return max(sorted(scores), key=scores.get) if scores else None


def value_of(summary: dict, key: str) -> float:
    """A number of a run, see METRICS; NaN where it has none."""
    how, _, name = key.partition(" ")
    if key.startswith("before."):
        found = summary["before"].get(key.removeprefix("before."))
    elif name:
        values = [row[name] for row in updates(summary["folder"]) if name in row]
        values = [value for value in values if value is not None]
        reduce = {
            "mean": np.mean,
            "max": np.max,
            "min": np.min,
            "last": lambda v: v[-1],
        }
        found = reduce[how](values) if values else None
    else:
        found = summary["after"].get(key, summary.get(key))
    return np.nan if found is None else float(found)


def updates(place: Path) -> list[dict]:
    """The rows of metrics.jsonl, without that of the evaluation before training."""
    lines = (place / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["step"]]


def interval(values) -> tuple[float, float]:
    """(mean, half width of the 95 % t-interval); NaN width for fewer than two."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return float(values.mean()), float("nan")
    spread = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean()), float(spread)


def shown(values, key: str) -> str:
    """A cell: mean and half width, rates in percent; a dash for what nobody logs."""
    mean, half = interval(values)
    if np.isnan(mean):
        return "–"
    rate = key.split(".")[-1].endswith(("accuracy", "_at_k", "_rate"))
    size = abs(mean)
    plain = 3 if size < 10 else 1 if size < 1000 else 0
    scale, digits = (100.0, 1) if rate else (1.0, plain)
    text = f"{mean * scale:,.{digits}f}"
    return text if np.isnan(half) else f"{text} ± {half * scale:,.{digits}f}"


def table(study: Study, results: dict[str, list[dict]]) -> str:
    head = ["arm", "seeds", *study.metrics.values()]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    if study.start:
        lines.append(_line("student before", study, results[study.start], "before."))
    lines += [_line(arm, study, summaries) for arm, summaries in results.items()]
    return "\n".join(lines)


def _line(name: str, study: Study, summaries: list[dict], before: str = "") -> str:
    cells = [
        shown([value_of(s, before + key) for s in summaries], key)
        for key in study.metrics
    ]
    return f"| {name} | {len(summaries)} | {' | '.join(cells)} |"


def grid_table(scores: dict[str, dict[float, float]]) -> str:
    rates = sorted({rate for of_arm in scores.values() for rate in of_arm})
    head = ["arm", *(f"{rate:g}" for rate in rates)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for arm, of_arm in scores.items():
        best = chosen(of_arm)
        cells = [
            f"**{of_arm[r]:.3f}**" if r == best else f"{of_arm[r]:.3f}" for r in rates
        ]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def curve(folders: list[Path], key: str):
    """(steps, mean, lowest, highest over seeds) of a metric; None if nobody logs it."""
    series = []
    for place in folders:
        rows = updates(place)
        series.append({r["step"]: r[key] for r in rows if r.get(key) is not None})
    steps = sorted(set.union(*(set(s) for s in series)))
    if not steps:
        return None
    # Not every update of every seed need log it: GKD makes rollouts for half of them.
    values = np.asarray([[s.get(step, np.nan) for step in steps] for s in series])
    width = max(len(steps) // 50, 1)
    windows = np.lib.stride_tricks.sliding_window_view(values, width, axis=1)
    there = np.isfinite(windows)
    count = there.sum(-1)
    smooth = np.where(there, windows, 0.0).sum(-1) / np.where(count, count, np.nan)
    seen = np.isfinite(smooth).any(0)
    smooth = smooth[:, seen]
    shown = np.asarray(steps[width - 1 :])[seen]
    return shown, *(f(smooth, axis=0) for f in (np.nanmean, np.nanmin, np.nanmax))


def plot(study: Study, folders: dict[str, list[Path]], target: Path) -> None:
    """One panel per curve, one line per arm, the band from lowest to highest seed."""
    figure, axes = plt.subplots(
        1, len(study.curves), figsize=(5 * len(study.curves), 3.6), squeeze=False
    )
    for panel, (key, label) in zip(axes[0], study.curves.items(), strict=True):
        for number, (arm, places) in enumerate(folders.items()):
            found = curve(places, key)
            if found is None:
                continue
            steps, mean, low, high = found
            color = plt.get_cmap("tab20")(number % 20)
            panel.plot(steps, mean, label=arm, color=color, linewidth=1.3)
            panel.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
        panel.set_title(label, fontsize=10)
        panel.set_xlabel("update")
        panel.grid(alpha=0.2)
    # An arm that does not log one panel's number may log another's.
    lines = {line.get_label(): line for panel in axes[0] for line in panel.get_lines()}
    shown = [lines[arm] for arm in folders if arm in lines]
    axes[0][-1].legend(
        handles=shown, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5)
    )
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    plt.close(figure)


def page(study: Study, words: str, scores, results, picture: str | None) -> str:
    """The markdown page."""
    parts = [f"# {study.title}", study.about.strip(), f"```sh\n{words}\n```"]
    common = ", ".join(f"`{key}={value}`" for key, value in study.common.items())
    parts.append(f"Every run: {common or 'the defaults of its config'}.")
    parts.append(table(study, results))
    parts.append(
        "Mean ± half width of the 95 % t-interval over seeds; one seed has none."
    )
    if study.found:
        parts += ["## What was seen", study.found.strip()]
    if scores and any(scores.values()):
        parts.append("## Learning rates")
        parts.append(
            f"`{study.best}` on seed {study.tune_seed}, which is not among the "
            "reported ones; the best in bold was taken."
        )
        parts.append(grid_table(scores))
    if picture:
        parts += ["## Curves", f"![curves]({picture})"]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="Python file, see above")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs")
    parser.add_argument("--page", required=True, type=Path, help="markdown to write")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    args = parser.parse_args()
    study = load(args.study)
    runner = Runner(study, args.out, args.jobs)
    scores = tune(study, runner)
    asked = [
        (arm, seed, chosen(scores[arm]))
        for arm in study.arms
        for seed in seeds_of(study, arm)
    ]
    results = {arm: [] for arm in study.arms}
    folders = {arm: [] for arm in study.arms}
    for words, summary in zip(asked, runner.all(asked), strict=True):
        results[words[0]].append(summary)
        folders[words[0]].append(folder(args.out, *words))
    args.page.parent.mkdir(parents=True, exist_ok=True)
    picture = args.page.with_suffix(".png")
    if study.curves:
        plot(study, folders, picture)
    words = f"python tools/study.py {args.study} --out={args.out} --page={args.page}"
    text = page(study, words, scores, results, picture.name if study.curves else None)
    args.page.write_text(text)
    print(f"\n{table(study, results)}\n\n{args.page}")


if __name__ == "__main__":
    main()
