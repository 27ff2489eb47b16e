"""RLSD against GRPO, OPSD and SDPO on a student that reads hints."""

from jopd.setup.regimes import REGIMES

TITLE = "A verifier, a self-teacher, or both"
ABOUT = """
The student that reads solutions and attempts (regime `hinted`,
[regimes](../regimes.md)) and solves a part without. 200 updates of 8 prompts x 8
rollouts; every arm's rate is tuned on a seed of its own. RLSD's paper claims a higher
ceiling than GRPO, sooner, and no leak: leaks are counted in [leak.md](leak.md), this
student has no mark to count. No prompt comes twice, so the reward of the rollouts is
accuracy over time on new prompts; its mean over the run says who gains sooner.
"""
SEEDS = (0, 1, 2, 3, 4)
GRID = (1e-4, 4e-4)
WIDEN = 1
COMMON = REGIMES["hinted"].keys | {
    "steps": 200,
    "rollout.prompts_per_step": 8,
    "rollout.group_size": 8,
    "eval.prompts": 128,
    "data.size": 5000,
    "checkpoint.every_steps": 0,
    "export.enabled": False,
}
KL = {"loss.reference.coef": 0.04}
ARMS = {
    "GRPO": {"config": "grpo"},
    "GRPO with a KL": {"config": "grpo", "overrides": KL},
    "RLSD": {"config": "rlsd"},
    "OPSD": {"config": "opsd"},
    "SDPO": {"config": "sdpo"},
}
BASELINE = START = "GRPO"
METRICS = {
    "accuracy": "greedy, %",
    "avg_at_k": "avg@4, %",
    "pass_at_k": "pass@4, %",
    "mean reward/mean": "reward of rollouts, mean",
    "last entropy/student": "entropy",
    "mean_length": "length",
    "reverse_kl": "reverse KL to the teacher",
}
JUDGED = ("avg_at_k", "accuracy")


def _beats(arm: str, against: str = "GRPO", metric: str = "avg_at_k") -> dict:
    return dict(arm=arm, against=against, metric=metric, direction="higher")


CLAIMS = {
    "paper: RLSD ends above GRPO": _beats("RLSD"),
    "paper: RLSD ends above OPSD": _beats("RLSD", "OPSD"),
    "paper: RLSD ends above SDPO": _beats("RLSD", "SDPO"),
    "paper: RLSD gains sooner than GRPO": _beats("RLSD", metric="mean reward/mean"),
    "paper: RLSD gains sooner than OPSD": _beats("RLSD", "OPSD", "mean reward/mean"),
    "paper: RLSD keeps more entropy than GRPO": _beats(
        "RLSD", metric="last entropy/student"
    ),
    "GRPO improves its student": _beats("GRPO", "before"),
    "OPSD improves its student": _beats("OPSD", "before"),
    "SDPO improves its student": _beats("SDPO", "before"),
}
CURVES = {
    "reward/mean": "reward of rollouts",
    "entropy/student": "entropy of the student",
    "kl/reverse": "reverse KL to the teacher",
}
FOUND = """
- Every arm improves its student, by 14 to 15 points of avg@4, and **none ends above
  another** in samples: RLSD is level with GRPO (+1.2 ± 1.3), OPSD and SDPO.
- **RLSD gains sooner than OPSD** (its rollouts earn 0.058 ± 0.010 more over the run),
  and no sooner than GRPO. The verifier's arms gain at once; the self-teachers lose
  first (SDPO's rewards fall from 0.6 to 0.4, its teacher is not yet worth following:
  our reading) and are level at the end.
- OPSD ends highest in greedy answers (97.3) and has the most entropy. RLSD's entropy is
  GRPO's.
- **There is next to nothing here that a self-teacher could leak**: over the student's
  own text its forward KL is 0.0233 ± 0.0099 nats a token, of which 0.0003 ± 0.0001 are
  the floor that no student can lose (`python tools/kl_floor.py`, by enumeration of all
  wordings of a solution). What RLSD is to be spared is not there to be spared.
"""
