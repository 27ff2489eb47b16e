"""When a gated teacher is refreshed: a decision of numbers, by itself."""

import json

import numpy as np
import pytest

import tiny
from jopd.reporting import diagnostics
from jopd.teachers import gate, moving
from jopd.teachers import roles as teachers
from jopd.teachers.gate import Gate, Outcome
from jopd.teachers.roles import Teacher

FREE = {
    "every_steps": 1,
    "check_steps": 1,
    "reward_margin": -float("inf"),
    "tail_ratio": float("inf"),
}
# Longest 100 of 40 in the mean, reward 0.5.
GATE = Gate(step=10, reward_then=0.25, recent=[[0.25, 90.0, 30.0], [0.75, 100.0, 50.0]])


def opened(rewards, tails=(), **keys):
    """(update, reward of its window) of every refresh; the paper's rule unless told."""
    known = {"self": Teacher(weights="gated", **keys)}
    gates, found = moving.first_gates(known), []
    for step, reward in enumerate(rewards, 1):
        longest = 40.0 * (4.0 if step in tails else 1.5)
        outcome = Outcome(float(reward), longest, 40.0)
        gates, names, metrics = moving.pass_gates(known, gates, outcome, step)
        found += [(step, metrics["teacher/self_reward"])] * len(names)
    return found


RISING = 0.5 + 0.01 * np.arange(60)


def test_the_rule_of_the_paper_is_no_clock():
    """The card's numbers; the gate that this one replaced opened every ten updates."""
    assert opened([0.5] * 60) == []
    assert opened([0.5] * 60, reward_margin=0.0) == []
    for found, want in (
        (opened(RISING), [(30, 0.77), (60, 1.07)]),
        (opened(RISING, tails=range(26, 41)), [(45, 0.92)]),
        # The tail is that of the whole window: 45 holds 41, 46 is no multiple of five.
        (opened(RISING, tails=range(26, 42)), [(50, 0.97)]),
        (opened(RISING, tails=range(26, 41), tail_ratio=4.0), opened(RISING)),
    ):
        assert [step for step, _ in found] == [step for step, _ in want]
        assert [reward for _, reward in found] == pytest.approx([r for _, r in want])


def test_the_first_full_window_stands_for_the_initial_student():
    seen = Gate()
    for at in range(5):
        assert seen.reward_then is None and not gate.is_open(seen, at, **FREE)
        seen = gate.observe(seen, Outcome(at / 4, 10.0 + at, 10.0), window=5)
    assert seen.reward_then == gate.reward(seen) == 0.5
    seen = gate.observe(seen, Outcome(1.25, 40.0, 10.0), window=5)
    assert (seen.reward_then, gate.reward(seen), gate.tail(seen)) == (0.5, 0.75, 4.0)
    assert gate.passed(seen, 6)._replace(recent=()) == Gate(6, 0.75)


@pytest.mark.parametrize(
    ("limits", "step", "opens"),
    [
        ({}, 11, True),
        ({"every_steps": 5}, 14, False),
        ({"every_steps": 5}, 15, True),
        ({"check_steps": 5}, 14, False),
        ({"check_steps": 5}, 15, True),
        ({"reward_margin": 0.24}, 11, True),
        ({"reward_margin": 0.25}, 11, False),
        ({"tail_ratio": 2.5}, 11, True),
        ({"tail_ratio": 2.49}, 11, False),
    ],
)
def test_every_condition_can_keep_it_shut(limits, step, opens):
    assert gate.is_open(GATE, step, **FREE | limits) is opens


def test_without_conditions_it_is_a_clock_and_without_a_margin_the_initial_student():
    clock = FREE | {"every_steps": 3, "reward_window": 1}
    falling = 1 / np.arange(1, 11)
    assert [step for step, _ in opened(falling, **clock)] == [3, 6, 9]
    assert opened(RISING, **clock | {"reward_margin": float("inf")}) == []


def test_rollouts_of_no_tokens_have_no_tail():
    empty = gate.observe(Gate(), Outcome(1.0, 0.0, 0.0), window=1)
    assert gate.tail(empty) is None
    assert gate.is_open(empty, 1, **FREE | {"tail_ratio": 1.0})


def test_what_is_remembered_survives_json_and_is_what_decides():
    """Two halves, the second from JSON, are the whole; a plateau shuts the gate."""
    known = {
        "self": Teacher(weights="gated", every_steps=2, check_steps=1, reward_window=2),
        "other": Teacher(weights="ema"),
    }
    rewards = np.random.default_rng(0).uniform(size=12) + np.arange(12) / 6
    rewards[8:] = 0.0

    def go(gates, steps):
        found = []
        for step in steps:
            outcome = Outcome(float(rewards[step - 1]), 50.0 + step, 30.0)
            gates, opened, metrics = moving.pass_gates(known, gates, outcome, step)
            found.append((sorted(opened), metrics))
        return gates, found

    whole, all_of_it = go(moving.first_gates(known), range(1, 13))
    half, first = go(moving.first_gates(known), range(1, 6))
    rest, second = go(json.loads(json.dumps(half)), range(6, 13))
    assert set(whole) == {"self"} and rest == whole
    assert first + second == all_of_it
    opened = [bool(names) for names, _ in all_of_it]
    assert any(opened[:8]) and not any(opened[9:])
    since = [metrics["teacher/self_steps_since"] for _, metrics in all_of_it]
    refreshed = [metrics["teacher/self_refreshed"] for _, metrics in all_of_it]
    for at in range(1, 12):
        assert since[at] == (0 if refreshed[at] else since[at - 1] + 1)


def test_without_rollouts_the_window_stays_and_the_look_is_not_put_off():
    known = {"self": Teacher(weights="gated", **FREE)}
    for then, names in ((0.25, {"self"}), (0.5, set())):
        gates = {"self": GATE._replace(reward_then=then)._asdict()}
        held = {"self": known["self"]._replace(reward_margin=0.0)}
        after, found, metrics = moving.pass_gates(held, gates, None, 50)
        assert found == names and after["self"]["recent"] == GATE.recent
        assert metrics == {
            "teacher/self_refreshed": float(bool(names)),
            "teacher/self_steps_since": 0.0 if names else 40.0,
            "teacher/self_reward": 0.5,
            "teacher/self_tail": 2.5,
        }


def test_an_outcome_is_of_responses():
    batch = tiny.batch(0)
    rollout = batch.rollout._replace(
        prompt_length_B=np.array([3] * 6),
        length_B=np.array([4, 5, 6, 7, 8, 24]),
        finished_B=np.array([1, 1, 1, 0, 1, 1], bool),
    )
    got = diagnostics.outcome(batch._replace(rollout=rollout))
    assert got == (0.5, 21.0, 6.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"every_steps": 0}, "self.every_steps=0"),
        ({"check_steps": 0}, "self.check_steps=0"),
        ({"reward_window": 0}, "self.reward_window=0"),
        ({"tail_ratio": 0.9}, "self.tail_ratio=0.9"),
    ],
)
def test_gates_that_cannot_work_are_refused(changes, words):
    teachers.check("self", Teacher(weights="gated"))
    with pytest.raises(ValueError, match=words):
        teachers.check("self", Teacher(weights="gated", **changes))
