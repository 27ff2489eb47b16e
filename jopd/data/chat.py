"""Conversations as text: by a tokenizer's template, or without one.

    turns.conversation -> Example -> lay_out -> the prompt's text, the reply's text

Nothing of a row is lost in silence: what does not reach the text is named in an error,
or, where templates leave it out by design, in ``Layout.notes``.
"""

import bisect
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from jopd.data.templates import Template, compile_template
from jopd.data.turns import SYSTEM, as_chat

# What links a call to its result, or names its kind: no text of its own.
LINKS = ("id", "type", "tool_call_id", "name", "index")
# Values of a template that are not free, and parts whose loss is never suggested.
RESERVED = ("messages", "tools", "documents", "add_generation_prompt")
WHOLE = ("messages", "content", "tool_calls", "function", "tools", "documents")
MEANT = ("content", "arguments", "parameters", "name", "description", "text", "title")
_MARK = " qzwx"


# --- What is made of it -------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Layout:
    """How conversations become text.

    Attributes:
      tokenizer: whose template and special tokens are used.
      form: ``template``; ``plain`` (several turns each under the name of their role);
        ``joined`` (contents with blank lines between them); ``text`` (the same for one
        turn, with a system turn or without; several are refused).
      kwargs: for the template.
      system: system turn of rows that have none; None for none.
      date: the day that templates print, ``YYYY-MM-DD``; empty: today.
      ignored: keys of turns that the template may leave out.
    """

    tokenizer: Any
    form: str
    kwargs: dict[str, Any]
    system: str | None = None
    date: str = ""
    ignored: tuple[str, ...] = ()
    templates: dict[str, Template] = dataclasses.field(default_factory=dict)
    reached: set = dataclasses.field(default_factory=set)
    left_out: set[str] = dataclasses.field(default_factory=set)

    def notes(self) -> list[str]:
        """What was left out of some rows, each said once."""
        known = {
            "system": "data.system is not put before system turns that rows have",
            "cut": "prompts above the limit lost their oldest turns, or the beginning "
            "of the longest",
        }
        said = [known[what] for what in known if what in self.left_out]
        lost = ", ".join(sorted(self.left_out - known.keys()))
        rest = f"the chat template leaves out, of some turns: {lost}"
        return said + [rest] * bool(lost)

    def prints_date(self) -> bool:
        return any(template.prints_date() for template in self.templates.values())


def form_of(tokenizer, chat_template: str, prefix_tokens: int) -> str:
    """How prompts become text, one of those of ``Layout``."""
    if chat_template == "always" and prefix_tokens:
        raise ValueError(
            f"prefix_tokens={prefix_tokens} takes documents, which have no chat "
            f"template; set chat_template='never' or prefix_tokens=0"
        )
    has_one = tokenizer.chat_template is not None
    if chat_template == "always" and not has_one:
        raise ValueError(
            "chat_template='always', but the tokenizer has none; assign one to "
            "tokenizer.chat_template or set chat_template='never'"
        )
    if chat_template == "plain" and not prefix_tokens:
        return "plain"
    if chat_template == "never" or prefix_tokens:
        return "joined"
    return "template" if has_one else "text"


def lay_out(layout: Layout, example, where: str) -> tuple[str, str | None]:
    """The text of a prompt, and that of its gold response (None if there is none).

    A reply that is more than its content (calls of tools, reasoning) is what the
    template adds for it behind the prompt, up to its end token.

    Raises:
      ValueError: the template refuses the row, leaves a part of it out, or there is
        none where one is needed. Names row, turn and key.
    """
    turns = _with_system(layout, example.prompt)
    if layout.form != "template":
        _check_plain(layout.form, turns, example, where)
        return _plain(layout.form, turns), example.solution
    given = example.beside
    text = _render(layout, turns, given, where, add_generation_prompt=True)
    if example.reply is None:
        _check_reach(layout, turns, given, where, text)
        return text, example.solution
    turns = [*turns, example.reply]
    whole = _render(layout, turns, given, where)
    _check_reach(layout, turns, given, where, whole)
    if not whole.startswith(text):
        raise ValueError(
            f"{where}: the chat template lays the prompt out otherwise before the "
            f"assistant's last turn ({sorted(example.reply)}) than for generation; "
            "change data.student_template_kwargs, or the turn"
        )
    return text, _to_its_end(layout.tokenizer, whole.removeprefix(text), where)


def turn_end(layout: Layout) -> int | None:
    """The token by which the template ends a turn of the assistant.

    None where no template is applied, or it writes none behind such a turn.
    """
    if layout.form != "template":
        return None
    asked, told = ("user", "a"), ("assistant", _MARK)
    turns = [dict(role=role, content=text) for role, text in (asked, told)]
    try:
        text = _render(layout, turns, {}, "")
    except ValueError:
        return None  # its rows say why
    _, shown, behind = text.rpartition(_MARK.strip())
    added = layout.tokenizer.added_tokens_decoder.items()
    names = {str(token): index for index, token in added if str(token) in behind}
    first = min(names, key=lambda name: (behind.index(name), -len(name)), default="")
    return names.get(first) if shown else None


