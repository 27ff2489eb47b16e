"""Turns of a conversation as a row of data says them, in one form.

{"role": "user", "content": "What is 1 + 1?"}
{"role": "assistant", "content": "", "tool_calls": [...], "reasoning_content": "..."}
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

# Columns that a template is given beside the turns.
BESIDE = ("tools", "documents", "chat_template_kwargs")
SYSTEM = ("system", "developer")
ROLES = (*SYSTEM, "user", "assistant", "tool", "function", "ipython")
# Other names of roles, in any letters.
_MODELS = ("gpt", "chatgpt", "model", "bard", "bing", "ai", "bot")
ALIASES = {"human": "user"} | dict.fromkeys(_MODELS, "assistant")
REASONING = ("reasoning_content", "reasoning", "thinking")


def conversation(turns: list, where: str, roles: Sequence[str] = ()) -> list[dict]:
    """Turns as ``{"role", "content", ...}``, content as text, empty keys left out.

    ``from`` and ``value`` are role and content, roles are ``ROLES``, their ``ALIASES``
    and those of ``roles``; parts of text are joined; arguments of tool calls are
    objects; days are texts. A system turn that says nothing is none.

    Raises:
      ValueError: names the turn and what it lacks, or the part that is no text.
    """
    found = [_turn(turn, f"{where}, turn {n}", roles) for n, turn in enumerate(turns)]
    said = [turn for turn in found if turn["role"] not in SYSTEM or not is_empty(turn)]
    if not said:
        raise ValueError(f"{where} holds {turns!r:.80}, which says nothing; drop it")
    return said


def is_empty(turn: dict) -> bool:
    """Whether a turn says nothing."""
    return turn.keys() == {"role", "content"} and not turn["content"].strip()


def _turn(turn: Any, where: str, roles: Sequence[str]) -> dict:
    if not isinstance(turn, dict):
        raise ValueError(f"{where} holds {turn!r:.80}, no object with role and content")
    # Tables give every turn the keys of all, and null where it has none.
    kept = {k: _plain(value) for k, value in turn.items() if value not in (None, [])}
    if kept.get("tool_calls") == "":
        del kept["tool_calls"]
    if "role" not in kept and "from" in kept:
        names = {"from": "role", "value": "content"}
        kept = {names.get(key, key): value for key, value in kept.items()}
    role = kept.pop("role", None)
    if not isinstance(role, str) or not role:
        raise ValueError(f"{where} holds {turn!r:.80}, whose role is {role!r}")
    where = f"{where} ({role:.60})"
    role = _role(role, where, roles)
    # An assistant may have nothing to say; as the last turn, that is no gold response.
    if not kept and role not in (*SYSTEM, "assistant"):
        raise ValueError(f"{where} has no content; write it or drop the row")
    _check_json(kept, where)
    content = _content(kept.pop("content", ""), role, where)
    found = {"role": role, "content": content}
    for name in REASONING:
        if name in kept:
            thought = _content(kept.pop(name), name, where)
            if found.setdefault("reasoning_content", thought) != thought:
                raise ValueError(f"{where} has two texts of reasoning; keep one")
    if "tool_calls" in kept:
        found["tool_calls"] = _calls(kept.pop("tool_calls"), where)
    return found | kept


def _role(role: str, where: str, more: Sequence[str]) -> str:
    if role in more:
        return role
    usual = role.strip().lower()
    known = ALIASES.get(usual, usual)
    if known not in ROLES:
        raise ValueError(
            f"{where}: the role {role!r:.60} is none of {', '.join(ROLES)}; correct "
            "it, or add it to data.roles if your chat template shows it"
        )
    return known


def _plain(value: Any) -> Any:
    """Days and times, which tables have, as texts."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _content(content: Any, role: str, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, dict) and role == "tool":
        return json.dumps(content, ensure_ascii=False)
    if not isinstance(content, list):
        what = role if role in REASONING else "content"
        raise ValueError(f"{where}: {what} holds {content!r:.80}, no text")
    return "".join(
        _part(part, f"{where}: part {n} of content") for n, part in enumerate(content)
    )


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kept = part if isinstance(part, dict) else {}
    kept = {key: value for key, value in kept.items() if value is not None}
    text = kept.pop("text", None)
    if kept not in ({}, {"type": "text"}) or not isinstance(text, str):
        raise ValueError(
            f"{where} is {part!r:.80}; only parts that are text alone, "
            "{'type': 'text', 'text': ...}, can be read: drop the row"
        )
    return text


