"""The bundled models of the task in words are what docs/regimes.md says they are."""

import sys

import numpy as np
import pytest

import jopd
import runs
from jopd.data import tasks, words

sys.path.insert(0, str(runs.ROOT / "tools"))  # a folder of commands, not a package
import regimes

pytestmark = pytest.mark.slow
PROBLEMS = 96


@pytest.fixture(scope="module")
def told():
    """Held-out stories."""
    rng, found = np.random.default_rng(0), []
    while len(found) < PROBLEMS:
        story = words.story(rng, int(rng.choice(words.LEVELS)))
        if tasks.split_of(words.chain(story)) == "validation":
            found.append(story)
    return found


def accuracy(name: str, told, hint: str = "") -> float:
    """Share of greedy responses that are right, behind a hint."""
    rng = np.random.default_rng(1)
    prompts = [regimes.hinted(rng, story, hint) for story in told]
    texts = jopd.load(f"demo:{name}").generate(prompts, temperature=0)
    right = [
        words.verify(text, words.answer(s), prompt)
        for (text,), s, prompt in zip(texts, told, prompts, strict=True)
    ]
    return float(np.mean(right))


def test_the_teachers_solve_the_task_and_the_student_a_part(told):
    assert accuracy("words_teacher", told) >= 0.9
    assert accuracy("words_brief", told) >= 0.9
    assert 0.2 <= accuracy("words_student", told) <= 0.5


def test_the_early_student_has_begun_to_solve_the_task_in_digits():
    rows = tasks.make("validation", PROBLEMS)
    prompts = [row["question"] for row in rows]
    texts = jopd.load("demo:early").generate(prompts, temperature=0)
    right = [
        tasks.verify(text, row["answer"])
        for (text,), row in zip(texts, rows, strict=True)
    ]
    assert 0.02 <= np.mean(right) <= 0.25


def test_the_hinted_student_reads_what_it_is_shown(told):
    alone = accuracy("words_hinted", told)
    assert 0.4 <= alone <= 0.85
    for name in ("a solution", "an attempt marked right"):
        assert accuracy("words_hinted", told, regimes.HINTS[name]) >= alone + 0.1


def test_the_short_teacher_fails_on_long_stories(told):
    short = [story for story in told if len(story.events) <= 3]
    long = [story for story in told if len(story.events) > 3]
    assert accuracy("words_short", short) >= 0.8
    assert accuracy("words_short", long) <= 0.3


def test_styles_share_few_words(told):
    rng = np.random.default_rng(2)
    prompts = [words.question(rng, story) for story in told[:8]]
    spoken, brief = (
        jopd.load(f"demo:{name}").generate(prompts, temperature=0)
        for name in ("words_teacher", "words_brief")
    )
    assert not any(" = " in text for (text,) in spoken)
    assert all(" = " in text for (text,) in brief)
