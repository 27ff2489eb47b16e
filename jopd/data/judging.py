"""How verifiers are asked: what each wants to know, several weighted, in processes.

A verifier gives a number for a row. It is handed what its parameters are named after:
``response``, ``answer``, ``prompt`` (text), ``fields`` (dict, the columns of
``data.fields``); others without a default stand for response and answer, in this order.
One with a parameter ``responses`` is asked once for a whole batch and gives a list; its
``responses``, ``answers``, ``prompts`` and ``fields`` are lists.
"""

import functools
import inspect
import itertools
import math
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import numpy as np

from jopd.data.rewards import alternatives
from jopd.losses.binding import name_of

OF_A_ROW = ("response", "answer", "prompt", "fields")
OF_A_BATCH = ("responses", "answers", "prompts", "fields")


class Asked(NamedTuple):
    """Responses to judge, and what is known of their rows; lists of one length.

    An answer that is a tuple holds several, each of which is right.
    """

    responses: Sequence[str]
    answers: Sequence[str | tuple[str, ...] | None]
    prompts: Sequence[str] = ()
    fields: Sequence[dict] = ()
    ids: Sequence = ()


def of_rows(dataset, numbers, responses: Sequence[str]) -> Asked:
    """Responses to the rows ``numbers`` of a ``Dataset``."""
    pick = lambda column: [column[i] for i in numbers] if column else ()
    known = (dataset.answers, dataset.texts, dataset.fields, dataset.ids)
    return Asked(responses, *map(pick, known))


class Part(NamedTuple):
    """A verifier with its weight in the reward; ``key`` names it in a config."""

    name: str
    function: Callable
    weight: float = 1.0
    key: str = "eval.verifier"


class Judge(NamedTuple):
    """The verifiers whose weighted sum is the reward; 0 processes: in this one."""

    parts: tuple[Part, ...]
    processes: int = 0


class Wanted(NamedTuple):
    """What a verifier is handed: by place, and by name."""

    whole: bool
    by_place: tuple[str, ...]
    by_name: dict[str, str]

    @property
    def answers(self) -> bool:
        return bool({"answer", "answers"} & {*self.by_place, *self.by_name.values()})


class Failed(Exception):
    """(place in its part of the batch, why); travels between processes."""


