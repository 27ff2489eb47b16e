"""What OmniOPD's parts do: anchor, place of the chunks, samples and prior."""

TITLE = "OmniOPD: anchor, place of the chunks, samples and prior"
ABOUT = """
The bundled pair; the teacher only writes text. 40 updates of 32 rollouts; everything
but what an arm names is `configs/omniopd.py`: 3 chunks of 6 tokens, 8 continuations
each, peaks of entropy, alpha 1, anchor 0.1. The three places of the chunks cost the
same teacher tokens. No rate was tuned: one for all arms.
"""
SEEDS = (0, 1, 2)
COMMON = {
    "steps": 40,
    "optimizer.learning_rate": 3e-4,
    "optimizer.warmup_steps": 10,
    "checkpoint.every_steps": 0,
    "export.enabled": False,
}


def _arm(**overrides):
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return {"config": "omniopd", "overrides": keys}


ARMS = {
    "as configured": _arm(),
    "no anchor": _arm(loss__anchor__coef=0.0),
    "chunks at random": _arm(audit__anchors="random"),
    "chunks at the lowest entropy": _arm(audit__anchors="lowest"),
    "2 samples": _arm(audit__samples=2),
    "alpha 0": _arm(loss__chunks__weights__rate__alpha=0.0),
    "alpha 4": _arm(loss__chunks__weights__rate__alpha=4.0),
    "16 samples": _arm(audit__samples=16),
}
METRICS = {
    "accuracy": "accuracy, %",
    "avg_at_k": "avg@4, %",
    "pass_at_k": "pass@4, %",
    "reverse_kl": "reverse KL",
    "mean_length": "length",
    "last entropy/student": "entropy",
    "teacher_tokens": "teacher tokens",
    "wall_seconds": "seconds",
}
CURVES = {"reward/mean": "reward of rollouts", "kl/reverse": "reverse KL on rollouts"}
