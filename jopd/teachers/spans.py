"""A student's response in the tokens of a teacher with another tokenizer. Host side.

Both write the same bytes. Let u_0, u_1, ... be the teacher's own tokens of the text,
behind the bytes B_0 = 0, B_1, ... of it. The probability that it writes the first e
bytes, whatever follows, is that of a token of its own which goes on to e or beyond:

    F(e) = sum_{k: B_k < e} prod_{q < k} p(u_q) mass_k(bytes B_k..e)

with mass_k(x) = sum of p over tokens that begin with x, at that place
(``losses.prefixes``): next-byte-prefix marginals (arXiv:2607.22334), chained along the
teacher's own tokens. A token of the student from byte s to e then has F(e) / F(s), and
the end of a turn what is left: over a finished response these factors multiply to the
teacher's own probability of it, whatever the student's tokens are.

F is exact where the teacher can begin the text in no other way than with its own tokens
up to the last; a way that leaves them earlier is not in the sum, so F is a lower bound.
A trained teacher hardly ever writes a text otherwise than its tokenizer does.

Special tokens have no bytes: an end of turn is the teacher's, others are what has the
same name there. A text that the teacher does not write as it is (another normal form,
half a character) is unknown from there on.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jopd.data.pieces import Begins

MOST = 32  # questions at one token of a teacher; ends beyond them are unknown
UNKNOWN = 1.0  # a log-probability that none can have
# How a student's token lies on the teacher's: as one of them, as several, or it begins
# or ends inside of one.
ONE, SEVERAL, INSIDE = 1, 2, 3


class Speech(NamedTuple):
    """A tokenizer as bytes.

    Attributes:
      pieces: bytes of each id, see ``pieces.token_bytes``.
      leads: whether it writes a space before the first word of a text.
    """

    tokenizer: Any
    pieces: Sequence[bytes | None]
    leads: bool


class Pair(NamedTuple):
    """Student and teacher; ``roles``: student's special ids to the teacher's."""

    student: Speech
    teacher: Speech
    roles: Mapping[int, int]
    begins: Begins


@dataclasses.dataclass
class Row:
    """One response in a teacher's tokens.

    Attributes:
      tokens: ids, one for each of the teacher's tokens.
      run: the first token of the run of text that it stands in; an end of turn belongs
        to the text before it.
      asked: (lo, hi) of every question at it, see ``prefixes.masses``.
      answers: (student's token, teacher's token, question): summands of F where the
        student's token ends.
      before: student's token that is known -> the one whose F it is compared with; -1:
        none, it begins a run.
      span, span_of: number of the span, from 1 on, of each token of student and
        teacher; 0 outside. A span ends where tokens of both end.
    """

    tokens: list[int] = dataclasses.field(default_factory=list)
    run: list[int] = dataclasses.field(default_factory=list)
    asked: list[list[tuple[int, int]]] = dataclasses.field(default_factory=list)
    answers: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    before: dict[int, int] = dataclasses.field(default_factory=dict)
    span: list[int] = dataclasses.field(default_factory=list)
    span_of: list[int] = dataclasses.field(default_factory=list)

    def add(self, ids: Sequence[int], run: int, spans: Sequence[int]) -> None:
        self.tokens += ids
        self.run += [run] * len(ids)
        self.asked += [[] for _ in ids]
        self.span_of += spans

    @property
    def spans(self) -> int:
        return max((*self.span, *self.span_of), default=0)


def align(
    student: Sequence[bytes], teacher: Sequence[bytes], *, most: int = 6
) -> tuple[np.ndarray, np.ndarray]:
    """Spans that end where tokens of both end, of bytes that both have written.

    Returns:
      (i32[T], i32[U]): number of the span of every token, from 1 on; 0 behind the last
      common end, where the bytes differ, and in spans of more than ``most`` tokens of
      either (DPCA, arXiv:2606.09456, whose code has 6).
    """
    ends = [np.cumsum([len(piece) for piece in side]) for side in (student, teacher)]
    same = _common(b"".join(student), b"".join(teacher))
    shared = np.intersect1d(*ends)
    shared = shared[(shared > 0) & (shared <= same)]
    found, sizes = [], []
    for end in ends:
        number = np.searchsorted(shared, end) if len(end) else np.zeros(0, int)
        found.append(np.where(number < len(shared), number + 1, 0).astype(np.int32))
        sizes.append(np.bincount(found[-1], minlength=len(shared) + 1))
    long = np.flatnonzero(np.maximum(*sizes) > most)
    return tuple(np.where(np.isin(side, long), 0, side) for side in found)


def _common(one: bytes, other: bytes) -> int:
    """Length of the beginning that two texts share."""
    if one == other:
        return len(one)
    pairs = enumerate(zip(one, other))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


class _Part(NamedTuple):
    """Tokens of a response between special ones; ``text`` is what of it can be read."""

    first: int
    pieces: list[bytes]
    text: str


def translate(pair: Pair, responses: Sequence[Sequence[int]], *, most: int = 6):
    """Every response in the teacher's tokens: a ``Row`` each, in the same order.

    ``most`` is that of ``align``.
    """
    parts = [_parts(pair.student, ids) for ids in responses]
    texts = [part.text for row in parts for part in row if isinstance(part, _Part)]
    encode = pair.teacher.tokenizer
    coded = iter(encode(texts, add_special_tokens=False)["input_ids"] if texts else ())
    rows = []
    for ids, row in zip(responses, parts, strict=True):
        found, run = Row(span=[0] * len(ids)), _Run(0)
        for part in row:
            if isinstance(part, _Part):
                run = _add_text(pair, found, part, next(coded), most)
                continue
            if ids[part] in pair.roles:
                _add_special(pair, found, run, part, pair.roles[ids[part]])
            run = _Run(len(found.tokens))
        rows.append(found)
    return rows


class _Run(NamedTuple):
    """A run of text: the teacher's first token, the student's last, and whether the
    teacher has written all of it."""

    first: int
    last: int = -1
    whole: bool = True


def _parts(student: Speech, ids: Sequence[int]) -> list[_Part | int]:
    """Runs of text, and indices of special tokens between them."""
    found: list[_Part | int] = []
    known = lambda i: (
        ids[i] < len(student.pieces) and student.pieces[ids[i]] is not None
    )
    for is_text, group in itertools.groupby(range(len(ids)), key=known):
        places = list(group)
        if not is_text:
            found += places
            continue
        own = [student.pieces[ids[i]] for i in places]
        if student.leads and own[0].startswith(b" "):
            own[0] = own[0][1:]
        found.append(_Part(places[0], own, _readable(b"".join(own))))
    return found


def _readable(text: bytes) -> str:
    """What of a text is UTF-8, up to the first byte that is not."""
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        return text[: error.start].decode()


def _add_special(pair: Pair, row: Row, run: _Run, token: int, index: int) -> None:
    """A special token behind a run of text; unknown where that is."""
    if run.whole:
        row.answers.append((token, len(row.tokens), 0))
        row.before[token] = run.last
    row.span[token] = row.spans + 1
    row.add([index], run.first, [row.span[token]])
    row.asked[-1].append(pair.begins.alone(index))


def _add_text(pair: Pair, row: Row, part: _Part, coded: list[int], most: int) -> _Run:
    theirs = [pair.teacher.pieces[index] or b"" for index in coded]
    own, written = list(part.pieces), b"".join(theirs)
    text, first = b"".join(own), len(row.tokens)
    if _common(b" " + text, written) > _common(text, written):
        # Of the teacher's first word, not of the text, which may begin with one, too.
        own[0], text = b" " + own[0], b" " + text
    same, before = _common(text, written), row.spans
    spans, spans_of = (
        [n + before if n else 0 for n in side.tolist()]
        for side in align(own, theirs, most=most)
    )
    row.span[part.first : part.first + len(own)] = spans
    row.add(coded, first, spans_of)
    ends = list(itertools.accumulate(map(len, own)))
    known = [n for n, piece in enumerate(own) if piece and ends[n] <= same]
    lost = _ask(
        pair.begins, row, part.first, first, theirs, [(n, ends[n]) for n in known], text
    )
    last = -1
    for n in known:
        if n not in lost and last not in lost:
            row.before[part.first + n] = last if last < 0 else part.first + last
        last = n
    whole = same == len(text) == len(written) and last not in lost
    return _Run(first, last if last < 0 else part.first + last, whole)


def _ask(begins: Begins, row: Row, token: int, first: int, theirs, ends, text) -> set:
    """Asks at every token of the teacher for all ends that one token can reach.

    Returns what of the student's cannot be known, as there are too many questions.
    """
    start, at, lost = 0, 0, set()
    for k, piece in enumerate(theirs):
        while at < len(ends) and ends[at][1] <= start:
            at += 1
        asked = row.asked[first + k]
        for n, end in ends[at:]:
            lo, hi = begins.with_prefix(text[start:end])
            if lo == hi:
                break  # nor is there a token that is longer
            if len(asked) == MOST:
                lost.add(n)
                continue
            row.answers.append((token + n, first + k, len(asked)))
            asked.append((lo, hi))
        start += len(piece)
    return lost


def cut(row: Row, most: int) -> Row:
    """At most ``most`` tokens of the teacher; what lies beyond them is unknown."""
    if len(row.tokens) <= most:
        return row
    beyond = {token for token, place, _ in row.answers if place >= most}
    known = {
        token: before
        for token, before in row.before.items()
        if not beyond & {token, before}
    }
    return Row(
        row.tokens[:most],
        row.run[:most],
        row.asked[:most],
        [answer for answer in row.answers if answer[1] < most],
        known,
        [0 if number in row.span_of[most:] else number for number in row.span],
        row.span_of[:most],
    )


class Asked(NamedTuple):
    """The questions of several rows, padded; R tokens of a teacher's response each.

    Attributes:
      tokens: i32[B, R].
      mask: bool[B, R], those that are there.
      lo, hi: i32[B, R, K], see ``prefixes.masses``.
    """

    tokens: np.ndarray
    mask: np.ndarray
    lo: np.ndarray
    hi: np.ndarray


def ask(rows: Sequence[Row], width: int) -> Asked:
    """``rows`` side by side, each of at most ``width`` tokens of the teacher."""
    most = max((len(asked) for row in rows for asked in row.asked), default=0)
    deep = 1 << max(most - 1, 0).bit_length()  # few shapes
    size = (len(rows), width)
    found = Asked(
        tokens=np.zeros(size, np.int32),
        mask=np.zeros(size, bool),
        lo=np.zeros((*size, deep), np.int32),
        hi=np.zeros((*size, deep), np.int32),
    )
    for b, row in enumerate(rows):
        count = len(row.tokens)
        found.tokens[b, :count], found.mask[b, :count] = row.tokens, True
        for k, asked in enumerate(row.asked):
            if asked:
                found.lo[b, k, : len(asked)], found.hi[b, k, : len(asked)] = zip(*asked)
    return found


class Scored(NamedTuple):
    """What a teacher says of the student's tokens, f32[B, T] each.

    Attributes:
      logp: log-probability in nats; ``UNKNOWN`` where it has none.
      kind: ``ONE``, ``SEVERAL`` or ``INSIDE``; 0 where unknown.
      span: number of the token's span, from 1 on in every row; 0 outside.
      span_logp: the teacher's log-probability of its own tokens of that span.
    """

    logp: np.ndarray
    kind: np.ndarray
    span: np.ndarray
    span_logp: np.ndarray


def score(rows: Sequence[Row], own_BR, mass_BRK, first_B, width: int) -> Scored:
    """``Scored`` from the answers, at the places that responses have in rows of T.

    Args:
      own_BR, mass_BRK: of ``prefixes.masses``.
      first_B: i32, where each response begins.
      width: T.
    """
    blank = lambda value: np.full((len(rows), width), value, np.float32)
    found = Scored(blank(UNKNOWN), blank(0), blank(0), blank(0))
    for b, (row, first) in enumerate(zip(rows, np.asarray(first_B), strict=True)):
        own_R = np.asarray(own_BR[b, : len(row.tokens)], float)
        spans, theirs = np.asarray(row.span, int), np.asarray(row.span_of, int)
        totals = np.bincount(theirs, own_R, minlength=row.spans + 1)
        places = slice(first, first + len(spans))
        found.span[b, places] = spans
        found.span_logp[b, places] = np.where(spans > 0, totals[spans], 0.0)
        if not row.before:
            continue
        reached = _reached(row, own_R, np.asarray(mass_BRK[b], float))
        at, before = (np.array(side) for side in zip(*row.before.items()))
        # A token's factor is at most 1, rounding apart.
        found.logp[b, first + at] = np.minimum(reached[at] - reached[before], 0.0)
        found.kind[b, first + at] = kinds(spans, theirs)[at]
    return found


def _reached(row: Row, own_R: np.ndarray, mass_RK: np.ndarray) -> np.ndarray:
    """log F where each token of the student ends; last a 0, for what begins a run."""
    sums = np.concatenate([[0.0], np.cumsum(own_R)])
    path_R = sums[:-1] - sums[row.run]
    token, place, question = np.array(row.answers).T
    found = np.full(len(row.span) + 1, -np.inf)
    found[-1] = 0.0
    np.logaddexp.at(found, token, path_R[place] + mass_RK[place, question])
    return found


def begun_together(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """(student's tokens, teacher's tokens) that begin a span, side by side.

    There both go on from one text, so what they say of the next token can be compared.
    """
    firsts = []
    for side in (row.span, row.span_of):
        number, first = np.unique(np.asarray(side, int), return_index=True)
        firsts.append(dict(zip(number[number > 0], first[number > 0])))
    both = sorted(firsts[0].keys() & firsts[1].keys())
    return tuple(np.asarray([first[n] for n in both], int) for first in firsts)


def kinds(span_T: np.ndarray, span_R: np.ndarray) -> np.ndarray:
    """Of every token, were it known."""
    ours, theirs = (
        np.bincount(s, minlength=span_T.max() + 1) for s in (span_T, span_R)
    )
    alone = (span_T > 0) & (ours[span_T] == 1)
    return np.where(alone, np.where(theirs[span_T] == 1, ONE, SEVERAL), INSIDE)
