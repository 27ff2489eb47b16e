"""Where a response ends: tokenizer, models and config have a say, all of them."""

import functools
import json
import re
import shutil

import pytest

import jopd
import runs
from jopd.setup import experiment, model
from jopd.setup.summary import summary_rows

EOS = 1


@pytest.fixture
def instruct(models, tmp_path):
    """A model whose ``generation_config.json`` has two ends, not its tokenizer's."""
    folder = shutil.copytree(models / "student", tmp_path / "instruct")
    written = json.dumps({"eos_token_id": [4, 15]})
    (folder / "generation_config.json").write_text(written)
    return folder


def built(models, **changes):
    return experiment.build(runs.config(models, "opd", **changes))


def test_ends_are_those_of_all(models, instruct):
    assert built(models).stop_ids == (EOS,)
    for role in ("student", "teacher"):
        e = built(models, **{f"{role}__path": str(instruct)})
        assert e.stop_ids == (EOS, 4, 15), role
    e = built(models, student__path=str(instruct), rollout__stop_ids=(3, 4))
    assert e.stop_ids == (EOS, 3, 4, 15)
    assert dict(summary_rows(e))["ends at"] == "<eos> (1), 1 (3), 2 (4), = (15)"


def test_nothing_ends_what_ignores_ends(models, instruct):
    changes = dict(student__path=str(instruct), rollout__ignore_eos=True)
    assert built(models, **changes).stop_ids == ()
    assert dict(summary_rows(built(models, **changes)))["ends at"] == "nothing"
    assert built(models, **changes, rollout__stop_ids=(3,)).stop_ids == (3,)
    said = lambda **more: "earns 0" in str(built(models, **changes, **more).notes)
    assert said() and not said(rollout__stop_ids=(3,))
    assert not said(eval__reward_truncated=True) and not said(eval__verifier="none")


def test_a_model_alone_ends_there_too(models, instruct):
    tokenizer = jopd.load(str(models / "student")).tokenizer
    ends = {tokenizer.convert_ids_to_tokens(index) for index in (4, 15)}
    free, ended = (
        jopd.load(str(path)).generate(["1+2="], samples=8, max_new_tokens=24)[0]
        for path in (models / "student", instruct)
    )
    for long, short in zip(free, ended, strict=True):
        cut = min((long.index(end) + 1 for end in ends if end in long), default=None)
        assert short == long[:cut]
    assert free != ended


def test_strings_end_texts_too(models):
    e = built(models, rollout__stop_strings=("1", "+2"), rollout__ignore_eos=True)
    assert e.stop_ids == () and e.rows.training.stop_strings == ("1", "+2")
    assert dict(summary_rows(e))["ends at"] == "'1', '+2'"
    assert not [note for note in e.notes if "earns 0" in note]
    alone = jopd.load(str(models / "student"))
    free, ended = (
        alone.generate(["1+2="], samples=8, max_new_tokens=24, stop_strings=ends)[0]
        for ends in ((), ("1", "+2"))
    )
    for long, short in zip(free, ended, strict=True):
        assert short == min((long.split("1")[0], long.split("+2")[0]), key=len)
    assert free != ended
    with pytest.raises(ValueError, match="stop_strings='1' is one; give a list"):
        alone.generate(["1+2="], stop_strings="1")
    assert alone.generate([]) == []
    with pytest.raises(ValueError, match=r"rollout\.stop_strings: '<eos>' holds"):
        built(models, rollout__stop_strings=("<eos>",))


def test_nothing_is_drawn_once_all_texts_have_their_string(models, monkeypatch):
    monkeypatch.setattr(model, "LOOK", 4)
    alone, draws, join = jopd.load(str(models / "student")), [], model._join
    monkeypatch.setattr(
        model, "_join", lambda rows, loop: draws.append(loop.step) or join(rows, loop)
    )
    write = functools.partial(alone.generate, ["1+2=", "3-1="], max_new_tokens=60)
    (free, other), every = write(), [str(digit) for digit in range(10)]
    ended = write(stop_strings=every)
    assert [texts[0] for texts in ended] == [
        re.split("[0-9]", texts[0])[0] for texts in (free, other)
    ]
    first = max(len(re.split("[0-9]", texts[0])[0]) for texts in (free, other))
    # Begun with one draw, then looked at after every four.
    assert draws[1] <= first + 1 + 4 < draws[0]
    assert write(stop_strings=["7-7-7-7"]) == [free, other] and draws[2] == draws[0]


def told(e) -> list[str]:
    return [note for note in e.notes if "all of them end a response" in note]


def test_the_end_of_a_turn_ends_rollouts_and_solutions(models, tmp_path):
    """A base student: its template ends turns with another token than its EOS."""
    base = shutil.copytree(models / "student", tmp_path / "base")
    template = (
        "{% for m in messages %}{{ m.content }}"
        "{% if m.role == 'assistant' %}<pad>{% endif %}{% endfor %}"
    )
    (base / "chat_template.jinja").write_text(template)
    e = built(models, student__path=str(base), rollout__max_new_tokens=40)
    assert e.stop_ids == (0, EOS)
    assert {gold[-1] for gold in e.rows.train.solutions} == {0}
    (note,) = told(e)
    assert "ends at <eos> (1)" in note and "at <pad> (0):" in note
    assert "solutions end in <pad> (0)" in note and "rollout.stop_ids" in note
    never = built(models, student__path=str(base), data__chat_template="never")
    assert never.stop_ids == (EOS,) and told(never) == []
    ignored = dict(student__path=str(base), rollout__ignore_eos=True)
    assert told(built(models, **ignored)) == [] == [*built(models, **ignored).stop_ids]


def test_the_end_of_a_teachers_tokenizer_ends_rollouts(models, tmp_path):
    other = shutil.copytree(models / "teacher", tmp_path / "other")
    settings = json.loads((other / "tokenizer_config.json").read_text())
    settings["eos_token"] = "<pad>"
    (other / "tokenizer_config.json").write_text(json.dumps(settings))
    e = built(models, teacher__path=str(other), rollout__max_new_tokens=40)
    assert e.stop_ids == (0, EOS) and told(built(models)) == []
    (note,) = told(e)
    assert "at <pad> (0):" in note and "solutions end in <eos> (1)" in note
    assert {gold[-1] for gold in e.rows.train.solutions} == {EOS}
    # Named as ends of one's own they are no news.
    asked = dict(teacher__path=str(other), rollout__stop_ids=(0,))
    assert told(built(models, **asked)) == []
