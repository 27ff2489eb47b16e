"""Rows in the shapes that other trainers read, and how a template words a question.

{"prompt": ..., "completion": ...}              texts, or both turns of a chat
{"conversations": [{"from", "value"}, ...]}     with or without a column "system"
{"instruction": ..., "input": ..., "output": ...}
{"instruction": ..., "context": ..., "response": ...}
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
    "conversation",
    "instruction",
    "text",
)
CHATS = ("messages", "conversations", "conversation")
DOCUMENT = "text"
# {{name}} is written {name}, {name} is a field, and other braces stay as they are.
_FIELD = re.compile(r"\{\{(\w*)\}\}|\{([A-Za-z_][\w.]*)\}")


class Shape(NamedTuple):
    """What a row asks, its gold response where that stands beside it, both as found.

    ``beside`` are the columns that were read with that of the prompt, in their order.
    """

    prompt: Any
    solution: Any = None
    beside: tuple[str, ...] = ()


def column_of(row: dict[str, Any]) -> str | None:
    """The column that holds the prompt, where none is named.

    Rows with a ``prompt`` that is only the first turn of their ``messages`` give these.
    """
    told = value_of("messages", row.get("messages"), "the first row")
    if told and isinstance(told, list) and "completion" not in row:
        return "messages"
    return next((name for name in PROMPT_COLUMNS if name in row), None)


def value_of(column: str, value: Any, where: str) -> Any:
    """A cell of the prompt; a chat may be JSON text, as in a CSV file."""
    text = isinstance(value, str) and value.lstrip().startswith("[")
    if column.rpartition(".")[2] not in CHATS or not text:
        return value
    return turns.parsed(value, list, f"{where}: column {column!r}")


def told(row: dict[str, Any], column: str, prompt: Any, where: str) -> Shape:
    """A row whose ``prompt`` is in a default ``column``, with what belongs to it."""
    if column == "instruction" and isinstance(prompt, str):
        return _instruction(row, prompt, where)
    if column in ("conversations", "conversation") and isinstance(prompt, list):
        if not row.get("system") or _begins_with_system(prompt):
            return Shape(prompt)
        system = {"role": "system", "content": row["system"]}
        return Shape([system, *prompt], beside=("system",))
    beside = ("completion",)
    if column == "prompt" and isinstance(row.get("completion"), list):
        before = prompt if isinstance(prompt, list) else [turns.user(prompt)]
        return Shape([*before, *row["completion"]], beside=beside)
    if column == "prompt":
        return Shape(prompt, row.get("completion"), beside)
    return Shape(prompt)


def _instruction(row: dict[str, Any], prompt: str, where: str) -> Shape:
    """Alpaca's names for what an instruction is about and its response, or Dolly's."""
    usual = "input" in row or "output" in row
    beside = ("input", "output") if usual else ("context", "response")
    given = row.get(beside[0])
    if given is not None and not isinstance(given, str):
        raise ValueError(
            f"{where}: column {beside[0]!r} holds {given!r:.80}, which is no text"
        )
    asked = f"{prompt}\n\n{given}" if given else prompt
    return Shape(asked, row.get(beside[1]), beside)


def _begins_with_system(chat: list) -> bool:
    """Whether a chat, as it was found, begins with a system turn that speaks."""
    first = chat[0] if chat and isinstance(chat[0], dict) else {}
    role = str(first.get("role", first.get("from"))).lower()
    return role in turns.SYSTEM and bool(first.get("content", first.get("value")))


def check_template(template: str) -> None:
    """Without a field every prompt would be the same."""
    if template and not any(match[2] for match in _FIELD.finditer(template)):
        raise ValueError(
            f"data.template={template!r:.80} has no field, so no question would reach "
            "a prompt; write {question} in its place"
        )


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
