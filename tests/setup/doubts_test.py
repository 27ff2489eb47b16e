"""Configs that work but are hardly meant."""

import pytest

from jopd.setup import doubts, shipped, validation


def test_the_loss_follows_the_temperature_of_the_rollouts():
    c = shipped.load("stableopd")
    c.rollout.temperature = 0.8
    assert c.objective.temperature == 0.8 and not doubts.other_temperature(c)
    c.objective.temperature = 0.5
    assert c.rollout.temperature == 0.8
    c.rollout.temperature = 0.7
    assert c.objective.temperature == 0.5
    (line,) = doubts.other_temperature(c)
    assert "objective.temperature=0.5 is not rollout.temperature=0.7" in line


def test_greedy_rollouts_are_nothing_to_learn_from():
    c = shipped.load("stableopd")
    c.rollout.temperature = 0.0
    with pytest.raises(ValueError, match=r"^rollout.temperature=0\.0: nothing"):
        validation.validate(c)
    c.mix.student, c.mix.gold = 0.0, 1.0
    del c.loss.opd, c.loss.reference
    with pytest.raises(ValueError, match="it follows rollout"):
        validation.validate(c)
    c.objective.temperature = 1.0
    validation.validate(c)
