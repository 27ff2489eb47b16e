"""What the file of a study says, checked before the first run."""

import runpy
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ARM_KEYS = {"config", "overrides", "seeds", "baseline", "rate_of", "kept"}
CLAIM_KEYS = {"arm", "against", "metric", "direction"}
DIRECTIONS = {"higher": 1.0, "lower": -1.0}
BEFORE = "before"  # what a claim may compare with besides an arm: the arm's own student
EQUALS = ("updates", "rollouts", "tokens_sampled", "teacher_tokens", "wall_seconds")


class Study(NamedTuple):
    """What the file of a study says; its names are explained in tools/study.py."""

    title: str
    about: str
    arms: dict[str, dict]
    seeds: tuple[int, ...]
    grid: tuple[float, ...]
    widen: int
    tune_seed: int
    common: dict[str, Any]
    equal: tuple[str, ...]
    metrics: dict[str, str]
    curves: dict[str, str]
    best: str
    start: str
    baseline: str
    judged: tuple[str, ...]
    claims: dict[str, dict[str, str]]
    found: str
    also: dict[str, dict[str, Any]]


def load(path: str) -> Study:
    """The study in a file.

    Raises:
      SystemExit: it contradicts itself; one line names the thing and the remedy.
    """
    found = runpy.run_path(path)
    best = found.get("BEST", "avg_at_k")
    study = Study(
        title=found["TITLE"],
        about=found["ABOUT"],
        arms=found["ARMS"],
        seeds=tuple(found["SEEDS"]),
        grid=tuple(sorted(found.get("GRID", ()))),
        widen=found.get("WIDEN", 3),
        tune_seed=found.get("TUNE_SEED", 1000),
        common=found.get("COMMON", {}),
        equal=tuple(found.get("EQUAL", ("updates", "rollouts"))),
        metrics=found["METRICS"],
        curves=found.get("CURVES", {}),
        best=best,
        start=found.get("START", ""),
        baseline=found.get("BASELINE", ""),
        judged=tuple(found.get("JUDGED", (best,))),
        claims=found.get("CLAIMS", {}),
        found=found.get("FOUND", ""),
        also=found.get("ALSO", {}),
    )
    for wrong in faults(study):
        raise SystemExit(f"{path}: {wrong}")
    return study


def faults(study: Study):
    """Yields what a study says that cannot be meant, a line each."""
    arms = study.arms.keys()
    for name, spec in study.arms.items():
        if study.grid and study.tune_seed in seeds_of(study, name):
            yield (
                f"TUNE_SEED={study.tune_seed} is a reported seed of {name!r}; tuning "
                "must not see what is reported"
            )
        if wrong := spec.keys() - ARM_KEYS:
            yield f"arm {name!r} has {sorted(wrong)}; an arm has {sorted(ARM_KEYS)}"
        if not config_of(spec).is_file():
            yield f"arm {name!r}: there is no config {config_of(spec)}"
        if baseline_of(study, name) not in {"", *arms}:
            yield f"the baseline {baseline_of(study, name)!r} of {name!r} is no arm"
        if (of := spec.get("rate_of")) and "rate_of" in study.arms.get(of, spec):
            yield f"arm {name!r}: rate_of={of!r} is no arm with a rate of its own"
    if study.start not in {"", *arms}:
        yield f"START={study.start!r} is no arm; arms are {', '.join(arms)}"
    for key in study.equal:
        if key not in EQUALS:
            yield f"EQUAL names {key!r}; what can be equal: {', '.join(EQUALS)}"
    for said, claim in study.claims.items():
        if claim.keys() != CLAIM_KEYS:
            yield f"claim {said!r} has {sorted(claim)}, and needs {sorted(CLAIM_KEYS)}"
        elif claim["arm"] not in arms:
            yield f"claim {said!r}: {claim['arm']!r} is no arm"
        elif claim["against"] not in {BEFORE, *arms}:
            yield f"claim {said!r}: {claim['against']!r} is no arm, nor 'before'"
        elif claim["direction"] not in DIRECTIONS:
            yield (
                f"claim {said!r}: direction={claim['direction']!r}; it is 'higher' or "
                "'lower'"
            )


def updates_read(study: Study) -> set[str]:
    """The keys of metrics.jsonl that the page of a study reads."""
    numbers = [*study.metrics, *study.judged]
    numbers += [claim["metric"] for claim in study.claims.values()]
    named = {key.removeprefix("-").partition(" ")[2] for key in numbers} - {""}
    return named | study.curves.keys()


def seeds_of(study: Study, arm: str) -> tuple[int, ...]:
    return tuple(study.arms[arm].get("seeds", study.seeds))


def baseline_of(study: Study, arm: str) -> str:
    """The arm that ``arm`` is compared with; none with itself."""
    name = study.arms[arm].get("baseline", study.baseline)
    return "" if name == arm else name


def config_of(spec: dict) -> Path:
    """The file of an arm's config: a shipped one by name, any by its path."""
    name = spec["config"]
    return Path(name) if name.endswith(".py") else ROOT / "configs" / f"{name}.py"
