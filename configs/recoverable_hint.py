"""A hint that the question determines: the idea of arXiv:2606.05718, in text alone.

    python -m jopd.main --config=configs/recoverable_hint.py  # hinted

    A_t = clip(log S_0(y_t | hint(x), y_<t) - log S(y_t | x, y_<t), -10, 10)

A self-teacher that reads an answer knows what its student cannot find out; one that
reads a function of the question knows nothing that the student could not: the two can
agree. The hint here is the question in plain words (column ``hint`` of the task in
words), which the student of this regime understands better and reads in the question's
place. A_t weighs a clipped surrogate of PPO; no reward.

**This is not ViCuR**: of that there is the loss of its released script and the idea of
its hints, neither images nor the module that recovers them from the question. Rate,
budget and hint are inferred. See docs/methods/recoverable_hint.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="hinted")
    c.name = "recoverable_hint"
    c.steps, c.rollout.prompts_per_step = 200, 16
    c.optimizer.learning_rate = 3e-4  # bundled student
    c.data.fields = ("hint",)
    c.teachers.self = dict(weights="initial", context="{hint}")
    advantage = dict(function="log_ratio", other="self", bound=10.0)
    c.loss.opd = dict(
        signal="policy_gradient",
        other=None,
        clip_low=0.2,
        clip_high=0.2,
        advantage=advantage,
    )
    return c
