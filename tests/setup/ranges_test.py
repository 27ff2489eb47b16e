"""Every key has a range, and what is outside of it is refused in one line."""

import importlib
import inspect
import math
import pkgutil
import re

import pytest

from jopd import methods
from jopd.losses import binding, facts, reports, signals, weights
from jopd.methods import kat, rock
from jopd.setup import builders, keys, ranges, shipped, validation
from jopd.setup.config import base_config

NAN, INF = math.nan, math.inf
DEFAULTS = keys.flatten(base_config())
# Numbers that may be below 0; every other one may not.
NEGATIVE = {"teacher.reward_margin", "peer.success"}
ALL = {"mesh.data", "mesh.fsdp", "mesh.tensor"}  # -1: all devices that are left


def wrong_values(key: str, default) -> list:
    """What no key with such a default may be."""
    if isinstance(default, bool):
        return [None, 0, 1, "yes", NAN]
    if isinstance(default, int):
        below = [-2] + [-1] * (key not in ALL)
        return [None, NAN, INF, -INF, 1.5, "abc", "", True, (1,), *below]
    if isinstance(default, float):
        below = [] if key in NEGATIVE else [-1.0, -1e-9]
        return [None, NAN, INF, -INF, "abc", "", True, (1.0,), 1e30, *below]
    if isinstance(default, tuple):
        part = (1.5,) if key != "data.weights" else (0.0,)
        return [None, 3, "abc", (None,), part, (NAN,), (-1,)]
    if isinstance(default, dict):
        return [None, 3, "abc", NAN]
    return [None, 3, 1.5, NAN, True, ("a",)]


def planted(key: str, value):
    """The base config with any value at a key, past the types of ``ConfigDict``."""
    c = base_config()
    *path, last = key.split(".")
    with c.unlocked(), c.ignore_type():
        place = c
        for name in path:
            place = place[name]
        del place[last]
        place[last] = value
    return c


def refused(run, *pieces: str) -> None:
    with pytest.raises(ValueError) as caught:
        run()
    message = str(caught.value)
    for piece in pieces:
        assert piece in message, message
    assert "\n" not in message and len(message) < 300


def test_every_key_has_a_range():
    for key in sorted(set(DEFAULTS) - set(ranges.RANGES)):
        pytest.fail(
            f"{key} has no range: add one line to RANGES of jopd/setup/ranges.py, such "
            f'as    "{key}": whole(1),    or real(0, 1), FLAG, TEXT, choice("a", "b")'
        )
    assert set(ranges.RANGES) <= set(DEFAULTS), "a range of a key that is gone"
    assert set(ranges.TEACHER) == set(base_config().teacher)


@pytest.mark.parametrize("key", sorted(set(DEFAULTS) & set(ranges.RANGES)))
def test_what_is_outside_is_refused_in_one_line(key):
    for value in wrong_values(key, DEFAULTS[key]):
        c = planted(key, value)
        says = ranges.RANGES[key].says
        refused(lambda c=c: validation.validate(c), f"{key}={value!r} must be {says}")


@pytest.mark.parametrize("name", shipped.names())
def test_shipped_values_are_inside(name):
    ranges.check_all(keys.flatten(shipped.load(name)))
    builders.build_terms(shipped.load(name))


WHOLE = r"a whole number, (?:at least|from) (\d+)(?: to (\d+))?"


def numbers_of(says: str):
    """(value, whether it is inside) at both ends of a range, from its words."""
    if found := re.match(
        r"a whole number, (?:at least|from) (\d+)(?: to (\d+))?", says
    ):
        low, high = int(found[1]), found[2] and int(found[2])
        return [(low, True)] + ([(high, True), (high + 1, False)] if high else [])
    found = re.match(r"a number in ([\[(])(.+), (.+)([\])])", says)
    if not found:
        return []
    low, high = float(found[2]), float(found[3])
    ends = [(low, found[1] == "["), (high, found[4] == "]")]
    gap = 1e-9 * max(abs(low), abs(high))
    return [*ends, (low - gap, False), (high + gap, False), ((low + high) / 2, True)]


@pytest.mark.parametrize("key", [*ranges.RANGES, *ranges.ARGUMENTS])
def test_the_words_of_a_range_are_what_it_does(key):
    known = (ranges.RANGES | ranges.ARGUMENTS)[key]
    for value, inside in numbers_of(known.says):
        assert known.holds(value) == inside, (key, known.says, value)
    assert known.holds(INF) == ("+inf" in known.says)
    if known.says.startswith("one of "):
        for name in known.says.removeprefix("one of ").split(", "):
            assert known.holds("" if name == "'' for none" else name)


