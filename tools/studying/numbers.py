"""Numbers of finished runs, each as ``finished`` has it."""

import numpy as np
from scipy import stats

RIGHT = 1.0  # reward from which pass@k takes a response for right
# What a prompt counts for in a number of ``after``: of its greedy reward and f64[K].
PER_PROMPT = {
    "accuracy": lambda greedy, sampled: greedy,
    "avg_at_k": lambda greedy, sampled: np.mean(sampled),
    "pass_at_k": lambda greedy, sampled: float(np.max(sampled) >= RIGHT),
}


def value_of(summary: dict, key: str) -> float:
    """A number of a run, see METRICS in tools/study.py; NaN where it has none."""
    how, _, name = key.partition(" ")
    if key.startswith("before."):
        found = summary["before"].get(key.removeprefix("before."))
    elif name:
        values = [row[name] for row in summary["updates"] if name in row]
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


def by_prompt(summary: dict, key: str) -> tuple[str, np.ndarray] | None:
    """(hash of the prompts, f64[prompts]) of a number; None where a run kept none."""
    phase = "before" if key.startswith("before.") else "after"
    of_prompt = PER_PROMPT.get(key.removeprefix("before."))
    found = summary["evaluation"].get(phase)
    if of_prompt is None or found is None:
        return None
    pairs = zip(found["greedy"], found["sampled"], strict=True)
    return found["prompts"], np.array([of_prompt(*pair) for pair in pairs])


def rollouts(summary: dict) -> float:
    """Rollouts of a whole run, in expectation where a coin decides."""
    c, mix = summary["config"]["rollout"], summary["config"]["mix"]
    drawn = c["prompts_per_step"] * c["group_size"] * (mix["student"] > 0)
    share = mix["on_policy_probability"] / mix["updates_per_rollout"]
    return summary["steps"] * drawn * share


def spent(summary: dict, key: str) -> float:
    """What a run had of one of ``reading.EQUALS``."""
    if key == "rollouts":
        return rollouts(summary)
    return value_of(summary, "steps" if key == "updates" else key)


def interval(values) -> tuple[float, float]:
    """(mean, half width of the 95 % t-interval); NaN width for fewer than two."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return float(values.mean()), float("nan")
    spread = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean()), float(spread)


def shown(values, key: str) -> str:
    """A cell: mean and half width, rates in percent; a dash for what nobody logs."""
    return written(*interval(values), key)


def written(mean: float, half: float, key: str, signed: bool = False) -> str:
    """A mean and, unless it is NaN, its half width, as ``shown`` has them."""
    if np.isnan(mean):
        return "–"
    rate = key.split(".")[-1].endswith(("accuracy", "_at_k", "_rate"))
    size = abs(mean)
    plain = 3 if size < 10 else 1 if size < 1000 else 0
    scale, digits = (100.0, 1) if rate else (1.0, plain)
    text = f"{mean * scale:{'+' * signed},.{digits}f}"
    return text if np.isnan(half) else f"{text} ± {half * scale:,.{digits}f}"
