"""The page of a study: tables, verdicts and curves."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from studying.numbers import shown, spent, value_of
from studying.reading import EQUALS, Study, seeds_of
from studying.verdicts import arm_lines, claims_table

WITHIN = 0.05  # two budgets that differ by less are called equal
LABELS = {
    "updates": "updates",
    "rollouts": "rollouts",
    "tokens_sampled": "tokens sampled",
    "teacher_tokens": "teacher tokens",
    "wall_seconds": "seconds",
}


def table(study: Study, results: dict[str, list[dict]]) -> str:
    head = ["arm", "seeds", *study.metrics.values()]
    lines = _head(head)
    if study.start in results:
        lines.append(_line("student before", study, results[study.start], "before."))
    lines += [_line(arm, study, summaries) for arm, summaries in results.items()]
    return "\n".join(lines)


def _head(cells: list[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |", "|---" * len(cells) + "|"]


def _line(name: str, study: Study, summaries: list[dict], before: str = "") -> str:
    cells = [
        shown([value_of(s, before + key) for s in summaries], key)
        for key in study.metrics
    ]
    return f"| {name} | {len(summaries)} | {' | '.join(cells)} |"


def still_to_run(study: Study, results: dict[str, list[dict]]) -> str:
    """Seeds of arms that are not among the results."""
    left = {
        arm: sorted({*seeds_of(study, arm)} - {run["seed"] for run in runs})
        for arm in study.arms
        for runs in [results.get(arm, [])]
    }
    return "; ".join(
        f"{arm} (seeds {', '.join(map(str, seeds))})"
        for arm, seeds in left.items()
        if seeds
    )


def commits(results: dict[str, list[dict]]) -> str:
    """The commits that the runs were made at, each once."""
    made = {
        run.get("git_commit") or "unknown" for runs in results.values() for run in runs
    }
    return ", ".join(sorted(commit[:7] for commit in made))


def budgets(results: dict[str, list[dict]]) -> dict[str, dict[str, float]]:
    """arm -> what its runs had on average, by ``EQUALS``."""
    return {
        arm: {key: np.mean([spent(run, key) for run in runs]) for key in EQUALS}
        for arm, runs in results.items()
    }


def budget_table(had: dict[str, dict[str, float]]) -> str:
    lines = _head(["arm", *LABELS.values()])
    for arm, of_arm in had.items():
        cells = [f"{of_arm[key]:,.0f}" for key in LABELS]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def equality(study: Study, had: dict[str, dict[str, float]]) -> str:
    """What is equal between the arms as the study says, and where it is not so."""
    if not study.equal:
        return "Nothing is said to be equal between the arms."
    lines = [f"Equal between the arms: {', '.join(LABELS[k] for k in study.equal)}."]
    for key in study.equal:
        low, high = (of(of_arm[key] for of_arm in had.values()) for of in (min, max))
        if high > low * (1 + WITHIN):
            lines.append(
                f"**The {LABELS[key]} are not**: from {low:,.0f} to {high:,.0f}."
            )
    return " ".join(lines)


def chosen(scores: dict[float, float]) -> float | None:
    """The best learning rate; the lower one of equals; None without a grid."""
    return max(sorted(scores), key=scores.get) if scores else None


def on_border(scores: dict[float, float]) -> bool:
    """Whether the best of several rates is the lowest or the highest tried."""
    return len(scores) > 1 and chosen(scores) in (min(scores), max(scores))


def grid_table(scores: dict[str, dict[float, float]]) -> str:
    rates = sorted({rate for of_arm in scores.values() for rate in of_arm})
    lines = _head(["arm", *(f"{rate:g}" for rate in rates)])
    for arm, of_arm in scores.items():
        cells = [_score(of_arm, rate) for rate in rates]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _score(of_arm: dict[float, float], rate: float) -> str:
    """A cell of the grid: a dash where a rate was not tried, the best in bold."""
    if rate not in of_arm:
        return "–"
    text = f"{of_arm[rate]:.3f}"
    return f"**{text}**" if rate == chosen(of_arm) else text


def grid_words(study: Study, scores: dict[str, dict[float, float]]) -> str:
    """How the rates were found, and whose best may lie outside of what was tried."""
    text = (
        f"`{study.best}` on seed {study.tune_seed}, which is not among the "
        "reported ones; the best in bold was taken."
    )
    if study.widen:
        text += (
            f" All arms began with {', '.join(f'{rate:g}' for rate in study.grid)}; "
            "where the best lay on the border the next rate outside was tried, at most "
            f"{study.widen} times. A run that diverged has -inf."
        )
    for arm, spec in study.arms.items():
        if of := spec.get("rate_of"):
            text += f" {arm} has the rate of {of}."
    at = [arm for arm, of_arm in scores.items() if on_border(of_arm)]
    return text + (f" **Still on the border**: {', '.join(at)}." if at else "")


def curve(runs: list[dict], key: str):
    """(steps, mean, lowest, highest over seeds) of a metric; None if nobody logs it."""
    series = [
        {row["step"]: row[key] for row in run["updates"] if row.get(key) is not None}
        for run in runs
    ]
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


def curve_name(arm: str, runs: list[dict], key: str) -> str:
    """An arm, and its seeds where only some of their runs kept a metric's updates."""
    kept = lambda run: any(row.get(key) is not None for row in run["updates"])
    seeds = [run["seed"] for run in runs if kept(run)]
    if len(seeds) == len(runs):
        return arm
    return f"{arm}, seed {' and '.join(map(str, seeds))}"


