"""A teacher with the student's tokenizer and a chat template of its own."""

import json

import numpy as np
import pytest

import runs
from jopd.setup import experiment
from jopd.training import loop as train

pytestmark = pytest.mark.usefixtures("plain_charts")
OTHER = runs.TEMPLATE.replace("<|im_start|>{{ m.role }}\n", "[{{ m.role }}] ")
ENDS = OTHER.replace("<|im_end|>", "<|endoftext|>")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("templates")
    templates = {"student": runs.TEMPLATE, "teacher": OTHER, "ends": ENDS, "bare": None}
    for seed, (name, template) in enumerate(templates.items()):
        tokenizer = runs.byte_tokenizer()
        tokenizer.chat_template = template
        runs.make_model(folder / name, seed=seed, tokenizer=tokenizer)
    asked = [{"role": "system", "content": "Be brief."}]
    rows = [
        {
            "messages": [
                *asked,
                {"role": "user", "content": f"2 + {n}"},
                {"role": "assistant", "content": f"It is {2 + n}."},
            ]
        }
        for n in range(12)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def config(pair, **changes):
    plain = {
        "teacher__template": "own",
        "data__path": str(pair / "rows.jsonl"),
        "eval__verifier": "none",
        "eval__prompts": 0,
        "loss__near": dict(signal="reverse_kl"),
    }
    return runs.config(pair, "opd", **(plain | changes))


def test_prompts_are_those_of_its_own_template(pair):
    e = experiment.build(config(pair))
    theirs, _ = e.rows.own_prompts["teacher"]
    tokenizer = runs.byte_tokenizer()
    for row, name in enumerate(theirs.ids):
        said = tokenizer.decode(theirs.prompts[row])
        ours = e.rows.train.texts[row]
        assert theirs.ids == e.rows.train.ids
        assert said == ours.replace("<|im_start|>system\n", "[system] ").replace(
            "<|im_start|>user\n", "[user] "
        ), name
    looked = [one for one in e.looked if one.check == "templates"]
    assert [one.state for one in looked] == ["ok"]
    assert "a layout of its own, '[user]" in looked[0].line
    without = experiment.build(config(pair, teacher__template="student"))
    assert "teacher" not in without.rows.own_prompts
    assert any("set teacher.template='own'" in note for note in without.notes)


def test_whole_distributions_are_compared(pair, tmp_path):
    train.run(config(pair), tmp_path / "own")
    train.run(config(pair, teacher__template="student"), tmp_path / "ours")
    own, ours = (runs.updates(tmp_path / name) for name in ("own", "ours"))
    for one, other in zip(own, ours, strict=True):
        assert one["kl/reverse"] > 0 and np.isfinite(one["loss/near"])
        assert one["kl/reverse"] != other["kl/reverse"]


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {"teacher__tokenizer": "own", "loss__near__coef": 0.0},
            "teacher.template='own' is for a teacher with the student's tokenizer",
        ),
        ({"teacher__weights": "initial"}, "teacher.template='own' is for weights="),
        ({"teacher__path": "bare"}, "has no chat template of its own"),
        (
            {"teacher__path": "ends"},
            r"end turns otherwise \(<\|im_end\|> and <\|endoftext\|>\)",
        ),
    ],
)
def test_templates_that_cannot_be(pair, changes, said):
    if "teacher__path" in changes:
        changes = changes | {"teacher__path": str(pair / changes["teacher__path"])}
    with pytest.raises(ValueError, match=said) as caught:
        experiment.build(config(pair, **changes))
    assert "\n" not in str(caught.value)
