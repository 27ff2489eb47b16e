"""The part of a self-teacher's KL that no student can lose, by enumeration.

    python tools/kl_floor.py
    python tools/kl_floor.py --student=runs/opsd/export

A self-teacher reads a solution R that its student does not see. Over the student's own
prefixes the mean of KL(teacher(. | R) || student) is that of KL(teacher(. | R) || M)
plus KL(M || student), M the mean of the teacher over R. The first part does not depend
on the student: RLSD's floor (arXiv:2604.03128, theorem 1), the information that the
next token has about R. It holds for the forward KL alone. Here R is every wording of
the right steps of a story of ``task:words``, all alike likely, as the task draws them:
27 or 81 of each, so the floor is exact for the rollouts that it is over.

Nats a token, with standard errors over rollouts.
"""

import argparse
import itertools

import numpy as np

import jopd
from jopd.data import tasks, words

LEVELS = 2, 3  # 27 and 81 wordings


def parts(teacher_RTV: np.ndarray, student_TV: np.ndarray) -> tuple:
    """(mean KL to a teacher that knows R, the part without the student): f64[T] each.

    Args:
      teacher_RTV: log-probabilities of the teacher for every R, alike likely.
      student_TV: log-probabilities of the student.
    """
    teacher = np.exp(teacher_RTV)
    mean_TV = np.log(teacher.mean(axis=0))
    kl, floor = (
        (teacher * (teacher_RTV - other)).sum(-1).mean(0)
        for other in (student_TV, mean_TV)
    )
    return kl, floor


def stories(count: int, seed: int) -> list[words.Story]:
    """Held-out stories with few enough wordings."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        told = words.story(rng, int(rng.choice(LEVELS)))
        if tasks.split_of(words.chain(told)) == "validation":
            found.append(told)
    return found


def wordings(told: words.Story) -> list[str]:
    """All spoken solutions of a story."""
    sizes = [len(words.SPOKEN_OPENINGS)]
    sizes += [len(words.SPOKEN[operator]) for operator, *_ in told.events]
    every = itertools.product(*map(range, sizes))
    return [words.solution(_Said(choice), told) for choice in every]


class _Said:
    """In a generator's place: what ``words.solution`` is to choose, in order."""

    def __init__(self, choices):
        self.choices = iter(choices)

    def integers(self, _: int) -> int:
        return next(self.choices)


def log_probs(model, prompts: list[str], response: list[int], width: int) -> np.ndarray:
    """f64[rows, T, V] of one response behind every prompt."""
    heads = [model.tokenizer(text)["input_ids"] for text in prompts]
    rows = np.zeros((len(heads), width), int)
    for row, head in zip(rows, heads, strict=True):
        row[: len(head) + len(response)] = head + response
    logits = np.asarray(model.logits(rows), np.float64)
    at = np.array([len(head) - 1 for head in heads])[:, None] + np.arange(len(response))
    logits = logits[np.arange(len(heads))[:, None], at]
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def measured(student, teacher, told: words.Story, context: str, seed: int, width: int):
    """(KL, floor), each summed over one rollout of the student, and its tokens."""
    question = words.question(np.random.default_rng(seed), told)
    head = student.tokenizer(question)["input_ids"]
    response = student.complete([head], max_new_tokens=96, seed=seed)[0][0].ids
    shown = [context.format(solution=r, question=question) for r in wordings(told)]
    known = log_probs(teacher, shown, response, width)
    own = log_probs(student, [question], response, width)[0]
    return *(part.sum() for part in parts(known, own)), len(response)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", default="demo:words_hinted")
    parser.add_argument("--teacher", default="demo:words_hinted", help="reads R")
    parser.add_argument("--context", default="Solution: {solution}\\n{question}")
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--width", type=int, default=192, help="tokens of a row")
    args = parser.parse_args()
    student, teacher = jopd.load(args.student), jopd.load(args.teacher)
    context = args.context.encode().decode("unicode_escape")
    sums = np.array(
        [
            measured(student, teacher, told, context, seed, args.width)
            for seed, told in enumerate(stories(args.rollouts, seed=1))
        ]
    )
    kl, floor, tokens = sums.T
    for name, part in (("KL", kl), ("floor", floor), ("the rest", kl - floor)):
        mean = part.sum() / tokens.sum()
        error = np.std(part - mean * tokens, ddof=1) / tokens.mean() / len(sums) ** 0.5
        print(f"{name:9}{mean:.4f} +- {error:.4f} nats a token")


if __name__ == "__main__":
    main()
