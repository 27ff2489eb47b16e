"""What verifiers are handed, how several add up, and what is said when one fails."""

import contextlib
import functools
import operator
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jopd.data import judging, rewards
from jopd.data.judging import Asked, Judge, Part

ROOT = Path(__file__).resolve().parents[2]
ASKED = Asked(
    responses=["a", "bb", "a"],
    answers=["a", "b", ("b", "a")],
    prompts=["p0", "p1", "p2"],
    fields=[{"level": "1"}, {"level": "2"}, {"level": "3"}],
    ids=["first", "second", "third"],
)


def given(function, asked=ASKED, **changes) -> list[float]:
    return judging.judge(Judge((Part("mine", function),), **changes), asked)[0].tolist()


def by_length(response):
    return len(response)


def of_the_row(response, answer, prompt, fields):
    return float(prompt[1]) + float(fields["level"])


def whole(responses, prompts, fields):
    return [responses.count(response) for response in responses]


def fails(response, answer):
    return {}["typo"] if response == "bb" else 1.0


@pytest.mark.parametrize(
    "function, want",
    [
        (rewards.exact, [1, 0, 1]),  # of two right answers
        (lambda text, gold: text == gold, [1, 0, 1]),
        (lambda text, gold: (text, gold) == ("bb", "b"), [0, 1, 0]),
        (lambda text, gold, scale=2.0: scale * (text == gold), [2, 0, 2]),
        (lambda gold, response: response == gold, [0, 0, 0]),  # response is asked for
        (lambda *texts: texts[0] == texts[1], [1, 0, 1]),
        (operator.eq, [1, 0, 1]),
        (functools.partial(rewards.numeric, tolerance=1.0), None),
        (by_length, [1, 2, 1]),
        (of_the_row, [1, 3, 5]),
        (whole, [2, 1, 2]),
        (lambda responses: np.array([0.5, 1, 0], np.float32), [0.5, 1, 0]),
    ],
)
def test_a_verifier_is_handed_what_it_asks_for(function, want):
    if want is None:
        assert given(function, Asked(["1", "3"], ["2", "1"])) == [1, 0]
    elif want == [0, 0, 0]:
        # The one free place is the answer's.
        assert given(function) == [1, 0, 1]
    else:
        assert given(function) == want


def test_what_a_verifier_may_ask_for_is_said():
    for function in (lambda a, b, c: 0, lambda response, answer, rows: 0):
        with pytest.raises(ValueError, match="may ask for response, answer, prompt"):
            judging.wanted(Part("mine", function))


def test_several_are_weighted_and_measured():
    parts = (Part("correct", rewards.exact), Part("short", by_length, -0.25, "r.short"))
    total, found = judging.judge(Judge(parts), ASKED)
    assert total.dtype == np.float32 and total.tolist() == [0.75, -0.5, 0.75]
    assert found["correct"].tolist() == [1, 0, 1]
    assert found["short"].tolist() == [1, 2, 1]


@pytest.mark.parametrize("processes", [0, 2])
def test_a_failing_verifier_names_key_and_row(processes):
    def said(function) -> pytest.ExceptionInfo:
        part = Part("mine", function, 1.0, "rewards.mine")
        with pytest.raises(ValueError) as caught:
            judging.judge(Judge((part,), processes), ASKED)
        assert "\n" not in str(caught.value)
        assert "rewards.mine" in str(caught.value)
        return caught

    failed = said(rewards.numeric)
    assert "numeric failed at row first ('a'): ValueError: the ans" in str(failed.value)
    assert failed.value.__cause__ is not None
    late = Asked(["1"] * 3, ["1", "1", "x"], ids=ASKED.ids)
    with pytest.raises(ValueError, match=r"failed at row third \('1'\)"):
        given(rewards.numeric, late, processes=processes)
    if processes:
        assert "cannot be sent to another process" in str(said(lambda a, b: 1).value)
        return
    failed = said(fails)
    assert "fails failed at row second ('bb'): KeyError: 'typo'" in str(failed.value)
    assert isinstance(failed.value.__cause__, KeyError)
    for value, words in ((None, "None, which is no number"), (np.nan, "it gave nan")):
        assert words in str(said(lambda a, b, value=value: value).value)
    words = "failed: ValueError: 1 numbers for 3 rows"
    assert words in str(said(lambda responses: [1]).value)


def test_rows_without_answers():
    asked = ASKED._replace(answers=["a", None, "b"])
    with pytest.raises(ValueError, match="row second has no answer"):
        given(rewards.exact, asked)
    assert given(by_length, asked) == [1, 2, 1]
    assert given(whole, asked) == [2, 1, 2]
    with pytest.raises(ValueError, match="3 responses, but 1 answers"):
        given(rewards.exact, ASKED._replace(answers=["a"]))


STAYS = """
import os, signal
from jopd.data import judging, rewards

if __name__ == "__main__":
    asked = judging.Asked(["3", "4"], ["3", "3"])
    judge = judging.Judge((judging.Part("a", rewards.exact),), 1)
    print(*judging.judge(judge, asked)[0], *judging._pool(1)._processes, flush=True)
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: None)
        os.killpg(0, name)
    print(*judging.judge(judge, asked)[0], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_signals_to_all_leave_processes_that_end_with_the_run(tmp_path):
    (tmp_path / "stays.py").write_text(STAYS)
    paths = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(
        [sys.executable, tmp_path / "stays.py"],
        env=paths,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as run:
        *first, number = run.stdout.readline().split()
        try:
            # Its end is there only once the verifier's process, too, is gone.
            second, _ = run.communicate(timeout=30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)
    assert first == second.split() == ["1.0", "0.0"]
    assert run.returncode == -signal.SIGKILL


def test_processes_change_nothing():
    asked = Asked([str(i % 5) for i in range(37)], ["3"] * 37)
    want = [float(i % 5 == 3) for i in range(37)]
    for processes in (0, 2):
        assert given(rewards.numeric, asked, processes=processes) == want
    both = Judge((Part("a", rewards.exact), Part("b", rewards.marked, 0.5)), 2)
    assert judging.judge(both, asked)[0].tolist() == want
    assert given(rewards.exact, Asked([], []), processes=2) == []