def plot(study: Study, results: dict[str, list[dict]], target: Path) -> None:
    """One panel per curve, one line per arm, the band from lowest to highest seed."""
    figure, axes = plt.subplots(
        1, len(study.curves), figsize=(5 * len(study.curves), 3.6), squeeze=False
    )
    shown = {}
    for panel, (key, label) in zip(axes[0], study.curves.items(), strict=True):
        for number, (arm, runs) in enumerate(results.items()):
            found = curve(runs, key)
            if found is None:
                continue
            steps, mean, low, high = found
            color = plt.get_cmap("tab20")(number % 20)
            name = curve_name(arm, runs, key)
            (line,) = panel.plot(steps, mean, label=name, color=color, linewidth=1.3)
            # An arm that does not log one panel's number may log another's.
            shown[arm] = line
            panel.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
        panel.set_title(label, fontsize=10)
        panel.set_xlabel("update")
        panel.grid(alpha=0.2)
    handles = [shown[arm] for arm in results if arm in shown]
    axes[0][-1].legend(
        handles=handles, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5)
    )
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    plt.close(figure)


def page(study: Study, words: str, scores, results, picture: str | None) -> str:
    """The markdown page."""
    parts = [f"# {study.title}", study.about.strip(), f"```sh\n{words}\n```"]
    common = ", ".join(f"`{key}={value}`" for key, value in study.common.items())
    had = budgets(results)
    parts.append(
        f"Every run: {common or 'the defaults of its config'}. Commits: "
        f"{commits(results)}."
    )
    parts += [equality(study, had), table(study, results)]
    if missing := still_to_run(study, results):
        parts.append(f"**Not run yet**: {missing}.")
    parts.append(
        "Mean ± half width of the 95 % t-interval over seeds; one seed has none."
    )
    if study.claims:
        parts += ["## Claims", claims_table(study, results)]
    parts += ["## Arm by arm", arm_lines(study, results)]
    parts.append(
        "Differences are of runs with one seed and the same held-out prompts, with "
        "95 % t-intervals over seeds and over prompts (the mean over seeds of each). A "
        "verdict needs all that are known to exclude 0."
    )
    if alone := [arm for arm, runs in results.items() if len(runs) == 1]:
        parts.append(
            f"Of one seed, so judged by prompts alone, which another seed may turn: "
            f"{'all' if len(alone) == len(results) else ', '.join(alone)}."
        )
    if study.found:
        parts += ["## What was seen", study.found.strip()]
    parts += ["## Budgets", "Means over seeds.", budget_table(had)]
    if scores and any(scores.values()):
        parts.append("## Learning rates")
        parts += [grid_words(study, scores), grid_table(scores)]
    if picture:
        parts += ["## Curves", f"![curves]({picture})"]
    return "\n\n".join(parts) + "\n"
