"""From tokens to text, as it was written: beside what stands before it.

A token alone may be half a character, and SentencePiece drops the space before the
first word that it is given, so a response alone is not what follows its prompt.
"""

from collections.abc import Iterable, Sequence

CONTEXT = 8  # tokens before a text that are decoded with it


def text_of(tokenizer, before, ids, *, special: bool = False) -> str:
    """What ``ids`` add to the text of the tokens ``before`` them.

    Spaces stay where they were written, whatever the tokenizer would tidy up.

    Args:
      special: whether special tokens are shown.
    """
    return texts_of(tokenizer, [before], [ids], special=special)[0]


def texts_of(tokenizer, befores, rows, *, special: bool = False) -> list[str]:
    """``text_of`` of many rows, each behind its own tokens."""
    rows = [list(ids) for ids in rows]
    starts = [list(before[-CONTEXT:]) for before in befores]
    wholes = [[*start, *ids] for start, ids in zip(starts, rows, strict=True)]
    found = [_decode(tokenizer, part, special) for part in (rows, starts, wholes)]
    return [
        whole[len(start) :] if whole.startswith(start) else alone
        for alone, start, whole in zip(*found)
    ]


def pieces(tokenizer, before, ids) -> list[str]:
    """The text of every token where it stands, special tokens shown."""
    row = [*before, *ids]
    places = range(len(row) - len(ids), len(row))
    befores, tokens = [row[:t] for t in places], [[row[t]] for t in places]
    return texts_of(tokenizer, befores, tokens, special=True)


def _decode(tokenizer, rows: Sequence[Iterable[int]], special: bool) -> list[str]:
    return tokenizer.batch_decode(
        rows, skip_special_tokens=not special, clean_up_tokenization_spaces=False
    )
