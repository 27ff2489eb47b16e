"""What a teacher is: whose weights it has, how they move, and what it reads.

    path       weights of its own, from a model directory; they never move
    initial    the student as it is before the first update
    live       the student as it is now: no copy exists, no gradient flows
    ema        t <- (1 - rate) t + rate s after every update s of the student
    snapshot   the student as it was at the last multiple of ``every_steps``

A teacher with a ``context`` reads another prompt than the student before the same
response: a template over the fields of a data row (``FIELDS``), so a self-teacher can
see an answer that the student cannot. The field ``{peer}`` is no column: it is another
rollout of the same prompt that succeeded, so it changes from batch to batch (see
``jopd.peers``). The schedules are those of OPSD
(arXiv:2601.18734), SDPO (arXiv:2601.20802) and RLSD (arXiv:2604.03128).
"""

import string
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopd.sources import Example

WEIGHTS = ("path", "initial", "live", "ema", "snapshot")
MOVING = ("ema", "snapshot")
FIELDS = ("question", "answer", "solution", "peer")


class Teacher(NamedTuple):
    """One frozen or moving model that terms may name.

    Attributes:
      weights: one of ``WEIGHTS``.
      path: of the model directory, for ``path`` only.
      dtype: of compute.
      rate: the student's share in an ``ema`` update, in (0, 1].
      every_steps: updates between two copies of a ``snapshot``.
      context: template of its prompt, such as ``"{question} Answer: {answer}"``;
        empty: the student's own prompt.
    """

    weights: str = "path"
    path: str = ""
    dtype: str = "float32"
    rate: float = 0.05
    every_steps: int = 10
    context: str = ""


def check(name: str, teacher: Teacher) -> None:
    """Rejects a teacher that cannot work.

    Raises:
      ValueError: names the key, its value and what to use instead.
    """
    if teacher.weights not in WEIGHTS:
        raise ValueError(
            f"{name}.weights={teacher.weights!r} is unknown; use one of "
            f"{', '.join(WEIGHTS)}"
        )
    if teacher.weights == "path" and not teacher.path:
        raise ValueError(
            f"a term compares with {name!r}, but {name}.path is empty; name a model, "
            f"or set {name}.weights to initial, live, ema or snapshot"
        )
    if teacher.weights == "ema" and not 0 < teacher.rate <= 1:
        raise ValueError(f"{name}.rate={teacher.rate} must be in (0, 1]")
    if teacher.weights == "snapshot" and teacher.every_steps < 1:
        raise ValueError(f"{name}.every_steps={teacher.every_steps} must be at least 1")
    if teacher.weights == "live" and not teacher.context:
        raise ValueError(
            f"{name}.weights='live' without a context is the student itself: every "
            f"divergence is zero; set {name}.context or other weights"
        )
    fields_of(name, teacher.context)


def fields_of(name: str, context: str) -> tuple[str, ...]:
    """The fields that a template uses.

    Raises:
      ValueError: a malformed template, or a field that no data row has.
    """
    try:
        found = [field for _, field, _, _ in string.Formatter().parse(context)]
    except ValueError as error:
        raise ValueError(f"{name}.context={context!r}: {error}") from error
    used = tuple(field for field in found if field is not None)
    for field in used:
        if field not in FIELDS:
            raise ValueError(
                f"{name}.context={context!r}: no field {field!r}; a row has "
                f"{', '.join(FIELDS)}"
            )
    return used


def reads_peer(teacher: Teacher) -> bool:
    """Whether its prompt shows another rollout, and so is made anew for every batch."""
    return "peer" in fields_of("teacher", teacher.context)


def in_context(
    name: str,
    context: str,
    examples: list[Example],
    peers: list[str] | None = None,
) -> list[Example]:
    """The same rows with their prompts rendered by ``context``.

    Of a chat the last user turn is ``{question}``, and it alone is replaced. ``peers``
    are the texts of ``{peer}``, one for each row.

    Raises:
      ValueError: a row lacks a field that the template uses.
    """
    used = fields_of(name, context)

    def render(example: Example, peer: str) -> Example:
        values = {"question": _question(example.prompt), "peer": peer}
        values |= {"answer": example.answer, "solution": example.solution}
        for field in used:
            if values[field] is None:
                raise ValueError(
                    f"{name}.context uses {{{field}}}, and row {example.id} has none; "
                    f"name the column in data.{field}_column or change the context"
                )
        return example._replace(prompt=_asked(example.prompt, context.format(**values)))

    pairs = zip(examples, peers or [""] * len(examples), strict=True)
    return [render(example, peer) for example, peer in pairs]


def _question(prompt) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _asked(prompt, text: str):
    if isinstance(prompt, str):
        return text
    return [*prompt[:-1], {**prompt[-1], "content": text}]


def start(teachers: Mapping[str, Teacher], params) -> dict[str, Any]:
    """Parameters of every moving teacher before the first update: the student's.

    Real copies: the student's own buffers are donated to its next update.
    """
    return {
        name: jax.tree.map(jnp.copy, params)
        for name, teacher in teachers.items()
        if teacher.weights in MOVING
    }


@jax.jit
def blend(old, new, rate: float):
    """``(1 - rate) old + rate new``, leaf by leaf."""
    return jax.tree.map(lambda t, s: t + rate * (s - t), old, new)


def move(
    teachers: Mapping[str, Teacher], held: Mapping[str, Any], params, step: int
) -> dict[str, Any]:
    """Moving teachers after update number ``step`` (from 1) of the student."""
    moved = dict(held)
    for name, old in held.items():
        teacher = teachers[name]
        if teacher.weights == "ema":
            moved[name] = blend(old, params, teacher.rate)
        elif step % teacher.every_steps == 0:
            moved[name] = jax.tree.map(jnp.copy, params)
    return moved
