"""Every shipped config as it is, in its own regime, beside a baseline there."""

from jopd.setup.regimes import REGIMES

TITLE = "Every shipped config in its regime"
ABOUT = """
Each config but `stories` as it ships, three seeds, in the regime that it starts from
([regimes](../regimes.md)), and next to it a baseline in the same regime: plain OPD
where there is a teacher (in digits as it ships; in words with 64 rollouts and a rate of
5e-4, in `text` 200 updates of them), GRPO for self-teachers. Rates are those of the
configs: where they differ from the baseline's, a difference may be the rate's. OPD's
own line is compared with SFT on gold solutions, which have no errors in these tasks.
"""
SEEDS = (0, 1, 2)
COMMON = {"checkpoint.every_steps": 0, "export.enabled": False}


def _in(regime: str, config: str, **more) -> dict:
    return {"config": config, "overrides": REGIMES[regime].keys | more}


_DIGITS = (
    *("stableopd", "gkd", "distillm", "minillm", "reopold", "reopold_two_stage"),
    *("opd_plus", "power_opd", "direct", "sg_opd", "gndpo", "exopd", "opd2"),
)
_WORDS = ("eopd", "restricted_opd", "ta_opd", "rock_freeze", "kat", "scope", "fire_opd")
_HINTED = ("opsd", "sdft", "sdpo", "cgtr")
_HALF = {"rollout.prompts_per_step": 16}
_SLOW = {"optimizer.learning_rate": 5e-4}
_SHORT = _HALF | _SLOW | {"steps": 200}
ARMS = {
    "sft": {"config": "sft"},
    "opd": {"config": "opd", "baseline": "sft"},
    **{name: {"config": name, "baseline": "opd"} for name in _DIGITS},
    "opd, words": _in("words", "opd", **_HALF, **_SLOW),
    **{name: {"config": name, "baseline": "opd, words"} for name in _WORDS},
    "opd, far": _in("far", "opd", **_HALF, **_SLOW),
    "tropd": {"config": "tropd", "baseline": "opd, far"},
    "opd, text": _in("text", "opd", **_SHORT),
    "omniopd": {"config": "omniopd", "baseline": "opd, text"},
    "grpo": {"config": "grpo"},
    "rlsd": {"config": "rlsd", "baseline": "grpo"},
    "grpo, all levels": _in("hinted", "grpo", **{"data.levels": ()}),
    **{name: {"config": name, "baseline": "grpo, all levels"} for name in _HINTED},
    "tgopd": {"config": "tgopd", "baseline": "opd"},
}
JUDGED = ("avg_at_k", "accuracy")
METRICS = {
    "before.accuracy": "greedy before, %",
    "accuracy": "greedy, %",
    "before.avg_at_k": "avg@4 before, %",
    "avg_at_k": "avg@4, %",
    "pass_at_k": "pass@4, %",
    "reverse_kl": "reverse KL",
    "mean_length": "length",
    "wall_seconds": "seconds",
}
