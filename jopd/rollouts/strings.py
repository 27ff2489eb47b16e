"""Strings that end a response, as stop tokens do.

Draws know tokens, not text, so the host reads what was drawn. ``cut`` does so when all
is drawn, and it alone says where a response ends: up to the token that completes a
string. Generation in blocks asks ``ended`` between two of them, so that a row is not
drawn on for nothing; what is left is the same.
"""

import bisect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jopd.types import STUDENT, Rollout

TOKENS_PER_CHARACTER = 4  # at most: a byte each


class Ends(NamedTuple):
    """``strings`` that end a response; ``text_of(before, ids)`` says what tokens add to
    the text of those before them.
    """

    strings: tuple[str, ...]
    text_of: Callable[[Sequence[int], Sequence[int]], str]


def cut(ends: Ends, rollout: Rollout) -> Rollout:
    """Ends every response at the token that completes its first string; on the host.

    Such a row is finished. Its log-probabilities are those it was drawn with. What a
    prefix holds ends nothing.
    """
    rollout = jax.tree.map(np.asarray, jax.device_get(rollout))
    found_B = [
        first_end(ends, row[:start], row[start:stop], _given(source[start:stop]))
        for row, source, start, stop in zip(
            rollout.tokens_BT,
            rollout.source_BT,
            rollout.prompt_length_B,
            rollout.length_B,
        )
    ]
    ended_B = np.asarray([count is not None for count in found_B])
    count_B = np.asarray([count or 0 for count in found_B], np.int32)
    length_B = np.where(ended_B, rollout.prompt_length_B + count_B, rollout.length_B)
    inside_BT = np.arange(rollout.tokens_BT.shape[1]) < length_B[:, None]
    return rollout._replace(
        tokens_BT=np.where(inside_BT, rollout.tokens_BT, 0),
        length_B=length_B,
        finished_B=rollout.finished_B | ended_B,
        behavior_logp_BT=np.where(inside_BT, rollout.behavior_logp_BT, np.float32(0)),
    )


def first_end(ends: Ends, before, ids, given: int = 0) -> int | None:
    """How many of ``ids`` it takes to complete a string; None if none occurs.

    Strings that the first ``given`` of them complete do not count.
    """
    past = len(ends.text_of(before, ids[:given])) if given else 0
    occurs = lambda count: _occurs(ends, ends.text_of(before, ids[:count]), past)
    if not occurs(len(ids)):
        return None
    # What has occurred goes on to occur, so halving finds where it began to.
    return bisect.bisect_left(range(len(ids)), True, key=occurs)


def ended(ends: Ends, before, ids, latest: int, given: int = 0) -> bool:
    """Whether a string occurs that one of the ``latest`` of ``ids`` completes.

    ``given`` is that of ``first_end``.
    """
    longest = TOKENS_PER_CHARACTER * max(map(len, ends.strings))
    place = max(len(ids) - latest - longest, 0)
    ahead = [*before, *ids[:place]]
    recent = ends.text_of(ahead, ids[place:])
    return _occurs(ends, recent) and first_end(ends, before, ids, given) is not None


def _given(source_T) -> int:
    """Tokens of a response before the first that the student drew."""
    drawn_T = source_T == STUDENT
    return int(drawn_T.argmax()) if drawn_T.any() else len(drawn_T)


def _occurs(ends: Ends, text: str, past: int = 0) -> bool:
    """Whether a string ends behind the first ``past`` characters."""
    return any(text.find(one, max(past - len(one) + 1, 0)) >= 0 for one in ends.strings)
