"""A model alone: texts as they are written, widths of prompts, and its type."""

import json
import shutil

import jax
import numpy as np
import pytest

import jopd
import runs
from jopd.data import decoding
from jopd.setup import experiment, model


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A random model over bytes, with a chat template."""
    folder = tmp_path_factory.mktemp("bytes") / "model"
    tokenizer = runs.byte_tokenizer()
    shape = dict(vocab_size=len(tokenizer), max_positions=256, layers=2)
    return jopd.load(str(runs.make_model(folder, tokenizer=tokenizer, **shape)))


def user(text: str) -> list[dict]:
    return [dict(role="user", content=text)]


# Pieces.


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("prompt", ["Hi", user("Grüße 🤖"), user("no")])
def test_pieces_are_the_text_that_is_generated(student, seed, prompt):
    """Of random bytes many are no characters, and some are one together."""
    how = dict(max_new_tokens=40, seed=seed, temperature=1.5)
    pieces = list(student.stream(prompt, **how))
    assert ["".join(pieces)] == student.generate([prompt], **how)[0]
    assert len(pieces) > 2 and all(pieces)


def test_a_stream_says_whether_its_end_was_one(student):
    def value(**how):
        stream = student.stream(user("Hi"), **how)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                return end.value

    ended = [value(max_new_tokens=n, temperature=1.0) for n in (1, 200)]
    assert ended == [False, True]
    text = "".join(student.stream(user("Hi"), max_new_tokens=30))
    assert value(max_new_tokens=30) is False
    assert value(max_new_tokens=30, stop_strings=[text[7:9]]) is True


def test_pieces_end_before_a_stop_string_and_hold_none_of_it(student):
    how = dict(max_new_tokens=60, temperature=1.5, seed=3)
    (whole,) = student.generate([user("Hi")], **how)[0]
    plain = [c for c in whole if c.isascii() and c.isprintable() and c != " "]
    for one in plain[5:20:5]:
        pieces = list(student.stream(user("Hi"), stop_strings=[one], **how))
        assert "".join(pieces) == whole[: whole.index(one)]


def test_what_is_settled_stays_whatever_follows():
    """Of a text that grows byte by byte: no half character, no half stop string."""
    tokenizer, text = runs.byte_tokenizer(), "naïve 🤖🤖 日本 \ufffd END of it"
    ids = tokenizer(text)["input_ids"]
    shown = ""
    for count in range(len(ids) + 1):
        written = decoding.text_of(tokenizer, [5], ids[:count])
        found = decoding.settled(written, ["END."])
        assert text.startswith(found) and found.startswith(shown)
        assert len(written) - len(found) <= 4
        shown = found
    assert shown == text
    assert decoding.settled("so E", ["END", "oh"]) == "so "
    assert decoding.settled("so EN", ["END", "N"]) == "so "
    assert decoding.settled("", ["END"]) == ""


def test_errors_of_a_stream_are_those_of_generate(student):
    with pytest.raises(
        ValueError, match=r"tokens and max_new_tokens=300 exceed the 25"
    ):
        next(student.stream("Hi", max_new_tokens=300))
    with pytest.raises(ValueError, match=r"256 positions of .*; use a shorter prompt"):
        next(student.stream("Hi" * 300))
    turns = [*user("Hi"), dict(role="assistant", content="Yes")]
    with pytest.raises(ValueError, match=r"the last turn of a conversation is the ass"):
        student.generate([turns])
    with pytest.raises(ValueError, match=r"stop_strings='ab' is one"):
        next(student.stream("Hi", stop_strings="ab"))


# Widths.


def test_a_growing_conversation_asks_for_few_programs(student):
    turns, widths = [], set()
    model._begin.clear_cache()
    for n in range(6):
        turns += user(f"Is it {n}?")
        widths.add(model.padded(len(student.tokens(turns)), 256))
        answer = "".join(student.stream(turns, max_new_tokens=9, temperature=0))
        turns += [dict(role="assistant", content=answer)]
    assert len(student.tokens(turns + user("?"))) > 200
    assert widths <= {32, 64, 128, 256} and len(widths) >= 2
    assert model._begin._cache_size() == len(widths)


def test_widths_of_prompts():
    given = [1, 32, 33, 64, 100, 129, 200, 201]
    assert [model.padded(n, 200) for n in given[:-1]] == [32, 32, 64, 64, 128, 200, 200]
    assert model.padded(20, 24) == 24


# Types.


def named(folder, value, key: str = "dtype"):
    raw = json.loads((folder / "config.json").read_text())
    raw = {k: v for k, v in raw.items() if k not in ("dtype", "torch_dtype")}
    raw |= {} if value is None else {key: value}
    (folder / "config.json").write_text(json.dumps(raw))
    return str(folder)


@pytest.mark.parametrize(
    "value, key, found",
    [
        ("bfloat16", "dtype", "bfloat16"),
        ("float16", "torch_dtype", "bfloat16"),
        ("torch.bfloat16", "torch_dtype", "bfloat16"),
        ("float32", "dtype", "float32"),
        (None, "dtype", "float32"),
    ],
)
def test_the_type_that_a_model_names(models, tmp_path, value, key, found):
    folder = shutil.copytree(models / "student", tmp_path / "student")
    path = named(folder, value, key)
    asked = jopd.load(path, dtype="auto")
    assert asked.config.dtype == found
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(asked.params)} == {found}
    assert jopd.load(path).config.dtype == "float32"  # unless it is asked for
    assert jopd.load(path, dtype="bfloat16").config.dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"dtype='half' is unknown; use one of auto"):
        jopd.load(path, dtype="half")


def test_student_and_teacher_of_a_run_have_the_types_that_they_name(models, tmp_path):
    folder = shutil.copytree(models / "teacher", tmp_path / "teacher")
    auto = dict(teacher__dtype="auto", student__dtype="auto")
    path = named(folder, "bfloat16")
    e = experiment.build(runs.config(models, teacher__path=path, **auto))
    shapes = {name: one.config.dtype for name, one in e.models.items()}
    assert (shapes["student"], shapes["teacher"]) == ("float32", "bfloat16")
    assert str(e.frozen["teacher"]["embed"].dtype) == "bfloat16"
    lora = dict(student__path=path, student__lora__rank=2)
    e = experiment.build(runs.config(models, **lora, **auto))
    assert e.models["student"].config.dtype == "bfloat16"
    assert str(e.base["embed"].dtype) == "bfloat16"
    assert np.dtype(e.params["layers"]["q_a"].dtype) == np.float32
