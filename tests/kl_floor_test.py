"""tools/kl_floor.py: the parts of a self-teacher's KL, against sums of their own."""

import sys

import numpy as np

import jopd
import runs
from jopd.data import words

sys.path.insert(0, str(runs.ROOT / "tools"))  # a folder of commands, not a package
import kl_floor


def _log_probs(rng, *shape):
    logits = rng.normal(size=shape)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_parts_are_those_of_the_theorem():
    rng = np.random.default_rng(0)
    teacher, student = _log_probs(rng, 5, 3, 7), _log_probs(rng, 3, 7)
    kl, floor = kl_floor.parts(teacher, student)
    mean = np.exp(teacher).mean(0)
    # H(token) - H(token | R), the information; and KL(mean || student), what can go.
    entropy = -(mean * np.log(mean)).sum(-1)
    known = -(np.exp(teacher) * teacher).sum(-1).mean(0)
    np.testing.assert_allclose(floor, entropy - known, rtol=1e-10)
    rest = (mean * (np.log(mean) - student)).sum(-1)
    np.testing.assert_allclose(kl - floor, rest, rtol=1e-10)


def test_a_teacher_that_shows_nothing_has_no_floor():
    rng = np.random.default_rng(1)
    same = np.repeat(_log_probs(rng, 1, 3, 7), 4, axis=0)
    _, floor = kl_floor.parts(same, _log_probs(rng, 3, 7))
    np.testing.assert_allclose(floor, 0.0, atol=1e-12)


def test_all_wordings_of_a_story_and_each_once():
    for told in kl_floor.stories(4, seed=0):
        found = kl_floor.wordings(told)
        assert len(set(found)) == len(found) == 3 ** (1 + len(told.events))
        asked = words.question(np.random.default_rng(0), told)
        assert all(words.verify(text, words.answer(told), asked) for text in found)


def test_the_bundled_self_teacher_has_next_to_none():
    model = jopd.load("demo:words_hinted")
    told = kl_floor.stories(1, seed=1)[0]
    context = "Solution: {solution}\n{question}"
    kl, floor, tokens = kl_floor.measured(model, model, told, context, 0, 192)
    assert 0 < floor < 0.1 * kl
    assert tokens > 20
