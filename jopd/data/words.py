"""The second bundled task: short stories with a question, in words.

    prompt    Mia has 7 apples. Then she finds 6 more. Mia gives 8 of them to Tom.
              How many apples does Mia have now?
    solution  At first there are 7 apples. 7 plus 6 makes 13. Taking 8 from 13 leaves 5.
              The answer is 5.

Every event and every step is worded in one of several ways, drawn alike, so a writer
has real choices at the start of a sentence and none inside it. Values stay within
0..30. The level n is the number of events. `STYLES` name how solutions are written,
over the same questions: "spoken" as above, "brief" as below, with few words in common.

    brief     7 + 6 = 13, 13 - 8 = 5. The answer is 5.
"""

import re
from typing import NamedTuple

import numpy as np

from jopd.data import tasks

LEVELS = (2, 3, 4, 5)
STYLES = ("spoken", "brief")
LARGEST_VALUE = 30
LARGEST_FACTOR = 3

NAMES = {
    "he": ("Tom", "Ben", "Sam", "Max", "Leo", "Jack", "Paul", "Omar"),
    "she": ("Mia", "Ann", "Eva", "Zoe", "Lily", "Sara", "Nora", "Rosa"),
}
THINGS = (
    *("apples", "books", "coins", "cards", "eggs", "shells", "stamps", "pens"),
    *("plums", "stones", "balls", "keys"),
)
OPENINGS = (
    "{who} has {n} {things}.",
    "There are {n} {things} in the box of {who}.",
    "{who} starts the day with {n} {things}.",
    "In the morning {who} counts {n} {things}.",
)
EVENTS = {
    "+": (
        "Then {one} finds {n} more.",
        "{other} gives {who} {n} {things}.",
        "Later {one} buys another {n}.",
        "{n} new {things} come from {other}.",
    ),
    "-": (
        "{who} gives {n} of them to {other}.",
        "Then {one} loses {n}.",
        "{other} takes {n} {things} away.",
        "Later {one} sells {n} of the {things}.",
    ),
    "*": (
        "Then {one} gets {n} times as many.",
        "After that the number of {things} is {n} times as large.",
        "A kind friend makes it {n} times what it was.",
    ),
}
QUESTIONS = (
    "How many {things} does {who} have now?",
    "How many {things} are there in the end?",
    "What is the number of {things} that {who} has?",
)
SPOKEN_OPENINGS = (
    "At first there are {a} {things}.",
    "{who} has {a} {things} at the start.",
    "We begin with {a}.",
)
SPOKEN = {
    "+": (
        "{a} plus {b} makes {c}.",
        "Adding {b} to {a} gives {c}.",
        "With {b} more we get {c}.",
    ),
    "-": (
        "{a} minus {b} is {c}.",
        "Taking {b} from {a} leaves {c}.",
        "Without {b} we have {c}.",
    ),
    "*": (
        "{a} times {b} is {c}.",
        "{b} times as many means {c}.",
        "Making {a} larger {b} times gives {c}.",
    ),
}

# One wording of each, which names nobody that a question may leave out.
PLAIN = {"+": EVENTS["+"][0], "-": EVENTS["-"][1], "*": EVENTS["*"][0]}
RESULTS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def _pattern(template: str) -> re.Pattern:
    """What a template writes, with its number as the group ``n``."""
    text = re.escape(template).replace(r"\{n\}", "(?P<n>[0-9]+)")
    return re.compile(re.sub(r"\\{\w+\\}", "[A-Za-z]+", text))


_OPENINGS = tuple(map(_pattern, OPENINGS))
_EVENTS = {operator: tuple(map(_pattern, said)) for operator, said in EVENTS.items()}
_SENTENCE = re.compile(r"[^.? ][^.?]*[.?]")
_RESULT = re.compile(r"([0-9]+)[^0-9.,]*[.,]")  # the last number of a part
_RESPONSE = re.compile(r".*\bThe answer is ([0-9]+)\.", re.DOTALL)


class Story(NamedTuple):
    """What happens: a first value, then (operator, operand, result) of every event.

    ``words`` fills what the templates name: who, one (he or she), other, things.
    """

    start: int
    events: tuple[tuple[str, int, int], ...]
    words: dict[str, str]


def problem(rng: np.random.Generator, level: int, style: str = "spoken") -> dict:
    """Draws one story of `level` events.

    Returns:
      ``prompt`` (one line, the end of the line included), ``solution`` (no end of
      sequence), ``answer`` (digits), ``level``, ``hint`` (the question in plain words),
      and ``chain``: the numbers alone, by which splits are told apart, so that no
      wording of a story crosses them.

    Raises:
      ValueError: `level` or `style` is unknown.
    """
    if level not in LEVELS:
        raise ValueError(f"level={level!r} is unknown; use one of {LEVELS}")
    told = story(rng, level)
    return {
        "prompt": question(rng, told),
        "solution": solution(rng, told, style),
        "answer": answer(told),
        "level": level,
        "hint": hint(told),
        "chain": chain(told),
    }


