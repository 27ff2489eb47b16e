"""What every regime is before training: the table of ``docs/regimes.md``.

    python tools/regimes.py --page=docs/regimes.md

For the student and the teacher of each name in ``setup/regimes.py``: accuracy (greedy),
avg@8, pass@8, KLs, entropies on the student's rollouts where a sentence begins and
inside it. For the student that reads hints, accuracy behind each of them.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import stories
from absl import logging

from jopd.data import tasks, words
from jopd.setup import experiment, inputs
from jopd.setup.config import base_config
from jopd.setup.regimes import REGIMES
from jopd.training import stages

HELD_OUT = 256
HINTS = {
    "nothing": "",
    "the answer": "Answer: {answer}\n",
    "a solution": "Solution: {right}\n",
    "an attempt marked right": "Right: {right}\n",
    "an attempt marked wrong": "Wrong: {wrong}\n",
}


def config_of(regime: str, student: str = "", data: str = ""):
    """The regime with an evaluation of eight samples, of another student if named."""
    c = base_config(regime=regime)
    c.loss.opd = dict(signal="reverse_kl")
    c.student.path = student or c.student.path
    c.data.path = data or c.data.path
    c.data.size, c.eval.prompts, c.eval.k = 64, HELD_OUT, 8
    if data:
        c.data.eval_path, c.data.size, c.eval.verifier = data, 0, "words"
    return c


def measured(c) -> dict:
    """The evaluation of a config, and how unsure its student is where sentences begin.

    The mean of -log p of what was drawn is an unbiased estimate of the entropy.
    """
    e = experiment.build(c, train=False)
    found, samples = stages.make_evaluate(e, save_all=True)(e.params, e.frozen)
    starts, inside = [], []
    for row in samples:
        for at, logp in enumerate([] if row["greedy"] else row["student_logp"]):
            first = at == 0 or row["tokens"][at - 1].endswith((".", ";"))
            (starts if first else inside).append(-logp)
    return found | {"forks": np.mean(starts), "elsewhere": np.mean(inside)}


def hinted(rng: np.random.Generator, told: words.Story, hint: str) -> str:
    """A question behind a hint of ``HINTS``."""
    shown = hint.format(
        answer=words.answer(told),
        right=words.solution(rng, told),
        wrong=words.solution(rng, stories.mistaken(rng, told)),
    )
    return shown + words.question(rng, told)


def hint_rows(file: Path, hint: str) -> str:
    """Held-out problems behind a hint, as a file; its path."""
    rng, rows = np.random.default_rng(1), []
    while len(rows) < HELD_OUT:
        told = words.story(rng, int(rng.choice(words.LEVELS)))
        if tasks.split_of(words.chain(told)) != "validation":
            continue
        question = hinted(rng, told, hint)
        rows.append({"question": question, "answer": words.answer(told)})
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def line(name: str, found: dict) -> str:
    rates = [
        f"{100 * found[key]:.1f} %" for key in ("accuracy", "avg_at_k", "pass_at_k")
    ]
    nats = [found[key] for key in ("reverse_kl", "forward_kl", "forks", "elsewhere")]
    cells = ["–" if value is None else f"{value:.3f}" for value in nats]
    return f"| {' | '.join([name, *rates, *cells, str(round(found['mean_length']))])} |"


COLUMNS = ("model", "greedy", "avg@8", "pass@8", "reverse KL", "forward KL")
COLUMNS += ("nats at forks", "elsewhere", "tokens")


def regime_lines() -> list[str]:
    lines, seen = [], set()
    for name in REGIMES:
        c = config_of(name)
        for who in (c.student.path, c.teacher.path):
            known = Path(inputs.model_path(who)).exists()
            if known and (who, c.teacher.path) not in seen:
                seen.add((who, c.teacher.path))
                found = measured(config_of(name, who))
                lines.append(line(f"`{name}`: {who}", found))
                print(lines[-1], flush=True)
    return lines


def hint_lines() -> list[str]:
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, hint) in enumerate(HINTS.items()):
            data = hint_rows(Path(scratch, f"{number}.jsonl"), hint)
            found = measured(config_of("hinted", data=data))
            lines.append(line(f"demo:words_hinted behind {name}", found))
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, help="markdown whose table is replaced")
    parser.add_argument("--only", choices=("regimes", "hints"))
    args = parser.parse_args()
    logging.set_verbosity(logging.WARNING)
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += regime_lines() if args.only != "hints" else []
    lines += hint_lines() if args.only != "regimes" else []
    if args.page:
        before, _, after = args.page.read_text().partition("<!-- table -->\n")
        after = after.partition("<!-- end -->\n")[2]
        table = "\n".join(lines)
        args.page.write_text(f"{before}<!-- table -->\n{table}\n<!-- end -->\n{after}")


if __name__ == "__main__":
    main()
