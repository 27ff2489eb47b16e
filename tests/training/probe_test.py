"""The gap before training: of a context that helps, of none, and what it needs."""

import jax
import numpy as np
import pytest

import runs
from jopd.setup import experiment
from jopd.training import probe

SMALL = {
    "eval__verifier": "runs.is_even",
    "eval__reward_truncated": True,
    "rollout__max_new_tokens": 6,
    "rollout__prompts_per_step": 4,
    "rollout__group_size": 4,
    "mix__gold": 0.0,
    "mix__student": 1.0,
}

GOLD = {"mix__student": 0.0, "mix__gold": 1.0, "rollout__max_new_tokens": 32}


def test_differences_are_paired_by_prompt():
    rng = np.random.default_rng(0)
    student_N = rng.uniform(0, 1, 400).round(1)
    found = probe.between(student_N, student_N + 0.25, student_N)
    assert found["gap"] == found["net"] == (pytest.approx(0.25), (0.25, 0.25))
    assert found["control"] == (0.0, (0.0, 0.0))
    again_N = rng.uniform(0, 1, 400)
    found = probe.between(student_N, again_N, again_N, seed=3)
    mean, (low, high) = found["gap"]
    assert mean == pytest.approx((again_N - student_N).mean()) and low < mean < high
    assert found["gap"] == found["control"] and found["net"][0] == 0
    # The normal interval of a mean, within the noise of 2,000 resamples.
    width = 2 * 1.96 * (again_N - student_N).std() / 20
    assert high - low == pytest.approx(width, rel=0.1)
    assert probe.between(student_N, again_N, again_N, seed=3) == found
    with pytest.raises(ValueError, match="at least one prompt"):
        probe.between([], [], [])


def test_the_student_under_another_name_has_no_gap(models):
    """An average without a context: both sample from one distribution, apart."""
    config = runs.config(models, "opd", **SMALL)
    config.teachers.self = dict(weights="ema")
    config.loss.opd.other = "self"
    e = experiment.build(config)
    found = probe.measure(e, "self", updates=4)
    assert found.asked == found.prompts and found.served == 1.0
    low, high = found.net[1]
    assert low <= 0 <= high and (found.teacher, found.student) != (0, 0)
    assert probe.measure(e, "self", updates=4) == found
    text = probe.said(found, "self")
    assert f"{found.teacher:6.1%}" in text and "no gain over asking again" in text


def test_a_teacher_with_other_weights_writes_with_them(models):
    e = experiment.build(runs.config(models, "opd", **SMALL))
    found = probe.measure(e, "teacher", updates=4)
    other = {"teacher": jax.tree.map(lambda x: x / 2, e.frozen["teacher"])}
    flat = probe.measure(e._replace(frozen=other), "teacher", updates=4)
    assert (found.student, found.again) == (flat.student, flat.again)
    assert found.teacher != flat.teacher


def test_only_rows_in_their_context_count(models):
    """Of a group with one success that one is without a peer, and the others not."""
    e = experiment.build(runs.config(models, "sdpo", **SMALL))
    found = probe.measure(e, "self", updates=3)
    assert 0 < found.prompts <= found.asked and 0 < found.served <= 1
    assert 0 < found.student < 1


def test_rollouts_that_are_used_again_are_no_new_prompts(models):
    again = dict(mix__updates_per_rollout=2, mix__capacity=32)
    e = experiment.build(runs.config(models, "opd", **SMALL | again))
    twice, once = (probe.measure(e, "teacher", updates=n) for n in (2, 1))
    assert twice == once and once.asked == 4


@pytest.mark.parametrize(
    ("method", "changes", "name", "words"),
    [
        ("opd", {"eval__verifier": "none"}, "teacher", "set eval.verifier"),
        ("opd", {}, "reference", "--teacher=reference: no teacher of the run"),
        ("sft", GOLD, "teacher", "nobody writes"),
        (
            "opd",
            {"rollout__behavior__function": "blend"},
            "teacher",
            "rollout.behavior.function='blend'.* leave it out with",
        ),
    ],
)
def test_what_it_needs(models, method, changes, name, words):
    e = experiment.build(runs.config(models, method, **SMALL | changes))
    with pytest.raises(ValueError, match=words):
        probe.measure(e, name, updates=1)
