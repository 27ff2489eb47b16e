"""A run goes on with the rows, templates and models that it began with."""

import dataclasses
import json
import shutil

import pytest

import runs
from jopd.setup import experiment, inputs
from jopd.training import control, origins, workdir
from jopd.training import loop as train

ROWS = [{"prompt": f"{n}+1=", "answer": str(n + 1)} for n in range(1, 9)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def begun(models, tmp_path):
    """A function that builds the run anew, of files that a test may change."""
    for name in ("student", "teacher"):
        shutil.copytree(models / name, tmp_path / name)
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "eval.jsonl", ROWS[:2])
    keys = dict(data__path="train.jsonl", data__eval_path="eval.jsonl")
    keys = {key: str(tmp_path / name) for key, name in keys.items()}

    def found(**changes):
        built = experiment.build(runs.config(tmp_path, **keys, **changes))
        return origins.found(built)

    origins.keep(tmp_path, found())
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    return found


def train_rows(tmp):
    write(tmp / "train.jsonl", [*ROWS[:-1], ROWS[-1] | {"answer": "10"}])


def fewer_rows(tmp):
    write(tmp / "train.jsonl", ROWS[1:])


def eval_rows(tmp):
    write(tmp / "eval.jsonl", ROWS[2:4])


def template(tmp):
    (tmp / "student" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )


def weights(tmp):
    runs.make_model(tmp / "teacher", seed=5, layers=2)


def shape(tmp):
    file = tmp / "student" / "config.json"
    changed = json.loads(file.read_text()) | {"rms_norm_eps": 1e-3}
    file.write_text(json.dumps(changed))


def ends(tmp):
    """What ends responses; the same models, the same prompts."""
    file = tmp / "teacher" / "generation_config.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | {"eos_token_id": [1, 2, 3, 5]}))


CHANGES = {
    ends: "ends of responses had [",
    train_rows: "training rows had 8 rows, sha256 ",
    fewer_rows: "training rows had 8 rows, sha256 ",
    eval_rows: "held-out rows had 2 rows, sha256 ",
    template: "the chat template had sha256 ",
    weights: "the model teacher had sha256 ",
    shape: "the model student had sha256 ",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_named(change, begun, tmp_path):
    origins.check(tmp_path, begun())
    change(tmp_path)
    with pytest.raises(ValueError) as caught:
        origins.check(tmp_path, begun())
    said = str(caught.value)
    assert CHANGES[change] in said and said.count(" had ") == 1
    assert "Put back what was there, or start anew with --workdir=DIR" in said
    assert "\n" not in said and len(said) < 400


def test_without_updates_nothing_is_kept_up(begun, tmp_path):
    weights(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    origins.check(tmp_path, begun())


def test_what_may_change_is_no_other_input(begun, tmp_path):
    free = {"eval__prompts": 2, "eval__k": 1, "student__remat": False}
    origins.check(tmp_path, begun(**free))


def test_a_teacher_of_its_own_has_its_tokenizer_and_prompts_kept(begun, monkeypatch):
    kwargs = {"teacher__context": "{question}{question}"}
    found = begun(**kwargs)
    theirs = "tokens of the rows as teacher reads them"
    assert found["the tokenizer of teacher"] == found["the tokenizer"]
    assert theirs in found and theirs not in begun()
    monkeypatch.setattr(inputs, "rules_of", lambda tokenizer: tokenizer.name_or_path)
    one, two = (begun()[f"the tokenizer{of}"] for of in ("", " of teacher"))
    assert one.endswith("student") and two.endswith("teacher")


def test_tokens_are_the_last_resort():
    """Another version of a library, or a template that prints what is not pinned."""
    before = {"the model student": "sha256 aa", "tokens of the rows": "sha256 bb"}
    now = before | {"tokens of the rows": "sha256 cc"}
    assert origins.changed(before, now) == [
        "tokens of the rows had sha256 bb and has sha256 cc"
    ]
    both = origins.changed(before, now | {"the model student": "sha256 dd"})
    assert both == ["the model student had sha256 aa and has sha256 dd"]
    assert origins.changed(before, before) == []


def test_a_damaged_record_is_one_line(begun, tmp_path):
    (tmp_path / origins.NAME).write_text("{")
    with pytest.raises(ValueError, match=r"inputs\.json cannot be read: .* Remove it"):
        origins.check(tmp_path, begun())


def test_a_run_is_refused_before_it_compiles(models, tmp_path):
    config = runs.config(models, data__date="2026-01-01")
    workdir.write_config(tmp_path, workdir.written(config.to_dict()))
    origins.keep(tmp_path, {"the model student": "sha256 00"})
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    with (
        control.CompileCounter() as compiled,
        pytest.raises(ValueError, match="the model student had sha256 00 and has"),
    ):
        train.run(config, tmp_path)
    assert compiled.count == 0


@pytest.mark.parametrize("content", ["[]", '{"a": 3}', '{"a": null}', "[" * 100_000])
def test_a_record_of_another_kind_is_one_line(tmp_path, content):
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    (tmp_path / origins.NAME).write_text(content)
    with pytest.raises(ValueError, match=r"inputs\.json cannot be read: ") as caught:
        origins.check(tmp_path, {"a": "b"})
    assert len(str(caught.value).splitlines()) == 1


def test_a_field_that_a_release_adds_changes_no_model(models, monkeypatch):
    path = str(models / "student")
    before = origins.of_model(path)
    shape = origins.hf.load_config(path)
    later = dataclasses.make_dataclass(
        "Later", [("added", int, 0)], bases=(type(shape),), frozen=True, kw_only=True
    )
    monkeypatch.setattr(origins, "DecoderConfig", later)
    found = later(**vars(shape))
    monkeypatch.setattr(origins.hf, "load_config", lambda _: found)
    assert origins.of_model(path) == before
    other = later(**vars(shape) | {"norm_eps": 1e-5})
    monkeypatch.setattr(origins.hf, "load_config", lambda _: other)
    assert origins.of_model(path) != before
