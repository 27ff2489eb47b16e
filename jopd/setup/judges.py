"""From ``eval.verifier`` and ``rewards`` to who judges, in evaluation and training."""

from collections.abc import Sequence

from jopd.data import judging, rewards
from jopd.data.dataset import Dataset
from jopd.data.judging import Judge, Part
from jopd.losses.binding import bind, name_of
from jopd.setup import ranges


def pick(config, *datasets: Dataset) -> tuple[Judge | None, Judge | None]:
    """Who judges evaluations, and who gives the rewards of training; None: nobody.

    Raises:
      ValueError: a row lacks an answer that one of them asks for.
    """
    name, processes = config.eval.verifier, config.eval.verifier_processes
    answers = [answer for dataset in datasets for answer in dataset.answers]
    lacking = sum(answer is None for answer in answers)
    if name == "auto":
        task, _, name = config.data.path.partition("task:")
        name = "math" if task or not name else name.split(":")[0]
        name = "none" if lacking == len(answers) else name
    verifier = None if name == "none" else Judge((_verifier(name),), processes)
    given = Judge(tuple(parts(config, name)), processes) if config.rewards else verifier
    for judge in filter(None, (verifier, given)):
        for part in judge.parts:
            if lacking and judging.wanted(part).answers:
                _say_lacking(config, part.key, lacking, len(answers))
    return verifier, given


def parts(config, verifier) -> list[Part]:
    """The verifiers of ``config.rewards``; ``correct`` is the one of evaluation.

    Raises:
      ValueError: nothing of that name, a wrong argument or weight; names the key.
    """
    found = []
    for name, spec in config.rewards.to_dict().items():
        key = f"rewards.{name}"
        spec = dict(spec) if isinstance(spec, dict) else {"weight": spec}
        weight = spec.pop("weight", 1.0)
        ranges.check(key, weight, ranges.FACTOR)
        function = spec.pop("function", name)
        if function == "correct":
            if verifier == "none":
                raise ValueError(
                    f"{key} is the verdict of eval.verifier, and there is none; name "
                    "one, and the answers in data.answer_column"
                )
            function = _verifier(verifier).function
        function = bind(rewards.resolve(function, key), spec, key)
        part = Part(name, function, float(weight), key)
        _check_own(part, spec)
        found.append(part)
    return found


def doubts(judges: Sequence[Judge | None], *datasets: Dataset) -> list[str]:
    """A line for each verifier of a whole batch that is handed several right answers.

    Row by row each is tried in its turn; a batch has them as they are.
    """
    answers = [answer for dataset in datasets for answer in dataset.answers]
    several = sum(isinstance(answer, tuple) for answer in answers)
    asked = {part.key: part for judge in judges if judge for part in judge.parts}
    whole = [part for part in asked.values() if judging.wanted(part).whole]
    return [
        f"{part.key}: {name_of(part.function)} judges whole batches, and {several:,} "
        f"of {len(answers):,} rows have several right answers, given as a tuple; "
        "compare with each of them"
        for part in whole
        if several and judging.wanted(part).answers
    ]


def _check_own(part: Part, given: dict) -> None:
    """Raises ValueError where what a config gives is what the row would overwrite."""
    for name in given.keys() & judging.wanted(part).by_name.keys():
        raise ValueError(
            f"{part.key}: {name}={given[name]!r:.80} is what each row says; leave "
            f"it out, or call that parameter of {name_of(part.function)} otherwise"
        )


def check(config) -> None:
    """Raises ValueError for a verifier that cannot be, before any data is read."""
    known = config.eval.verifier
    asked = [] if known in ("auto", "none") else [_verifier(known)]
    for part in (*asked, *parts(config, "exact" if known == "auto" else known)):
        judging.wanted(part)


def _verifier(name) -> Part:
    return Part("correct", rewards.resolve(name, "eval.verifier"))


def _say_lacking(config, key: str, lacking: int, rows: int) -> None:
    column = config.data.answer_column or "answer"
    name = f"={config.eval.verifier!r}" if key == "eval.verifier" else ""
    raise ValueError(
        f"{key}{name} needs answers, and column {column!r} of {config.data.path} gives "
        f"none in {lacking:,} of {rows:,} rows; name the column in data.answer_column "
        "or set eval.verifier='none'"
    )
