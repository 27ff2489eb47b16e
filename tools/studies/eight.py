"""Gates, filters and supports on scored tokens, each beside the arm its paper lacks."""

from jopd.setup.regimes import REGIMES

TITLE = "Eight systems beside the baselines that their papers lack"
ABOUT = """
The near pair in words (regime `words`, [regimes](../regimes.md)), 200 updates of 64
rollouts. What selects, filters or whitens is compared with plain OPD or with a control:
as many rows dropped by a coin for FiRe-OPD's filter, as many tokens kept by a coin for
TA-OPD, rows ended by a coin of 0.02 per token for KAT (not matched in amount), the clip
alone for GNDPO, other ids of like frequency for Rock-Freeze, the whole reverse KL for
them and for many faces. SCOPE and its OPD have the student of the regime `hinted`,
which is right in half of its samples.
"""
SEEDS = (0, 1, 2)
GRID = (5e-4, 2e-3)
WIDEN = 1
COMMON = REGIMES["words"].keys | {
    "steps": 200,
    "rollout.prompts_per_step": 16,
    "rollout.group_size": 4,
    "eval.prompts": 128,
    "data.size": 8000,
    "checkpoint.every_steps": 0,
    "export.enabled": False,
}


def _arm(config: str, baseline: str = "OPD", **overrides) -> dict:
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return {"config": config, "overrides": keys, "baseline": baseline}


_EXACT = {"loss.opd.coef": 0.0, "loss.exact.signal": "reverse_kl"}
_ENDED = {
    "loss.exact.weights.random_end.rate": 0.02,
    "loss.exact.weights.random_end.exempt": 4,
    "loss.exact.normalizer": "weights",
}
_HALF_RIGHT = {"student.path": REGIMES["hinted"].keys["student.path"]}
_DROPPED = {
    "loss.opd.weights.random_rows.drop": 0.2,
    "loss.opd.normalizer": "weights",
}
ARMS = {
    "OPD": {"config": "opd"},
    "reverse KL": {"config": "opd", "overrides": _EXACT},
    "SG-OPD": _arm("sg_opd"),
    "FiRe-OPD": _arm("fire_opd", "rows dropped by a coin"),
    "rows dropped by a coin": {"config": "opd", "overrides": _DROPPED},
    "OPD, half right": {"config": "opd", "overrides": _HALF_RIGHT, "baseline": ""},
    "SCOPE": {
        "config": "scope",
        "overrides": _HALF_RIGHT,
        "baseline": "OPD, half right",
    },
    "GNDPO": _arm("gndpo", "the clip alone"),
    "the clip alone": _arm(
        "gndpo",
        loss__opd__advantage__center=False,
        loss__opd__advantage__scale=False,
    ),
    "TA-OPD": _arm("ta_opd", "half of the tokens by a coin"),
    "half of the tokens by a coin": _arm(
        "ta_opd", loss__opd__weights__keep__score="random"
    ),
    "Rock-Freeze": _arm("rock_freeze", "other ids frozen"),
    "other ids frozen": _arm(
        "rock_freeze", "reverse KL", loss__opd__weights__frozen__control=True
    ),
    "many faces, renormalised": _arm("restricted_opd", "reverse KL"),
    "many faces, naive": _arm("restricted_opd", "reverse KL", loss__opd__form="naive"),
    "KAT": _arm("kat", "rows ended by a coin"),
    "rows ended by a coin": {"config": "opd", "overrides": _EXACT | _ENDED},
}
BASELINE = START = "OPD"
METRICS = {
    "accuracy": "greedy, %",
    "avg_at_k": "avg@4, %",
    "pass_at_k": "pass@4, %",
    "reverse_kl": "reverse KL",
    "max optim/grad_norm": "largest gradient norm",
    "mean_length": "length",
}
JUDGED = ("avg_at_k", "-reverse_kl")


def _beats(arm: str, against: str) -> dict:
    return dict(arm=arm, against=against, metric="avg_at_k", direction="higher")


CLAIMS = {
    f"{arm} beats {ARMS[arm]['baseline']}": _beats(arm, ARMS[arm]["baseline"])
    for arm in ARMS
    if ARMS[arm].get("baseline")
}
CURVES = {"kl/reverse": "reverse KL on rollouts", "optim/grad_norm": "gradient norm"}