def test_a_key_that_is_missing():
    c = base_config()
    with c.unlocked():
        del c.rollout.top_k
    refused(lambda: validation.validate(c), "rollout.top_k is missing; it must be")
    c = base_config()
    c.eval = None
    refused(lambda: validation.validate(c), "eval.every_steps is missing")


@pytest.mark.parametrize("section", ["loss", "teachers", "panels"])
def test_groups_of_ones_own_are_groups(section):
    c = base_config()
    with c.unlocked():
        c[section].mine = 3
    refused(lambda: validation.validate(c), f"{section}.mine=3 must be keys with")


@pytest.mark.parametrize("key", ranges.TEACHER)
def test_further_teachers_have_the_ranges_of_the_first(key):
    for value in wrong_values(f"teacher.{key}", DEFAULTS[f"teacher.{key}"]):
        c = base_config()
        c.teachers.self = {key: value}
        where = f"teachers.self.{key}={value!r} must be"
        refused(lambda c=c: validation.validate(c), where)


# Arguments of functions that terms name.

MODULES = [
    signals,
    weights,
    reports,
    *(
        importlib.import_module(f"jopd.methods.{found.name}")
        for found in pkgutil.iter_modules(methods.__path__)
    ),
]
FUNCTIONS = {
    binding.name_of(function): function
    for module in MODULES
    for function in (getattr(module, name) for name in binding.names(module))
    if "->" in str(inspect.signature(function))
    and next(iter(inspect.signature(function).parameters)) in ("outputs", "scores")
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_arguments_of_a_term_are_refused_in_one_line(name):
    function, tried = FUNCTIONS[name], 0
    for key in binding.arguments_of(function):
        annotation = inspect.signature(function).parameters[key].annotation
        wrong = {bool: (None, 3), str: (None, 3), int: (None, NAN, 1.5, INF)}
        wrong[str | None] = (3, NAN)
        for value in wrong.get(annotation, ("abc", NAN)):
            refused(
                lambda key=key, value=value: ranges.check_arguments(
                    function, {key: value}, "loss.mine"
                ),
                f"loss.mine.{key}={value!r} must be ",
            )
            tried += 1
    assert tried or not binding.arguments_of(function)


def test_rows_of_arguments_are_of_functions_that_exist():
    from jopd.rollouts import stops

    known = {function.__name__: function for function in FUNCTIONS.values()}
    known |= {name: getattr(facts, name) for name in binding.names(facts)}
    for maker in (stops.repetition, kat.minima, kat.agreement, rock.statistics):
        known[maker.__name__] = maker
    for row in ranges.ARGUMENTS:
        name, argument = row.split(".")
        assert argument in binding.arguments_of(known[name]), row


WRONG_TERMS = {
    "weights": ({"weights": 3}, "loss.opd.weights=3 must be keys"),
    "a weight": ({"weights": {"finished": None}}, "loss.opd.weights.finished=None"),
    "an advantage": ({"advantage": {"std": True}}, "advantage of loss.opd has no func"),
    "a clip": ({"clip_low": 2.0}, "loss.opd: clip_low=2.0"),
    "a coefficient": ({"coef": NAN}, "loss.opd.coef=nan must be a number"),
    "an end": (
        {"coef": dict(schedule="linear", value=1.0, end=INF)},
        "loss.opd.coef.end=inf must be",
    ),
    "its steps": (
        {"coef": dict(schedule="linear", value=1.0, steps=0)},
        "loss.opd.coef.steps=0 must be a whole number, at least 1",
    ),
    "decay": (
        {"weights": {"staleness": {"decay": 1.5}}},
        "loss.opd.weights.staleness.decay=1.5 must be",
    ),
    "an argument of an advantage": (
        {"advantage": {"function": "minillm.reward_to_go", "discount": 2.0}},
        "loss.opd.advantage.discount=2.0 must be",
    ),
}


@pytest.mark.parametrize("name", WRONG_TERMS)
def test_a_wrong_term_is_refused_in_one_line(name):
    changes, said = WRONG_TERMS[name]
    c = shipped.load("opd")
    with c.loss.ignore_type():
        c.loss.opd.update(changes)
    refused(lambda: validation.validate(c), said)


def test_values_of_free_keys_can_be_recorded():
    ranges.check_all(DEFAULTS | {"data.student_template_kwargs.x": {"a": [1, None]}})
    with pytest.raises(
        ValueError, match=r"student_template_kwargs.x=b'x' must be texts"
    ):
        ranges.check_all(DEFAULTS | {"data.student_template_kwargs.x": b"x"})
