"""Teachers whose weights follow the student's: averages, copies on a clock, gates."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jopd.teachers import gate, roles

MOVING = ("ema", "snapshot", "gated")


def start(teachers: Mapping[str, roles.Teacher], params) -> dict[str, Any]:
    """Parameters of every moving teacher before the first update: the student's.

    Real copies: the student's own buffers are donated to its next update.
    """
    return {
        name: jax.tree.map(jnp.copy, params)
        for name, teacher in teachers.items()
        if teacher.weights in MOVING
    }


@jax.jit
def blend(old, new, rate: float):
    """``(1 - rate) old + rate new``, leaf by leaf."""
    return jax.tree.map(lambda t, s: t + rate * (s - t), old, new)


def move(
    teachers: Mapping[str, roles.Teacher],
    held: Mapping[str, Any],
    params,
    step: int,
    opened: Collection[str] = (),
) -> dict[str, Any]:
    """Moving teachers after update number ``step`` (from 1) of the student.

    ``opened`` are the gated ones that become the student now, see ``pass_gates``.
    """
    moved = dict(held)
    for name, old in held.items():
        teacher = teachers[name]
        if teacher.weights == "ema":
            moved[name] = blend(old, params, teacher.rate)
        elif teacher.weights == "gated":
            if name in opened:
                moved[name] = jax.tree.map(jnp.copy, params)
        elif step % teacher.every_steps == 0:
            moved[name] = jax.tree.map(jnp.copy, params)
    return moved


def first_gates(teachers: Mapping[str, roles.Teacher]) -> dict[str, dict]:
    """What every gated teacher remembers before the first update; plain, for JSON."""
    gated = (name for name in teachers if teachers[name].weights == "gated")
    return {name: gate.Gate()._asdict() for name in gated}


def pass_gates(
    teachers: Mapping[str, roles.Teacher],
    gates: Mapping[str, dict],
    outcome: gate.Outcome | None,
    step: int,
) -> tuple[dict[str, dict], set[str], dict[str, float | None]]:
    """Decides which gated teachers become the student after update ``step``.

    Without fresh rollouts (``outcome`` is None) nothing is learnt of this update.

    Returns:
      (gates, opened, metrics): of every gated teacher, whether it was refreshed, the
      updates since then, and the reward and length tail of its window.
    """
    after, opened, metrics = {}, set(), {}
    for name, remembered in gates.items():
        teacher, now = teachers[name], gate.Gate(**remembered)
        if outcome is not None:
            now = gate.observe(now, outcome, window=teacher.reward_window)
        if gate.is_open(
            now,
            step,
            every_steps=teacher.every_steps,
            check_steps=teacher.check_steps,
            reward_margin=teacher.reward_margin,
            tail_ratio=teacher.tail_ratio,
        ):
            now = gate.passed(now, step)
            opened.add(name)
        after[name] = now._asdict()
        metrics[f"teacher/{name}_refreshed"] = float(name in opened)
        metrics[f"teacher/{name}_steps_since"] = float(step - now.step)
        metrics[f"teacher/{name}_reward"] = gate.reward(now)
        metrics[f"teacher/{name}_tail"] = gate.tail(now)
    return after, opened, metrics
