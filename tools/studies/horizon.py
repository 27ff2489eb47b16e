"""Which stop, and which horizon, saves tokens at equal quality."""

from studies import eight, methods

TITLE = "Which stop and which horizon saves tokens"
ABOUT = """
The pair in words, exact reverse KL, 400 updates at one rate: whole rollouts, ones that
are cut at 24 tokens (ESR, twice the rollouts), a limit that grows from 8 to 64 over the
first half (progressive OPD, whose schedule is inferred), ones cut where the gradient of
early tokens agrees with that of all (ADWIN), ones that end where teacher and student
agree (KAT), the same as a mask after the fact, and rows whose loss a coin ends, 0.02 a
token. Tokens are those of all updates; where a teacher reads along it reads twice. What
is not cut is a run of [methods](methods.md) or [eight](eight.md).
"""
SEEDS = (0, 1, 2)
COMMON = methods.COMMON
WHOLE = "whole rollouts"
_GROWS = {
    f"rollout.horizon.{key}": value
    for key, value in dict(schedule="linear", value=8, end=64, steps=200).items()
}
_PLAIN = methods.ARMS["reverse KL, words"]
ARMS = {
    WHOLE: methods.shared("reverse KL, words", ""),
    "24 tokens (ESR)": methods.shared("esr", WHOLE),
    "8 to 64 tokens": {
        "config": "opd",
        "overrides": _PLAIN["overrides"] | _GROWS,
        "baseline": WHOLE,
    },
    "by agreement of gradients (ADWIN)": methods.shared("adwin", WHOLE),
    "ends where they agree (KAT)": methods.shared("kat_stop", WHOLE),
    "masked where they agree (KAT)": methods.shared("kat", WHOLE),
    "masked by a coin": eight.ARMS["rows ended by a coin"]
    | {"kept": "eight/rows ended by a coin", "baseline": WHOLE},
}
BASELINE = WHOLE
METRICS = {
    "before.avg_at_k": "avg@4 before, %",
    "avg_at_k": "avg@4, %",
    "accuracy": "greedy, %",
    "reverse_kl": "reverse KL",
    "mean_length": "length",
    "tokens_sampled": "tokens sampled",
    "teacher_tokens": "teacher tokens",
}
JUDGED = ("avg_at_k", "-reverse_kl")


def _differs(arm: str, metric: str, direction: str) -> dict:
    return dict(arm=arm, against=WHOLE, metric=metric, direction=direction)


CLAIMS = {
    f"{arm}: fewer tokens": _differs(arm, "tokens_sampled", "lower")
    for arm in list(ARMS)[1:5]
} | {
    f"{arm}: more accurate": _differs(arm, "avg_at_k", "higher")
    for arm in list(ARMS)[1:]
}
FOUND = ""
