"""Rows in the shapes that other trainers read, and how a template words a question.

{"prompt": ..., "completion": ...}              texts, or both turns of a chat
{"conversations": [{"from", "value"}, ...]}     with or without a column "system"
{"instruction": ..., "input": ..., "output": ...}
{"text": ...}                                   a document, cut into prompt and rest
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from jopd.data import turns

# Columns that hold the prompt, where none is named: the first that a row has.
PROMPT_COLUMNS = (
    "prompt",
    "messages",
    "question",
    "problem",
    "conversations",
    "instruction",
    "text",
)
DOCUMENT = "text"
# What such a column is read together with.
COMPANIONS = {
    "prompt": ("completion",),
    "conversations": ("system",),
    "instruction": ("input", "output"),
}
# {{name}} is written {name}, {name} is a field, and other braces stay as they are.
_FIELD = re.compile(r"\{\{(\w*)\}\}|\{([A-Za-z_][\w.]*)\}")


class Shape(NamedTuple):
    """What a row asks, its gold response where that stands beside it, both as found."""

    prompt: Any
    solution: Any = None


def told(row: dict[str, Any], column: str, prompt: Any, where: str) -> Shape:
    """A row whose ``prompt`` is in a default ``column``, with what belongs to it."""
    if column == "instruction" and isinstance(prompt, str):
        given = row.get("input")
        if given is not None and not isinstance(given, str):
            raise ValueError(f"{where}: column 'input' holds {given!r:.80}, no text")
        asked = f"{prompt}\n\n{given}" if given else prompt
        return Shape(asked, row.get("output"))
    if column == "conversations" and isinstance(prompt, list) and row.get("system"):
        return Shape([{"role": "system", "content": row["system"]}, *prompt])
    if column == "prompt" and isinstance(row.get("completion"), list):
        before = prompt if isinstance(prompt, list) else [turns.user(prompt)]
        return Shape([*before, *row["completion"]])
    if column == "prompt":
        return Shape(prompt, row.get("completion"))
    return Shape(prompt)


def fields_of(template: str) -> list[str]:
    """Names in braces of a template, ``question`` left out."""
    found = [match[2] for match in _FIELD.finditer(template) if match[2]]
    return [name for name in dict.fromkeys(found) if name != "question"]


def worded(
    template: str, prompt: str | list[dict], value: Callable[[str], str]
) -> str | list[dict]:
    """The prompt with its question as ``template`` words it.

    ``{question}`` is the text, or the user's last turn of a chat; ``value`` gives the
    other fields by name.
    """
    question = turns.question(prompt)

    def put(match: re.Match) -> str:
        if match[2] is None:
            return f"{{{match[1]}}}"
        return question if match[2] == "question" else value(match[2])

    return turns.asking(prompt, _FIELD.sub(put, template))
