"""A real model that lost 13 of its 30 layers, taught again by the whole one."""

TITLE = "SmolLM2-135M-Instruct recovered from 17 of its layers"
ABOUT = """
SmolLM2-135M-Instruct (30 layers, 134.5 million parameters) teaches what is left of it
with 17 layers (88.5 million), which writes nonsense at first. Prompts are GSM8K
questions in the chat template, 8 rows an update, at most 96 new tokens; gold rows are
GSM8K's solutions, cut at 96. Measured on 64 held-out questions, on 64 plain
instructions, and on 64 word problems of one step, of which the teacher solves a part.
"student" is the student untrained, measured in the same way. The divergence of OPD,
GKD and StableOPD is exact, of whole distributions; "sampled" is OPD with its one-token
estimate. Rates are not tuned arm by arm: 1e-4, an adapter 1e-3. (Twelve updates of OPD
at 3e-4 go down to 0.48 nats and up again to 1.1; at 1e-4 they end at 0.6.)

Models and rows, in the folder of the study:

    python tools/prune.py HuggingFaceTB/SmolLM2-135M-Instruct real/teacher --layers=30
    python tools/prune.py HuggingFaceTB/SmolLM2-135M-Instruct real/student --layers=17
    python tools/make_problems.py real/problems.jsonl
    real/gsm8k.jsonl: the training rows of openai/gsm8k
"""
SEEDS = (0, 1)
ROWS = {
    "rollout.prompts_per_step": 8,
    "rollout.group_size": 1,
    "rollout.max_new_tokens": 96,
    "eval.batch_rows": 64,
    "eval.prompts": 64,
    "eval.k": 1,
    "eval.save_samples": 4,
}
COMMON = ROWS | {
    "student.path": "real/student",
    "teacher.path": "real/teacher",
    "data.path": "real/gsm8k.jsonl",
    "data.answer_after": "####",
    "data.size": 2000,
    "eval.verifier": "numeric",
    "steps": 60,
    "eval.every_steps": 20,
    "optimizer.learning_rate": 1e-4,
    "checkpoint.every_steps": 0,
}
_EXACT = {"loss.opd.coef": 0.0, "loss.exact.signal": "reverse_kl"}
_UNTRAINED = {"steps": 1, "optimizer.learning_rate": 1e-12, "eval.every_steps": 0}
ARMS = {
    "student": {"config": "opd", "overrides": _UNTRAINED, "seeds": (0,)},
    "SFT on solutions": {"config": "sft"},
    "forward KL on solutions": {
        "config": "gkd",
        "overrides": {
            "mix.on_policy_probability": 0.0,
            "loss.jsd.coef": 0.0,
            "loss.exact.signal": "forward_kl",
            "loss.exact.source": "any",
        },
    },
    "OPD, sampled": {"config": "opd"},
    "OPD": {"config": "opd", "overrides": _EXACT},
    "OPD, LoRA": {
        "config": "opd",
        "overrides": _EXACT
        | {"student.lora.rank": 32, "optimizer.learning_rate": 1e-3},
    },
    "GKD": {"config": "gkd"},
    "StableOPD": {"config": "stableopd", "overrides": _EXACT},
}
BASELINE = "SFT on solutions"
EQUAL = ("updates",)
METRICS = {
    "reverse_kl": "reverse KL, GSM8K",
    "forward_kl": "forward KL",
    "truncation_rate": "truncated",
    "repetition_rate": "in a loop",
    "instructions.reverse_kl": "reverse KL, instructions",
    "instructions.forward_kl": "forward KL",
    "problems.accuracy": "problems of one step, greedy, %",
    "wall_seconds": "seconds",
}
ALSO = {
    "instructions": {
        "data.path": "tools/studies/instructions.jsonl",
        "data.eval_path": "tools/studies/instructions.jsonl",
        "data.answer_after": "",
        "eval.verifier": "auto",
    },
    "problems": {
        "data.path": "real/problems.jsonl",
        "data.answer_after": "",
        "rollout.max_new_tokens": 48,
    },
}
BEST = "-reverse_kl"
JUDGED = ("-reverse_kl", "-instructions.reverse_kl")
CURVES = {"eval/reverse_kl": "reverse KL, held out", "kl/reverse": "reverse KL"}
START = "OPD"


def _less(arm: str, against: str, metric: str) -> dict:
    return dict(arm=arm, against=against, metric=metric, direction="lower")


CLAIMS = {
    "OPD ends nearer to its teacher on its own text than SFT": _less(
        "OPD", "SFT on solutions", "reverse_kl"
    ),
    "and on prompts that it was not trained on": _less(
        "OPD", "SFT on solutions", "instructions.reverse_kl"
    ),
    "OPD ends nearer than the forward KL on solutions": _less(
        "OPD", "forward KL on solutions", "reverse_kl"
    ),
    "an exact divergence ends nearer than a sampled one": _less(
        "OPD", "OPD, sampled", "reverse_kl"
    ),
    "LoRA ends as near as full training": _less("OPD, LoRA", "OPD", "reverse_kl"),
}
