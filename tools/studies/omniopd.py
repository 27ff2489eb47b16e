"""What OmniOPD's parts do: anchor, place of the chunks, samples and prior."""

from jopd.setup.regimes import REGIMES

TITLE = "OmniOPD: anchor, place of the chunks, samples and prior"
ABOUT = """
The pair in digits; the teacher only writes text. 40 updates of 32 rollouts, and the
config as it was then: 3 chunks of 6 tokens, `ned`, no baseline, 8 continuations each,
peaks of entropy, alpha 1, anchor 0.1. The three places of the chunks cost the same
teacher tokens. No rate was tuned: one for all arms.
"""
SEEDS = (0, 1, 2)
COMMON = REGIMES["digits"].keys | {
    "steps": 40,
    "rollout.prompts_per_step": 8,
    # What the config had when this was measured.
    "audit.similarity": "ned",
    "audit.chunk_tokens": 6,
    "loss.chunks.weights.rate.baseline": "none",
    "optimizer.learning_rate": 3e-4,
    "optimizer.warmup": 10,
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
START = "as configured"
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
FOUND = """
**No arm teaches this student** in 40 updates: all end below where they began, as the
config of then did at its own size (48.8 to 43.8 %). What the parts do is seen in how
much is lost.

- **The anchor is what holds it.** Without it 12 % are left of 47 %, with it 22 %, with
  intervals far apart; reverse KL ends at 1.57 and 1.17, with intervals that touch.
- **Where the chunks lie makes no difference**: at the peaks of entropy 22 %, at random
  26 %, at the lowest entropy 25 %, with intervals that overlap, for the same teacher
  tokens. The paper's scheduler is not refuted: three chunks of six tokens are half of
  such a response wherever they lie.
- **More samples bring little**: reverse KL 1.26, 1.17 and 1.16 with 2, 8 and 16 of
  them, for 4.3 times the teacher's tokens from the first to the last.
- **A strong prior costs**: with alpha 4 17 % are left, with 1 22 %, with 0 25 %. The
  prior is the student's own probability, so it pays the student for being sure.

Seconds are of a shared machine; the first arms had other jobs beside them.
"""
