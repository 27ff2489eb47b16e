r"""The number that a text gives as its answer, exactly: ``1,234.5``, ``3 1/2``, ``.5``.

Currency signs, percent signs and units are not looked at, nor are the exponents of
units: ``$20``, ``20 %`` and ``20 cm^2`` are all 20.
"""

import re
import unicodedata
from fractions import Fraction

# Thousands as they are written in most places, and in India.
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}|[0-9]+)"
# The point of "is.5" may end a sentence, that of "$.5" does not.
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]+)?|(?<![\w.])\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_POWER = r"\s*\^\s*\{?(-?[0-9]+)\}?"
_QUANTITY = re.compile(
    r"(?P<sign>-[^\S\n]*)?[$€£¥]?[^\S\n]?"
    rf"(?:(?P<whole>{_DIGITS})[^\S\n]+(?=[0-9]+/[0-9]))?"
    rf"(?P<above>{_DECIMAL})(?![0-9])"
    rf"(?:/(?P<below>{_DECIMAL})(?![0-9])"
    rf"|\s*(?:×|x|\*|\\times|\\cdot)\s*10{_POWER}|{_POWER})?"
)
_FRACTION = re.compile(
    r"(?P<behind>[0-9]\s*)?\\[dtc]?frac\s*(?:\{([^{}]*)\}|([0-9]))"
    r"\s*(?:\{([^{}]*)\}|([0-9]))"
)
_GLYPH = re.compile(r"([0-9]?)[^\S\n]?([\u00bc-\u00be\u2150-\u215e])")
# What makes a value of more than one number, or of none: roots, functions, variables.
_BEYOND = re.compile(
    r"\\(?:sqrt|pi|[dtc]?frac|log|ln|sin|cos|tan|exp|pm|mp|cup|cap|binom|begin"
    r"|alpha|beta|gamma|theta|phi|lambda|overline|dot|infty)(?![A-Za-z])"
    r"|[\u221a\u03c0\u221e\u00b1]"
    r"|[0-9][abcijknpqrtuvwxyzBDEGIJNOPQRSTUXYZ](?![A-Za-z0-9])"
    r"|[0-9]_\{?[0-9]"  # of another base
    r"|(?<![A-Za-z\\])[a-z]\s*[-+*/^]\s*[0-9({\\]"
    r"|[0-9)}]\s*[-+*]\s*[a-z](?![A-Za-z])"
)
_BRACKETS = re.compile(r"[(\[]([^()\[\]]*)[)\]]")
_LIST = re.compile(r"\s*-?[0-9./]+(?:\s*[,;]\s*-?[0-9./]+)+\s*")
# Beside a number that stands in the open, as the last one of a response.
_ROOT_BEFORE = re.compile(r"(?:\\sqrt|\u221a)\s*[({\[]?\s*\Z")
_ROOT_BEHIND = re.compile(
    r"[^\S\n]*\}?[^\S\n]*(?:\\(?:sqrt|pi)(?![A-Za-z])|[\u221a\u03c0])"
)
_UNIT_POWER = re.compile(
    r"(?<=[A-Za-z}])\s*\^\s*(?:\{-?[0-9]+\}|-?[0-9]+)"
    r"|(?<![A-Za-z])(?:mm|cm|dm|km|m|ft|in|yd)[23]\b"
)
_BRACE = re.compile(r"\\boxed\s*\{|[{}]")
# What may stand between a mark and its number: a line end, stars, a currency sign.
_MARK = re.compile(r"(?<!#)####(?!#)[^\w#.-]{0,8}(?=-?[^\S\n]?[$€£¥]?[.0-9])")
_WORDS = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{[^{}]*\}")
# What a minus that stands apart from its number follows; elsewhere it is a dash.
_BEFORE_MINUS = re.compile(r"(?:^|[=:(\[{<>≈$]|\b(?:is|are|equals?))[^\S\n]*\Z")
_MINUSES = str.maketrans(dict.fromkeys("\u2212\u2012\u2013\ufe63\uff0d", "-"))
_SEPARATOR = re.compile(r"(?<=[0-9])(?:\{,\}|\\,|[\u00a0\u202f\u2009])(?=[0-9]{3}\b)")
# Groups as of thousands, of which those behind the last of three are numbers alone.
_CHAIN = re.compile(r"(?<![0-9])[0-9]{1,3}(?:,[0-9]{2,3}(?![0-9]))+")
_THOUSANDS = re.compile(r".*,[0-9]{3}(?![0-9])")
_LONGEST = 1000  # digits of a number
_MOST_BITS = 16_000  # of a power


class Unreadable(ValueError):
    r"""There is a number, but none that can be compared: ``5/0``, ``2\sqrt{3}``."""


def answer_of(text: str) -> Fraction | None:
    r"""The number in the last ``\boxed{}`` or behind the last ``####``; else the last.

    None where that holds no number. A ``####`` counts where a number follows it at
    once: elsewhere it is a heading.

    Raises:
      Unreadable: see there.
    """
    text = _plain(text)
    box, marks = _last_box(text), list(_MARK.finditer(text))
    behind = marks[-1].end() if marks else -1
    if box is None and not marks:
        return _in_the_open(text)
    if box is not None and box[1] > behind:
        inside = text[slice(*box)]
        bare = _WORDS.sub(" ", inside)
        _check_one_number(bare)
        value = _last(bare)
        return _last(inside) if value is None else value
    line = text[behind:].lstrip().partition("\n")[0]
    first, _, rest = line.partition("=")
    # "18 = 9*2" says its value first, "9*2 = 18" last.
    if not _QUANTITY.fullmatch(first.strip()):
        first = rest.rpartition("=")[2] or first
    return _value(first, _QUANTITY.search(first))


