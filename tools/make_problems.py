"""Word problems of one step, with a solution and an answer each, as JSONL.

    python tools/make_problems.py runs/problems.jsonl --rows=2000

For small instruction-tuned models, which get a part of them right.
"""

import argparse
import json
import random
from pathlib import Path

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jon")
THINGS = ("apples", "books", "cards", "coins", "cups", "eggs", "keys", "pens", "shells")
# What happens, and how the number after it is made of the two in it.
STORIES = (
    ("{name} has {a} {things} and gets {b} more.", "+"),
    ("{name} finds {a} {things} in the morning and {b} in the evening.", "+"),
    ("There are {a} {things} on the table, and {name} puts {b} more there.", "+"),
    ("{name} has {a} {things} and gives away {b}.", "-"),
    ("{name} had {a} {things} and lost {b} of them.", "-"),
    ("Of {a} {things} on the table {name} takes {b} away.", "-"),
)
QUESTION = "How many {things} are there now?"
OWN = "How many {things} does {name} have now?"


def problem(rng: random.Random) -> dict[str, str]:
    """One of them; numbers are within 0..18."""
    story, sign = rng.choice(STORIES)
    small, large = rng.randint(2, 9), rng.randint(2, 9)
    a, b = (small, large) if sign == "+" else (small + large, large)
    answer = a + b if sign == "+" else a - b
    words = dict(name=rng.choice(NAMES), things=rng.choice(THINGS), a=a, b=b)
    asked = QUESTION if "table" in story else OWN
    return {
        "question": f"{story} {asked}".format(**words),
        "solution": f"{a} {sign} {b} = {answer}. The answer is {answer}.",
        "answer": str(answer),
    }


def problems(rows: int, seed: int) -> list[dict[str, str]]:
    """Different ones.

    Raises:
      ValueError: more than there are.
    """
    rng, found = random.Random(seed), {}
    most = len(NAMES) * len(THINGS) * len(STORIES) * 64
    if not 0 < rows <= most // 2:
        raise ValueError(f"--rows={rows}; use 1 to {most // 2}")
    while len(found) < rows:
        one = problem(rng)
        found[one["question"]] = one
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="file to write")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lines = [json.dumps(row) + "\n" for row in problems(args.rows, args.seed)]
    args.target.parent.mkdir(parents=True, exist_ok=True)
    args.target.write_text("".join(lines))


if __name__ == "__main__":
    main()
