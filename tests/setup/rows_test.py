"""Which rows a run reads, and how wide they are."""

import collections
import json
import sys
import types

import pytest

import runs
from jopd.data import tasks
from jopd.data.sources import Example
from jopd.setup import config as keys
from jopd.setup import lengths, reading, rows
from jopd.teachers import roles

FIRST = ["13-3+1+1+7-9-6*4=", "11-9+8*2-1+1="]
POSITIONS = {"student": 128, "teacher": 128, "self": 128}


@pytest.fixture(scope="module")
def digits():
    return runs.bundled_tokenizer()


def sums(terms: int, count: int) -> list[dict]:
    """Chains of ``2 * terms + 2`` tokens, ``#7`` the solution of all."""
    ones = "+1" * terms
    made = [{"prompt": f"{n}{ones}=", "solution": "#7"} for n in range(1, count + 1)]
    return [row | {"answer": "7"} for row in made]


def written(path, found: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(path)


def read(models, tokenizer, *, known=None, method="opd", **changes) -> rows.Rows:
    made = runs.config(models, method, **changes)
    return rows.read_rows(made, tokenizer, known or {}, None, POSITIONS)


def test_rows_without_a_gold_response_are_counted(models, digits, tmp_path):
    path = written(
        tmp_path / "a.jsonl", [*sums(3, 9), sums(4, 1)[0] | {"solution": ""}]
    )
    said = read(models, digits, data__path=path).said[0]
    assert said == f"10 rows of {path} (1 without gold response)"


# How long prompts may be.


def test_the_limit_of_prompts_is_chosen_from_the_data(models, digits, tmp_path):
    path = written(tmp_path / "a.jsonl", sums(3, 9) + sums(40, 1))
    found = read(models, digits, data__path=path)
    lengths = [len(p) for part in (found.train, found.held) for p in part.prompts]
    assert sorted(lengths) == [8] * 9 + [82]
    # Whoever drops or cuts does so where positions end: 128 - 50 are left.
    long = dict(data__path=path, rollout__max_new_tokens=50)
    found = read(models, digits, **long, data__on_long_prompt="drop")
    assert max(len(p) for p in found.train.prompts) == 8
    assert found.train.dropped["prompt"] + found.held.dropped["prompt"] == 1
    found = read(models, digits, **long, data__on_long_prompt="truncate_left")
    assert 78 in [len(p) for part in (found.train, found.held) for p in part.prompts]


def test_a_context_is_as_long_as_its_rows_need(models, digits, tmp_path):
    path = written(tmp_path / "a.jsonl", sums(3, 9) + sums(15, 9))
    seen = roles.Teacher(weights="ema", context="{question}{peer};{question}")
    own = roles.Teacher(weights="initial", context="{question}{answer};{question}")
    known = {"self": seen, "teacher": own}
    found = read(models, digits, known=known, data__path=path)
    assert max(len(p) for p in found.own_prompts["teacher"][0].prompts) == 66
    # Twice 32 tokens, the mark between, and a peer of 20: 85, in steps of 8.
    assert found.peers.widths == (48, 88)
    two = seen._replace(context="{question}{peer}{failure};{question}")
    found = read(models, digits, known={"self": two}, data__path=path)
    assert found.peers.widths == (56, 104)  # 105, but 128 positions hold 104
    found = read(
        models, digits, known=known, data__path=path, rollout__max_new_tokens=55
    )
    assert found.peers.widths == (40, 72)  # 120, but 128 positions hold 73
    found = read(
        models, digits, known=known, data__path=path, data__max_prompt_tokens=60
    )
    assert found.peers.widths == (40, 80)


def test_a_limit_of_prompts_leaves_room_for_all_that_a_context_shows(
    models, digits, tmp_path
):
    path = written(tmp_path / "a.jsonl", sums(3, 9) + sums(15, 9))
    limit = dict(data__path=path, data__max_prompt_tokens=40)
    for shown, widest in [("{peer}", 64), ("{peer}{failure}", 80)]:
        own = roles.Teacher(weights="ema", context=f"{{question}}{shown};{{question}}")
        found = read(models, digits, known={"self": own}, **limit)
        assert found.peers.widths[-1] == widest
    asked = limit | dict(data__max_context_tokens=72)
    assert read(models, digits, known={"self": own}, **asked).peers.widths[-1] == 72


def test_evaluations_are_read_by_the_student_and_its_teacher_alone():
    config = keys.base_config()
    config.rollout.max_new_tokens, config.eval.max_new_tokens = 20, 60
    rows = types.SimpleNamespace(own_prompts={}, peers=None)
    widths = lengths.Widths((16,), (16,), (36,))
    shape = lambda positions: types.SimpleNamespace(max_positions=positions)
    fits = {"student": shape(76), "teacher": shape(76), "self": shape(36)}
    lengths.check_positions(config, fits, rows, widths)
    for name in fits:
        tight = fits | {name: shape(fits[name].max_positions - 1)}
        key = "rollout" if name == "self" else "eval"
        with pytest.raises(ValueError, match=f"the {name} has .*{key}.max_new_tokens"):
            lengths.check_positions(config, tight, rows, widths)
    config.data.on_long_prompt = "drop"
    assert lengths.room(config, 100, "self") == 80
    assert lengths.room(config, 100, "teacher") == 40


def test_the_bundled_widths_stay(models, digits):
    """Padding is of the numbers: another width rounds differently."""
    lengths = dict(rollout__max_new_tokens=64, data__max_prompt_tokens=64)
    made = runs.config(models, "sdpo", **lengths, **runs.PEERS)
    known = {"self": roles.Teacher(context=made.teachers.self.context)}
    found = rows.read_rows(made, digits, known, None, POSITIONS)
    assert found.peers.widths == (64, 128)


# Which rows are held out.


def picked(models, **changes) -> reading.Picked:
    return reading.read_examples(runs.config(models, **({"data__size": 0} | changes)))


def ids(found: list[Example]) -> list[str]:
    return [row.id for row in found]


def test_a_tenth_is_held_out_by_the_seed(models, tmp_path):
    path = written(tmp_path / "a.jsonl", sums(2, 400))
    big = dict(data__path=path)
    found = picked(models, **big)
    assert (len(found.train), len(found.held)) == (360, 40)
    assert sorted(map(int, ids(found.train + found.held))) == list(range(400))
    assert ids(found.held) != [str(n) for n in range(360, 400)]
    assert ids(found.train) == sorted(ids(found.train), key=int)
    assert found.said == (f"400 rows of {path}", "40 of them held out by seed 0")
    assert found.notes == () and picked(models, **big) == found
    assert ids(picked(models, **big, seed=1).held) != ids(found.held)
    # What is trained on is no matter of how much is evaluated.
    assert picked(models, **big, eval__prompts=2) == found
    assert len(picked(models, data__path=path, data__eval_rows=300).train) == 100


def test_rows_of_a_held_out_prompt_are_not_trained_on(models, tmp_path):
    path = written(tmp_path / "a.jsonl", sums(2, 30) * 3)
    found = picked(models, data__path=path, data__eval_rows=5)
    asked = {row.prompt for row in found.held}
    assert len(found.held) == len(asked) == 5 and len(found.train) == 75
    assert not asked & {row.prompt for row in found.train}
    assert found.said[-1] == "10 with a held-out prompt left out of training"
    path = written(tmp_path / "b.jsonl", sums(2, 1) * 6)
    one = picked(models, data__path=path, data__eval_rows=2)
    assert (len(one.train), len(one.held)) == (4, 2)
    assert "have one prompt" in one.notes[0]


def test_a_file_is_not_cut_unless_asked(models, tmp_path):
    path = written(tmp_path / "a.jsonl", sums(2, 21_000))
    found = picked(models, data__path=path)
    assert len(found.train) + len(found.held) == 21_000
    made = runs.config(models, data__path=path, data__size=50)
    found = reading.read_examples(made)
    assert len(found.train) + len(found.held) == 50
    assert found.said[0] == f"the first 50 of 21,000 rows of {path}"


def test_an_evaluation_file_that_repeats_training_is_said(models, tmp_path):
    path = written(tmp_path / "a.jsonl", sums(2, 9))
    other = written(tmp_path / "b.jsonl", sums(2, 2) + sums(3, 400))
    found = picked(models, data__path=path, data__eval_path=path)
    assert "9 of 9 held-out prompts are also trained on" in found.notes[0]
    found = picked(models, data__path=path, data__eval_path=other)
    assert "2 of 402 held-out prompts" in found.notes[0]
    assert len(found.train) == 9 and len(found.held) == 402
    apart = written(tmp_path / "c.jsonl", sums(3, 4))
    assert picked(models, data__path=path, data__eval_path=apart).notes == ()


def test_splits_of_a_hub_data_set(models, monkeypatch):
    """GSM8K by its name: training on one split, evaluation on the other."""
    asked = []

    def load_dataset(name, configuration, split):
        asked.append((name, configuration, split))
        shown = {"train": range(9), "test": range(20, 24)}[split]
        return [{"question": f"{n}+{n}=", "answer": f"#### {2 * n}"} for n in shown]

    package = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", package)
    gsm8k = dict(data__path="openai/gsm8k:main", data__answer_after="####")
    found = picked(models, **gsm8k, data__eval_split="test")
    assert asked == [("openai/gsm8k", "main", name) for name in ("train", "test")]
    assert [len(found.train), len(found.held)] == [9, 4]
    assert found.held[0].prompt == "20+20=" and found.held[0].answer == "40"
    assert found.said[-1] == "held out: 4 rows of openai/gsm8k:main"
    assert found.notes == ()


def test_a_revision_of_a_hub_data_set_and_one_that_cannot_be_read(models, monkeypatch):
    asked = []

    def load_dataset(name, configuration, split, **more):
        asked.append((name, configuration, split, more))
        if name == "org/none":
            raise ConnectionError("no way\nto it")
        return [{"question": f"{n}+{n}="} for n in range(9)]

    package = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", package)
    assert len(picked(models, data__path="org/name@refs/pr/1:main").train) == 8
    assert asked[0] == ("org/name", "main", "train", {"revision": "refs/pr/1"})
    said = r"org/none@v1 \(split 'train'\) could not .* ConnectionError: no way to it; "
    with pytest.raises(ValueError, match=said + "check name, split and connection"):
        picked(models, data__path="org/none@v1")


def test_rows_of_the_task_are_those_that_they_were(models, monkeypatch):
    """20,000 of its training split, and the first of validation, by the seed."""
    assert reading.TASK_ROWS == 20_000
    monkeypatch.setattr(reading, "TASK_ROWS", 30)
    found = picked(models, data__levels=(2, 3, 4, 5, 6, 7))
    assert len(found.train) == 30 and len(found.held) == 256
    assert [row.prompt for row in found.train[:2]] == FIRST
    assert found.said == found.notes == ()
    test = picked(models, data__eval_split="test", data__eval_rows=3)
    assert {tasks.split_of(row.prompt) for row in test.held} == {"test"}


def test_what_was_too_long_is_said(models, digits, tmp_path):
    long = {"prompt": "1+1=", "solution": "1+1=2;" * 9 + "#2", "answer": "2"}
    path = written(tmp_path / "a.jsonl", sums(2, 18) + sums(9, 1) + [long])
    keys = {"max_prompt_tokens": 9, "on_long_prompt": "drop"}
    keys = {f"data__{key}": value for key, value in keys.items()}
    found = read(models, digits, data__path=path, **keys)
    assert found.said == (
        f"20 rows of {path}",
        "2 of them held out by seed 0",
        "1 prompts left out that were too long",
        "1 solutions left out of more than 20 tokens",
    )


# Several sources.


def test_a_folder_is_all_of_its_files(models, tmp_path):
    (tmp_path / "d").mkdir()
    for name in ("a", "b"):
        written(tmp_path / "d" / f"{name}.jsonl", sums(ord(name) - 90, 30))
    found = picked(models, data__path=str(tmp_path / "d"), data__eval_rows=4)
    assert len(found.train) == 56 and len(found.held) == 4
    assert found.said[0] == f"60 rows of {tmp_path}/d (2 files)"
    # Numbers of rows stand for them, and two files have the same: they are told apart.
    found = ids(found.train + found.held)
    assert len(set(found)) == 60 and {"a.jsonl:0", "b.jsonl:0"} <= set(found)
    again = f"{tmp_path}/d/a.jsonl,{tmp_path}/d/a.jsonl"
    twice = picked(models, data__path=again, data__eval_rows=4)
    assert len(set(ids(twice.train))) == 52


def test_a_mixture_has_the_shares_of_its_weights(models, tmp_path):
    one, two = (
        written(tmp_path / f"{n}.jsonl", sums(n, rows))
        for n, rows in ((2, 10), (3, 40))
    )
    mix = dict(data__path=f"{one},{two}", data__eval_rows=2)
    assert len(picked(models, **mix).train) == 48
    found = picked(models, **mix, data__weights=(3, 1))
    counts = [sum(row.prompt.count("+1") == n for row in found.train) for n in (2, 3)]
    assert counts == [36, 12] and len(found.held) == 2
    assert not {r.prompt for r in found.held} & {r.prompt for r in found.train}
    assert found.said[-1] == f"trained on: 36 from {one}, 12 from {two}"
    shares = picked(models, **mix, data__weights=(0.75, 0.25))
    assert ids(shares.train) == ids(found.train) and shares.said == found.said
    # The few rows come again and again, none of the many twice.
    times = collections.Counter(row.prompt for row in found.train)
    short = [n for prompt, n in times.items() if prompt.count("+1") == 2]
    assert (
        set(short) <= {3, 4, 5} and sum(short) == 36 and len(times) == len(short) + 12
    )
    made = runs.config(models, **mix, data__weights=(1, 3), data__size=20)
    found = reading.read_examples(made)
    assert [sum(r.prompt.count("+1") == n for r in found.train) for n in (2, 3)] == [
        5,
        15,
    ]
    assert len({row.id for row in found.train}) == 20


def test_mixed_gives_every_row_as_often_as_it_fits_in():
    parts = [list("abc"), list("xyz")]
    assert reading.mixed(parts, (1, 1), 6, 0) == list("abcxyz")
    found = reading.mixed(parts, (3, 1), 10, 0)
    assert collections.Counter(found[:8]).most_common()[-1][1] == 2
    assert len(found) == 10 and len(set(found[8:])) == 2


@pytest.mark.parametrize(
    "path, keys, said",
    [
        ("{0},{1}", {"weights": (1,)}, "has 1 numbers, and .* names 2 sources"),
        ("{0},task:arithmetic", {}, "mixes the bundled task"),
        ("{0},{1}", {"weights": (999, 1)}, "18 from .*, 0 from .* of 18"),
        ("{0},{1},{0}", {"size": 2}, "^data.size=2: .* of 2 training rows; raise data"),
        ("{0}", {"split": "test"}, "data.split='test' names a split"),
        ("{0},{1}", {"eval_split": "test"}, "data.eval_split='test' names a split"),
    ],
)
def test_mixtures_that_cannot_be(models, tmp_path, path, keys, said):
    names = [written(tmp_path / f"{n}.jsonl", sums(n, 10)) for n in (2, 3)]
    keys = {f"data__{key}": value for key, value in keys.items()}
    with pytest.raises(ValueError, match=said):
        picked(models, data__path=path.format(*names), data__eval_rows=2, **keys)


def test_documents_and_prompts_do_not_mix(models, digits, tmp_path):
    written(tmp_path / "a.jsonl", sums(2, 9))
    texts = [{"text": row["prompt"] + row["solution"]} for row in sums(9, 9)]
    written(tmp_path / "b.jsonl", texts)
    with pytest.raises(ValueError, match=r"mixes documents .* with prompts"):
        read(models, digits, data__path=str(tmp_path))
    found = read(models, digits, data__path=str(tmp_path / "b.jsonl"))
    assert {len(prompt) for prompt in found.train.prompts} == {16}
    assert digits.decode(found.train.solutions[0]).endswith("=#7<eos>")


def test_a_template_reaches_the_student(models, digits, tmp_path):
    path = written(tmp_path / "a.jsonl", sums(2, 9))
    found = read(models, digits, data__path=path, data__template="0+{question}")
    assert all(text.startswith("0+") for text in found.train.texts + found.held.texts)
