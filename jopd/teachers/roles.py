"""What a teacher is: whose weights it has, how they move, and what it reads.

    path       weights of its own, from a model directory; they never move
    initial    the model at ``student.path``; so is the student before the first update,
               unless ``init_from`` gives it the weights of another run
    live       the student as it is now: no copy exists, no gradient flows
    ema        t <- (1 - rate) t + rate s after every update s of the student
    snapshot   the student as it was at the last multiple of ``every_steps``
    gated      the student as it was when its reward had risen, see ``teachers.gate``
    served     behind a server that gives log-probabilities, see ``teachers.served``
    stored     what it said of gold rows once, see ``teachers.stored``

A teacher with a ``context`` reads another prompt than the student before the same
response: a template over the fields of a data row, so a self-teacher can see an answer
that the student cannot. Fields are ``FIELDS``, the columns that rows keep
(``data.fields``), and other rollouts of the same prompt in the batch: ``{peer}``,
``{peer2}``, ... that succeeded, ``{failure}``, ``{failure2}``, ... that did not. These
change from batch to batch (see ``teachers.peers``). The schedules are those of OPSD
(arXiv:2601.18734), SDPO (arXiv:2601.20802), RLSD (arXiv:2604.03128) and CGTR
(arXiv:2606.03532).

A teacher with a ``route`` serves the rows whose field has a given value; terms that
name it leave the others out. ``jopd.losses.panel`` makes one teacher of several.
"""

import re
import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jopd.data import rewards, turns
from jopd.data.sources import Example
from jopd.losses.panel import Panel
from jopd.teachers import secrecy

WEIGHTS = ("path", "initial", "live", "ema", "snapshot", "gated", "served", "stored")
ROUTE = ("field", "equals")
FIELDS = ("question", "answer", "solution")
_ROLLOUT = re.compile(r"(peer|failure)([2-9]|[1-9][0-9]+)?")


class Teacher(NamedTuple):
    """One frozen or moving model that terms may name.

    Attributes:
      weights: one of ``WEIGHTS``.
      path: of the model directory, for ``path``; of the scores, for ``stored``.
      url, model: of the server, and how that calls the model, for ``served`` only.
      top_k: likeliest tokens at every place that are asked of a server, or of what is
        stored.
      support: whose likeliest tokens, "teacher" or, of a server, "student".
      dtype: of compute.
      quantize: "int8" keeps the layers' matrices in eight bits, for ``path`` only.
      rate: the student's share in an ``ema`` update, in (0, 1].
      every_steps: updates between two copies of a ``snapshot``; of a ``gated`` one, the
        fewest.
      check_steps, reward_window, reward_margin, tail_ratio: of a ``gated`` one, see
        ``gate.observe`` and ``gate.is_open``; all defaults are those of CGTR.
      context: template of its prompt, such as ``"{question} Answer: {answer}"``;
        empty: the student's own prompt.
      tokenizer: "student": it has the student's; "own": another one. It then reads its
        own tokens of the same text, under its own template, and says of the student's
        what ``teachers.spans`` makes of that: their log-probabilities, not whole
        distributions.
      template: "own": it has the student's tokenizer and reads prompts under its own
        chat template, for ``path`` only.
      route: ``dict(field=name, equals=value or values)``, compared as text; empty:
        serves every row.
    """

    weights: str = "path"
    path: str = ""
    url: str = ""
    model: str = ""
    top_k: int = 0
    support: str = "teacher"
    dtype: str = "float32"
    quantize: str = ""
    rate: float = 0.05
    every_steps: int = 30
    check_steps: int = 5
    reward_window: int = 5
    reward_margin: float = 0.05
    tail_ratio: float = 3.2
    context: str = ""
    tokenizer: str = "student"
    template: str = "student"
    route: dict[str, Any] = {}  # never changed in place


