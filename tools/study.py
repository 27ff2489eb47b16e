"""Runs methods x seeds on equal terms and writes a page of results.

    python tools/study.py tools/studies/bundled.py --out=runs/bundled \\
        --page=docs/results/bundled.md

A study is a Python file with

    TITLE, ABOUT   heading and a paragraph for the page
    ARMS           name -> dict(config="stableopd", overrides={"key": value},
                   seeds=(0, 1, 2), baseline="OPD", rate_of="", kept=""); all but the
                   config may be left out. A config is a shipped one by name or any by
                   its path; overrides are what --config.KEY=VALUE may be. rate_of: the
                   arm whose tuned rate this one has, where it is that arm less a part.
                   kept="methods/opd": its runs are those of an arm of another page
    SEEDS          default seeds
    COMMON         overrides of every run: the budget
    EQUAL          what is equal between arms, of "updates", "rollouts",
                   "tokens_sampled", "teacher_tokens", "wall_seconds"; the first two
                   unless it is given. The page shows all five, and says what is not
    GRID           learning rates that every arm is tuned over; empty: each config's own
    WIDEN          an arm whose best rate is on the border of its grid gets the next
                   one outside, at the grid's ratio there, so many times at most: 3
    TUNE_SEED      seed of the tuning runs, none of the reported ones
    BEST           key of ``after`` that tuning maximises ("-reverse_kl" minimises)
    METRICS        columns: keys of ``after`` in summary.json ("before.x": of
                   ``before``) or of the summary itself; or "mean x", "max x", "min x",
                   "last x" of key x over the updates in metrics.jsonl
    BASELINE       arm that the others are compared with, seed by seed and prompt by
                   prompt; an arm's own ``baseline`` goes before it
    JUDGED         numbers in which an arm must improve its student and beat its
                   baseline, as in METRICS, "-x" where less is better; (BEST,)
    CLAIMS         sentence -> dict(arm=, against=, metric=, direction="higher" or
                   "lower"); against="before" is the arm's own student before training.
                   The page says "confirmed", "not seen", "contradicted" or, where there
                   is no interval, "not decided"
    ALSO           name -> overrides: under these every reported student is measured
                   once more, on other rows; the numbers are "name.accuracy" and so on
    CURVES         metrics.jsonl keys to plot, with their labels
    START          arm whose student, before training, is the first line; may be missing
    FOUND          what was seen, written by hand after the runs; may be missing

Every run is its own process and work directory. A run that left ``summary.json`` is
done, one that was cut off goes on from its checkpoint, so the same command resumes a
study. What the page is made of is kept beside it, PAGE/ARM/SEED.json.gz, and counts as
done, too: a study goes on on another machine. A run whose config is another today is
refused. ``--jobs=0`` runs nothing and draws the page of what is there. Nothing is tuned
for one arm alone: all have one grid and one rule to widen it, and the page shows all
that was tried. ``--jobs=N`` runs N at a time, each on its own share of the cores: small
models leave cores idle, so two runs on one core each end sooner than one after the
other on two.
"""

import argparse
import os
import queue
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from studying import finished
from studying.page import chosen, on_border, page, plot, table
from studying.reading import ROOT, Study, config_of, load, seeds_of
from studying.verdicts import arm_lines, claims_table

from jopd.setup import overrides
from jopd.training import workdir

CAN_PIN = hasattr(os, "sched_setaffinity")  # Linux
# How a run ends whose numbers went wrong; see ``loop.run``.
DIVERGED = "Lower optimizer.learning_rate"


def command(study: Study, arm: str, seed: int, rate: float | None, out: Path):
    """The words of one run; later overrides win over earlier ones."""
    spec = study.arms[arm]
    given = {**study.common, **spec.get("overrides", {}), "seed": seed}
    if rate is not None:
        given["optimizer.learning_rate"] = rate
    words = [sys.executable, "-m", "jopd.main", f"--config={config_of(spec)}"]
    return [
        *words,
        f"--workdir={out}",
        *(f"--config.{key}={value}" for key, value in given.items()),
    ]


