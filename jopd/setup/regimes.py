"""What a method is shown on: a pair and a task that have what it needs, by name.

A shipped config starts from one of them, ``base_config(regime="words")``, and every key
of it can be overridden as any other. What the pairs can do before training is measured
in ``docs/regimes.md``.
"""

from typing import NamedTuple


class Regime(NamedTuple):
    """A pair and a task.

    Attributes:
      about: what is special about them.
      keys: dotted key of the config -> value.
      made_by: command that makes the models, where they are not bundled.
    """

    about: str
    keys: dict[str, object]
    made_by: str = ""


_DIGITS = {"student.path": "demo:student", "teacher.path": "demo:teacher"}
_DIGITS |= {"data.path": "task:arithmetic"}
_WORDS = {"student.path": "demo:words_student", "teacher.path": "demo:words_teacher"}
_WORDS |= {"data.path": "task:words"}

REGIMES = {
    "digits": Regime(
        "a near teacher; 18 tokens, so a top-k is the whole vocabulary; one right "
        "wording, so gold solutions teach most",
        _DIGITS,
    ),
    "words": Regime(
        "a near teacher over 588 tokens; several wordings at the start of a sentence, "
        "none inside it, so entropies and top-k sets differ from token to token",
        _WORDS,
    ),
    "far": Regime(
        "a student early in its training: many of its tokens are unlikely for the "
        "teacher, most of its rollouts hopeless",
        _DIGITS | {"student.path": "demo:early"},
    ),
    "text": Regime(
        "a teacher that writes solutions in another surface style than the student, "
        "and shows text only",
        _WORDS
        | {"student.path": "demo:words_hinted", "teacher.path": "demo:words_brief"},
    ),
    "partial": Regime(
        "a teacher that never saw more than three events: sure there, sure and wrong "
        "beyond, where the student is right as often as not",
        _WORDS
        | {"student.path": "demo:words_hinted", "teacher.path": "demo:words_short"},
    ),
    "hinted": Regime(
        "a student that can use a solution or another attempt in its prompt, and "
        "solves a part of the problems without: a self-teacher, a verifier",
        _WORDS | {"student.path": "demo:words_hinted"},
    ),
    "loops": Regime(
        "a pair that has learnt to go on with a loop once it is in one",
        {
            "student.path": "runs/loop_models/student",
            "teacher.path": "runs/loop_models/teacher",
            "data.path": "task:arithmetic",
        },
        "python tools/make_loop_models.py --out=runs/loop_models",
    ),
}