def story(rng: np.random.Generator, level: int) -> Story:
    """`level` events among two people, values within 0..``LARGEST_VALUE``."""
    start = value = int(rng.integers(1, LARGEST_VALUE + 1))
    events = []
    for _ in range(level):
        events.append(tasks.operation(rng, value, LARGEST_VALUE, LARGEST_FACTOR))
        value = events[-1][2]
    one = _pick(rng, tuple(NAMES))
    who = _pick(rng, NAMES[one])
    others = [name for names in NAMES.values() for name in names if name != who]
    words = {"who": who, "one": one, "other": _pick(rng, others)}
    return Story(start, tuple(events), words | {"things": _pick(rng, THINGS)})


def chain(told: Story) -> str:
    """The numbers of a story alone."""
    return f"{told.start}" + "".join(f"{o}{n}" for o, n, _ in told.events)


def hint(told: Story) -> str:
    """The question in one wording, always the same: a function of any wording of it.

    It says in plain words what happens, and not what comes out.
    """
    events = [
        PLAIN[operator].format(n=n, **told.words) for operator, n, _ in told.events
    ]
    opening = OPENINGS[0].format(n=told.start, **told.words)
    return " ".join((opening, *events, QUESTIONS[0].format(**told.words))) + "\n"


def answer(told: Story) -> str:
    """What the last event leaves, in digits."""
    return str(told.events[-1][2])


def question(rng: np.random.Generator, told: Story, events: dict = EVENTS) -> str:
    """The story and what is asked, each sentence worded in one of its ways."""
    sentences = [_pick(rng, OPENINGS).format(n=told.start, **told.words)]
    for operator, operand, _ in told.events:
        template = _pick(rng, events[operator])
        sentences.append(template.format(n=operand, **told.words))
    sentences.append(_pick(rng, QUESTIONS).format(**told.words))
    return " ".join(sentences) + "\n"


def solution(rng: np.random.Generator, told: Story, style: str = "spoken") -> str:
    """Worked steps and the answer, in a style of `STYLES`."""
    if style not in STYLES:
        raise ValueError(f"style={style!r} is unknown; use one of {STYLES}")
    befores = (told.start, *(result for _, _, result in told.events))
    steps = [
        (operator, {"a": before, "b": operand, "c": result})
        for before, (operator, operand, result) in zip(
            befores, told.events, strict=False
        )
    ]
    if style == "brief":
        said = ", ".join(f"{{a}} {o} {{b}} = {{c}}".format(**n) for o, n in steps) + "."
    else:
        opening = _pick(rng, SPOKEN_OPENINGS).format(a=told.start, **told.words)
        spoken = (_pick(rng, SPOKEN[o]).format(**n) for o, n in steps)
        said = " ".join((opening, *spoken))
    return f"{said} The answer is {answer(told)}."


def verify(response: str, answer: str, prompt: str = "") -> float:
    """1.0 if the response ends in ``The answer is N.`` with the answer, else 0.0.

    And if all steps before are right: one of 31 numbers is often met by luck, 4 of 10
    right answers of a weak student had wrong steps. What they come to is found in the
    last line of the prompt; where none of ours stands there, steps are not judged. Any
    style and wording will do. Pass texts without special tokens.
    """
    match = _RESPONSE.fullmatch(response.strip())
    if match is None or match.group(1) != str(answer):
        return 0.0
    values = read(prompt)
    if values is None:
        return 1.0
    said = [int(number) for number in _RESULT.findall(response)]
    steps = [*values[1:], values[-1]]
    return float(said in (steps, [values[0], *steps]))


def read(question: str) -> list[int] | None:
    """The first value of a story and those after every event, from its last line.

    None where that is no question of this task.
    """
    *_, line = question.strip().split("\n")
    opening, *events = _SENTENCE.findall(line) or [""]
    found = next(filter(None, (p.fullmatch(opening) for p in _OPENINGS)), None)
    if found is None or not events:
        return None
    values = [int(found["n"])]
    for event in events[:-1]:
        pairs = ((o, p.fullmatch(event)) for o, ps in _EVENTS.items() for p in ps)
        operator, found = next(((o, m) for o, m in pairs if m), ("", None))
        if found is None:
            return None
        values.append(RESULTS[operator](values[-1], int(found["n"])))
    return values


def _pick(rng: np.random.Generator, among):
    return among[int(rng.integers(len(among)))]