def check(name: str, teacher: Teacher, columns: Collection[str] = ()) -> None:
    """Rejects a teacher that cannot work.

    Args:
      columns: those that rows keep, ``data.fields``, which its context may name.

    Raises:
      ValueError: names the key, its value and what to use instead.
    """
    if teacher.weights not in WEIGHTS:
        raise ValueError(
            f"{name}.weights={teacher.weights!r} is unknown; use one of "
            f"{', '.join(WEIGHTS)}"
        )
    if teacher.weights in ("path", "stored") and not teacher.path:
        raise ValueError(
            f"a term compares with {name!r}, but {name}.path is empty; name a model, "
            "or with weights='stored' the folder of jopd score, or set "
            f"{name}.weights to initial, live, ema, snapshot or served"
        )
    for key in ("url", "model", "top_k"):
        asked, given = teacher.weights == "served", getattr(teacher, key)
        if key == "top_k" and teacher.weights == "stored":
            continue
        if asked and not given and key != "top_k":
            raise ValueError(
                f"{name}.weights='served' needs {name}.{key}, "
                + {"url": "such as 'http://localhost:8000/v1'"}.get(
                    key, "its name there"
                )
            )
        if given and not asked:
            raise ValueError(
                f"{name}.{key}={secrecy.hidden(str(given))!r} is for "
                f"{name}.weights='served'; {name}.weights={teacher.weights!r} asks no "
                "server"
            )
    asks = teacher.weights == "served" and teacher.top_k
    if teacher.support != "teacher" and not asks:
        raise ValueError(
            f"{name}.support={teacher.support!r} needs {name}.weights='served' and "
            f"{name}.top_k; they are {teacher.weights!r} and {teacher.top_k}"
        )
    if teacher.quantize not in ("", "int8"):
        raise ValueError(
            f"{name}.quantize={teacher.quantize!r} is unknown; use 'int8', or '' for "
            "none"
        )
    if teacher.quantize and teacher.weights != "path":
        raise ValueError(
            f"{name}.quantize={teacher.quantize!r} is for weights='path', models that "
            f"are read here and never change; {name}.weights={teacher.weights!r}"
        )
    for key in ("tokenizer", "template"):
        if getattr(teacher, key) != "student" and teacher.weights != "path":
            raise ValueError(
                f"{name}.{key}={getattr(teacher, key)!r} is for weights='path'; with "
                f"{name}.weights={teacher.weights!r} it is the student's"
            )
    if teacher.template == teacher.tokenizer == "own":
        raise ValueError(
            f"{name}.template='own' is for a teacher with the student's tokenizer; "
            f"with {name}.tokenizer='own' it reads its own template anyway"
        )
    if teacher.weights == "ema" and not 0 < teacher.rate <= 1:
        raise ValueError(f"{name}.rate={teacher.rate} must be in (0, 1]")
    if teacher.weights in ("snapshot", "gated") and teacher.every_steps < 1:
        raise ValueError(f"{name}.every_steps={teacher.every_steps} must be at least 1")
    if teacher.weights == "gated":
        _check_gate(name, teacher)
    if teacher.weights == "live" and not teacher.context:
        raise ValueError(
            f"{name}.weights='live' without a context is the student itself: every "
            f"divergence is zero; set {name}.context or other weights"
        )
    _check_fields(name, teacher.context, columns)


def _check_gate(name: str, teacher: Teacher) -> None:
    for key in ("check_steps", "reward_window"):
        if getattr(teacher, key) < 1:
            raise ValueError(f"{name}.{key}={getattr(teacher, key)} must be at least 1")
    if not teacher.tail_ratio >= 1:
        raise ValueError(
            f"{name}.tail_ratio={teacher.tail_ratio} must be at least 1: the longest "
            "rollout is never shorter than the mean"
        )


def check_route(name: str, teacher: Teacher, fields: Collection[str]) -> None:
    """Rejects a route that no row could follow.

    Args:
      fields: columns that rows keep, ``data.fields``.

    Raises:
      ValueError: names the key, its value and what to use instead.
    """
    route = teacher.route
    if not route:
        return
    if set(route) != set(ROUTE):
        raise ValueError(
            f"{name}.route={route!r} must be dict(field=..., equals=...), or empty"
        )
    if route["field"] not in fields:
        raise ValueError(
            f"{name}.route: no row has the field {route['field']!r}; add the column to "
            f"data.fields={tuple(fields)!r}"
        )


def fields_of(name: str, context: str) -> tuple[str, ...]:
    """The fields that a template uses, line by line.

    Raises:
      ValueError: a malformed template.
    """
    try:
        return tuple(field for line in context.split("\n") for field in _named(line))
    except ValueError as error:
        raise ValueError(f"{name}.context={context!r}: {error}") from error


def _named(template: str) -> list[str]:
    parts = string.Formatter().parse(template)
    return [field for _, field, _, _ in parts if field is not None]


def _check_fields(name: str, context: str, columns: Collection[str]) -> None:
    """Raises ValueError for a field that no data row has."""
    for field in fields_of(name, context):
        rollout = _ROLLOUT.fullmatch(field)
        if rollout and field in columns:
            raise ValueError(
                f"{name}.context={context!r}: {{{field}}} is another rollout of the "
                f"prompt, and data.fields={tuple(columns)!r} has a column of that "
                "name; rename the column"
            )
        if not rollout and field not in (*FIELDS, *columns):
            raise ValueError(
                f"{name}.context={context!r}: no field {field!r}; a row has "
                f"{', '.join((*FIELDS, *columns))}, other rollouts are peer, peer2, "
                "failure, failure2 and so on; a further column is kept by data.fields"
            )


def rollouts_of(context: str) -> tuple[str, ...]:
    """The fields of a template that are other rollouts, each once."""
    used = dict.fromkeys(fields_of("teacher", context))
    return tuple(field for field in used if _ROLLOUT.fullmatch(field))


