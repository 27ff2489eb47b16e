"""Length inflation and its cure: what StableOPD is for.

Make the models first: ``python tools/make_loop_models.py --out=runs/loop_models``.
"""

from jopd.setup.regimes import REGIMES

TITLE = "Length inflation on the bundled task, and what cures it"
ABOUT = """
The bundled pair, both trained further on documents of which 8 % fall into a loop that
never ends (`python tools/make_loop_models.py --out=runs/loop_models`). The teacher is
healthy by itself, but once it is in a loop it goes on with it. All arms: 64 rollouts
per update of at most 128 tokens, and 16 gold rows where an arm has gold; one learning
rate for all, constant after its warm-up.
"""
SEEDS = (0, 1, 2)
COMMON = REGIMES["loops"].keys | {
    "steps": 200,
    "rollout.max_new_tokens": 128,
    "rollout.prompts_per_step": 16,
    "optimizer.learning_rate": 2e-3,
    "optimizer.schedule": "constant",
    "optimizer.warmup": 50,
    "eval.prompts": 128,
    "checkpoint.every_steps": 0,
    "export.enabled": False,
}
NO_PREFIX = {"rollout.prefix.source": "", "loss.guide.coef": 0.0}
NO_KL = {"loss.reference.coef": 0.0}
NO_GOLD = {"loss.gold.coef": 0.0, "mix.student": 1.0, "mix.gold": 0.0}
ARMS = {
    "OPD": {"config": "opd"},
    "StableOPD": {"config": "stableopd"},
    "StableOPD, KL only": {"config": "stableopd", "overrides": NO_GOLD},
    "StableOPD, gold only": {"config": "stableopd", "overrides": NO_KL},
    "OPD, mean per sequence": {
        "config": "opd",
        "overrides": {"objective.normalizer": "sequences"},
    },
    "REOPOLD's clip": {
        "config": "reopold",
        "overrides": {"loss.opd.advantage.lam": 0.2},
    },
    "TrOPD, no prefix": {"config": "tropd", "overrides": NO_PREFIX},
    "TrOPD, mask only": {
        "config": "tropd",
        "overrides": {**NO_PREFIX, "loss.outlier.coef": 0.0},
    },
    "GKD": {"config": "gkd"},
}
METRICS = {
    "max length/truncation_rate": "truncated, highest, %",
    "truncation_rate": "truncated after, %",
    "repetition_rate": "repetitive after, %",
    "accuracy": "accuracy, %",
    "avg_at_k": "avg@4, %",
    "mean_length": "length",
    "reverse_kl": "reverse KL",
}
CURVES = {
    "length/truncation_rate": "truncation rate of rollouts",
    "length/mean": "mean length of rollouts",
    "log_ratio/repeated": "log teacher - log student, repeated tokens",
}
FOUND = """
- **Vanilla OPD collapses in 3 of 3 seeds.** The truncation rate of its rollouts passes
  0.5 at update 65, 101 and 77 and reaches 0.95, 0.97 and 1.00. The reverse KL on
  rollouts *falls* meanwhile, because looping tokens are cheap: where more than 30 % is
  truncated, log teacher - log student is -0.16 on repeated tokens and -1.06 on others.
  It then swings between collapse and recovery.
- **StableOPD stays at or below 0.08 throughout, in 3 of 3 seeds**, more accurate.
- **So do methods that bound single tokens, less surely**: REOPOLD's clip stays at or
  below 0.09 in two seeds and passes 0.5 once (0.64 at update 87, then recovers);
  TrOPD without prefix peaks at 0.17 to 0.20, its mask alone at 0.20 to 0.56.
- **GKD, exact divergences on half gold rows, is the best arm**: truncation at most 0.08
  and 60.7 % accuracy, the only one that improves on the student it started from.
- **The gold solutions do it, not the reference KL.** Gold alone, an arm that the paper
  does not report, is as stable and no less accurate. The KL alone, at the 0.01 of
  `configs/stableopd.py`, prevents nothing; larger coefficients were not run.
- **Averaging per sequence makes it worse**: the collapse comes as early and is final,
  truncation 1.00 over the last 50 updates in 3 of 3 seeds.
- No other arm passes that student (34 % greedy on these problems): the learning rate
  that shows the collapse is too high for sampled signals.
"""
