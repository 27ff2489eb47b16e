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


def before_end(text: str, strings: Sequence[str]) -> str:
    """``text`` up to the first of ``strings`` that occurs in it."""
    places = [place for one in strings if (place := text.find(one)) >= 0]
    return text[: min(places)] if places else text


def settled(text: str, strings: Sequence[str] = ()) -> str:
    """What of a text that goes on stays as it is.

    Not its end, as long as that may be half a character, or half of one of ``strings``.
    """
    bare = text.rstrip("\N{REPLACEMENT CHARACTER}")
    open_ends = [
        length
        for one in strings
        for length in range(1, min(len(one), len(bare) + 1))
        if one.startswith(bare[-length:])
    ]
    return bare[: len(bare) - max(open_ends, default=0)]


def check_strings(tokenizer, strings: Sequence[str], key: str) -> None:
    """Strings that are to end a response must be ones that it can hold.

    Raises:
      ValueError: a string is empty, holds a special token, which texts are read
        without, or cannot be written in this tokenizer. Names ``key`` and the remedy.
    """
    added = tokenizer.added_tokens_decoder
    special = {str(token): index for index, token in added.items() if token.special}
    for one in strings:
        if not isinstance(one, str) or not one:
            raise ValueError(f"{key}={strings!r}: {one!r} is no text; leave it out")
        for name in special:
            if name in one:
                raise ValueError(
                    f"{key}: {one!r} holds the special token {name!r}, and responses "
                    "are read without those; ids that end one go into "
                    f"rollout.stop_ids=({special[name]},) or generation_config.json"
                )
        if one.strip(" ") not in _written(tokenizer, one):
            raise ValueError(
                f"{key}: {one!r} can never end a response, the tokenizer writes it as "
                f"{_written(tokenizer, one)!r}; take what it can write, or leave it out"
            )


def escapes(strings: Sequence[str], key: str) -> list[str]:
    """A line for each string with a backslash and an n where a line break is meant."""
    shown = r"write $'\nQ:' in a shell, '\n' in Python"
    return [
        f"{key}: {one!r} holds a backslash and an n, and no line break; for one {shown}"
        for one in strings
        if r"\n" in one
    ]


def _written(tokenizer, text: str) -> str:
    try:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    except Exception:  # the class that tokenizers raises for what they lack
        return ""
    return text_of(tokenizer, [], ids)


def _decode(tokenizer, rows: Sequence[Iterable[int]], special: bool) -> list[str]:
    return tokenizer.batch_decode(
        rows, skip_special_tokens=not special, clean_up_tokenization_spaces=False
    )
