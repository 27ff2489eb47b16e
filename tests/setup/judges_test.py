"""Rewards as a config weighs them; the verifier of evaluation stays its own."""

from types import SimpleNamespace

import numpy as np
import pytest

import runs
from jopd.data import judging, rewards
from jopd.setup import judges, shipped, validation
from jopd.training import loop as train

pytestmark = pytest.mark.usefixtures("plain_charts")


def length(response: str, *, most: int = 9) -> float:
    return min(len(response), most) / most


def batch(responses, answers):
    return [float(r == a) for r, a in zip(responses, answers, strict=True)]


def weighed(**given):
    found = shipped.load("opd")
    with found.unlocked():
        found.rewards.update(given)
    return found


def test_names_weights_and_arguments():
    own = dict(function=length, weight=-0.5, most=3)
    config = weighed(correct=1, format=0.1, short=own)
    validation.validate(config)
    correct, form, short = judges.parts(config, "exact")
    assert correct[:3] == ("correct", rewards.exact, 1.0)
    assert form == ("format", rewards.marked, 0.1, "rewards.format")
    assert short.weight == -0.5 and short.function("abcd") == 1.0


@pytest.mark.parametrize(
    "given, said",
    [
        ({"formt": 0.1}, r"rewards\.formt: verifier 'formt' is unknown.*format"),
        ({"format": "much"}, r"rewards\.format='much' must be a number"),
        ({"format": np.nan}, r"rewards\.format=nan must be a number"),
        ({"a": {"function": length, "least": 3}}, r"rewards\.a: .*takes no 'least'"),
        ({"a": {"function": "no.such.f"}}, r"verifier of rewards\.a 'no\.such\.f'"),
        (
            {"a": {"function": "exact", "answer": "7"}},
            r"rewards\.a: answer='7' is what",
        ),
        (
            {"a": {"function": batch, "answers": ()}},
            r"answers=\(\) is what each row",
        ),
        ({"a": {"function": lambda x, y, z: 0}}, "asks for 'z'; a verifier may"),
    ],
)
def test_mistakes_name_the_key(given, said):
    with pytest.raises(ValueError, match=said):
        validation.validate(weighed(**given))


def test_several_answers_and_a_whole_batch_are_said():
    row = SimpleNamespace(answers=["7", ("1/2", "0.5")])
    judge = judging.Judge((judging.Part("own", batch, key="rewards.own"),))
    (line,) = judges.doubts((None, judge, judge), row)
    assert line.startswith("rewards.own: ") and "1 of 2 rows have several" in line
    assert not judges.doubts((judge,), SimpleNamespace(answers=["7"]))
    each = judging.Judge((judging.Part("own", rewards.exact),))
    assert not judges.doubts((each, None), row)


def test_the_verdict_of_nobody():
    config = weighed(correct=1.0)
    config.eval.verifier = "none"
    with pytest.raises(ValueError, match=r"rewards\.correct is the verdict of eval"):
        validation.validate(config)


def test_a_run_is_rewarded_by_both_and_evaluated_by_one(models, tmp_path):
    config = runs.config(models, "grpo", eval__verifier="runs.begins_with_digit")
    config.rewards.correct = 1.0
    config.rewards.long = dict(function=length, weight=0.5)
    config.eval.reward_truncated, config.eval.prompts = True, 0
    train.run(config, tmp_path)
    for row in runs.updates(tmp_path):
        both = row["reward/correct"] + 0.5 * row["reward/long"]
        assert row["reward/mean"] == pytest.approx(both, abs=1e-6)
        assert 0 < row["reward/long"] <= 1