def _with_system(layout: Layout, prompt: str | list[dict]) -> list[dict]:
    turns = as_chat(prompt)
    if "developer" not in str(layout.tokenizer.chat_template):
        own = {"developer": "system"}
        turns = [{**t, "role": own.get(t["role"], t["role"])} for t in turns]
    if layout.system is None:
        return turns
    if any(turn["role"] in SYSTEM for turn in turns):
        layout.left_out.add("system")
        return turns
    return [{"role": "system", "content": layout.system}, *turns]


def _render(layout: Layout, turns, given, where: str, **how) -> str:
    tools, documents = given.get("tools"), given.get("documents")
    source = layout.tokenizer.get_chat_template(tools=tools)
    if source not in layout.templates:
        layout.templates[source] = compile_template(source, layout.date)
    own = given.get("chat_template_kwargs", {})
    check_kwargs(own, source, f"{where}: chat_template_kwargs")
    # One text under the names that templates have for it.
    thought = lambda turn: {"thinking": turn["reasoning_content"], **turn}
    turns = [thought(turn) if "reasoning_content" in turn else turn for turn in turns]
    try:
        return layout.templates[source].render(
            **layout.tokenizer.special_tokens_map
            | layout.kwargs
            | own
            | dict(messages=turns, tools=tools, documents=documents)
            | dict(add_generation_prompt=False)
            | how
        )
    except ValueError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise ValueError(
            f"{where}: the chat template refuses it (turns: {roles}): {error}; change "
            "the row, or the tokenizer's chat_template"
        ) from error


def check_kwargs(kwargs: dict, template: str, key: str) -> None:
    """Templates ignore names they do not know, so a typo would pass unseen."""
    for name in kwargs:
        if name in RESERVED:
            raise ValueError(
                f"{key}: {name!r} is set from the rows (their turns, and their columns "
                "'tools' and 'documents'); remove it here"
            )
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise ValueError(
                f"{key}: {name!r} does not occur in the chat template"
                + ("" if template else ", as none is applied")
                + "; correct the name or remove it"
            )


def _to_its_end(tokenizer, reply: str, where: str) -> str:
    """Without the line break that templates write behind the end of a turn."""
    bare = reply.rstrip()
    ends = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    if bare in ("", *ends):
        raise ValueError(
            f"{where}: nothing of the assistant's last turn reaches the text; drop the "
            "row, or take another template"
        )
    return bare if bare.endswith(tuple(ends)) else reply


# --- What has to reach the text -----------------------------------------------------


def _check_reach(layout: Layout, turns, given, where: str, text: str) -> None:
    """Every part of the turns, and what stands beside them, must change the text.

    That it does is seen by rendering with that part changed, once for a kind of part;
    after that it is enough that a text occurs.
    """
    columns = {k: given[k] for k in ("tools", "documents") if k in given}
    values = {"messages": turns, **columns}
    how = {"add_generation_prompt": turns[-1]["role"] != "assistant"}

    def differs(path, leaf) -> bool:
        other = _replaced(values, path, _changed(leaf))
        tried = given | {name: other[name] for name in columns}
        try:
            made = _render(layout, other["messages"], tried, where, **how)
        except ValueError:
            return True  # it was read
        return made != text

    lost = []
    for path, leaf in _leaves(values, ()):
        if path[2:] == ("role",) or leaf == "":
            continue
        kind = _kind(path, turns)
        if kind in layout.reached and _occurs(leaf, text):
            continue
        if differs(path, leaf):
            layout.reached.add(kind)
        elif not _may_go(layout, path, turns):
            lost.append(path)
    if lost:
        _refuse(lost, turns, where)


def _may_go(layout: Layout, path: tuple, turns) -> bool:
    """Whether templates may leave a part out, which is noted."""
    keys = [step for step in path if isinstance(step, str)]
    earlier = "reasoning_content" in keys and path[1] < len(turns) - 1
    link = keys[-1] in LINKS and "arguments" not in keys
    link = link and (keys[-1] != "name" or len(path) == 3)
    free = earlier or link or bool(set(keys) & set(layout.ignored))
    if free:
        layout.left_out.add(".".join(keys[keys[0] == "messages" :]))
    return free


def _refuse(lost: list[tuple], turns, where: str) -> None:
    """Names the first part that is left out, and the keys of all that might be."""
    path = lost[0]
    name = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in path
    )
    place = f"column {path[0]!r}"
    if path[0] == "messages":
        place = f"turn {path[1]} ({turns[path[1]]['role']})"
    keys = list(dict.fromkeys(key for path in lost if (key := _minor(path))))
    shown = ", ".join(f"{key!r:.60}" for key in keys[:20])
    more = f" (nor do {len(lost) - 1} other parts)" if len(lost) > 1 else ""
    raise ValueError(
        f"{where}: {place}: {name[1:]} does not reach the text{more}, the chat "
        "template leaves it out; remove it, or take another template"
        + (f", or add {shown} to data.ignored_keys" if keys else "")
    )


