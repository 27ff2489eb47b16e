"""The bytes that a token stands for, and the tokens that begin with given bytes.

Two tokenizers share no ids but write the same bytes, so that is where they meet.
"""

import bisect
import json
from collections.abc import Sequence

import numpy as np

from jopd.data import vocabulary

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space


def token_bytes(tokenizer) -> list[bytes | None]:
    """The bytes of every id; None for special tokens and ids without a token.

    Read are byte-level BPE, SentencePiece, and tokens that are their own text, such as
    letters; added tokens that are not special stand for their text.

    Raises:
      ValueError: another kind of tokenizer, or one that changes what it reads, such as
        capitals to small letters: its tokens are not the bytes of a text.
    """
    parts = _decoders(tokenizer)
    if "ByteLevel" in parts:
        read = _of_byte_level
    elif parts & {"ByteFallback", "Metaspace", "Replace"}:
        read = _of_sentencepiece
    elif parts <= {"Fuse"}:
        read = str.encode
    else:
        raise ValueError(
            f"{_name(tokenizer)} is no byte-level BPE and no SentencePiece (it decodes "
            f"by {', '.join(sorted(parts))}), so its tokens cannot be compared byte by "
            "byte with another tokenizer's"
        )
    added = tokenizer.added_tokens_decoder
    tokens = tokenizer.get_vocab()
    found: list[bytes | None] = [None] * (max(tokens.values()) + 1)
    for token, index in tokens.items():
        if index not in added:
            found[index] = read(token)
        elif not added[index].special:
            found[index] = str(added[index]).encode()
    _check(tokenizer, found)
    return found


def in_both(
    ours: Sequence[bytes | None], theirs: Sequence[bytes | None], *sizes: int
) -> np.ndarray:
    """i32[2, M]: ids of the tokens with the same bytes, by ours; of several the first.

    Special tokens, and ids from ``sizes`` on, are in neither.
    """
    first = [
        {piece: i for i, piece in reversed([*enumerate(known[:size])]) if piece}
        for known, size in zip((ours, theirs), sizes, strict=True)
    ]
    pairs = [(i, first[1][piece]) for piece, i in first[0].items() if piece in first[1]]
    return np.asarray(sorted(pairs), np.int32).reshape(-1, 2).T


def _decoders(tokenizer) -> set[str]:
    """Kinds of steps by which tokens become text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    told = json.loads(backend.to_str())["decoder"] if backend else None
    each = (told or {}).get("decoders", [told] if told else [])
    return {part["type"] for part in each}


def _of_byte_level(token: str) -> bytes | None:
    try:
        return bytes(_BYTES[letter] for letter in token)
    except KeyError:  # an added token that is not marked as one
        return None


def _letters() -> dict[str, int]:
    """The letter that byte-level BPE writes each byte as: itself where it is seen."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unseen = [byte for byte in range(256) if byte not in seen]
    shown = {chr(byte): byte for byte in seen}
    return shown | {chr(256 + n): byte for n, byte in enumerate(unseen)}


_BYTES = _letters()


def _of_sentencepiece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(SPACE, " ").encode()


def leads(tokenizer, pieces: Sequence[bytes | None]) -> bool:
    """Whether a tokenizer writes a space before the first word of a text."""
    text = _probe(pieces).strip()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else ()
    return b"".join(pieces[index] or b"" for index in ids).startswith(b" ")


def _probe(pieces: Sequence[bytes | None]) -> str:
    """What a tokenizer can write of a text of many kinds."""
    known = set(pieces) | {piece.strip(b" ") for piece in pieces if piece}
    parts = lambda letter: [bytes([byte]) for byte in letter.encode()]
    able = lambda letter: letter.encode() in known or known.issuperset(parts(letter))
    return "".join(letter for letter in vocabulary.PROBE if able(letter))


def _check(tokenizer, pieces: Sequence[bytes | None]) -> None:
    """A text must be its tokens' bytes, a space before it apart."""
    text = _probe(pieces)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    written = b"".join(pieces[index] or b"" for index in ids)
    if written.removeprefix(b" ") != text.removeprefix(" ").encode():
        raise ValueError(
            f"{_name(tokenizer)} changes what it reads ({text!r} becomes {written!r}), "
            "so its tokens cannot be compared byte by byte with another tokenizer's"
        )


def _name(tokenizer) -> str:
    return f"the tokenizer {getattr(tokenizer, 'name_or_path', '')}".strip()


class Begins:
    """Which ids begin with given bytes, as an interval of all ids in order.

    In the order of their bytes ids that begin alike stand side by side; behind them all
    stand the special tokens that are asked for.

    Attributes:
      order_N: i32, the ids in order.
    """

    def __init__(self, pieces: Sequence[bytes | None], rows: int, special=()):
        """``rows`` of a head, of which ``special`` are compared by role."""
        known = sorted((text, i) for i, text in enumerate(pieces[:rows]) if text)
        self._sorted = [text for text, _ in known]
        self._seen: dict[bytes, tuple[int, int]] = {}
        ids = [index for _, index in known]
        self._alone = {index: len(ids) + n for n, index in enumerate(special)}
        self.order_N = np.asarray([*ids, *self._alone], np.int32)

    def with_prefix(self, text: bytes) -> tuple[int, int]:
        """The interval ``lo <= n < hi`` of the tokens that begin with ``text``."""
        if text not in self._seen:
            lo = bisect.bisect_left(self._sorted, text)
            bare = text.rstrip(b"\xff")
            after = bare[:-1] + bytes([bare[-1] + 1]) if bare else None
            end = len(self._sorted)
            hi = end if after is None else bisect.bisect_left(self._sorted, after)
            self._seen[text] = lo, hi
        return self._seen[text]

    def alone(self, index: int) -> tuple[int, int]:
        """The interval of one special token."""
        return self._alone[index], self._alone[index] + 1
