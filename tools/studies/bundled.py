"""The main table: methods on the bundled pair, with the same budget."""

TITLE = "Methods side by side on the bundled pair"
ABOUT = """
The bundled teacher and student, 80 updates of 64 rollouts (or as many gold rows; arms
with a gold share have those rows besides), the same prompts in the same order for one
seed. Accuracy is greedy on 128 held-out problems, the rest over 4 samples per problem
at temperature 1. Teacher tokens are those that the models of the loss read, a reference
or a self-teacher counts too, or wrote as text. Two runs at a time, one core each; the
seconds include what else the machine did.
"""
SEEDS = (0, 1, 2)
GRID = (2e-4, 2e-3)
TUNE_SEED = 1000
BEST = "avg_at_k"
COMMON = {
    "steps": 80,
    "eval.prompts": 128,
    "rollout.prompts_per_step": 16,
    "rollout.group_size": 4,
    "optimizer.warmup_steps": 20,
    "optimizer.schedule": "cosine",
    "checkpoint.every_steps": 0,
    "export.enabled": False,
}


def _tropd(**overrides):
    return {"config": "tropd", "overrides": overrides}


ARMS = {
    "SFT": {"config": "sft"},
    "OPD": {"config": "opd"},
    "GKD": {"config": "gkd"},
    "REOPOLD": {"config": "reopold"},
    "StableOPD": {"config": "stableopd"},
    "TrOPD": _tropd(),
    "TrOPD, no prefix": _tropd(**{"rollout.prefix.source": "", "loss.guide.coef": 0.0}),
    "TrOPD, mask only": _tropd(
        **{
            "rollout.prefix.source": "",
            "loss.guide.coef": 0.0,
            "loss.outlier.coef": 0.0,
        }
    ),
    "GRPO": {"config": "grpo"},
    "RLSD": {"config": "rlsd"},
    "OPSD": {"config": "opsd"},
    "OmniOPD": {"config": "omniopd"},
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
