"""Chat templates: run in a sandbox, within limits, on a day that stands still.

Templates see what they see in transformers (``raise_exception``, ``strftime_now``,
``tojson``, ``{% generation %}``, ``break``). Two things differ: how long they may run,
and that the day is given, so that a run that goes on tomorrow reads the same prompts.
"""

import datetime
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Far above what a conversation needs: of loops and calls, and of characters held.
STEPS = 1_000_000
CHARACTERS = 10_000_000
# Filters, and methods of texts, that are given widths.
WIDENING = ("center", "indent", "batch", "slice", "format")
WIDENING_METHODS = ("center", "ljust", "rjust", "zfill", "expandtabs", "format")


class Template(NamedTuple):
    """A compiled template.

    Attributes:
      render: ``(**values) -> str``; raises ValueError with the template's words or what
        went wrong within.
      prints_date: ``() -> bool``, whether one that was rendered asked for the day.
    """

    render: Callable[..., str]
    prints_date: Callable[[], bool]


def compile_template(source: str, date: str = "") -> Template:
    """Compiles a template for a day, ``YYYY-MM-DD``; empty: today.

    Raises:
      ValueError: it is no template; says where.
    """
    midnight = datetime.datetime.combine(day_of(date), datetime.time())
    environment, asked = _Bounded(), []

    def strftime_now(form: str) -> str:
        asked.append(form)
        return midnight.strftime(form)

    environment.globals |= {"raise_exception": _refuse, "strftime_now": strftime_now}
    try:
        template = environment.from_string(_counted(environment.parse(source)))
    except Exception as error:  # Python's own, too, of what it is compiled to
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        raise ValueError(f"the chat template{where}: {_words(error)}") from error

    def render(**values) -> str:
        environment.spent = 0
        try:
            return environment.joined(template.generate(**values))
        except Exception as error:  # a template is somebody's program
            raise ValueError(_words(error)) from error

    return Template(render, lambda: bool(asked))


def day_of(date: str) -> datetime.date:
    """The day of ``YYYY-MM-DD``; of an empty text today."""
    return datetime.date.fromisoformat(date) if date else datetime.date.today()


def is_day(date: Any) -> bool:
    """Whether ``day_of`` knows it."""
    try:
        return isinstance(date, str) and bool(day_of(date))
    except ValueError:
        return False


def _words(error: BaseException) -> str:
    """What a template said itself; of other errors the class too. One line."""
    said = " ".join(str(error).split()) or "no reason given"
    own = isinstance(error, jinja2.TemplateError)
    return said if own else f"{type(error).__name__}: {said}"


def _refuse(message) -> None:
    raise jinja2.TemplateError(str(message))


def _tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    width = len(indent) if isinstance(indent, str) else indent
    _check_widths(width, times=100_000)  # of lines, each as deep as its object
    return json.dumps(
        x,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _counted(tree: nodes.Template) -> nodes.Template:
    """The same program with every loop counted and every value that is set measured."""
    wrap = lambda node, name: nodes.Filter(node, name, [], [], None, None)
    for loop in list(tree.find_all(nodes.For)):
        loop.iter = wrap(loop.iter, "_count")
    for setting in list(tree.find_all(nodes.Assign)):
        setting.node = wrap(setting.node, "_held")
    return tree


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's text; here it is only text."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Bounded(ImmutableSandboxedEnvironment):
    """A sandbox that counts: steps of loops, calls, and characters that are made."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self):
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constants would be worked out before anything counts
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
        )
        self.spent = 0
        del self.globals["lipsum"]
        self.globals["range"] = self._range
        for name in WIDENING:
            self.filters[name] = _narrow(self.filters[name], name == "format")
        self.filters |= {"tojson": _tojson, "_held": self.held, "_count": self.count}

    def charge(self, steps: int) -> None:
        self.spent += steps
        if self.spent > STEPS:
            raise jinja2.TemplateError(f"it takes more than {STEPS:,} steps")

    def count(self, values: Iterable) -> Iterator:
        for value in values:
            self.charge(1)
            yield value

    def held(self, value: Any) -> Any:
        """``value`` if it is of a size to hold; long ones cost steps."""
        size = len(value) if isinstance(value, str | list) else 0
        if size > CHARACTERS:
            raise jinja2.TemplateError(f"it makes a text of {size:,} characters")
        self.charge(size // 1000)
        return value

    def joined(self, pieces: Iterable[str]) -> str:
        found, size = [], 0
        for piece in pieces:
            found.append(piece)
            size += len(piece)
            if size > CHARACTERS:
                break
        return self.held("".join(found))

    def call(__self, __context, __obj, *args, **kwargs):
        __self.charge(10)  # as long as ten steps of a loop
        text = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(text, str) and __obj.__name__ in WIDENING_METHODS:
            _check_widths(text, *args, *kwargs.values())
        return __self.held(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context, operator, left, right):
        if operator != "%":
            _check_product(operator, left, right)
        elif isinstance(left, str):
            _check_widths(left)
        return self.held(super().call_binop(context, operator, left, right))

    def _range(self, *args: int) -> range:
        made = range(*args)
        self.charge(len(made))
        return made


def _narrow(function: Callable, reads_first: bool) -> Callable:
    """A filter that makes no text wider than may be held."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        lines = str(args[0]).count("\n") + 1 if function is _INDENT else 1
        _check_widths(*args[not reads_first :], *kwargs.values(), times=lines)
        return function(*args, **kwargs)

    return call


_INDENT = jinja2.filters.FILTERS["indent"]


def _check_widths(*values: Any, times: int = 1) -> None:
    """No number, nor one within a format, of a text wider than may be held."""
    for value in values:
        wide = isinstance(value, int) and value * times > CHARACTERS
        if wide or (isinstance(value, str) and re.search(r"[%:<>^]-?\d{8,}", value)):
            raise jinja2.TemplateError(f"{value!r:.40} asks for too wide a text")


def _check_product(operator: str, left: Any, right: Any) -> None:
    one, other = (len(x) if isinstance(x, str | list) else x for x in (left, right))
    if not (isinstance(one, int) and isinstance(other, int)):
        return
    bits = one.bit_length() + other.bit_length()
    if operator == "**":
        bits = one.bit_length() * max(other, 0)
    if bits > (64 if (one, other) == (left, right) else CHARACTERS.bit_length()):
        raise jinja2.TemplateError(f"{operator} makes something too large")