def _calls(calls: Any, where: str) -> list[dict]:
    """Tool calls whose arguments are objects, as templates expect them."""
    calls = parsed(calls, list, f"{where}: tool_calls")
    return [_call(call, f"{where}: tool_calls[{n}]") for n, call in enumerate(calls)]


def _call(call: Any, where: str) -> dict:
    if not isinstance(call, dict):
        raise ValueError(f"{where} holds {call!r:.80}, no object")
    if "function" in call:
        return call | {"function": _call(call["function"], where)}
    if "arguments" not in call:
        return call
    given = call["arguments"]
    arguments = {} if given == "" else parsed(given, dict, f"{where}: arguments")
    return call | {"arguments": arguments}


def parsed(value: Any, kind: type, where: str) -> Any:
    """``value``, read where it is JSON text, which must be of a ``kind``."""
    read = value
    if isinstance(value, str):
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            read = None
    if not isinstance(read, kind):
        raise ValueError(
            f"{where} holds {value!r:.80}, neither a {kind.__name__} nor JSON of one"
        )
    return read


def _check_json(value: Any, where: str) -> None:
    """Texts, numbers, lists and objects are all that templates are given."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} holds what is no JSON: {error}") from error


def beside(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a row gives its template beside the turns: ``BESIDE``, JSON text read."""
    found = {}
    for name in BESIDE:
        kind = dict if name == "chat_template_kwargs" else list
        if row.get(name) not in (None, [], {}, "", "[]", "{}"):
            found[name] = parsed(row[name], kind, f"{where}: column {name!r}")
            _check_json(found[name], f"{where}: column {name!r}")
    return found


def split(turns: list[dict], where: str) -> tuple[list[dict], dict | None]:
    """The prompt, and the last turn where it is the assistant's; None if it is empty.

    Raises:
      ValueError: nothing stands before that turn.
    """
    if turns[-1]["role"] != "assistant":
        return turns, None
    if len(turns) == 1:
        raise ValueError(f"{where} has no turn before the assistant's; drop the row")
    return turns[:-1], None if is_empty(turns[-1]) else turns[-1]


def whole(reply: dict) -> dict | None:
    """A turn that is more than its content; None where that says it all."""
    return reply if reply.keys() > {"role", "content"} else None


def as_text(reply: dict) -> str:
    """An assistant's turn without a template: reasoning, content, calls as JSON."""
    calls = [json.dumps(c, ensure_ascii=False) for c in reply.get("tool_calls", ())]
    parts = [reply.get("reasoning_content", ""), reply["content"], *calls]
    return "\n".join(part for part in parts if part)


def user(text: str) -> dict:
    """A turn of the user."""
    return {"role": "user", "content": text}


def as_chat(prompt: str | list[dict]) -> list[dict]:
    """A prompt as turns."""
    return [user(prompt)] if isinstance(prompt, str) else prompt


def question(prompt: str | list[dict]) -> str:
    """What is asked: the text, or of a chat the last turn of the user."""
    return prompt if isinstance(prompt, str) else prompt[_last(prompt)]["content"]


def asking(prompt: str | list[dict], text: str) -> str | list[dict]:
    """The prompt with ``text`` in the place of its question."""
    if isinstance(prompt, str):
        return text
    at = _last(prompt)
    return [*prompt[:at], {**prompt[at], "content": text}, *prompt[at + 1 :]]


def _last(prompt: list[dict]) -> int:
    """Where the last turn of the user is, behind which tools may have answered."""
    users = [n for n, turn in enumerate(prompt) if turn["role"] == "user"]
    return users[-1] if users else len(prompt) - 1
