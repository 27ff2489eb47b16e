import re
import sys

import numpy as np
import pytest
from transformers import AutoTokenizer

import runs
from jopd.data import rewards, sources, tasks, words

sys.path.insert(0, str(runs.ROOT / "tools"))  # a folder of commands, not a package
import stories

# What happens, told by the verbs of a sentence alone.
SIGNS = {
    "*": r"times",
    "-": r"gives \d+ of them|loses|takes|sells",
    "+": r"finds|gives|buys|come from",
}
SPOKEN = re.compile(
    r"At first there are \d+ \w+\.|\w+ has \d+ \w+ at the start\.|We begin with \d+\."
)


def told(question):
    """The first value and (sign, operand) of every event, read from the sentences."""
    opening, *events, _ = re.findall(r"[^.?]+[.?]", question)
    found = [int(re.search(r"\d+", opening)[0])]
    for event in events:
        operand = int(re.search(r"\d+", event)[0])
        sign = next(sign for sign, verbs in SIGNS.items() if re.search(verbs, event))
        found.append((sign, operand))
    return found


def oracle(question):
    """Every value on the way."""
    start, *events = told(question)
    values = [start]
    for sign, operand in events:
        values.append(words.RESULTS[sign](values[-1], operand))
    return values


def test_a_hint_is_a_function_of_the_question():
    """It is made again from the words of the question alone."""
    said = {
        "+": "Then {} finds {} more.",
        "-": "Then {} loses {}.",
        "*": "Then {} gets {} times as many.",
    }
    for row in tasks.make("train", 300, problem=words.problem, levels=words.LEVELS):
        opening = row["question"].split(".")[0]
        (who,) = set(re.findall(r"\w+", opening)) & {*sum(words.NAMES.values(), ())}
        (things,) = set(re.findall(r"\w+", opening)) & set(words.THINGS)
        one = "he" if who in words.NAMES["he"] else "she"
        start, *events = told(row["question"])
        retold = " ".join(said[sign].format(one, n) for sign, n in events)
        first, last = f"{who} has {start} {things}.", f"How many {things} does {who}"
        assert row["hint"] == f"{first} {retold} {last} have now?\n"
        assert words.read(row["hint"]) == words.read(row["question"])


@pytest.mark.parametrize("style", words.STYLES)
@pytest.mark.parametrize("level", words.LEVELS)
def test_problems_agree_with_an_independent_reading(level, style):
    rng = np.random.default_rng(level)
    for _ in range(200):
        row = words.problem(rng, level, style)
        values = oracle(row["prompt"])
        assert len(values) == level + 1
        assert min(values) >= 0 and max(values) <= words.LARGEST_VALUE
        assert row["answer"] == str(values[-1])
        assert row["prompt"].endswith("?\n") and row["prompt"].count("\n") == 1
        assert row["solution"].endswith(f" The answer is {values[-1]}.")
        assert words.verify(row["solution"], row["answer"]) == 1.0
        if style == "brief":
            found = re.findall(r"= (\d+)", row["solution"])
            assert [int(n) for n in found] == values[1:]
        else:
            assert SPOKEN.match(row["solution"])


def test_every_wording_occurs():
    rng = np.random.default_rng(0)
    rows = [words.problem(rng, 3) for _ in range(2_000)]
    text = " ".join(row["prompt"] + row["solution"] for row in rows)
    templates = [t for kind in (words.EVENTS, words.SPOKEN) for t in kind.values()]
    for template in (*words.OPENINGS, *words.QUESTIONS, *sum(templates, ())):
        pattern = re.sub(r"\{\w+\}", r"\\w+", template.replace("?", r"\?"))
        assert re.search(pattern, text), template


@pytest.mark.parametrize(
    "response, right",
    [
        ("The answer is 7.", 1.0),
        ("We begin with 7. The answer is 7.", 1.0),
        (" The answer is 7.\n", 1.0),
        ("The answer is 17.", 0.0),
        ("The answer is 7", 0.0),  # cut before its end
        ("The answer is 7. The answer is 8.", 0.0),  # the last one counts
        ("The answer is 7. And so on.", 0.0),
        ("", 0.0),
    ],
)
def test_the_last_sentence_is_judged(response, right):
    assert words.verify(response, "7") == right


ASKED = "Mia has 9 pens. Mia gives 5 of them to Tom. Then she gets 2 times as many. "
ASKED += "How many pens does Mia have now?\n"
TOLD = "At first there are 9 pens. 9 minus 5 is 4. Making 4 larger 2 times gives 8. "
END = "The answer is 8."