def _minor(path: tuple) -> str:
    """The key by which a part may be ignored; empty where it carries what is meant."""
    keys = [step for step in path if isinstance(step, str)]
    if set(keys) & set(MEANT):
        return ""
    return next((key for key in keys if key not in WHOLE), "")


def _kind(path: tuple, turns) -> tuple:
    """Parts of one name under one role, the last turn apart."""
    names = tuple(step for step in path if isinstance(step, str))
    if path[0] != "messages":
        return names
    return *names, turns[path[1]]["role"], path[1] == len(turns) - 1


def _occurs(leaf: Any, text: str) -> bool:
    bare = leaf.strip() if isinstance(leaf, str) else json.dumps(leaf)
    return bare in text or json.dumps(bare, ensure_ascii=False)[1:-1] in text


def _leaves(value: Any, path: tuple) -> Iterator[tuple[tuple, Any]]:
    if isinstance(value, dict | list):
        steps = value.items() if isinstance(value, dict) else enumerate(value)
        for step, inner in steps:
            yield from _leaves(inner, (*path, step))
    else:
        yield path, value


def _replaced(value: Any, path: tuple, leaf: Any) -> Any:
    if not path:
        return leaf
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = _replaced(value[path[0]], path[1:], leaf)
    return copied


def _changed(leaf: Any) -> Any:
    if isinstance(leaf, bool) or leaf is None:
        return not leaf
    if isinstance(leaf, str):
        return leaf + _MARK
    return 20_201_202 if leaf != 20_201_202 else 0


# --- Without a template -------------------------------------------------------------


def _check_plain(form: str, turns, example, where: str) -> None:
    """Refuses what only a template, or a name for each turn, could show."""
    parts = [*turns, *([example.reply] if example.reply else [])]
    rich = sorted({key for turn in parts for key in turn} - {"role", "content"})
    rich += sorted(example.beside)
    if rich:
        raise ValueError(
            f"{where} has {', '.join(rich)}, which need a chat template, and none is "
            "applied; take a tokenizer that has one, or remove them"
        )
    roles = [turn["role"] for turn in turns]
    if form == "text" and roles not in (["user"], ["system", "user"]):
        raise ValueError(
            f"{where} has the turns {', '.join(roles)}, and the tokenizer has no chat "
            "template to tell them apart; give it one, or set data.chat_template to "
            "'plain' (each under the name of its role) or 'never' (joined)"
        )


def _plain(form: str, turns: list[dict]) -> str:
    """Turns as text; in plain form one of the user alone is what it says."""
    if form != "plain" or [turn["role"] for turn in turns] == ["user"]:
        return "\n\n".join(turn["content"] for turn in turns)
    named = [f"{turn['role'].capitalize()}:\n{turn['content']}" for turn in turns]
    return "\n\n".join([*named, "Assistant:\n"])


# --- What is too long ---------------------------------------------------------------


def has_turns(layout: Layout, example) -> bool:
    """Whether a prompt is laid out, not only text whose beginning may go."""
    several = not isinstance(example.prompt, str) and len(example.prompt) > 1
    return layout.form == "template" or layout.system is not None or several


def shorten(example, fits: Callable[[Any], bool], where: str):
    """``example`` with less before its last question, so that it ``fits``.

    The oldest turns go first, up to the next question of the user; system turns at the
    beginning stay. Then the longest turn of the user loses its beginning.

    Raises:
      ValueError: not even without that turn's text does it fit.
    """
    turns = as_chat(example.prompt)
    own = next((n for n, turn in enumerate(turns) if turn["role"] not in SYSTEM), 0)
    head, body = turns[:own], turns[own:]
    later = [n for n, turn in enumerate(body) if n and turn["role"] == "user"]
    for start in (0, *later):
        kept = [*head, *body[start:]]
        if fits(example._replace(prompt=kept)):
            return example._replace(prompt=kept)
    users = [n for n, turn in enumerate(kept) if turn["role"] == "user"]
    if not users:
        raise ValueError(f"{where}: no turn of the user can be cut; drop the row")
    longest = max(users, key=lambda n: len(kept[n]["content"]))
    text = kept[longest]["content"]

    def without(count: int):
        cut = {**kept[longest], "content": text[count:]}
        return example._replace(prompt=[*kept[:longest], cut, *kept[longest + 1 :]])

    least = range(len(text))
    found = bisect.bisect_left(least, True, key=lambda n: fits(without(n)))
    if found == len(text):
        raise ValueError(
            f"{where}: the prompt is too long even without the user's text; raise "
            "max_prompt_tokens or set on_long_prompt='drop'"
        )
    return without(found)
