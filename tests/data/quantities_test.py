import random
import time
from fractions import Fraction

import pytest

from jopd.data import quantities, rewards, sources

TABLE = [
    # decimals and signs
    (".5", "1/2"),
    ("$.50", "1/2"),
    ("it is.5", "5"),
    ("$1,234.50.", "2469/2"),
    ("-.5", "-1/2"),
    ("-$5", "-5"),
    ("17-8", "8"),
    ("17 - 8", "8"),
    ("- 3", "-3"),
    ("x = - 3", "-3"),
    ("the answer is - 3", "-3"),
    ("a list:\n- 3 apples\n- 4", "4"),
    ("10\N{EN DASH}12", "12"),
    ("2e-3", "1/500"),
    (r"2 \times 10^{6}", "2000000"),
    ("2^3", "8"),
    # thousands
    ("1,234,567", "1234567"),
    ("1,00,000", "100000"),
    (r"1{,}000", "1000"),
    ("10\N{NARROW NO-BREAK SPACE}000", "10000"),
    ("3, 4", "4"),
    # fractions
    ("12 / 4 = 3", "3"),
    ("3/4", "3/4"),
    (r"\frac{3}{4}", "3/4"),
    (r"x = -\dfrac34", "-3/4"),
    ("3 1/2", "7/2"),
    (r"3\frac{1}{2}", "7/2"),
    ("-3 1/2", "-7/2"),
    ("12 3/2", "3/2"),
    (r"\frac{1}{-2}", "-1/2"),
    (r"\frac{-1}{-2}", "1/2"),
    ("\u00bd", "1/2"),
    ("3\u00bd cm", "7/2"),
    ("-3 \u00be", "-15/4"),
    ("4/5/2020", "2020"),
    # units
    ("20 cm^2", "20"),
    (r"20\text{ cm}^{2}", "20"),
    ("20 m2", "20"),
    ("20 %", "20"),
    # which number it is
    (r"\boxed{18}. That took 3 steps", "18"),
    (r"\boxed{3} no, \boxed{4}, in 2 lines", "4"),
    (r"\boxed{18 \text{ in 3 days}}", "18"),
    (r"\boxed{\textbf{18}} 3", "18"),
    (r"\boxed{\frac{1}{2}} or \boxed{}", "1/2"),
    (r"\boxed{0 \text{ of 3}}", "0"),
    (r"\boxed{5} and \boxed{6", "5"),
    ("#### 18. That took 3 steps", "18"),
    ("#### 3*6=18 (3 steps)", "18"),
    ("####\n$18", "18"),
    ("#### 18 = 9*2", "18"),
    ("#### 9*2 = 18 apples", "18"),
    ("#### **18** in 3", "18"),
    ("#### Step 3: add\n so it is 18", "18"),
    (r"\boxed{5} #### 6 in 7", "6"),
    (r"#### 6 \boxed{5} 7", "5"),
]


@pytest.mark.parametrize(("text", "value"), TABLE)
def test_answer_of(text, value):
    assert quantities.answer_of(text) == Fraction(value)


@pytest.mark.parametrize("text", ["", "north", r"5, so \boxed{\text{none}}"])
def test_no_number(text):
    assert quantities.answer_of(text) is None


@pytest.mark.parametrize("text", ["5/0", "1e99999", "9" * 6000, "9999^9999", "0^-1"])
def test_numbers_that_cannot_be_compared(text):
    with pytest.raises(quantities.Unreadable):
        quantities.answer_of(text)
    assert rewards.numeric(text, "1") == 0.0


BEYOND = [
    r"2\sqrt{3}",
    "2\u221a3",
    r"\frac{\sqrt3}{2}",
    r"3\pi",
    "(1, 2)",
    r"\left(\frac{3}{5}, 4\right]",
    "204_5",
    "3R^2",
    "[0,2]",
    "3, 4",
]
BEYOND += ["3x", "x+2", "2x + 1", r"0.\overline{3}", r"\pm 2", "5k"]


