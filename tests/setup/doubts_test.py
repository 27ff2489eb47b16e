"""Configs that work but are hardly meant."""

import jax
import jax.numpy as jnp
import pytest

from jopd.setup import cast as cast_of
from jopd.setup import doubts, experiment, shipped, validation
from jopd.teachers import roles


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


def of_config(name: str, **changes) -> list[str]:
    c = shipped.load(name)
    c.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    return doubts.doubts(c, experiment.make_mix(c))


@pytest.mark.parametrize("name", shipped.names())
def test_shipped_configs_leave_no_doubt(name):
    assert of_config(name) == []


def test_a_share_of_less_than_a_row_is_said():
    (line,) = of_config("stableopd", mix__gold=0.001)
    assert "mix.gold=0.001 beside mix.student=0.8 for 128 rollouts is 0 rows" in line
    assert line.endswith("a row is 0.00625")
    assert of_config("stableopd", mix__gold=0.00625) == []
    (line,) = of_config("opd", mix__replay=1e-6)
    assert "mix.replay=1e-06" in line


def test_a_teacher_that_nothing_names_is_said():
    c = shipped.load("opsd")
    c.teachers.slef = dict(c.teachers.self)
    (line,) = doubts.doubts(c, experiment.make_mix(c))
    assert line.startswith("teachers.slef is named by no term")
    c.panels.both = dict(members=("slef", "teacher"))
    assert doubts.doubts(c, experiment.make_mix(c)) == []


@pytest.mark.parametrize(
    "epochs, prompts, steps",
    [(1, 32, 1), (1, 33, 2), (2, 64, 4), (0.5, 64, 1), (0.1, 8, 1), (3, 7473, 701)],
)
def test_epochs_give_steps_and_what_follows_them(epochs, prompts, steps):
    c = shipped.load("reopold_two_stage")
    c.epochs = epochs
    c.lock()
    mix = experiment.make_mix(c)
    found = experiment.in_epochs(c, mix, prompts)
    assert found.steps == steps and c.steps == 400 and found.is_locked
    assert found.loss.trusted.coef.steps == steps // 2
    c.epochs = 0.0
    assert experiment.in_epochs(c, mix, prompts) is c


def test_a_teacher_that_is_the_student():
    c = shipped.load("opd")
    weights = {"w": jnp.ones(2)}
    params = {"student": weights, "teacher": weights, "other": {"w": jnp.zeros(2)}}
    known = {name: roles.Teacher() for name in ("teacher", "other", "self")}
    cast = cast_of.Cast({}, {}, known, ())
    (line,) = cast_of.copies(c, cast, {}, params, None)
    assert line.startswith("teacher has the student's own weights")
    assert cast_of.copies(c, cast, {"teacher": None}, params, None) == []
    with c.unlocked():
        c.init_from.run = "runs/x"  # whose weights are not the teacher's
    assert cast_of.copies(c, cast, {}, params, None) == []


def test_the_same_weights_are_known():
    one = {"a": jnp.arange(3.0) / 3, "b": {"c": jnp.ones((2, 2))}}
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), one)
    assert cast_of.same_weights(one, dict(one))
    assert cast_of.same_weights(one, rounded)
    assert not cast_of.same_weights(one, one | {"a": jnp.arange(3.0)})
    assert not cast_of.same_weights(one, one | {"a": jnp.arange(4.0)})
    assert not cast_of.same_weights(one, {"a": one["a"]})
