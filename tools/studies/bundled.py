"""The main table: methods on the bundled pair, with the same budget."""

TITLE = "Methods side by side on the bundled pair"
ABOUT = """
The bundled teacher and student, 200 updates of 64 rollouts (or as many gold rows; arms
with a gold share have those rows besides), the same prompts in the same order for one
seed. Accuracy is greedy on 128 held-out problems, the rest over 4 samples per problem
at temperature 1. Teacher tokens are those that the models of the loss read, a reference
or a self-teacher counts too, or wrote as text. Two runs at a time, one core each; the
seconds include what else the machine did.
"""
SEEDS = (0, 1, 2)
LEADERS = (0, 1, 2, 3, 4)
# Each config's own rate for this pair is among them.
GRID = (1e-4, 5e-4, 2e-3)
TUNE_SEED = 1000
BEST = "avg_at_k"
START = "OPD"
COMMON = {
    "steps": 200,
    "eval.prompts": 128,
    "rollout.prompts_per_step": 16,
    "rollout.group_size": 4,
    "optimizer.warmup_steps": 50,
    "optimizer.schedule": "cosine",
    "checkpoint.every_steps": 0,
    "export.enabled": False,
}


def _arm(config, **more):
    overrides = {key.replace("__", "."): value for key, value in more.items()}
    return {"config": config, "overrides": overrides}


def _leader(config, **more):
    return _arm(config, **more) | {"seeds": LEADERS}


_NO_PREFIX = dict(rollout__prefix__source="", loss__guide__coef=0.0)
_MASK = dict(loss__outlier__coef=0.0)

ARMS = {
    "SFT": _leader("sft"),
    "OPD": _leader("opd"),
    "GKD": _leader("gkd"),
    "StableOPD": _leader("stableopd"),
    "EOPD": _arm("eopd"),
    "REOPOLD": _arm("reopold"),
    "TrOPD": _leader("tropd"),
    "TrOPD, no prefix": _arm("tropd", **_NO_PREFIX),
    "TrOPD, mask and prefix": _arm("tropd", **_MASK),
    "TrOPD, mask only": _arm("tropd", **_NO_PREFIX, **_MASK),
    "GRPO": _arm("grpo"),
    "RLSD": _arm("rlsd"),
    "OPSD": _arm("opsd"),
}
METRICS = {
    "accuracy": "accuracy, %",
    "avg_at_k": "avg@4, %",
    "pass_at_k": "pass@4, %",
    "truncation_rate": "truncated, %",
    "repetition_rate": "repetitive, %",
    "mean_length": "length",
    "reverse_kl": "reverse KL",
    "tokens_sampled": "tokens sampled",
    "teacher_tokens": "teacher tokens",
    "wall_seconds": "seconds",
}
CURVES = {
    "kl/reverse": "reverse KL on rollouts, nats per token",
    "reward/mean": "reward of rollouts",
    "length/truncation_rate": "truncation rate of rollouts",
}
