"""A student far from its teacher: what the outliers of its tokens do to the gradient.

Make the student first:
``python tools/make_demo_models.py --only=student --steps=100 --out=runs/far_models``.
"""

from jopd.setup.regimes import REGIMES

TITLE = "A student far from its teacher"
ABOUT = """
The bundled teacher, and a student of the bundled shape after 100 updates of SFT:
`python tools/make_demo_models.py --only=student --steps=100 --out=runs/far_models`.
64 rollouts per update, the same learning rate and warm-up for all. The gradient norm
is taken before the clip at 1, the share kept is the mean trust mask.
"""
SEEDS = (0, 1, 2)
COMMON = REGIMES["digits"].keys | {
    "steps": 150,
    "student.path": "runs/far_models/student",
    "rollout.prompts_per_step": 16,
    "optimizer.learning_rate": 5e-4,
    "optimizer.schedule": "constant",
    "optimizer.warmup": 50,
    "checkpoint.every_steps": 0,
    "export.enabled": False,
}
NO_PREFIX = {"rollout.prefix.source": "", "loss.guide.coef": 0.0}
ARMS = {
    "OPD": {"config": "opd"},
    "clip (REOPOLD)": {
        "config": "reopold",
        "overrides": {"loss.opd.advantage.lam": 0.2},
    },
    "mask (TrOPD, mask only)": {
        "config": "tropd",
        "overrides": {**NO_PREFIX, "loss.outlier.coef": 0.0},
    },
    "TrOPD, no prefix": {"config": "tropd", "overrides": NO_PREFIX},
    "TrOPD": {
        "config": "tropd",
        "overrides": {"rollout.prefix.steps": 0, "objective.normalizer": "tokens"},
    },
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
FOUND = """
- **Outliers make the gradient of vanilla OPD**: its norm is 7.3 on average, 17 at most,
  against 1.3 under REOPOLD's clip, 0.47 under the mask and 1.2 with TrOPD's forward KL
  on what the mask rejects. A token can have a log-ratio of -20 in every arm.
- The mask keeps 45 % of the tokens at the start and 50 % at the end.
- **Fewer outliers did not mean faster learning here.** All arms clip the norm at 1 and
  share one learning rate; OPD and the clip lower the reverse KL from 4.87 to 4.0 and
  3.8, the mask and TrOPD without prefix to 4.4 and 4.3, TrOPD with its prefix to 4.7.
  Nobody learns the task in 150 updates (at most 3 % avg@4). The paper's order is not
  reproduced: its students start nearer and train longer.
- With a prefix, the reverse KL on rollouts first falls (the teacher wrote their
  beginning) and jumps while the prefix shrinks.
"""
CURVES = {
    "optim/grad_norm": "gradient norm",
    "weight/trust": "share of tokens kept",
    "kl/reverse": "reverse KL on rollouts",
}
