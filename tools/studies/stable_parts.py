"""StableOPD part by part where rollouts inflate: KL, gold, both, and their controls.

Make the models first: ``python tools/make_loop_models.py --out=runs/loop_models``.
"""

from jopd.setup.regimes import REGIMES

TITLE = "StableOPD part by part, and what its gold does alone"
ABOUT = """
The pair that goes on with a loop once it is in one (regime `loops`,
[regimes](../regimes.md)). 64 rollouts per update of at most 128 tokens, 16 gold rows
where an arm has gold, 200 updates. The rates of OPD, StableOPD and SFT are tuned on a
seed of their own; a part of one has the rate of the whole. The arms ask what each part
does, what the gold rows do by themselves, and whether leaving truncated rows out is
enough. OPD's own rate is far lower than StableOPD's; parts of that are compared with
OPD at the rate that they have.
"""
SEEDS = (0, 1, 2, 3, 4)
GRID = (5e-4, 2e-3)
WIDEN = 3
COMMON = REGIMES["loops"].keys | {
    "steps": 200,
    "rollout.max_new_tokens": 128,
    "rollout.prompts_per_step": 16,
    "optimizer.schedule": "constant",
    "eval.prompts": 128,
    "data.size": 5000,
    "checkpoint.every_steps": 0,
    "export.enabled": False,
}
NO_KL = {"loss.reference.coef": 0.0}
NO_GOLD = {"loss.gold.coef": 0.0, "mix.student": 1.0, "mix.gold": 0.0}


def _stable(**overrides) -> dict:
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return {"config": "stableopd", "overrides": keys, "rate_of": "StableOPD"}


OPD_FAST = "OPD at StableOPD's rate"
OPD_KEPT = "OPD at StableOPD's rate, truncated rows left out"
NO_OPD = {"loss.opd.coef": 0.0, "loss.reference.coef": 0.0}
ARMS = {
    "OPD": {"config": "opd"},
    OPD_FAST: {"config": "opd", "rate_of": "StableOPD"},
    "StableOPD": {"config": "stableopd"},
    "gold only": _stable(**NO_KL),
    **{
        f"KL {beta} only": _stable(**NO_GOLD, loss__reference__coef=beta)
        for beta in (0.01, 0.1, 0.5)
    },
    "SFT on the same gold": {"config": "stableopd", "overrides": NO_OPD},
    "two ports' reading": _stable(
        loss__gold__coef=0.1,
        objective__normalizer="sequences",
        loss__opd__clip_low=1.0,
        loss__opd__clip_high=float("inf"),
    ),
    "OPD, truncated rows left out": {
        "config": "opd",
        "overrides": {"loss.opd.weights.kept.function": "finished"},
        "rate_of": "OPD",
    },
    OPD_KEPT: {
        "config": "opd",
        "overrides": {
            "loss.opd.weights.kept.function": "finished",
            "loss.opd.normalizer": "weights",
        },
        "rate_of": "StableOPD",
    },
}
BASELINE = "OPD"
START = "OPD"
METRICS = {
    "max length/truncation_rate": "truncated, highest, %",
    "truncation_rate": "truncated after, %",
    "repetition_rate": "repetitive after, %",
    "accuracy": "greedy, %",
    "avg_at_k": "avg@4, %",
    "mean_length": "length",
    "reverse_kl": "reverse KL",
}
JUDGED = ("avg_at_k", "-truncation_rate")


def _lower(arm: str, against: str = OPD_FAST) -> dict:
    key = "max length/truncation_rate"
    return dict(arm=arm, against=against, metric=key, direction="lower")


def _better(arm: str, against: str = "OPD") -> dict:
    return dict(arm=arm, against=against, metric="avg_at_k", direction="higher")


CLAIMS = {
    "paper: StableOPD keeps rollouts from inflating": _lower("StableOPD"),
    "paper: StableOPD is more accurate than OPD": _better("StableOPD"),
    "paper: the KL alone is more accurate than OPD (+1.7)": _better(
        "KL 0.01 only", OPD_FAST
    ),
    "a KL of 0.1 alone keeps rollouts from inflating": _lower("KL 0.1 only"),
    "a KL of 0.5 alone keeps rollouts from inflating": _lower("KL 0.5 only"),
    "paper: the mixture alone is more accurate than OPD (+6.0)": _better(
        "gold only", OPD_FAST
    ),
    "OPD adds to SFT on the same gold": _better("StableOPD", "SFT on the same gold"),
    "leaving truncated rows out is enough": _lower(OPD_KEPT),
}
CURVES = {
    "length/truncation_rate": "truncation rate of rollouts",
    "length/mean": "mean length of rollouts",
}

FOUND = """
- **At one rate (2e-3) StableOPD does not inflate, and OPD does**: 7 % of its rollouts
  are truncated at worst, of OPD's 97. OPD at its own tuned rate, a sixteenth of that,
  does not inflate either, and StableOPD is level with it in samples (+1.0 ± 2.1).
- **Gold is what does it**: gold without the KL stays as short; a KL of 0.01 or 0.1
  without gold inflates like OPD; one of 0.5 mostly holds the length, and costs answers.
- **SFT on the same gold rows is better** than StableOPD here (by 9.9 ± 3.3): the
  distillation beside it takes from it.
- **Leaving truncated rows out is not enough**: at 2e-3 all rollouts are truncated in
  the end with it as without it.
- The two ports' weight of gold (0.1) inflates at this rate (93 % at worst).
"""
