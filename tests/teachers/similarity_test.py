"""Similarities of texts against plain definitions and known pairs."""

import itertools

import numpy as np
import pytest

from jopd.teachers import similarity

TEXTS = ["", "a", "kitten", "sitting", "7+6=13;", "7+8=15;", "the cat sat", "The cat!"]


def levenshtein(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


@pytest.mark.parametrize("a, b", list(itertools.product(TEXTS, repeat=2)))
def test_ned_is_one_minus_the_normalised_distance(a, b):
    want = 1 - levenshtein(a, b) / max(len(a), len(b), 1)
    assert similarity.ned(a, b) == pytest.approx(want, abs=1e-12)


def test_ned_at_its_ends():
    assert similarity.ned("", "") == 1 and similarity.ned("", "x") == 0
    assert similarity.ned("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert similarity.ned("äß", "äs") == 0.5, "characters, not bytes"
    long = "a" * similarity.MAX_CHARACTERS
    assert similarity.ned(long + "b" * 999, long) == 1, "cut before it is compared"
    assert similarity.ned("b" + long[1:], long) < 1


@pytest.mark.parametrize(
    "a, b, want",
    [
        ("the cat sat", "The cat!", 2 * 2 / 5),
        ("a a b", "a c c", 2 * 1 / 6),
        ("a a", "a a a", 4 / 5),
        ("", "!?", 1.0),
        ("", "x", 0.0),
        ("same words", "words same", 1.0),
    ],
)
def test_rouge1(a, b, want):
    assert similarity.rouge1(a, b) == pytest.approx(want)
    assert similarity.rouge1(b, a) == pytest.approx(want)


@pytest.mark.parametrize("name", ["ned", "rouge1"])
def test_bounded_symmetric_and_one_for_equal_texts(name):
    phi = similarity.resolve(name)
    a, b = zip(*itertools.product(TEXTS, repeat=2))
    values = phi(a, b)
    assert values.shape == (len(a),) and values.dtype == np.float32
    assert (values >= 0).all() and (values <= 1).all()
    np.testing.assert_array_equal(values, phi(b, a))
    assert (phi(TEXTS, TEXTS) == 1).all()
    assert phi([], []).shape == (0,)


def bad(a: str, b: str) -> float:
    return 1.2 if a != b else 1.0


def unsure(a: str, b: str) -> float:
    return float("nan")


def test_a_similarity_outside_of_its_range_is_named():
    phi = similarity.resolve(f"{__name__}.bad")
    assert phi(["x"], ["x"]) == 1
    with pytest.raises(ValueError, match=r"bad' gave 1\.2\d* for 'x' and 'y'"):
        phi(["x", "x"], ["x", "y"])
    with pytest.raises(ValueError, match=r"gave nan.*must lie in \[0, 1\]"):
        similarity.resolve(f"{__name__}.unsure")(["x"], ["y"])
    with pytest.raises(ValueError, match="2 texts to compare with 1"):
        phi(["x", "x"], ["x"])


def test_unknown_names():
    with pytest.raises(ValueError, match="'bleu' is unknown; use one of ned, rouge1"):
        similarity.resolve("bleu")
    with pytest.raises(ValueError, match=r"set audit\.encoder"):
        similarity.resolve("embedding")
    with pytest.raises(ValueError, match=r"unknown similarity 'no.such.module'"):
        similarity.resolve("no.such.module")
    with pytest.raises(ValueError, match=r"similarity_test has no function 'nothing'"):
        similarity.resolve(f"{__name__}.nothing")
