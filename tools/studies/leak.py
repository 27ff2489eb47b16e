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
  mark after 24 to 29 updates, 93 to 99 % at the end, in 3 of 3 seeds. With the initial
  student as the teacher accuracy survives (74.7 %, the verifier forgives the mark) and
  the student's KL to the self-teacher falls to 0.02: it has copied what it cannot know.
  With the live student as the teacher it forgets the task as well (0.9 %).
- **The clip of the released code slows the leak** (2 to 14 % at the end) but costs the
  task here: 16.0 % accuracy. Cut summands leave a sum that pulls away from the teacher.
- **RLSD does not leak**: 0.1 to 0.7 %, as GRPO does (0.1 to 0.5 %) and the student
  before (0.4 %). Its KL to the self-teacher stays at its floor, 0.28. Holding lambda at
  0.5 to the end changes nothing of that.
- **No method improves accuracy here**: GRPO 65.9, RLSD 61.3 and 65.5 % against 73.2 %
  before, with intervals of 5 to 18 points. The student was trained on gold solutions of
  this task, and 64 rollouts per update are few for a reward of 0 or 1. So this shows
  what leaks, not that RLSD learns faster than GRPO, as its paper has it.
"""
CURVES = {
    "leak/rate": "share of rollouts with the mark",
    "reward/mean": "reward of rollouts",
    "kl/forward_self": "KL(self-teacher || student)",
}
