"""Numbers by update: coefficients, strengths, budgets and horizons of a config."""

import math

from ml_collections import ConfigDict

from jopd.setup import optimizer, ranges
from jopd.setup.builders import one_of

COEF = dict.fromkeys(("value", "start", "end"), ranges.FACTOR)
COEF |= {"steps": ranges.COUNT, "warmup": ranges.FROM_0, "hold": ranges.FROM_0}


def check(where: str, coef) -> None:
    """Rejects what is neither a number nor a schedule that can be meant."""
    if not isinstance(coef, ConfigDict):
        return ranges.check(where, coef, ranges.FACTOR)
    if not {"schedule", "value"} <= set(coef) <= {"schedule", *COEF}:
        raise ValueError(
            f"{where}={coef.to_dict()!r} must be dict(schedule=..., value=..., "
            f"end=..., steps=..., start=..., warmup=...); all but the first two may be "
            "left out, and hold=... is for schedule='hold'"
        )
    one_of(f"{where}.schedule", coef.schedule, optimizer.OF_TERMS)
    for key in set(COEF) & set(coef):
        ranges.check(f"{where}.{key}", coef[key], COEF[key])
    if ("hold" in coef) != (coef.schedule == "hold"):
        has = "has" if "hold" in coef else "has no"
        raise ValueError(
            f"{where}: schedule={coef.schedule!r} {has} hold; hold=..., the update "
            "from which a coefficient moves, is for schedule='hold' and needed there"
        )
    for key in ("hold", "warmup"):
        if coef.get(key, 0) >= coef.get("steps", math.inf):
            raise ValueError(
                f"{where}.{key}={coef[key]} leaves no update before {where}.steps="
                f"{coef.steps}; lower it or raise the other"
            )


def coefficients(config: ConfigDict, step: int) -> dict[str, float]:
    """Coefficient of every term at an update.

    ``coef`` is a number, or ``dict(schedule=..., value=..., end=..., steps=...)`` with
    a schedule of ``optimizer.schedule``; it reaches ``end``, higher or lower, after
    ``steps`` updates, without ``steps`` at the end of the run. Of them the first
    ``warmup`` go from ``start`` to ``value``. "hold" needs ``hold``, the update from
    which it moves.
    """
    coefs = {name: spec.get("coef", 1.0) for name, spec in config.loss.items()}
    held = lambda coef: isinstance(coef, ConfigDict) or coef != 0
    return {n: scheduled(c, config.steps)(step) for n, c in coefs.items() if held(c)}


def scheduled(coef: float | ConfigDict, steps: int):
    """``update -> float`` of a coefficient; ``steps`` are those of the run."""
    if not isinstance(coef, ConfigDict):
        return lambda step: float(coef)
    at = optimizer.schedule(
        coef.schedule,
        coef.value,
        steps=coef.get("steps", steps),
        warmup_steps=coef.get("warmup", 0),
        start=coef.get("start", 0.0),
        end=coef.get("end", 0.0),
        hold=coef.get("hold", 0),
    )
    return lambda step: float(at(step))


def horizon(config: ConfigDict):
    """``(memories, update) -> tokens`` that its rollouts may have at most, or None.

    Never more than ``rollout.max_new_tokens``, whatever a memory asks for.
    """
    spec, most = config.rollout.horizon, config.rollout.max_new_tokens
    if not spec:
        return None
    if "memory" in spec:
        return lambda memories, step: min(int(memories[spec.memory]["horizon"]), most)
    at = scheduled(spec, config.steps)
    return lambda memories, step: round(at(step))


def strengths(config: ConfigDict) -> dict:
    """Guided panel -> ``update -> float``, of those whose strength has a schedule."""
    given = {name: spec.get("strength", 1.0) for name, spec in config.panels.items()}
    return {
        name: scheduled(strength, config.steps)
        for name, strength in given.items()
        if isinstance(strength, ConfigDict)
    }


def behavior_budget(config: ConfigDict, step: int) -> float:
    """What a teacher may move rollouts at an update, in nats; 0: it does not draw."""
    c = config.rollout.behavior
    if not c.function:
        return 0.0
    steps = c.steps or config.steps
    if c.schedule != "constant" and c.steps and step >= steps and not c.end:
        return 0.0
    return float(optimizer.schedule(c.schedule, c.budget, steps=steps, end=c.end)(step))
