"""Differences of two arms, paired by seed and by prompt, and what they decide."""

from typing import NamedTuple

import numpy as np

from studying.numbers import by_prompt, interval, shown, value_of, written
from studying.reading import BEFORE, DIRECTIONS, Study, baseline_of

CONFIRMED, CONTRADICTED = "confirmed", "contradicted"
NOT_SEEN, UNDECIDED = "not seen", "not decided"
# The same for an arm and its student, or its baseline.
IMPROVES = {
    CONFIRMED: "improves its student",
    CONTRADICTED: "makes its student worse",
    NOT_SEEN: "no gain over its student is seen",
    UNDECIDED: "whether it improves its student is not decided",
}
BEATS = {
    CONFIRMED: "beats {}",
    CONTRADICTED: "loses to {}",
    NOT_SEEN: "does not beat {}",
    UNDECIDED: "whether it beats {} is not decided",
}


class Difference(NamedTuple):
    """A mean difference and the half widths of its 95 % intervals; NaN: not known.

    ``over_seeds`` is of ``seeds`` pairs of runs, ``over_prompts`` of ``prompts`` pairs
    of what a prompt earned. The first speaks of other seeds and these prompts, the
    second of other prompts and these seeds.
    """

    mean: float
    over_seeds: float
    seeds: int
    over_prompts: float
    prompts: int


def difference(ones: list[dict], twos: list[dict], key: str, other: str) -> Difference:
    """``key`` of the first runs minus ``other`` of the second, paired by their seed.

    The two keys differ where a run is compared with its own start ("before.accuracy").
    A seed that only one side has is left out.
    """
    theirs = {summary["seed"]: summary for summary in twos}
    pairs = [(one, theirs[one["seed"]]) for one in ones if one["seed"] in theirs]
    if not pairs:
        return Difference(np.nan, np.nan, 0, np.nan, 0)
    deltas = [value_of(one, key) - value_of(two, other) for one, two in pairs]
    mean, half = interval(deltas)
    per_prompt = prompt_deltas(
        [(by_prompt(a, key), by_prompt(b, other)) for a, b in pairs]
    )
    over = np.nan if per_prompt is None else interval(per_prompt)[1]
    count = 0 if per_prompt is None else len(per_prompt)
    return Difference(mean, half, len(pairs), over, count)


def prompt_deltas(pairs) -> np.ndarray | None:
    """f64[prompts]: mean over pairs of what a prompt earned more.

    Where seeds have prompts of their own these are lined up; None where a pair has none
    or two different sets.
    """
    if any(one is None or two is None or one[0] != two[0] for one, two in pairs):
        return None
    deltas = [one[1] - two[1] for one, two in pairs]
    same = len({one[0] for one, _ in pairs}) == 1
    return np.mean(deltas, axis=0) if same else np.concatenate(deltas)


def verdict(found: Difference, direction: str) -> str:
    """What a difference says of a claim: every interval that is known must exclude 0.

    One that holds 0 leaves it "not seen"; without any it is "not decided".
    """
    mean = found.mean * DIRECTIONS[direction]
    halves = [h for h in (found.over_seeds, found.over_prompts) if not np.isnan(h)]
    if np.isnan(mean) or not halves:
        return UNDECIDED
    if mean - max(halves) > 0:
        return CONFIRMED
    return CONTRADICTED if mean + max(halves) < 0 else NOT_SEEN


def of_claim(claim: dict, results: dict[str, list[dict]]) -> tuple[Difference, str]:
    """The difference that a claim speaks of, and its verdict."""
    arm, against, key = claim["arm"], claim["against"], claim["metric"]
    itself = against == BEFORE
    twos = results.get(arm if itself else against, [])
    found = difference(
        results.get(arm, []), twos, key, f"before.{key}" if itself else key
    )
    return found, verdict(found, claim["direction"])


def said(found: Difference, key: str) -> str:
    """``+8.5 (± 2.1 over 5 seeds, ± 3.0 over 128 prompts)``."""
    mean = written(found.mean, np.nan, key, signed=True)
    widths = (
        (found.over_seeds, f"{found.seeds} seeds"),
        (found.over_prompts, f"{found.prompts} prompts"),
    )
    parts = [
        f"± {written(found.mean, half, key).partition('± ')[2]} over {what}"
        for half, what in widths
        if not np.isnan(half)
    ]
    return f"{mean} ({', '.join(parts) or 'no interval'})"


def claims_table(study: Study, results: dict[str, list[dict]]) -> str:
    lines = ["| claim | difference | verdict |", "|---|---|---|"]
    for text, claim in study.claims.items():
        found, word = of_claim(claim, results)
        what = f"{claim['metric']}, {claim['arm']} - {claim['against']}"
        shown = said(found, claim["metric"])
        lines.append(f"| {text} | {what}: {shown} | **{word}** |")
    return "\n".join(lines)


def arm_line(study: Study, arm: str, results: dict[str, list[dict]], key: str) -> str:
    """Whether an arm improves its student, and beats its baseline, in one number."""
    direction = "lower" if key.startswith("-") else "higher"
    key = key.removeprefix("-")
    judged = dict(arm=arm, metric=key, direction=direction)
    found, word = of_claim(judged | {"against": BEFORE}, results)
    before, after = (
        shown([value_of(run, at + key) for run in results[arm]], key)
        for at in ("before.", "")
    )
    line = (
        f"- **{arm}**, {key} {before} -> {after}: {said(found, key)}, {IMPROVES[word]}"
    )
    if baseline := baseline_of(study, arm):
        found, word = of_claim(judged | {"against": baseline}, results)
        line += f"; {said(found, key)} to {baseline}, {BEATS[word].format('it')}"
    return line + "."


def arm_lines(study: Study, results: dict[str, list[dict]]) -> str:
    return "\n".join(
        arm_line(study, arm, results, key) for arm in results for key in study.judged
    )