def wanted(part: Part) -> Wanted:
    """What the verifier of ``part`` asks for.

    Raises:
      ValueError: a parameter that nothing is known for.
    """
    try:
        parameters = inspect.signature(part.function).parameters.values()
    except (ValueError, TypeError):  # of some functions written in C
        return Wanted(False, OF_A_ROW[:2], {})
    names = [parameter.name for parameter in parameters]
    whole = "responses" in names
    known = OF_A_BATCH if whole else OF_A_ROW
    free = [fact for fact in known[:2] if fact not in names and not whole]
    by_place, by_name = [], {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name in known:
            fact = parameter.name
        elif parameter.default is not parameter.empty:
            continue
        elif free:
            fact = free.pop(0)
        else:
            raise ValueError(
                f"{part.key}: {name_of(part.function)} asks for {parameter.name!r}; a "
                f"verifier may ask for {', '.join(OF_A_ROW)}, or of a whole batch for "
                f"{', '.join(OF_A_BATCH)}"
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            by_place.append(fact)
        else:
            by_name[parameter.name] = fact
    if not by_place and not by_name:  # ``*args``
        return Wanted(False, OF_A_ROW[:2], {})
    return Wanted(whole, tuple(by_place), by_name)


def judge(given: Judge | Callable, asked: Asked) -> tuple[np.ndarray, dict]:
    """The reward of each response, f32[B], and of every verifier, unweighted, by name.

    Of several right answers the best counts, where a verifier is asked row by row.

    Raises:
      ValueError: a row has no answer, the lists differ in length, or a verifier failed:
        names the key and the row; what it raised is the cause.
    """
    if not isinstance(given, Judge):
        given = Judge((Part("correct", given),))
    if len(asked.responses) != len(asked.answers):
        raise ValueError(
            f"{len(asked.responses)} responses, but {len(asked.answers)} answers"
        )
    found = {part.name: _scores(part, asked, given.processes) for part in given.parts}
    total = sum(part.weight * found[part.name] for part in given.parts)
    return np.asarray(total, np.float32), found


def _scores(part: Part, asked: Asked, processes: int) -> np.ndarray:
    """f64[B] of one verifier."""
    what, rows = wanted(part), len(asked.responses)
    if what.answers and None in asked.answers:
        raise ValueError(
            f"row {_row(asked, list(asked.answers).index(None))} has no answer to "
            "verify; name the answer column of the data, or set the verifier to 'none'"
        )
    pieces = 1 if what.whole or not processes else min(4 * processes, rows)
    edges = [rows * i // max(pieces, 1) for i in range(pieces + 1)]
    cut = lambda start, end: Asked(*(values[start:end] for values in asked))
    parts = [cut(start, end) for start, end in itertools.pairwise(edges)]
    done: list[float] = []
    call = functools.partial(_batch if what.whole else _rows, part.function, what)
    try:
        for values in _mapped(part, call, parts, processes):
            done += values
    except Failed as error:
        place, why = error.args
        where = ""
        if place is not None:
            at = len(done) + place  # of the rows before, all were judged
            where = f" at row {_row(asked, at)} ({asked.responses[at]!r:.60})"
        raise ValueError(
            f"{part.key}: {name_of(part.function)} failed{where}: {why}"
        ) from (error.__cause__ or error)
    return np.asarray(done, np.float64)


def _row(asked: Asked, place: int) -> Any:
    return asked.ids[place] if len(asked.ids) else place


def _mapped(part: Part, call, parts: list[Asked], processes: int):
    """Results of ``call`` for ``parts``, in their order."""
    if not processes:
        yield from map(call, parts)
        return
    try:
        pickle.dumps(part.function)
    except Exception as error:
        raise ValueError(
            f"eval.verifier_processes={processes}: {name_of(part.function)} of "
            f"{part.key} cannot be sent to another process ({error}); define it at the "
            "top level of a module, or set 0"
        ) from error
    try:
        yield from _pool(processes).map(call, parts)
    except BrokenProcessPool as error:
        _pool.cache_clear()
        raise ValueError(
            f"eval.verifier_processes={processes}: a process of {part.key} ended (out "
            "of memory, or a script without `if __name__ == '__main__':`); see above, "
            "or set 0"
        ) from error


@functools.cache
def _pool(processes: int) -> ProcessPoolExecutor:
    """Processes that live as long as this one; JAX forbids forked ones."""
    spawned = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, spawned, initializer=_stand_apart)


def _stand_apart() -> None:
    """Leaves signals to the run, which still wants its step judged, and ends with it.

    In a session of its own a process gets none of those that a terminal, or whoever
    ends a group, sends to all.
    """
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _rows(function, what: Wanted, asked: Asked) -> list[float]:
    """A verifier that is asked row by row."""
    found = []
    for place, (response, answer) in enumerate(zip(asked.responses, asked.answers)):
        facts = {
            "response": response,
            "prompt": asked.prompts[place] if len(asked.prompts) else None,
            "fields": asked.fields[place] if len(asked.fields) else {},
        }
        try:
            values = [
                _number(_call(function, what, facts | {"answer": one}))
                for one in (alternatives(answer) if what.answers else (None,))
            ]
        except Exception as error:
            raise Failed(place, _said(error)) from error
        found.append(max(values))
    return found


def _batch(function, what: Wanted, asked: Asked) -> list[float]:
    """A verifier that is asked once."""
    facts = dict(zip(OF_A_BATCH, (list(values) for values in asked[:4])))
    try:
        values = [_number(value) for value in _call(function, what, facts)]
        if len(values) != len(asked.responses):
            raise ValueError(f"{len(values)} numbers for {len(asked.responses)} rows")
    except Exception as error:
        raise Failed(None, _said(error)) from error
    return values


def _call(function, what: Wanted, facts: dict):
    by_name = {name: facts[fact] for name, fact in what.by_name.items()}
    return function(*(facts[fact] for fact in what.by_place), **by_name)


def _number(value) -> float:
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"it gave {value!r:.40}, which is no number")
    if not math.isfinite(number := float(value)):
        raise ValueError(f"it gave {number}")
    return number


def _said(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
