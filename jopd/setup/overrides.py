"""Words of a command line, ``--config.KEY=VALUE``, into a config.

Keys of ``base_config`` keep their types. In its free places (terms, teachers, panels,
arguments of templates and rules) a word may bring a new key: its value is read as
Python would, and what is no Python is text.
"""

import ast
import difflib
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from jopd.setup import keys
from jopd.setup.config import base_config

BOOLS = {"true": True, "1": True, "false": False, "0": False}
# A path may lead through a value: what it then is in the group that takes its place.
INSIDE = {str: "function", int: "value", float: "value"}


def split(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """(the words that are no overrides, (key, text) of those that are)."""
    words, rest, given = list(argv), [], []
    while words:
        word = words.pop(0)
        found = re.fullmatch(r"--?(no)?config\.([^=]+)(=?)(.*)", word, re.DOTALL)
        if not found:
            rest.append(word)
        elif found[3] or found[1]:
            given.append((found[2], found[4] if found[3] else "false"))
        else:  # its value is the next word; a switch needs none
            follows = words and not words[0].startswith("--")
            given.append((found[2], words.pop(0) if follows else "true"))
    return rest, given


def apply(config: ConfigDict, given: Sequence[tuple[str, str]]) -> None:
    """Sets every key; a later word counts.

    Raises:
      ValueError: no such key, with the nearest, a value of another type, or two keys
        that exclude each other.
    """
    asked = dict(given)
    epochs = value_of(asked.get("epochs", str(config.epochs)))
    if "steps" in asked and epochs:
        whose = "" if "epochs" in asked else ", of the config,"
        raise ValueError(
            f"steps={asked['steps']} and epochs={epochs}{whose} both say how long to "
            "train; leave one of them out, or set --config.epochs=0"
        )
    with config.unlocked(), config.ignore_type():
        for key, text in given:
            _set(config, key, text)


def _set(config: ConfigDict, key: str, text: str) -> None:
    place, path, free = config, key.split("."), is_free(key)
    for name in path[:-1]:
        if not isinstance(place.get(name), ConfigDict):
            if not free:
                raise ValueError(unknown(key, config))
            place[name] = _opened(place.get(name))
        place = place[name]
    name = path[-1]
    if name not in place and not free:
        raise ValueError(unknown(key, config))
    place[name] = _free(text, place, path) if free else _typed(text, place, key)


def is_free(key: str) -> bool:
    """Whether a key may be new: the base config locks every other place."""
    place = base_config()
    for name in key.split(".")[:-1]:
        if not isinstance(place.get(name), ConfigDict):
            break
        place = place[name]
    return not place.is_locked


def _opened(value) -> dict:
    """The group that takes a value's place: ``"f"`` is ``dict(function="f")``."""
    inside = INSIDE.get(type(value))
    return {inside: value} if inside else {}


def _typed(text: str, place: ConfigDict, key: str):
    """A value of the type that the key has."""
    name = key.rpartition(".")[2]
    kind = place.get_type(name)
    if isinstance(place[name], ConfigDict):
        if is_free(f"{key}.NAME") and isinstance(found := value_of(text), dict):
            return found
        first = next(iter(keys.flatten(place[name], f"{key}.")), f"{key}.NAME")
        raise ValueError(f"{key} is a group; set its keys, such as --config.{first}=")
    try:
        if kind is bool:
            return BOOLS[text.lower()]
        if kind in (int, float):
            return kind(text)
    except (KeyError, ValueError):
        from jopd.setup.ranges import RANGES  # loads JAX, which --help does without

        says = RANGES[key].says
        raise ValueError(f"{key}={text!r:.200} must be {says}") from None
    if kind is tuple:
        found = value_of(text)
        return found if isinstance(found, tuple) else (found,) * (text != "")
    return text


def _free(text: str, place: ConfigDict, path: list[str]):
    """A value as Python reads it; text where the key holds text."""
    like = base_config().teacher if path[0] == "teachers" else place
    default = like.get(path[-1])
    found = value_of(text)
    if isinstance(default, str):
        return None if text == "None" else found if isinstance(found, dict) else text
    if isinstance(default, float) and type(found) is int:
        return float(found)
    return found


def value_of(text: str):
    """What Python means by a text, ``dict(a=1)``, inf and true, too; else the text."""
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text


def _value(node: ast.expr):
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            return {word.arg: _value(word.value) for word in node.keywords}
        case ast.Dict():
            found = {_value(k): _value(v) for k, v in zip(node.keys, node.values)}
            if not all(isinstance(key, str) for key in found):
                raise ValueError("a config's keys are names")
            return found
        case ast.Tuple() | ast.List():
            return tuple(_value(one) for one in node.elts)
        case ast.Name(id="inf" | "nan"):
            return float(node.id)
        case ast.Name(id="true" | "false"):
            return BOOLS[node.id]
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand)
    return ast.literal_eval(node)


def unknown(key: str, config: ConfigDict) -> str:
    """What to say of a key that there is not: the nearest that there are."""
    known = list(keys.flatten(config))
    section, dot, wrong = key.rpartition(".")
    short = [
        name
        for name in known
        if name.startswith(section + dot) and _abbreviates(wrong, name)
    ]
    near = [name for name in known if name.rpartition(".")[2] == wrong]
    near += short or difflib.get_close_matches(key, known, n=2)
    shown = " or ".join(dict.fromkeys(near[:2]))
    return (
        f"unknown key --config.{key}; "
        + (f"did you mean {shown}? " if shown else "")
        + "jopd train --help lists all keys"
    )


def _abbreviates(short: str, key: str) -> bool:
    """Whether a word is the initials of a key's last name, or how it begins."""
    name = key.rpartition(".")[2]
    initials = "".join(word[:1] for word in name.split("_"))
    begins = len(short) > 2 and name.startswith(short)
    return begins or (len(short) > 1 and short == initials)
