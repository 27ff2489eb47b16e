import re
import sys

import numpy as np
import pytest
from transformers import AutoTokenizer

import runs
from jopd.data import tasks

sys.path.insert(0, str(runs.ROOT / "tools"))  # a folder of commands, not a package
import arithmetic

OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def oracle(prompt):
    """Left-to-right evaluation, and every value on the way."""
    numbers = [int(n) for n in re.findall(r"[0-9]+", prompt)]
    values = [numbers[0]]
    for operator, operand in zip(
        re.findall(r"[-+*]", prompt), numbers[1:], strict=True
    ):
        values.append(OPERATIONS[operator](values[-1], operand))
    return values


@pytest.mark.parametrize("level", tasks.LEVELS)
def test_problems_agree_with_an_independent_evaluation(level):
    rng = np.random.default_rng(level)
    for _ in range(300):
        row = tasks.problem(rng, level)
        values = oracle(row["prompt"])
        assert len(values) == level + 1
        assert min(values) >= 0 and max(values) <= tasks.LARGEST_VALUE
        assert row["answer"] == str(values[-1])
        steps = row["solution"].split(";")
        assert [int(step.split("=")[1]) for step in steps[:-1]] == values[1:]
        assert [int(re.match("[0-9]+", step)[0]) for step in steps[:-1]] == values[:-1]
        assert steps[-1] == "#" + row["answer"]
        assert tasks.verify(row["solution"], row["answer"]) == 1.0


def test_all_operators_occur_and_lengths_are_as_documented():
    rng = np.random.default_rng(0)
    rows = [tasks.problem(rng, level) for level in tasks.LEVELS for _ in range(500)]
    text = "".join(row["prompt"] for row in rows)
    assert all(text.count(operator) > 500 for operator in "+-*")
    for row in rows:
        level = row["level"]
        assert 2 * level + 2 <= len(row["prompt"]) <= 2 * level + 3
        assert 6 * level + 3 <= len(row["solution"]) + 1 <= 8 * level + 4


def test_unknown_level_is_named():
    with pytest.raises(ValueError, match="level=99 is unknown"):
        tasks.problem(np.random.default_rng(0), 99)


def test_splits_are_disjoint_whatever_the_seed():
    drawn = {
        split: {
            row["question"] for seed in (0, 1) for row in tasks.make(split, 400, seed)
        }
        for split in tasks.SPLITS
    }
    assert not drawn["train"] & drawn["validation"]
    assert not drawn["train"] & drawn["test"]
    assert not drawn["validation"] & drawn["test"]
    for split, questions in drawn.items():
        assert {tasks.split_of(question) for question in questions} == {split}


def test_split_is_stable_and_takes_the_documented_shares():
    # Golden: another hash would put prompts a model was tested on into training.
    golden = {
        "3+4=": "validation",
        "9-9=": "test",
        "61-19-1=": "test",
        "17+6=": "train",
    }
    assert {prompt: tasks.split_of(prompt) for prompt in golden} == golden
    rng = np.random.default_rng(0)
    prompts = {tasks.problem(rng, 4)["prompt"] for _ in range(5_000)}
    found = [tasks.split_of(prompt) for prompt in prompts]
    for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert found.count(split) / len(found) == pytest.approx(share, abs=0.02)


def test_a_hint_is_the_first_step_of_the_question():
    for row in tasks.make("train", 200):
        start, sign, rest = re.match(r"(\d+)(.)(\d+)", row["question"]).groups()
        results = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
        result = results[sign](int(start), int(rest))
        assert row["hint"] == f"{start}{sign}{rest}={result};"


def test_make_is_deterministic_and_unique():
    rows = tasks.make("train", 500, seed=3)
    assert rows == tasks.make("train", 500, seed=3)
    assert rows != tasks.make("train", 500, seed=4)
    assert rows[:100] == tasks.make("train", 100, seed=3)
    assert len({row["question"] for row in rows}) == 500
    assert set(rows[0]) == {"question", "solution", "answer", "level", "hint"}
    only = tasks.make("validation", 50, levels=(2, 5))
    assert {row["level"] for row in only} == {2, 5}


def test_make_says_when_a_split_is_used_up():
    with pytest.raises(ValueError, match=r"only about 4[0-9]{2} exist"):
        tasks.make("test", 1_000, levels=(2,))
    with pytest.raises(ValueError, match="split='dev' is unknown"):
        tasks.make("dev", 1)
    with pytest.raises(ValueError, match="count=0"):
        tasks.make("train", 0)


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("17+6=23;#23", 1.0),
        ("#23", 1.0),
        ("17+6=24;#23", 1.0),
        ("17+6=23;#24", 0.0),
        ("17+6=23;#23;", 0.0),
        ("17+6=23;#23#23", 0.0),
        ("#24#23", 0.0),
        ("17+6=23#23", 0.0),
        ("17+6=23;#023", 0.0),
        ("17+6=23;#23 ", 0.0),
        ("17+6=23;#23\n", 0.0),
        ("17+6=23;", 0.0),
        ("23", 0.0),
        ("#", 0.0),
        ("", 0.0),
        ("=;#23", 0.0),
        ("17+6=23;#23<eos>", 0.0),
        ("#\N{ARABIC-INDIC DIGIT TWO}3", 0.0),
    ],
)
def test_verify(response, right):
    assert tasks.verify(response, "23") == right


def test_loop_keeps_a_prefix_and_then_repeats():
    rng = np.random.default_rng(0)
    text = "17+6=23;23-8=15;15+5=20;#20"
    for _ in range(100):
        looped = arithmetic.loop(rng, text, 128)
        assert len(looped) == 128
        periods = [p for p in range(1, 17) if looped[-64:-p] == looped[-64 + p :]]
        assert periods
        assert looped[0] == text[0]
        short = arithmetic.loop(rng, text, 128, longest_period=3)
        assert any(short[-64:-p] == short[-64 + p :] for p in (1, 2, 3))


def test_tokenizer_round_trips_and_loads_offline(tmp_path):
    tokenizer = arithmetic.build_tokenizer()
    assert len(tokenizer) == len(tasks.VOCABULARY) <= 24
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for candidate in (tokenizer, loaded):
        assert candidate.pad_token_id == 0 and candidate.eos_token_id == 1
        for row in tasks.make("train", 50):
            for text in (row["question"], row["solution"]):
                ids = candidate(text)["input_ids"]
                assert len(ids) == len(text)
                assert candidate.decode(ids) == text
                ended = [*ids, candidate.eos_token_id, candidate.pad_token_id]
                assert candidate.decode(ended, skip_special_tokens=True) == text


def test_tokenizer_refuses_unknown_characters():
    with pytest.raises(Exception, match="UNK"):
        arithmetic.build_tokenizer()("17 + 6")
