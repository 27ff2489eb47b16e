"""Responses and answers that verifiers judge: numbers in many spellings, and nonsense.

Right is 1.0 where the number that was spelled at the end is the answer's, 0.0 where it
is another one; nonsense may earn anything but an exception that is not of the answer.
"""

import random
from fractions import Fraction
from pathlib import Path

from hostile_inputs import NASTY, Case
from jopd.data import rewards

BEFORE = (
    *("", "The answer is ", "so we have = ", "2 + 3 = 5, then ", "Step 1: 7*8=56.\n"),
    *("\\boxed{99} was wrong. ", "#### 5\nNo, ", "x = ", "é漢🙂 ", "it costs "),
)
NONSENSE = (
    *("", " ", "\\boxed{", "\\boxed{}", "####", "#### ", "1e999999999", "5/0", "0^-1"),
    *("9" * 100_000, "1" * 5000 + "/" + "3" * 5000, "\\frac{1}{0}", "-" * 5000 + "1"),
    *("{" * 50_000, "\\boxed{" * 20_000, "1," * 30_000, "$" * 9999, "\\frac" * 5000),
    *("1 " * 50_000, "٣", "½", "²", "1_000", "0x10", "nan", "inf", "１２", "IV", "- 3"),
    *("2^" * 5000 + "2", "1.2.3.4", "..", "--5", "+-5", "1e5e5", "\x00", "\ud800"),
)


def prepare(scratch: Path):
    def make(rng: random.Random) -> Case:
        name = rng.choice(["numeric", "numeric", "exact", "arithmetic"])
        if rng.random() < 0.3:
            return _nonsense(rng, name)
        wanted = _number(rng)
        given = wanted if rng.random() < 0.5 else _other(rng, wanted)
        response, answer = _ending(rng, given), _plain(rng, wanted)
        if name != "numeric":
            response, answer = str(given), str(wanted)
        return Case(
            f"{name}: {response!r:.300}, {answer!r}",
            ("answer",),
            lambda: _judge(name, response, answer, float(given == wanted)),
        )

    return make


def _nonsense(rng: random.Random, name: str) -> Case:
    texts = [one for one in NASTY if isinstance(one, str)]
    pick = lambda: "".join(rng.choice((*NONSENSE, *texts, *BEFORE)) for _ in range(3))
    response, answer = pick(), rng.choice([pick(), "7", "1/2"])
    said = f"{name}: {response!r:.200}, {answer!r:.200}"
    return Case(said, ("answer",), lambda: _judge(name, response, answer, None))


def _judge(name: str, response: str, answer: str, expected: float | None):
    found = rewards.resolve(name)(response, answer)
    if name == "arithmetic" and found in (0.0, 1.0):
        return None  # it reads the task's own form alone; see tests/data/tasks_test.py
    if expected is None:
        return None if found in (0.0, 1.0) else f"{found}"
    return None if found == expected else f"{found}, not {expected}"


def _number(rng: random.Random) -> Fraction:
    kind = rng.randrange(4)
    if kind == 0:
        return Fraction(rng.randint(-20, 200))
    if kind == 1:
        return Fraction(rng.randint(-(10**12), 10**12))
    if kind == 2:
        return Fraction(rng.randint(-9999, 9999), 100)
    return Fraction(rng.randint(1, 30), rng.choice([3, 7, 9, 8]))


def _other(rng: random.Random, value: Fraction) -> Fraction:
    near = [value + 1, value - 1, value * 10, -value, value + Fraction(1, 100)]
    return rng.choice([one for one in near if one != value])


def _plain(rng: random.Random, value: Fraction) -> str:
    """As data sets write it: digits, a decimal, a quotient."""
    if value.denominator == 1:
        whole = value.numerator
        return rng.choice([f"{whole}", f"{whole:,}", f"{whole}.0", f" {whole}\n"])
    exact = 10**6 % value.denominator == 0
    if exact and rng.random() < 0.7:
        return f"{float(value):.6f}".rstrip("0")
    return f"{value.numerator}/{value.denominator}"


def _ending(rng: random.Random, value: Fraction) -> str:
    """A response that gives the value, and what may stand around it."""
    said = _plain(rng, value).strip()
    if value.denominator > 1 and value > 1 and rng.random() < 0.3:
        whole, rest = divmod(value.numerator, value.denominator)
        said = f"{whole} {rest}/{value.denominator}"
    elif value.denominator > 1 and rng.random() < 0.3:
        sign = "-" if value < 0 else ""
        said = f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    before = rng.choice(BEFORE)
    form = rng.choice(
        [
            "\\boxed{%s}",
            "\\boxed{%s}. That took 3 steps",
            "#### %s",
            "%s.",
            "%s",
            "**%s**",
            "$%s$",
            "\\boxed{%s \\text{ cm}^2}",
            "%s cm^2",
            "\\boxed{x = %s}",
        ]
    )
    if form[0] == "#" and before and not before.endswith("\n"):
        before += "\n"
    if "boxed" not in form and "#" not in form and ("#" in before or "boxed" in before):
        before = "so "  # an earlier box comes first, by rule
    return before + form % said