def measuring(study: Study, arm: str, name: str, place: Path) -> list[str]:
    """The words that measure the student of a run as ``ALSO`` says."""
    spec = study.arms[arm]
    given = {**study.common, **spec.get("overrides", {}), **study.also[name]}
    words = [sys.executable, "-m", "jopd.evaluate", f"--config={config_of(spec)}"]
    return [
        *words,
        f"--model={place / 'export'}",
        f"--out={place / f'{finished.ALSO}{name}.json'}",
        *(f"--config.{key}={value}" for key, value in given.items()),
    ]


def folder(out: Path, arm: str, seed: int, rate: float | None) -> Path:
    tuned = "" if rate is None else f"-lr{rate:g}"
    return out / arm / f"seed{seed}{tuned}"


def config_today(words: list[str]) -> dict:
    """The config that the words of a run make, as a run keeps it."""
    rest, given = overrides.split(words)
    file = next(word for word in rest if word.startswith("--config="))
    config = runpy.run_path(file.partition("=")[2])["get_config"]()
    overrides.apply(config, given)
    return workdir.written(config.to_dict())


class Runner:
    """Runs arms, a few at a time; each on cores of its own. Keeps them in ``keep``."""

    def __init__(self, study: Study, out: Path, keep: Path, jobs: int = 1):
        self.study, self.out, self.keep = study, out, keep
        self.cores, self.jobs = queue.Queue(), jobs
        cores = sorted(os.sched_getaffinity(0)) if CAN_PIN else []
        for share in np.array_split(np.asarray(cores, int), max(jobs, 1)):
            self.cores.put(set(share.tolist()))
        self.pool = ThreadPoolExecutor(max(jobs, 1))

    def all(self, asked: list[tuple[str, int, float | None]]) -> list[dict]:
        """Summaries of (arm, seed, rate) triples; the first failure ends the study."""
        futures = [self.pool.submit(self.one, *words) for words in asked]
        try:
            return [future.result() for future in futures]
        except BaseException:
            self.pool.shutdown(wait=False, cancel_futures=True)
            raise

    def one(self, arm: str, seed: int, rate: float | None) -> dict:
        """One run to its end, or what it left when it already had one.

        A tuning run that diverged has nothing ``after``: its rate is the worst. Nor has
        one that is not there where no jobs are to run.
        """
        place = folder(self.out, arm, seed, rate)
        log = place.with_name(place.name + ".log")
        words = command(self.study, arm, seed, rate, place)
        spare = seed == self.study.tune_seed
        found = self.found(arm, seed, rate)
        if found is None and self.jobs and not (spare and diverged(log)):
            place.parent.mkdir(parents=True, exist_ok=True)
            print(" ".join(words[2:]), flush=True)
            ended = (place / "summary.json").exists()
            code = 0 if ended else self.start(words, log)
            for name in self.unmeasured(place, seed) if not code else ():
                log = place / f"{finished.ALSO}{name}.log"
                code = self.start(measuring(self.study, arm, name, place), log)
            found = self.found(arm, seed, rate)
            if found is None and not (spare and diverged(log)):
                raise SystemExit(f"{arm} seed {seed} failed (exit {code}); see {log}")
        return found or {"after": {}}

    def found(self, arm: str, seed: int, rate: float | None) -> dict | None:
        """A run that is done, on disk or kept, which it is from now on.

        Raises:
          SystemExit: it was made with another config than the study has today.
        """
        place = folder(self.out, arm, seed, rate)
        kept = self.study.arms[arm].get("kept", f"{self.keep.name}/{arm}")
        file = folder(self.keep.parent, kept, seed, rate)
        file = file.with_name(file.name + ".json.gz")
        on_disk = (place / "summary.json").exists() and not self.unmeasured(place, seed)
        if not on_disk and not file.exists():
            return None
        run = finished.read(place) if on_disk else finished.kept(file)
        words = command(self.study, arm, seed, rate, place)
        if other := finished.changed(run, config_today(words)):
            raise SystemExit(
                f"{place if on_disk else file} was made with another "
                f"{', '.join(other)} than {arm!r} has now; move it away, and the run "
                "is made anew"
            )
        if on_disk and (not file.exists() or file.is_relative_to(self.keep)):
            finished.keep(run, file, self.study)
        return run

    def unmeasured(self, place: Path, seed: int) -> list[str]:
        """What of ``ALSO`` is still to be measured of the run in a folder."""
        names = self.study.also if seed != self.study.tune_seed else ()
        files = {name: place / f"{finished.ALSO}{name}.json" for name in names}
        return [name for name, file in files.items() if not file.exists()]

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