def rollout_meant(field: str) -> tuple[str, int]:
    """Which rollout a field is: ("success" or "failure", its number from 1 on)."""
    kind, number = _ROLLOUT.fullmatch(field).groups()
    return {"peer": "success", "failure": "failure"}[kind], int(number or 1)


def key(name: str) -> str:
    """Where a config has a teacher."""
    return name if name == "teacher" else f"teachers.{name}"


def of_own_tokens(teachers: Mapping[str, Teacher]) -> set[str]:
    """Who has another tokenizer than the student."""
    return {name for name in teachers if teachers[name].tokenizer == "own"}


def without_logits(teachers: Mapping[str, Teacher]) -> dict[str, str]:
    """Who gives log-probabilities of what was written, no whole distributions: by name
    the key that says so."""
    return {
        name: f"weights={teacher.weights!r}"
        if teacher.weights in ("served", "stored")
        else "tokenizer='own'"
        for name, teacher in teachers.items()
        if teacher.weights in ("served", "stored") or teacher.tokenizer == "own"
    }


def reads_rollouts(teacher: Teacher) -> bool:
    """Whether its prompt shows other rollouts, and so is made anew for every batch."""
    return bool(rollouts_of(teacher.context))


def in_context(
    name: str,
    context: str,
    examples: list[Example],
    rollouts: Sequence[Mapping[str, str]] | None = None,
) -> list[Example]:
    """The same rows with their prompts rendered by ``context``.

    Of a chat the last user turn is ``{question}``, and it alone is replaced.
    ``rollouts`` are the texts of other rollouts by field, for each row those that it
    has. One that a row lacks is left out: the whole line of the template where it names
    nothing else, and is empty text elsewhere.

    Raises:
      ValueError: a row lacks a field that the template uses.
    """
    used = set(fields_of(name, context))
    others = set(rollouts_of(context))

    def render(example: Example, told: Mapping[str, str]) -> Example:
        values = {**example.fields, "question": turns.question(example.prompt)}
        answers = rewards.alternatives(example.answer)
        values |= {"answer": answers[0], "solution": example.solution}
        for field in used - others:
            if values[field] is None:
                raise ValueError(_lacks(name, field, example.id))
        text = _without(context, others - set(told))
        text = text.format(**values | dict.fromkeys(others, "") | dict(told))
        return example._replace(prompt=turns.asking(example.prompt, text))

    pairs = zip(examples, rollouts or [{}] * len(examples), strict=True)
    return [render(example, told) for example, told in pairs]


def _without(context: str, missing: set[str]) -> str:
    """The template without lines whose every field is ``missing``."""
    named = lambda line: set(_named(line))
    lines = context.split("\n")
    return "\n".join(x for x in lines if not named(x) or named(x) - missing)


def _lacks(name: str, field: str, row: str) -> str:
    remedy = f"name the column in data.{field}_column"
    if field not in FIELDS:
        remedy = "fill it in, leave the row out"
    return (
        f"{name}.context uses {{{field}}}, and row {row} has none; {remedy} or change "
        "the context"
    )


def follows(route: Mapping[str, Any], fields: Mapping[str, str | None]) -> bool:
    """Whether a row with these fields is one that the route leads to.

    Values are compared as text; a row whose field is None follows no route.
    """
    equals = route["equals"]
    one = isinstance(equals, str) or not isinstance(equals, Iterable)
    wanted = {str(value) for value in ((equals,) if one else equals)}
    return fields[route["field"]] in wanted


def served(
    teachers: Mapping[str, Teacher],
    panels: Iterable[Panel],
    rows: Sequence[Mapping[str, str | None]],
) -> dict[str, np.ndarray]:
    """bool[rows] by name: rows that teachers with a route, or panels of them, serve.

    A panel serves what any member of it (with a weight above 0) does. Who serves every
    row is not in it.

    Args:
      rows: the fields of each row of the data set.

    Raises:
      ValueError: a route that leads to no row.
    """
    found = {}
    for name, teacher in teachers.items():
        if teacher.route:
            led = [follows(teacher.route, fields) for fields in rows]
            found[name] = np.asarray(led, bool)
            if not any(led):
                raise ValueError(_no_row(name, teacher.route, rows))
    for panel in panels:
        if all(name in found for name in panel.shares):
            members = [found[name] for name in panel.shares]
            found[panel.name] = np.any(members, axis=0)
    return found


def _no_row(name: str, route: Mapping[str, Any], rows) -> str:
    values = sorted({str(fields[route["field"]]) for fields in rows})
    shown = ", ".join(repr(value) for value in values[:8])
    more = f" and {len(values) - 8:,} more" if len(values) > 8 else ""
    return (
        f"{name}.route={dict(route)!r} leads to none of the {len(rows):,} training "
        f"rows, whose {route['field']!r} is {shown}{more}; change equals"
    )