def check_answer(text: str) -> None:
    """Raises Unreadable where an answer of one line is no single number."""
    plain = _plain(text)
    if not is_marked(text) and "\n" not in plain.strip():
        _check_one_number(_WORDS.sub(" ", plain))


def _check_one_number(text: str) -> None:
    text = text.replace("\\left", "").replace("\\right", "")
    grouped = re.sub(rf"(?<![0-9,]){_DIGITS}(?![0-9])", "0", text)
    several = [grouped, *_BRACKETS.findall(grouped)]
    if _BEYOND.search(text) or any(map(_LIST.fullmatch, several)):
        raise Unreadable(f"{text.strip()[:60]!r} is no single number")


def _in_the_open(text: str) -> Fraction | None:
    """The last number, unless it stands under a root or before one."""
    matches = list(_QUANTITY.finditer(text))
    if not matches:
        return None
    last = matches[-1]
    before, behind = text[: last.start()][-9:], text[last.end() :][:16]
    if _ROOT_BEFORE.search(before) or _ROOT_BEHIND.match(behind):
        raise Unreadable(f"{last.group()!r} stands by a root or a constant")
    return _value(text, last)


def is_marked(text: str) -> bool:
    """Whether there is a box that is not empty, or a number behind a ``####``."""
    text = _plain(text)
    return _last_box(text) is not None or _MARK.search(text) is not None


def _plain(text: str) -> str:
    """One spelling of minus signs, separators, fractions; units without exponents."""
    text = text.translate(_MINUSES).replace("\\$", "$").replace("\\!", "")
    text = _CHAIN.sub(_apart, _SEPARATOR.sub(",", text))
    text = _GLYPH.sub(_glyph, text)
    return _FRACTION.sub(_quotient, _UNIT_POWER.sub("", text))


def _apart(match: re.Match) -> str:
    """``1,11,11`` as ``1, 11, 11``: so no number is sought from each of its parts on,
    which would take quadratic time."""
    groups = match.group()
    whole = _THOUSANDS.match(groups)
    end = whole.end() if whole else 0
    return groups[:end] + groups[end:].replace(",", ", ")


def _glyph(match: re.Match) -> str:
    """``3½`` as ``3 1/2``."""
    value = Fraction(unicodedata.numeric(match[2])).limit_denominator(10)
    return f"{match[1]} {value}" if match[1] else str(value)


def _quotient(match: re.Match) -> str:
    """``3\\frac{1}{2}`` as ``3 1/2``, anything else as ``1/2``."""
    behind, *parts = match.groups()
    above, below = (part.strip() for part in parts if part is not None)
    if below.startswith("-"):
        above, below = f"-{above}".removeprefix("--"), below[1:].strip()
    return f"{behind.strip()} {above}/{below}" if behind else f"{above}/{below}"


def _last_box(text: str) -> tuple[int, int] | None:
    """Where the inside of the last box that is closed, and not empty, is."""
    opened, found = [], None
    for brace in _BRACE.finditer(text):
        if brace.group() != "}":
            opened.append((brace.end(), brace.group() != "{"))
        elif opened:
            start, boxed = opened.pop()
            if boxed and text[start : brace.start()].strip():
                found = max(found or (0, 0), (start, brace.start()))
    return found


def _last(text: str) -> Fraction | None:
    matches = list(_QUANTITY.finditer(text))
    return _value(text, matches[-1] if matches else None)


def _value(text: str, match: re.Match | None) -> Fraction | None:
    """The number of a match, exactly."""
    if match is None:
        return None
    sign, whole, above, below, tens, power = match.groups()
    value = _decimal(above)
    if below is not None:
        if not (divisor := _decimal(below)):
            raise Unreadable(f"{match.group()!r} divides by 0")
        value /= divisor
        # "12 3/2" is a 12 and a 3/2.
        if whole is not None and value < 1:
            value += _decimal(whole)
    value *= _power(Fraction(10), tens)
    if power is not None:
        value = _power(value, power)
    return -value if sign and _is_sign(text, match) else value


def _is_sign(text: str, match: re.Match) -> bool:
    """Whether a minus belongs to its number: "17-8" ends in 8, not in -8."""
    before = text[: match.start()]
    if match.group("sign") == "-":
        return re.match(r"[\w)]", before[-1:]) is None
    return _BEFORE_MINUS.search(before) is not None


def _decimal(text: str) -> Fraction:
    mantissa, _, exponent = text.lower().replace(",", "").partition("e")
    if len(mantissa) > _LONGEST:
        raise Unreadable(f"{text[:20]}... has too many digits")
    return Fraction(mantissa) * _power(Fraction(10), exponent or None)


def _power(base: Fraction, exponent: str | None) -> Fraction:
    if exponent is None:
        return Fraction(1)
    bits = max(abs(base.numerator), base.denominator).bit_length()
    if len(exponent) > 5 or bits * abs(int(exponent)) > _MOST_BITS:
        raise Unreadable(f"a power of {exponent[:20]} has too many digits")
    if not base and int(exponent) < 0:
        raise Unreadable("a negative power of 0")
    return base ** int(exponent)
