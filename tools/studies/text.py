"""OmniOPD against OPD where the teacher writes in another surface style."""

from jopd.setup.regimes import REGIMES

TITLE = "A teacher of another surface style"
ABOUT = """
The student writes sentences, the teacher equations (regime `text`,
[regimes](../regimes.md)); both end in one form of answer. 200 updates of 64 rollouts;
every arm's rate is tuned on a seed of its own. Token by token such a teacher finds
every word wrong; chunks of text may agree in what they say.
"""
SEEDS = (0, 1, 2)
GRID = (1e-4, 4e-4)
WIDEN = 1
COMMON = REGIMES["text"].keys | {
    "steps": 200,
    "rollout.prompts_per_step": 16,
    "eval.prompts": 128,
    "data.size": 5000,
    "checkpoint.every_steps": 0,
    "export.enabled": False,
}
RATE = "loss.chunks.weights.rate"
ARMS = {
    "OPD": {"config": "opd"},
    "OmniOPD": {"config": "omniopd"},
    "OmniOPD, the paper's form": {
        "config": "omniopd",
        "overrides": {f"{RATE}.baseline": "none"},
    },
    "OmniOPD, edit distance": {
        "config": "omniopd",
        "overrides": {"audit.similarity": "ned"},
    },
    "OmniOPD, chunks of 4": {
        "config": "omniopd",
        "overrides": {"audit.chunk_tokens": 4},
    },
}
BASELINE = START = "OPD"
METRICS = {
    "accuracy": "greedy, %",
    "avg_at_k": "avg@4, %",
    "pass_at_k": "pass@4, %",
    "reverse_kl": "reverse KL",
    "mean_length": "length",
}
JUDGED = ("avg_at_k", "accuracy")


def _beats(arm: str, against: str, metric: str = "avg_at_k") -> dict:
    return dict(arm=arm, against=against, metric=metric, direction="higher")


CLAIMS = {
    "paper: OmniOPD beats OPD": _beats("OmniOPD", "OPD"),
    "paper: OmniOPD beats OPD, greedy": _beats("OmniOPD", "OPD", "accuracy"),
    "OmniOPD improves its student": _beats("OmniOPD", "before"),
    "a baseline helps": _beats("OmniOPD", "OmniOPD, the paper's form"),
    "paper: too short a chunk destroys it": _beats("OmniOPD", "OmniOPD, chunks of 4"),
}
CURVES = {"kl/reverse": "reverse KL on rollouts", "length/mean": "length"}
