"""Numbers by update: budgets of a teacher that draws along, and horizons."""

import pytest

from jopd.setup import schedules
from jopd.setup.config import base_config


def config(**rollout):
    built = base_config()
    built.steps = 100
    for key, value in rollout.items():
        built.rollout[key].update(value)
    return built


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (dict(budget=0.4, steps=50), [0.4, 0.2, 0.0, 0.0]),
        (dict(budget=0.4, steps=50, end=0.2), [0.4, 0.3, 0.2, 0.2]),
        (dict(budget=0.4), [0.4, 0.3, 0.2, 0.1]),
        (dict(budget=0.4, schedule="constant", steps=50), [0.4] * 4),
        (dict(budget=0.4, schedule="cosine", steps=50), [0.4, 0.2, 0.0, 0.0]),
    ],
)
def test_the_budget_of_a_teacher_that_draws_along(given, found):
    built = config(behavior=dict(function="blend", **given))
    budgets = [schedules.behavior_budget(built, at) for at in (0, 25, 50, 75)]
    assert budgets == pytest.approx(found, abs=1e-6)
    assert schedules.behavior_budget(config(behavior=given), 0) == 0.0


def test_a_horizon_that_grows():
    grows = config(horizon=dict(schedule="linear", value=8, end=64, steps=50))
    at = schedules.horizon(grows)
    assert [at({}, step) for step in (0, 25, 50, 99)] == [8, 36, 64, 64]
    assert schedules.horizon(config()) is None


def test_a_horizon_of_a_memory():
    at = schedules.horizon(config(horizon=dict(memory="window")))
    assert at({"window": {"horizon": 16, "window": 8}}, 3) == 16
    assert at({"window": {"horizon": 99}}, 3) == base_config().rollout.max_new_tokens