def diverged(log: Path) -> bool:
    """Whether the log of a run ends because its numbers went wrong."""
    return log.exists() and DIVERGED in " ".join(log.read_text().split())


def score(study: Study, summary: dict) -> float:
    """What tuning maximises; a missing or infinite number is the worst."""
    key = study.best.removeprefix("-")
    value = summary["after"].get(key)
    if value is None or not np.isfinite(value):
        return -np.inf
    return -value if study.best.startswith("-") else value


def tune(study: Study, runner: Runner) -> dict[str, dict[float, float]]:
    """arm -> learning rate -> score on the tuning seed; see WIDEN."""
    scores = {arm: {} for arm, spec in study.arms.items() if not spec.get("rate_of")}
    asked = [(arm, study.tune_seed, rate) for arm in scores for rate in study.grid]
    for left in range(study.widen, -1, -1):
        for (arm, _, rate), summary in zip(asked, runner.all(asked), strict=True):
            scores[arm][rate] = score(study, summary)
        at = [arm for arm in scores if on_border(scores[arm])]
        if not at or not left:
            break
        asked = [(arm, study.tune_seed, outside(scores[arm])) for arm in at]
    return scores


def outside(scores: dict[float, float]) -> float:
    """The next rate beyond the border that the best one lies on, to three digits."""
    rates = sorted(scores)
    border, inner = rates[:2] if chosen(scores) == rates[0] else rates[:-3:-1]
    return float(f"{border * border / inner:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="Python file, see above")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs")
    parser.add_argument("--page", required=True, type=Path, help="markdown to write")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; 0: none")
    args = parser.parse_args()
    study = load(args.study)
    runner = Runner(study, args.out, args.page.with_suffix(""), args.jobs)
    scores = tune(study, runner)
    asked = [
        (arm, seed, chosen(scores[spec.get("rate_of", arm)]))
        for arm, spec in study.arms.items()
        for seed in seeds_of(study, arm)
    ]
    # The first seed of every arm before the second of any: early looks are at all arms.
    asked.sort(key=lambda words: seeds_of(study, words[0]).index(words[1]))
    results = {arm: [] for arm in study.arms}
    for (arm, *_), run in zip(asked, runner.all(asked), strict=True):
        results[arm] += [run] if run["after"] else []
    results = {arm: runs for arm, runs in results.items() if runs}
    if not results:
        raise SystemExit(f"no run of {args.study} is in {args.out} or {runner.keep}")
    args.page.parent.mkdir(parents=True, exist_ok=True)
    picture = args.page.with_suffix(".png")
    if study.curves:
        plot(study, results, picture)
    words = f"python tools/study.py {args.study} --out={args.out} --page={args.page}"
    drawn = picture.name if study.curves else None
    text = page(study, words, scores, results, drawn)
    args.page.write_text(text)
    parts = [table(study, results), arm_lines(study, results), str(args.page)]
    if study.claims:
        parts.insert(1, claims_table(study, results))
    print("\n" + "\n\n".join(parts))


if __name__ == "__main__":
    main()
