"""Strings that end responses: which token completes one, in a loop and in blocks."""

import functools
import random

import jax
import numpy as np
import pytest

import tiny
from drawing import CONFIG, DRAW, asked, in_blocks, in_one_loop
from jopd.data import decoding
from jopd.rollouts import strings
from jopd.types import GOLD, STUDENT, Rollout

WORDS = ["a", "b", "ab", "ba", "\n", "Q", "Qa", "aQ\nb", "", "bb"]


class Tokenizer:
    """Tokens of several letters, one of none."""

    def batch_decode(self, rows, **options):
        return ["".join(WORDS[token % len(WORDS)] for token in row) for row in rows]


def ends(*given: str) -> strings.Ends:
    return strings.Ends(given, functools.partial(decoding.text_of, Tokenizer()))


def slow_end(given: strings.Ends, before, ids, prefix: int = 0) -> int | None:
    head = given.text_of(before, ids[:prefix])
    for count in range(prefix, len(ids) + 1):
        text = given.text_of(before, ids[:count])
        ends_at = [i for i in range(len(text) + 1) if text[:i].endswith(given.strings)]
        if any(i > len(head) for i in ends_at):
            return count
    return None


def drawn(rng, least: int = 0) -> list[int]:
    return [rng.randrange(len(WORDS)) for _ in range(rng.randrange(least, 40))]


def test_the_end_is_the_token_that_completes_the_first_string():
    rng, found = random.Random(0), []
    for _ in range(300):
        given = ends(*rng.sample(["\nQ", "abb", "aa", "Qab", "bbbb"], 2))
        before, ids = drawn(rng, 1), drawn(rng)
        want = slow_end(given, before, ids)
        assert strings.first_end(given, before, ids) == want
        found.append(want)
        latest = rng.randrange(1, 8)
        new = want is not None and want > len(ids) - latest
        said = strings.ended(given, before, ids, latest)
        assert said or not new  # nothing that is new is overseen
        assert want is not None or not said
    assert {None} < set(found) and len(set(found)) > 10


def test_what_a_prefix_holds_ends_nothing():
    rng, found = random.Random(1), []
    for _ in range(300):
        given = ends(*rng.sample(["\nQ", "abb", "aa", "Qab", "bbbb"], 2))
        before, ids = drawn(rng, 1), drawn(rng)
        prefix = rng.randrange(len(ids) + 1)
        want = slow_end(given, before, ids, prefix)
        assert strings.first_end(given, before, ids, prefix) == want
        assert want is None or want > prefix
        latest = rng.randrange(1, 8)
        new = want is not None and want > len(ids) - latest
        said = strings.ended(given, before, ids, latest, prefix)
        assert said or not new
        assert want is not None or not said
        found.append(want != strings.first_end(given, before, ids))
    assert 20 < sum(found) < 280


def test_a_row_whose_prefix_holds_a_string_goes_on():
    # "ab" "\n" "Q" are given, and the "\n" behind them; of the first row "Q" is drawn.
    tokens_BT = np.asarray(
        [[1, 2, 4, 5, 4, 5, 0, 0], [1, 2, 4, 5, 4, 0, 0, 0]], np.int32
    )
    source_BT = np.full_like(tokens_BT, STUDENT)
    source_BT[:, 1:5] = GOLD
    rollout = Rollout(
        tokens_BT=tokens_BT,
        prompt_length_B=np.asarray([1, 1], np.int32),
        length_B=np.asarray([8, 8], np.int32),
        finished_B=np.asarray([False, False]),
        behavior_logp_BT=np.zeros(tokens_BT.shape, np.float32),
        source_BT=source_BT,
        group_B=np.asarray([0, 1], np.int32),
        age_B=np.zeros(2, np.int32),
    )
    got = strings.cut(ends("\nQ"), rollout)
    assert got.length_B.tolist() == [6, 8]
    assert got.finished_B.tolist() == [True, False]


def test_rows_are_cut_behind_it_and_finished():
    before, text = [0, 1], [2, 3, 4, 5, 6, 0]  # "ab", "ba", "\n", "Q", "Qa", "a"
    rows = np.asarray([[*before, *text, 0], [*before, 0, 1, 0, 1, 0, 0, 0]], np.int32)
    logp_BT = np.where(np.arange(9) < 2, 0, -np.arange(9.0, dtype=np.float32))
    rollout = Rollout(
        tokens_BT=rows,
        prompt_length_B=np.asarray([2, 2], np.int32),
        length_B=np.asarray([8, 7], np.int32),
        finished_B=np.asarray([False, False]),
        behavior_logp_BT=np.stack([logp_BT, logp_BT]),
        source_BT=np.zeros_like(rows),
        group_B=np.asarray([0, 1], np.int32),
        age_B=np.zeros(2, np.int32),
    )
    got = strings.cut(ends("\nQ"), rollout)
    assert got.length_B.tolist() == [6, 7] and got.length_B.dtype == np.int32
    assert got.finished_B.tolist() == [True, False]
    assert got.tokens_BT[0].tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 0]
    assert got.behavior_logp_BT[0].tolist() == [0, 0, -2, -3, -4, -5, 0, 0, 0]
    assert got.tokens_BT[1].tolist() == rows[1].tolist()
    assert got.behavior_logp_BT.dtype == np.float32


@pytest.mark.parametrize("settings", [{}, {"at_once": 6, "devices": 2}])
def test_blocks_draw_what_one_loop_does_and_less(monkeypatch, settings):
    given, params = ends("\nQ", "ab"), tiny.params(CONFIG, 5)
    request, key = asked(), jax.random.key(3)
    whole = in_one_loop(params, request, key)
    want = strings.cut(given, whole)
    monkeypatch.setitem(DRAW, "ends", given)
    early = in_blocks(params, request, key, 4, **settings)
    got = strings.cut(given, early)
    for name, one, other in zip(got._fields, got, want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, err_msg=name)
    ended_B = want.finished_B & ~whole.finished_B
    assert 3 < ended_B.sum() < 29
    assert (early.length_B[ended_B] <= want.length_B[ended_B] + 4).all()
    assert early.length_B.sum() < whole.length_B.sum()
    # Log-probabilities of what is kept are those of the draws.
    kept_BT = np.arange(want.tokens_BT.shape[1]) < want.length_B[:, None]
    np.testing.assert_array_equal(
        want.behavior_logp_BT[kept_BT], whole.behavior_logp_BT[kept_BT]
    )
