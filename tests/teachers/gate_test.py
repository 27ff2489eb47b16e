"""When a gated teacher is refreshed: a decision of numbers, by itself."""

import json

import numpy as np
import pytest

import tiny
from jopd.reporting import diagnostics
from jopd.teachers import gate
from jopd.teachers import roles as teachers
from jopd.teachers.gate import Gate, Outcome
from jopd.teachers.roles import Teacher

FREE = {
    "every_steps": 1,
    "reward_margin": -float("inf"),
    "length_growth": float("inf"),
    "max_truncation": 1.0,
}
GATE = Gate(step=10, reward=0.5, reward_then=0.25, length_then=100.0)
FINE = Outcome(reward=0.5, length=100.0, truncation=0.0)


def test_the_first_rollouts_stand_for_the_initial_student():
    first = gate.observe(Gate(), Outcome(0.25, 40.0, 0.5), rate=0.125)
    assert first == Gate(0, 0.25, 0.25, 40.0)
    second = gate.observe(first, Outcome(1.0, 90.0, 0.0), rate=0.125)
    assert second == Gate(0, 0.25 + 0.125 * 0.75, 0.25, 40.0)
    assert gate.passed(second, Outcome(1.0, 90.0, 0.0), 7) == Gate(
        7, second.reward, second.reward, 90.0
    )


@pytest.mark.parametrize(
    ("limits", "step", "outcome", "opens"),
    [
        ({}, 11, FINE, True),
        ({"every_steps": 5}, 14, FINE, False),
        ({"every_steps": 5}, 15, FINE, True),
        ({"reward_margin": 0.25}, 11, FINE, True),
        ({"reward_margin": 0.26}, 11, FINE, False),
        ({"length_growth": 0.5}, 11, FINE._replace(length=150.0), True),
        ({"length_growth": 0.5}, 11, FINE._replace(length=151.0), False),
        ({"max_truncation": 0.5}, 11, FINE._replace(truncation=0.5), True),
        ({"max_truncation": 0.5}, 11, FINE._replace(truncation=0.51), False),
    ],
)
def test_every_condition_can_keep_it_shut(limits, step, outcome, opens):
    assert gate.is_open(GATE, outcome, step, **FREE | limits) is opens


def test_without_conditions_it_is_a_clock():
    known = {"self": Teacher(weights="gated", **FREE | {"every_steps": 3})}
    gates, seen = teachers.first_gates(known), []
    for step in range(1, 11):
        outcome = Outcome(1 / step, 10.0 * step, 0.5)
        gates, opened, _ = teachers.pass_gates(known, gates, outcome, step)
        seen.append(bool(opened))
    assert [step for step, opened in enumerate(seen, 1) if opened] == [3, 6, 9]


def test_what_is_remembered_survives_json_and_is_what_decides():
    """Two halves, the second from JSON, are the whole; a plateau shuts the gate."""
    known = {
        "self": Teacher(weights="gated", every_steps=2, reward_margin=0.05),
        "other": Teacher(weights="ema"),
    }
    rewards = np.random.default_rng(0).uniform(size=12) + np.arange(12) / 6
    rewards[8:] = 0.0

    def go(gates, steps):
        found = []
        for step in steps:
            outcome = Outcome(float(rewards[step - 1]), 50.0, 0.1)
            gates, opened, metrics = teachers.pass_gates(known, gates, outcome, step)
            found.append((sorted(opened), metrics))
        return gates, found

    whole, all_of_it = go(teachers.first_gates(known), range(1, 13))
    half, first = go(teachers.first_gates(known), range(1, 6))
    rest, second = go(json.loads(json.dumps(half)), range(6, 13))
    assert set(whole) == {"self"} and rest == whole
    assert first + second == all_of_it
    opened = [bool(names) for names, _ in all_of_it]
    assert any(opened[:8]) and not any(opened[9:])
    since = [metrics["teacher/self_steps_since"] for _, metrics in all_of_it]
    refreshed = [metrics["teacher/self_refreshed"] for _, metrics in all_of_it]
    for at in range(1, 12):
        assert since[at] == (0 if refreshed[at] else since[at - 1] + 1)


def test_without_rollouts_nothing_is_learnt_and_nothing_moves():
    known = {"self": Teacher(weights="gated", **FREE)}
    gates = {"self": GATE._asdict()}
    after, opened, metrics = teachers.pass_gates(known, gates, None, 50)
    assert after == gates and not opened
    assert metrics == {
        "teacher/self_refreshed": 0.0,
        "teacher/self_steps_since": 40.0,
        "teacher/self_reward": 0.5,
    }


def test_an_outcome_is_of_responses():
    batch = tiny.batch(0)
    rollout = batch.rollout._replace(
        prompt_length_B=np.array([3] * 6),
        length_B=np.array([4, 5, 6, 7, 8, 23]),
        finished_B=np.array([1, 1, 1, 0, 1, 1], bool),
    )
    got = diagnostics.outcome(batch._replace(rollout=rollout))
    # Between the fifth and the sixth of the sorted lengths 1 2 3 4 5 20.
    assert got == pytest.approx((0.5, 5 + 0.75 * 15, 1 / 6))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"every_steps": 0}, "self.every_steps=0"),
        ({"reward_rate": 0.0}, "self.reward_rate=0.0"),
        ({"length_growth": -0.1}, "self.length_growth=-0.1"),
        ({"max_truncation": 1.5}, "self.max_truncation=1.5"),
    ],
)
def test_gates_that_cannot_work_are_refused(changes, words):
    teachers.check("self", Teacher(weights="gated"))
    with pytest.raises(ValueError, match=words):
        teachers.check("self", Teacher(weights="gated", **changes))