@pytest.mark.parametrize(
    "response, right",
    [
        (TOLD + END, 1.0),
        ("We begin with 9. Without 5 we have 4. 2 times as many means 8. " + END, 1.0),
        ("9 - 5 = 4, 4 * 2 = 8. " + END, 1.0),
        # Lucky: other steps, a step left out, one too many; then a wrong answer.
        ("We begin with 9. Without 3 we have 6. With 2 more we get 8. " + END, 0.0),
        ("We begin with 9. 9 minus 1 is 8. " + END, 0.0),
        (TOLD + "With 0 more we get 8. " + END, 0.0),
        ("9 - 3 = 6, 6 + 2 = 8. " + END, 0.0),
        (END, 0.0),
        (TOLD + "The answer is 4.", 0.0),
        (TOLD, 0.0),
    ],
)
@pytest.mark.parametrize("before", ["", "Answer: 8\n", "Right: " + TOLD + END + "\n"])
def test_steps_are_verified_by_their_results(response, right, before):
    assert rewards.words(response, "8", before + ASKED) == right


def test_without_a_question_of_the_task_the_answer_is_judged():
    for prompt in ("", "What is 4 + 4?", "Mia has 9 pens.", "Mia has 9 pens. Why?\nNo"):
        assert words.verify("I know. " + END, "8", prompt) == 1.0
    assert words.read("Mia has 9 pens. Mia eats 5 of them. How many are left?") is None


def test_every_question_is_read_and_every_solution_of_it_is_right():
    rng = np.random.default_rng(4)
    for level in words.LEVELS:
        for _ in range(100):
            row = words.problem(rng, level)
            assert words.read(row["prompt"]) == oracle(row["prompt"])
            brief = words.problem(rng, level, "brief")
            for told in (row, brief):
                given = told["answer"], told["prompt"]
                assert words.verify(told["solution"], *given) == 1.0


def test_splits_share_no_chain_of_numbers():
    drawn = {}
    for split in tasks.SPLITS:
        rows = tasks.make(split, 600, 0, (2, 3), words.problem)
        assert "chain" not in rows[0]
        drawn[split] = {tuple(told(row["question"])) for row in rows}
    assert not drawn["train"] & drawn["validation"]
    assert not drawn["train"] & drawn["test"]
    assert not drawn["validation"] & drawn["test"]


def test_the_task_is_a_source_in_either_style():
    plain = sources.read("task:words", count=20)
    brief = sources.read("task:words:brief", count=20)
    assert len(plain) == len(brief) == 20
    assert all(" = " in row.solution for row in brief)
    assert not any(" = " in row.solution for row in plain)
    rows = sources.read("task:words", count=100, fields=("level",))
    assert {row.fields["level"] for row in rows} == set(map(str, words.LEVELS))
    with pytest.raises(ValueError, match=r"task:words:loud.*task:words:brief"):
        sources.read("task:words:loud")


@pytest.mark.parametrize("bad", [dict(level=1), dict(level=2, style="loud")])
def test_what_is_unknown_is_named(bad):
    with pytest.raises(ValueError, match="is unknown; use one of"):
        words.problem(np.random.default_rng(0), **bad)


def test_the_brief_rest_of_a_begun_solution_is_right():
    alone = 0
    for row in stories.brief(400):
        asked, begun = row["question"].split("\n")
        whole = begun + row["solution"]
        assert words.verify(whole, row["answer"], asked) == 1.0, whole
        alone += not begun
        if not begun:
            assert row["solution"].split()[1] in words.RESULTS  # brief from the start
    assert 100 <= alone <= 170  # three of ten, and cuts at the first word


def test_the_bundled_tokenizer_is_the_one_of_the_recipe():
    built = stories.build_tokenizer()
    for name in ("words_student", "words_teacher", "words_brief", "words_hinted"):
        bundled = AutoTokenizer.from_pretrained(runs.ROOT / "jopd" / "assets" / name)
        assert bundled.get_vocab() == built.get_vocab()
    assert 512 <= len(built) <= 1024


def test_every_text_of_the_task_survives_its_tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(
        runs.ROOT / "jopd" / "assets" / "words_student"
    )
    rng = np.random.default_rng(3)
    for row in stories.hinted(200):
        text = row["question"] + row["solution"]
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert len(ids) <= 180
    number = tokenizer.tokenize(f" {rng.integers(0, words.LARGEST_VALUE)}")
    assert len(number) == 1  # sums are a table of tokens


def test_attempts_that_went_wrong_differ_from_some_step_on():
    rng = np.random.default_rng(0)
    right = [words.story(rng, 3) for _ in range(500)]
    wrong = [stories.mistaken(rng, one) for one in right]
    changed = [
        sum(a != b for a, b in zip(_results(one), _results(other), strict=True))
        for one, other in zip(right, wrong, strict=True)
    ]
    assert min(changed) >= 1
    assert [one.start for one in right] == [one.start for one in wrong]


def _results(story):
    return [result for *_, result in story.events]
