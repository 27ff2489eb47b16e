"""Configs: words of a command line over the shipped ones, and values set in Python.

Right is a config whose numbers are numbers, that holds each value as Python reads it,
and that its own flags (``--print_config``) make again.
"""

import ast
import json
import math
import random
import shlex
from pathlib import Path

from hostile_inputs import Case, nasty
from jopd.losses.binding import name_of
from jopd.setup import keys, overrides, shipped, validation
from jopd.setup.config import base_config

TEXTS = (
    *(
        "",
        " ",
        "0",
        "1",
        "-1",
        "2",
        "3.5",
        "1e-3",
        "nan",
        "-inf",
        "inf",
        "1e400",
        "None",
    ),
    *("True", "false", "yes", "abc", "'quoted'", "1,2", "(1, 2)", "[1, 'x']", "()"),
    *("dict(a=1)", "{'a': {'b': 2}}", "dict(signal='nll')", "{1: 2}", "{[]: 1}"),
    *("__import__('os')", "1 if", "(" * 300, "[" * 5000, "9" * 5000, "0x10", "1_000"),
    *("\x00", "é漢🙂", "a\nb", "../x", "${HOME}", "%s", "{x}", "--config", "=", "a=b"),
    *("float32", "adamw", "constant", "gold", "teacher", "student", "snapshot", "live"),
    *("reverse_kl", "nll", "jsd", "policy_gradient", "tokens", "http", "1j", "b'x'"),
)
FREE = (
    *("loss.opd.coef", "loss.opd.weights.first_tokens.count", "loss.new.signal"),
    *("loss.opd.signal", "loss.opd.clip_low", "loss.opd.source", "loss.x", "loss"),
    *("loss.opd.advantage.function", "loss.opd.coef.schedule", "loss.opd.other"),
    *("loss.opd.weights", "loss.opd.normalizer", "loss.opd.k", "teachers.b.path"),
    *("teachers.b.weights", "panels.p.members", "panels.p.kind", "teacher.route.field"),
    *("rollout.early_stop.n", "data.student_template_kwargs.x", "teachers.b", "panels"),
)
# Where infinity is meant.
ENDLESS = ("clip", "clip_low", "clip_high", "bound", "high", "tau")


def prepare(scratch: Path):
    names = shipped.names()
    known = [*keys.flatten(base_config()), *FREE]

    def make(rng: random.Random) -> Case:
        name = rng.choice(names)
        given = [_given(rng, known) for _ in range(rng.choice([1, 1, 2, 3]))]
        near = [part for key, _ in given for part in (key, *key.split("."))]
        said = f"{name} {given!r:.500}"
        return Case(said, (*near, "config", "loss"), lambda: _try(name, given))

    return make


def _given(rng: random.Random, known: list[str]) -> tuple[str, object]:
    """A key, perhaps misspelt, and its value: text as on a command line, or any."""
    key = rng.choice(known)
    how = rng.random()
    if how < 0.05:
        at = rng.randrange(len(key) + 1)
        key = key[:at] + rng.choice([".", "x", "", "_", " "]) + key[at + 1 :]
    if how < 0.7:
        return key, rng.choice(TEXTS)
    return key, nasty(rng)


def _try(name: str, given: list) -> str | None:
    found = shipped.load(name).unlock()
    words = [(key, value) for key, value in given if isinstance(value, str)]
    argv = ["jopd", *(f"--config.{key}={value}" for key, value in words)]
    _, read = overrides.split(argv)
    overrides.apply(found, read)
    set_in_python = [(k, v) for k, v in given if not isinstance(v, str)]
    for key, value in set_in_python:
        try:
            found.update_from_flattened_dict({key: value})
        except (KeyError, TypeError, AttributeError, ValueError):
            return None  # ml_collections' own words, where the line is that sets it
    found.lock()
    validation.validate(found)
    flat = keys.flatten(found)
    return _numbers(flat) or _as_given(flat, words, given) or _again(name, found, flat)


def _numbers(flat: dict) -> str | None:
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            if "template_kwargs" in key:
                continue  # what a template makes of it is the template's business
            if math.isnan(value) or key.rpartition(".")[2] not in ENDLESS:
                return f"{key}={value} is accepted"
    return None


def _as_given(flat: dict, words: list, given: list) -> str | None:
    """Each word's value is there as Python reads it, or as the text that it is."""
    last = dict(words)
    for key, text in last.items():
        later = any(
            k.startswith(f"{key}.") or key.startswith(f"{k}.") for k, _ in given
        )
        if later or key not in flat or sum(k == key for k, _ in given) > 1:
            continue
        value = flat[key]
        meant = {text, text.lower(), repr(value)}
        try:
            read = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            read = text
        same = str(value) in meant or value == read or value == (read,)
        if isinstance(read, list):
            same = same or value == tuple(read)
        if isinstance(value, bool):
            same = text.lower() in ("true", "1") if value else True
        if isinstance(value, int | float) and not isinstance(value, bool):
            same = same or value == float(text)
        if value in ((), "", None, {}):
            same = same or text in ("", "None", "()", "{}")
        if not same and not callable(value) and not isinstance(value, dict):
            return f"{key}={text!r} became {value!r}"
    return None


def _again(name: str, found, flat: dict) -> str | None:
    """The flags that describe the config make it anew."""
    json.dumps(found.to_dict(), default=name_of)
    if any(callable(value) for value in flat.values()):
        return None
    other = shipped.load(name).unlock()
    _, read = overrides.split(["jopd", *shlex.split(keys.as_flags(found))])
    overrides.apply(other, read)
    again = keys.flatten(other)
    unsaid = {"steps"} if found.epochs else set()  # which epochs take the place of
    for key in (flat.keys() | again.keys()) - unsaid:
        one, two = flat.get(key, {}), again.get(key, {})
        # As JSON: a list and a tuple are one to whoever reads them, and NaN is NaN.
        if json.dumps(one, default=str) != json.dumps(two, default=str):
            return f"its flags make {key}={two!r} of {one!r}"
    return None
