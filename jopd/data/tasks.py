"""The first bundled task: arithmetic chains with worked steps and an exact verifier.

    prompt    7+6-8*4=
    response  7+6=13;13-8=5;5*4=20;#20<eos>

A chain is evaluated strictly from left to right, ``*`` included, and every value
stays within 0..20. One character is one token. The level n is the number of
operations, so it sets the length: a prompt takes 2n + 2 or 2n + 3 tokens, a response
6n + 3 to 8n + 4, ``<eos>`` included.
"""

import hashlib
import re
from collections.abc import Callable, Sequence

import numpy as np

LEVELS = (2, 3, 4, 5, 6, 7)
SPLITS = ("train", "validation", "test")
PAD, EOS = "<pad>", "<eos>"
VOCABULARY = (PAD, EOS, *"0123456789+-*=;#")

LARGEST_VALUE = 20
LARGEST_ADDEND = 9
LARGEST_FACTOR = 4
# Draws without a new problem after which a split counts as used up. The rarest split
# takes a tenth of the draws, so this leaves at most about 1 in 20 problems unfound.
PATIENCE = 2_000

_RESPONSE = re.compile(r"(?:[0-9]+[-+*][0-9]+=[0-9]+;)*#([0-9]+)")


def problem(rng: np.random.Generator, level: int) -> dict:
    """Draws one chain of `level` operations.

    Returns:
      ``prompt``, ``solution`` (worked steps and ``#answer``, no end of sequence),
      ``answer`` (digits), ``level`` and ``hint`` (the first step, which a context may
      show: a function of the question).

    Raises:
      ValueError: `level` is not one of `LEVELS`.
    """
    if level not in LEVELS:
        raise ValueError(f"level={level!r} is unknown; use one of {LEVELS}")
    value = int(rng.integers(1, LARGEST_VALUE + 1))
    prompt, steps = str(value), []
    for _ in range(level):
        operator, operand, result = operation(rng, value)
        prompt += f"{operator}{operand}"
        steps.append(f"{value}{operator}{operand}={result};")
        value = result
    solution = "".join(steps) + f"#{value}"
    return {
        "prompt": prompt + "=",
        "solution": solution,
        "answer": str(value),
        "level": level,
        "hint": steps[0],
    }


def operation(
    rng: np.random.Generator,
    value: int,
    largest: int = LARGEST_VALUE,
    factor: int = LARGEST_FACTOR,
) -> tuple[str, int, int]:
    """One operation, uniform over the operators that keep the value in 0..`largest`.

    Returns:
      Operator, operand (a factor is at most `factor`) and result.
    """
    ranges = {
        "+": (1, min(LARGEST_ADDEND, largest - value)),
        "-": (1, min(LARGEST_ADDEND, value)),
        "*": (2, min(factor, largest // max(value, 1))),
    }
    if value == 0:
        del ranges["*"]
    possible = [(o, low, high) for o, (low, high) in ranges.items() if low <= high]
    operator, low, high = possible[int(rng.integers(len(possible)))]
    operand = int(rng.integers(low, high + 1))
    result = {"+": value + operand, "-": value - operand, "*": value * operand}
    return operator, operand, result[operator]


def split_of(prompt: str) -> str:
    """The split a prompt belongs to: 80 % train, 10 % validation, 10 % test.

    A function of the text alone (BLAKE2b), so the splits are disjoint whatever seeds
    and counts they are drawn with.
    """
    digest = hashlib.blake2b(prompt.encode(), digest_size=8).digest()
    bucket = int.from_bytes(digest, "big") % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def make(
    split: str,
    count: int,
    seed: int = 0,
    levels: Sequence[int] = LEVELS,
    problem: Callable[[np.random.Generator, int], dict] = problem,
) -> list[dict]:
    """Draws `count` different problems of one split.

    Levels are drawn uniformly; once the few problems of a low level (about 4,500 of
    level 2 over all splits) are used up, the others fill the rest. ``problem`` may be
    that of another task: the split is of its ``chain``, or else of its prompt.

    Returns:
      Rows with ``question``, ``solution``, ``answer``, ``level`` and ``hint``.

    Raises:
      ValueError: unknown split, bad count or levels, or fewer than `count` different
        problems exist.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; use one of {SPLITS}")
    if count < 1 or not levels:
        raise ValueError(f"count={count} and levels={levels}: both must be positive")
    rng = np.random.default_rng(seed)
    rows: dict[str, dict] = {}
    misses = 0
    while len(rows) < count:
        row = problem(rng, int(levels[int(rng.integers(len(levels)))]))
        question = row.pop("prompt")
        if question in rows or split_of(row.pop("chain", question)) != split:
            misses += 1
            if misses == PATIENCE:
                raise ValueError(
                    f"count={count} different problems of split={split!r} with "
                    f"levels={tuple(levels)} asked for, only about {len(rows)} exist; "
                    f"lower the count or add higher levels"
                )
            continue
        misses = 0
        rows[question] = {"question": question, **row}
    return list(rows.values())


def verify(response: str, answer: str) -> float:
    """1.0 if the response is well formed and ends in ``#answer``, else 0.0.

    Well formed: any number of ``a+b=c;`` steps, then ``#`` and digits, then nothing.
    The steps are not checked; pass the text without special tokens.
    """
    match = _RESPONSE.fullmatch(response)
    return float(match is not None and match.group(1) == str(answer))
