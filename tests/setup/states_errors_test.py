"""Whose states a term cannot have, said before anything is loaded or compiled."""

import pytest

import runs
from jopd.setup import experiment, validation
from jopd.setup.config import base_config
from jopd.training import origins


def config(**term):
    c = base_config()
    c.loss.states = {"signal": "oprd.mse", "reads": "states"} | term
    return c


def test_models_with_states_are_fine():
    c = config()
    validation.validate(c)
    c.teacher.quantize = "int8"
    c.student.lora.rank = 2
    validation.validate(c)


def test_a_panel_has_no_states():
    c = config(other="both")
    c.panels.both = {"members": ("teacher", "reference")}
    with pytest.raises(
        ValueError, match=r"loss.states reads the states of 'both', a p"
    ):
        validation.validate(c)


@pytest.mark.parametrize(
    "keys, why",
    [
        ({"weights": "served", "url": "http://a/v1", "model": "m"}, "weights='served'"),
        ({"weights": "stored", "path": "scores"}, "weights='stored'"),
        ({"tokenizer": "own"}, "tokenizer='own'"),
    ],
)
def test_a_teacher_elsewhere_has_no_states(keys, why):
    c = config(weights={"first_tokens": {"count": 3}})
    c.teacher.update(keys)
    said = rf"loss.states reads the states of 'teacher', and teacher.{why} gives log-p"
    with pytest.raises(ValueError, match=said):
        validation.validate(c)


def test_unlike_shapes_are_refused_before_they_are_loaded(models, monkeypatch):
    monkeypatch.setattr(experiment, "load_models", None)
    c = runs.config(models, "oprd", **runs.DIGITS)
    with c.unlocked():
        c.student.path, c.teacher.path = "demo:student", "demo:teacher"
    with pytest.raises(
        ValueError, match=r"student's are 64 wide, .* 128: make a bridg"
    ):
        experiment.build(c)
    with c.unlocked():
        c.teacher.path, c.loss.states.layers = "demo:early", (1, 3)
    with pytest.raises(ValueError, match=r"names layer 3, and the student has 2"):
        experiment.build(c)


def test_what_is_kept_is_in_the_plan(models):
    c = runs.config(models, "oprd")
    with c.unlocked():
        c.teacher.path = str(models / "teacher")  # two layers, 16 wide; the student one
    e = experiment.build(c)
    (part,) = [p for p in e.memory.parts if p.name == "states between layers"]
    tokens = e.mix.rows * e.widths.rows[-1]
    devices = e.mesh.size
    # Of one pair of layers: held, and once more as the loss reads them.
    assert part.most == 2 * 2 * 4 * tokens // devices * 16
    assert not [name for name in origins.found(e) if "file" in name]
    plain = experiment.build(runs.config(models, "opd"))
    assert "states between layers" not in [p.name for p in plain.memory.parts]
