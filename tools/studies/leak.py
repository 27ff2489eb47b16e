"""Self-teachers that see the answer: what leaks into the student.

Make the student first: ``python tools/make_hint_models.py --out=runs/hint_models``.
"""

TITLE = "Self-teachers that see the answer, and what leaks"
ABOUT = """
The bundled student, trained further so that it can use an answer in its prompt and then
begins its response with a mark (`python tools/make_hint_models.py`). The self-teachers
read the answer, the student never does. A response with the mark is a leak. The answer
is a function of the question here, so a student could copy the teacher completely, mark
included. 8 prompts x 8 rollouts per update, one learning rate for all, constant after
its warm-up; accuracy looks at the last number only and forgives the mark.
"""
SEEDS = (0, 1, 2)
COMMON = {
    "steps": 200,
    "student.path": "runs/hint_models/student",
    "rollout.prompts_per_step": 8,
    "rollout.group_size": 8,
    "optimizer.learning_rate": 1e-4,
    "optimizer.schedule": "constant",
    "eval.verifier": "numeric",
    "log.leak_pattern": "^;",
    "checkpoint.every_steps": 0,
    "export.enabled": False,
}
HINT = {"teachers.self.context": "{answer};{question}"}
ARMS = {
    "GRPO": {"config": "grpo"},
    "RLSD": {"config": "rlsd", "overrides": HINT},
    "RLSD, lambda held at 0.5": {
        "config": "rlsd",
        "overrides": {
            **HINT,
            "loss.grpo.coef.end": 0.5,
            "loss.evidence.coef.end": 0.5,
        },
    },
    "OPSD, initial": {"config": "opsd", "overrides": HINT},
    "OPSD, initial, no clip": {
        "config": "opsd",
        "overrides": {**HINT, "loss.opsd.clip": 1e9},
    },
    "OPSD, live, no clip": {
        "config": "opsd",
        "overrides": {**HINT, "teachers.self.weights": "live", "loss.opsd.clip": 1e9},
    },
}
METRICS = {
    "before.leak_rate": "leaks before, %",
    "leak_rate": "leaks after, %",
    "before.accuracy": "accuracy before, %",
    "accuracy": "accuracy, %",
    "avg_at_k": "avg@4, %",
    "mean_length": "length",
    "reverse_kl": "reverse KL to the bundled teacher",
}
CURVES = {
    "leak/rate": "share of rollouts with the mark",
    "reward/mean": "reward of rollouts",
    "kl/forward_self": "KL(self-teacher || student)",
}
