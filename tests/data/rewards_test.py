import json
import os
import threading

import numpy as np
import pytest

from jopd.data import rewards, sources


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("The answer is 42.", "42", 1.0),
        ("first 42, then 43", "42", 0.0),
        ("#### 1,234", "1234", 1.0),
        ("$1,234.50", "1234.5", 1.0),
        ("17-8", "8", 1.0),
        ("x = -8", "-8", 1.0),
        ("x = -8", "8", 0.0),
        ("(\N{MINUS SIGN}8)", "-8", 1.0),
        ("so 3/4", "0.75", 1.0),
        ("12 / 4 = 3", "3", 1.0),
        ("5/0", "5", 0.0),
        ("1e3", "1000", 1.0),
        ("1e999", "3", 0.0),
        ("27", "27.0", 1.0),
        ("0.333333", "1/3", 1.0),
        ("0.3333", "1/3", 0.0),
        ("0.3333333", "0.33333333", 0.0),
        ("0.50", ".5", 1.0),
        ("100000.05", "100000", 0.0),
        ("1000001", "1000000", 0.0),
        ("123456789", "123456788", 0.0),
        ("no number", "3", 0.0),
        ("", "3", 0.0),
        ("\N{ARABIC-INDIC DIGIT THREE}", "3", 0.0),
    ],
)
def test_numeric(response, answer, right):
    assert rewards.numeric(response, answer) == right


def test_numeric_tolerance_is_asked_for_and_relative_above_1():
    assert rewards.numeric("101", "100", tolerance=0.01) == 1.0
    assert rewards.numeric("0.01", "0", tolerance=0.01) == 1.0
    assert rewards.numeric("101.1", "100", tolerance=0.01) == 0.0


def test_numeric_refuses_an_answer_without_number():
    with pytest.raises(ValueError, match="'north' holds no number"):
        rewards.numeric("3", "north")


def test_numeric_agrees_with_the_labels_of_gsm8k(shared):
    """Real right and wrong solutions of two models, labelled by the data set."""
    path = shared / "gsm8k" / "example_model_solutions.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answer = row["ground_truth"].split("####")[-1]
        for model in ("6b_finetuning", "175b_verification"):
            verdict = rewards.numeric(row[model]["solution"], answer)
            assert verdict == row[model]["is_correct"]


def test_exact():
    assert rewards.exact(" yes\n", "yes") == 1.0
    assert rewards.exact("yes!", "yes") == 0.0


def test_arithmetic_is_the_verifier_of_the_task():
    verify = rewards.resolve("arithmetic")
    assert verify("17+6=23;#23", "23") == 1.0
    assert verify("17+6=23;#23;", "23") == 0.0


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        (r"so \boxed{\frac{1}{2}}", "0.5", 1.0),
        (r"\boxed{\frac12}", r"\frac{1}{2}", 1.0),
        (r"\boxed{3} no, \boxed{4}", "4", 1.0),
        (r"\boxed{x^2+2x+1}", "(x+1)^2", 1.0),
        (r"\boxed{(1,2]}", "(1,2]", 1.0),
        (r"\boxed{(1,2)}", "(1,2]", 0.0),
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}", 1.0),
        (r"\boxed{36}", r"\$36", 1.0),
        (r"\boxed{36}", r"$36$", 1.0),
        (r"\boxed{", "42", 0.0),
        ("", "42", 0.0),
    ],
)
def test_math(response, answer, right):
    assert rewards.math(response, answer) == right


def test_math_accepts_the_gold_solutions_of_math500(shared):
    rows = sources.read(str(shared / "math" / "math500_test.jsonl"))[:100]
    right = [rewards.math(row.solution, row.answer) for row in rows]
    # Problems in a row may share an answer, but hardly ever do.
    others = [*rows[1:], rows[0]]
    wrong = [
        rewards.math(row.solution, other.answer)
        for row, other in zip(rows, others, strict=True)
    ]
    assert np.mean(right) == 1.0 and np.mean(wrong) <= 0.02


def test_math_in_another_thread_keeps_its_time_limit(monkeypatch):
    """Signals fail outside the main thread; the verdicts must be the same."""
    answers = [r"\boxed{\frac12}", r"\boxed{2^{10^{10}}}", r"é \boxed{3}", ""]
    found = []

    def work():
        found.extend(rewards.math(answer, "0.5") for answer in answers)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert found == [1.0, 0.0, 0.0, 0.0]


def test_math_refuses_an_answer_it_cannot_parse(monkeypatch):
    monkeypatch.setattr(rewards, "_grade", lambda response, answer: None)
    with pytest.raises(ValueError, match="cannot parse the answer"):
        rewards.math("3", "3")


def test_resolve():
    assert rewards.resolve("numeric") is rewards.numeric
    assert rewards.resolve("jopd.rewards.exact") is rewards.exact
    with pytest.raises(ValueError, match=r"'maths' is unknown.*exact, numeric, math"):
        rewards.resolve("maths")


@pytest.mark.parametrize(
    ("response", "right"),
    [
        (r"so \boxed{x}", 1.0),
        ("5\n#### 5", 1.0),
        ("it is 5", 0.0),
        (r"\boxed{}", 0.0),
        (r"\boxed{5", 0.0),
        ("#### Step", 0.0),
    ],
)
def test_format(response, right):
    assert rewards.resolve("format")(response) == right


def test_the_process_of_math_gets_no_signals_that_are_for_the_run():
    helper = rewards._Helper._start()
    with helper:
        assert os.getsid(helper.pid) == helper.pid
        helper.stdin.close()  # as the end of the run does
        assert helper.wait(60) == 0
