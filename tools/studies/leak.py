"""Self-teachers that see the answer: what leaks into the student.

Make the student first: ``python tools/make_hint_models.py --out=runs/hint_models``.
"""

from jopd.setup.regimes import REGIMES

TITLE = "Self-teachers that see the answer, and what leaks"
ABOUT = """
The bundled student, trained further so that it can use an answer in its prompt and then
begins its response with a mark (`python tools/make_hint_models.py`). The self-teachers
read the answer, the student never does. A response with the mark is a leak. The answer
is a function of the question here, so a student could copy the teacher completely, mark
included. 8 prompts x 8 rollouts per update; rates are tuned by avg@4 on a seed of
their own; accuracy looks at the last number only and forgives the mark.
"""
SEEDS = (0, 1, 2)
GRID = (2.5e-5, 1e-4)
WIDEN = 1
COMMON = REGIMES["digits"].keys | {
    "steps": 200,
    "student.path": "runs/hint_models/student",
    "rollout.prompts_per_step": 8,
    "rollout.group_size": 8,
    "optimizer.schedule": "constant",
    "optimizer.warmup": 50,
    "data.levels": (2, 3, 4, 5, 6, 7),
    "eval.verifier": "numeric",
    "log.leak_pattern": "^;",
    "checkpoint.every_steps": 0,
    "export.enabled": False,
}
HINT = {"teachers.self.context": "{answer};{question}"}
SDPO = {
    "teachers.self.weights": "ema",
    "teachers.self.rate": 0.01,
    "loss.opsd.coef": 0.0,
    "loss.sdpo.signal": "sdpo.distil",
    "loss.sdpo.other": "self",
    "loss.sdpo.alpha": 0.5,
    "loss.sdpo.k": 100,
    "loss.sdpo.is_clip": 2.0,
}
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
        "rate_of": "RLSD",
    },
    # Without its peers, whose rows it would be left with.
    "SDPO's loss, reads the answer": {"config": "opsd", "overrides": HINT | SDPO},
    "OPSD, initial": {
        "config": "opsd",
        "overrides": {**HINT, "loss.opsd.clip": 0.05},
    },
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
    "mean reward/mean": "reward of rollouts, mean",
    "last entropy/student": "entropy",
    "mean_length": "length",
    "reverse_kl": "reverse KL to the bundled teacher",
}
JUDGED = ("avg_at_k", "-leak_rate")
BASELINE = START = "GRPO"


def _leaks(arm: str, against: str, direction: str) -> dict:
    return dict(arm=arm, against=against, metric="leak_rate", direction=direction)


def _beats(arm: str, against: str, metric: str = "avg_at_k") -> dict:
    return dict(arm=arm, against=against, metric=metric, direction="higher")


FREE = "OPSD, initial, no clip"
CLAIMS = {
    "paper: OPSD leaks": _leaks(FREE, "before", "higher"),
    "paper: RLSD leaks less than OPSD": _leaks("RLSD", FREE, "lower"),
    "RLSD leaks more than GRPO": _leaks("RLSD", "GRPO", "higher"),
    "RLSD leaks more where lambda stays": _leaks(
        "RLSD, lambda held at 0.5", "GRPO", "higher"
    ),
    "SDPO leaks": _leaks("SDPO's loss, reads the answer", "before", "higher"),
    "the released clip leaks less": _leaks("OPSD, initial", FREE, "lower"),
    "paper: RLSD ends above GRPO": _beats("RLSD", "GRPO"),
    "paper: RLSD ends above OPSD": _beats("RLSD", FREE),
    "paper: RLSD gains sooner than GRPO": _beats("RLSD", "GRPO", "mean reward/mean"),
    "GRPO improves its student": _beats("GRPO", "before"),
}
FOUND = """
- **OPSD without its clip leaks completely.** More than half of the rollouts carry the
  mark after 47 to 51 updates, 97 % of the responses at the end. Accuracy survives (75.5
  %, the verifier forgives the mark), samples gain nothing, and the student's KL to the
  self-teacher falls from 0.3 to 0.02: **no floor holds it**, since the answer is a
  function of the question. It has copied what it cannot know when it is asked.
- **SDPO's loss** on the same teacher leaks as fast (37 to 41 updates) and costs answers
  (62.0 %). OPSD with the live student as the teacher leaks and forgets the task (4.9
  %).
- **The clip of the released code does not leak** at its tuned rate, the lowest of its
  grid, but costs the task (56.6 %, and less at higher rates). Cut summands leave a sum
  that pulls away from the teacher.
- **RLSD does not leak**, with lambda held at 0.5 neither: 0.4 and 0.3 %, as GRPO (0.4)
  and the student before. Its KL to the self-teacher stays at 0.3.
- **RLSD is level with GRPO** (-0.2 ± 0.6), which gains 2.5 ± 1.5 in samples; neither
  is sooner. At 1e-4, four times their tuned rate, both lose.
"""
CURVES = {
    "leak/rate": "share of rollouts with the mark",
    "reward/mean": "reward of rollouts",
    "kl/forward_self": "KL(self-teacher || student)",
}
