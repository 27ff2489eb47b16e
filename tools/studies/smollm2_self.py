"""A real instruction model taught by itself with a solution in sight."""

TITLE = "SmolLM2-135M-Instruct taught by itself"
ABOUT = """
Word problems of one step, of which the model solves a part. The self-teacher is the
model itself, reading a worked solution beside the question; the student never sees one.
16 rollouts an update of at most 48 tokens. SFT on the same solutions is the baseline
that needs no teacher. Plain instructions say what was forgotten: the KL to the model as
it was. Rates are not tuned arm by arm.

Models and rows, in the folder of the study:

    python tools/prune.py HuggingFaceTB/SmolLM2-135M-Instruct real/teacher --layers=30
    python tools/make_problems.py real/problems.jsonl
"""
SEEDS = (0, 1)
COMMON = {
    "student.path": "real/teacher",
    "teacher.path": "real/teacher",
    "data.path": "real/problems.jsonl",
    "data.size": 1000,
    "eval.verifier": "numeric",
    "steps": 40,
    "rollout.prompts_per_step": 16,
    "rollout.group_size": 1,
    "rollout.max_new_tokens": 48,
    "eval.batch_rows": 64,
    "eval.prompts": 64,
    "eval.k": 4,
    "eval.save_samples": 4,
    "optimizer.learning_rate": 1e-5,
    "checkpoint.every_steps": 0,
}
CONTEXT = "{question}\n\nHere is a solution: {solution}\n\nSolve it in the same way."
_SHOWN = {"teachers.self.context": CONTEXT}
ARMS = {
    "SFT on solutions": {"config": "sft"},
    "SDFT": {"config": "sdft", "overrides": _SHOWN},
    "OPSD": {"config": "opsd", "overrides": _SHOWN | {"loss.opsd.clip": 0.05}},
}
BASELINE = START = "SFT on solutions"
EQUAL = ("updates",)
METRICS = {
    "accuracy": "greedy, %",
    "avg_at_k": "avg@4, %",
    "truncation_rate": "truncated",
    "mean_length": "length",
    "instructions.reverse_kl": "reverse KL to the model before, instructions",
    "wall_seconds": "seconds",
}
ALSO = {
    "instructions": {
        "data.path": "tools/studies/instructions.jsonl",
        "data.eval_path": "tools/studies/instructions.jsonl",
        "eval.verifier": "auto",
        "eval.k": 1,
        "rollout.max_new_tokens": 96,
    },
}
JUDGED = ("avg_at_k", "accuracy")
CURVES = {"kl/reverse": "reverse KL to the model before", "length/mean": "length"}


def _higher(arm: str, against: str, metric: str) -> dict:
    return dict(arm=arm, against=against, metric=metric, direction="higher")


CLAIMS = {
    "SDFT improves its student": _higher("SDFT", "before", "avg_at_k"),
    "OPSD improves its student": _higher("OPSD", "before", "avg_at_k"),
    "paper: SDFT forgets less than SFT": dict(
        arm="SDFT",
        against="SFT on solutions",
        metric="instructions.reverse_kl",
        direction="lower",
    ),
}
