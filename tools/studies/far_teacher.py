"""A student far from its teacher: what the outliers of its tokens do to the gradient.

Make the student first:
``python tools/make_demo_models.py --only=student --steps=100 --out=runs/far_models``.
"""

TITLE = "A student far from its teacher"
ABOUT = """
The bundled teacher, and a student of the bundled shape after 100 updates of SFT:
`python tools/make_demo_models.py --only=student --steps=100 --out=runs/far_models`.
64 rollouts per update, the same learning rate and warm-up for all. The gradient norm
is taken before the clip at 1, the share kept is the mean trust mask.
"""
SEEDS = (0, 1, 2)
COMMON = {
    "steps": 150,
    "student.path": "runs/far_models/student",
    "rollout.prompts_per_step": 16,
    "optimizer.learning_rate": 5e-4,
    "optimizer.schedule": "constant",
    "checkpoint.every_steps": 0,
    "export.enabled": False,
}
NO_PREFIX = {"rollout.prefix.source": "", "loss.guide.coef": 0.0}
ARMS = {
    "OPD": {"config": "opd"},
    "clip (REOPOLD)": {"config": "reopold"},
    "mask (TrOPD, mask only)": {
        "config": "tropd",
        "overrides": {**NO_PREFIX, "loss.outlier.coef": 0.0},
    },
    "TrOPD, no prefix": {"config": "tropd", "overrides": NO_PREFIX},
    "TrOPD": {"config": "tropd"},
}
METRICS = {
    "mean optim/grad_norm": "gradient norm, mean",
    "max optim/grad_norm": "gradient norm, highest",
    "min log_ratio/min": "lowest log teacher - log student",
    "mean weight/trust": "share kept",
    "before.reverse_kl": "reverse KL before",
    "reverse_kl": "reverse KL after",
    "accuracy": "accuracy, %",
    "avg_at_k": "avg@4, %",
}
CURVES = {
    "optim/grad_norm": "gradient norm",
    "weight/trust": "share of tokens kept",
    "kl/reverse": "reverse KL on rollouts",
}