@pytest.mark.parametrize("text", BEYOND)
def test_what_is_no_single_number(text):
    for number in ("2", "3", "4", "1"):
        assert rewards.numeric(rf"so \boxed{{{text}}}", number) == 0.0
    for answer in (text, rf"\boxed{{{text}}}"):
        with pytest.raises(ValueError, match=r"no single number.* verifier 'math'"):
            rewards.numeric("2", answer)


def test_a_root_in_the_open():
    for text in (r"it is 2\sqrt{3}", r"so 3\pi", r"\sqrt{3}"):
        assert rewards.numeric(text, "3") == 0.0


@pytest.mark.parametrize(
    "answer",
    ["5 apples", "5 m", "20 cm^2", "(5)", "1,234", "$5", "5%", "-3", "5 a day"],
)
def test_units_are_no_variables(answer):
    assert rewards.numeric(rf"\boxed{{{answer}}}", answer) == 1.0


def spellings(value: int, cents: int) -> list[str]:
    """Ways to write ``value`` and so many hundredths."""
    amount = Fraction(100 * value + cents, 100)
    plain = f"{value}.{cents:02d}" if cents else str(value)
    grouped = f"{value:,}" + plain.removeprefix(str(value))
    found = [plain, grouped, f"${grouped}", f"{plain} cm^2", f"{plain}%"]
    found += [rf"\frac{{{amount.numerator}}}{{{amount.denominator}}}"]
    if cents:
        rest = Fraction(cents, 100)
        found += [f"{value} {rest}", rf"{value}\frac{{{rest.numerator}}}"]
        found[-1] += f"{{{rest.denominator}}}"
    return found


def responses(answer: str) -> list[str]:
    """Ways to give it, some with a later number that is none."""
    boxed = rf"\boxed{{{answer}}}. That took 3 steps"
    marked = f"1 2 3\n#### {answer}\nChecked 2 times."
    return [answer, f"5+2=7, so {answer}", boxed, marked]


def test_any_spelling_of_the_answer_is_right_and_its_neighbours_never():
    draw = random.Random(0)
    for _ in range(100):
        value, cents = int(10 ** draw.uniform(0, 12)), draw.choice([0, 0, 25, 5, 30])
        gold = draw.choice(spellings(value, cents))
        for there in spellings(value, cents):
            assert all(rewards.numeric(r, gold) == 1.0 for r in responses(there)), there
        for other in (value + 1, max(value - 1, 0)):
            for there in spellings(other, cents):
                assert all(rewards.numeric(r, gold) == 0.0 for r in responses(there))


def test_all_answers_of_gsm8k(shared):
    """Gold is right in every way to give it, gold + 1 in none."""
    rows = [
        row
        for part in ("train", "test")
        for row in sources.read(
            str(shared / "gsm8k" / f"{part}.jsonl"), answer_after="####"
        )
    ]
    assert len(rows) == 8792
    for number, row in enumerate(rows):
        next_one = str(Fraction(row.answer.replace(",", "")) + 1)
        ways = slice(number % 4, number % 4 + 1)
        right = [row.solution, *responses(row.answer)[ways]]
        assert all(rewards.numeric(text, row.answer) == 1.0 for text in right)
        assert rewards.numeric(responses(next_one)[ways][0], row.answer) == 0.0


def test_hostile_texts_take_no_time():
    parts = [
        "1.",
        "(",
        "x+",
        r"\boxed{",
        r"\frac{",
        "####",
        "1,",
        "1/",
        "- ",
        "is ",
        "1e",
        "11,",
        "1,11,",
        "11,1111,",
        "a^",
        " ",
    ]
    started = time.perf_counter()
    for part in parts:
        rewards.numeric(part * 4000, "3")
        rewards.numeric(rf"\boxed{{({part * 4000}}}", "3")
        rewards.numeric(f"1{part}" * 2000 + " " * 4000, "3")
    assert time.perf_counter() - started < 5
