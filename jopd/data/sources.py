"""Where prompts come from, and what of a row is prompt, solution and answer."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from jopd.data import shapes, tables, tasks, turns, words


class Example(NamedTuple):
    """One row before tokenising.

    Attributes:
      prompt: text, or a chat as a list of ``{"role", "content", ...}``.
      solution: gold response as text, or None.
      answer: what a verifier compares with, several of which each is right, or None.
      id: the row's own identifier, or its number.
      fields: further columns as text, by name.
      beside: what a chat template is given beside the turns, see `turns.BESIDE`.
      reply: the gold turn, where it is more than its content.
      unread: columns of the row that nothing above is made of.
      document: the prompt is a whole text, to be cut into prompt and solution.
    """

    prompt: str | list[dict[str, Any]]
    solution: str | None
    answer: str | tuple[str, ...] | None
    id: str
    fields: dict[str, str | None] = {}  # never changed in place
    beside: dict[str, Any] = {}  # never changed in place
    reply: dict[str, Any] | None = None
    unread: tuple[str, ...] = ()
    document: bool = False


def read(
    source: str,
    *,
    split: str = "train",
    prompt_column: str = "",
    solution_column: str = "",
    answer_column: str = "",
    answer_after: str = "",
    template: str = "",
    fields: Sequence[str] = (),
    separator: str = "<|endoftext|>",
    count: int = 10_000,
    seed: int = 0,
    levels: Sequence[int] = (),
    roles: Sequence[str] = (),
) -> list[Example]:
    """Reads prompts, with gold solutions and answers where there are any.

    Args:
      source: ``task:arithmetic``, ``task:words``; a path (``gs://`` too) ending in
        ``.jsonl``, ``.json``, ``.parquet``, ``.csv``, ``.tsv`` or ``.txt``, in capitals
        too, each also with ``.gz``; else a Hugging Face data set, ``owner/name`` or
        ``owner/name@revision:configuration``.
      split: of the task or the Hugging Face data set; files have none.
      prompt_column: dots for nested ones (``reward_model.ground_truth``). Empty: the
        first of `shapes.PROMPT_COLUMNS`, with what belongs to it. A chat whose last
        turn is the assistant's gives that turn as the solution.
      solution_column, answer_column: empty: ``solution`` and ``answer`` if they exist.
        A list of answers holds right ones; an empty cell is none.
      answer_after: marker within the answer column, ``"####"`` for GSM8K. The text
        after its last occurrence is the answer; the whole cell, which states it, is
        the solution unless there is a solution column.
      template: of the question, see `shapes.worded`; empty: as it stands. Its fields
        are ``{question}`` and columns.
      fields: columns kept beside these, as text (``level`` of a bundled task).
      separator: between the documents of a text file; `data.encode` cuts them with
        `prefix_tokens`.
      roles: of turns, beside `turns.ROLES`.
      count, seed, levels: of a bundled task, see `tasks.make`.

    Raises:
      FileNotFoundError, ValueError: each names the source, the row or line, and a
        remedy. ImportError: an optional reader is missing.
    """
    if source.startswith("task:"):
        rows = _task(source, split, count, seed, levels)
    elif not tables.is_file(source):
        rows = tables.hub_rows(source, split)
    elif tables.suffix(source) == ".txt":
        documents = tables.documents(source, separator)
        rows = [{shapes.DOCUMENT: text} for text in documents]
    else:
        rows = tables.rows(source)
    if not rows:
        raise ValueError(f"{source}: no rows; add some")
    return examples(
        rows,
        prompt_column=prompt_column,
        solution_column=solution_column,
        answer_column=answer_column,
        answer_after=answer_after,
        template=template,
        fields=fields,
        roles=roles,
        source=source,
    )


def examples(
    rows: Sequence[dict[str, Any]],
    *,
    prompt_column: str = "",
    solution_column: str = "",
    answer_column: str = "",
    answer_after: str = "",
    template: str = "",
    fields: Sequence[str] = (),
    roles: Sequence[str] = (),
    source: str = "rows",
) -> list[Example]:
    """Picks prompt, solution, answer and further fields out of rows; see `read`."""
    prompt = prompt_column or _prompt_column(rows[0], source)
    shapes.check_template(template)
    document = prompt == shapes.DOCUMENT and not prompt_column
    if document and template:
        raise ValueError(
            f"{source}: data.template={template!r} words questions, and these rows are "
            f"documents; name the column of the question in data.prompt_column"
        )
    found = []
    for index, row in enumerate(rows):
        where = f"{source}: row {index}"
        cell = shapes.value_of(prompt, _value(row, prompt, where), where)
        told = shapes.Shape(cell)
        if not prompt_column:
            told = shapes.told(row, prompt, cell, where)
        beside = told.beside
        asked, last = _prompt(told.prompt, prompt, where, roles)
        if template:
            value = functools.partial(_field, row, where)
            asked = shapes.worded(template, asked, value)
        gold = _stated(_text(row, solution_column, "solution", where))
        beside_it = _stated(_as_text(told.solution, beside[-1:], where))
        gold, own = gold or beside_it, gold
        answers = _answers(row, answer_column, where)
        if answer_after and answers:
            gold = gold or answers[0]
            column = answer_column or "answer"
            answers = [_behind(one, answer_after, column, where) for one in answers]
        reply = tuple(answers) if len(answers) > 1 else answers[0] if answers else None
        name = row.get("unique_id", row.get("id", index))
        kept = {column: _text(row, column, "", where) for column in fields}
        given = turns.beside(row, where) if isinstance(asked, list) else {}
        used = (solution_column or "solution", answer_column or "answer", prompt)
        used = (*used, *fields, *given, *beside, *shapes.fields_of(template))
        lost = () if source.startswith("task:") else _unread(row, used)
        if own and beside_it and own != beside_it:
            lost = (*lost, beside[-1])
        if last is not None and not gold:
            gold, last = turns.as_text(last), turns.whole(last)
        elif last is not None:
            other = turns.as_text(last) != gold
            lost = (*lost, *[f"the last turn of {prompt}"] * other)
            last = None
        made = (asked, gold, reply, str(name), kept, given, last, lost, document)
        found.append(Example(*made))
    return found


def _field(row: dict, where: str, name: str) -> str:
    """What a field of the template stands for."""
    try:
        return _text(row, name, "", where) or ""
    except ValueError as error:
        raise ValueError(
            f"{error} (data.template uses {{{name}}}; braces that are none of a field "
            f"are written {{{{{name}}}}})"
        ) from error


def _answers(row: dict, named: str, where: str) -> list[str]:
    """The right answers of a row, often one, none where the cell is empty."""
    column = named or "answer"
    value = _value(row, column, where) if named else row.get(column)
    several = value if isinstance(value, list) and len(value) > 1 else [value]
    found = [_stated(_as_text(one, (column,), where)) for one in several]
    return [one for one in found if one is not None]


def _behind(text: str, marker: str, column: str, where: str) -> str:
    _, found, after = text.rpartition(marker)
    if not found:
        raise ValueError(
            f"{where}: answer_after={marker!r} does not occur in column {column!r}; "
            f"correct the marker or drop the row"
        )
    return after.strip()


def _unread(row: dict, used: Sequence[str]) -> tuple[str, ...]:
    """Columns that no part of an example is made of; dotted names use the first."""
    known = {name if name in row else name.split(".")[0] for name in used}
    known |= {"id", "unique_id"}
    return tuple(
        str(column)
        for column, value in row.items()
        if column not in known and value not in (None, "", [])
    )


def _listed(names) -> str:
    names = list(names)
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(f"{name!r:.60}" for name in names[:20]) + more


def _prompt_column(row: dict, source: str) -> str:
    name = shapes.column_of(row)
    if name is None:
        raise ValueError(
            f"{source}: no column {_listed(shapes.PROMPT_COLUMNS)}; the columns are "
            f"{_listed(row)}; name the prompt's in data.prompt_column"
        )
    return name


def _value(row: dict, column: str, where: str) -> Any:
    """The value at a dotted path; a column whose name has dots comes first."""
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        if not isinstance(value, dict) or key not in value:
            raise ValueError(
                f"{where}: no column {column!r}; the columns are {_listed(row)}"
            )
        value = value[key]
    return value


def _text(row: dict, named: str, default: str, where: str) -> str | None:
    """A cell as text: a named column has to exist, the default one need not.

    A list of one counts as its entry, an empty one as nothing.
    """
    column = named or default
    value = _value(row, column, where) if named else row.get(default)
    return _as_text(value, (column,), where)


def _stated(text: str | None) -> str | None:
    """A gold response or an answer; an empty cell has none."""
    return text if text and text.strip() else None


def _as_text(value: Any, columns: Sequence[str], where: str) -> str | None:
    if isinstance(value, list) and len(value) < 2:
        value = value[0] if value else None
    if isinstance(value, list | dict):
        raise ValueError(
            f"{where}: column {columns[0]!r} holds {type(value).__name__} "
            f"{value!r:.80}, not text; name a text column, with dots for a nested one"
        )
    return None if value is None else str(value)


def _prompt(
    value: Any, column: str, where: str, roles: Sequence[str]
) -> tuple[str | list, dict | None]:
    """A prompt and, for chats that end with it, the assistant's last turn."""
    if isinstance(value, str) and value.strip():
        return value, None
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"{where}: column {column!r} holds {value!r:.80}; a prompt is a text that "
            f"is not empty or a list of {{role, content}}"
        )
    where = f"{where}: column {column!r}"
    return turns.split(turns.conversation(value, where, roles), where)


def _task(source: str, split: str, count: int, seed: int, levels) -> list[dict]:
    """Rows of a bundled task; no levels: all that it has."""
    if source == "task:arithmetic":
        return tasks.make(split, count, seed, levels or tasks.LEVELS)
    name, _, style = source.partition(":words:")
    if source != "task:words" and (name != "task" or style not in words.STYLES):
        styles = ", ".join(f"task:words:{style}" for style in words.STYLES)
        raise ValueError(
            f"{source!r} is unknown; the bundled tasks are task:arithmetic and "
            f"task:words, whose solutions are written as {styles}"
        )
    problem = functools.partial(words.problem, style=style or words.STYLES[0])
    return tasks.make(split, count, seed, levels or words.LEVELS, problem)
