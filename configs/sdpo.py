"""SDPO (arXiv:2601.20802): a self-teacher that has seen another rollout succeed.

    python -m jopd.main --config=configs/sdpo.py  # hinted

    L = mean_t min(rho, 2) JSD_a(S'(. | x, y_<t), T'(. | x, peer, y_<t)),  a = 0.5

over the tokens of rollouts that have a peer: the first other rollout of the same prompt
with a reward of at least ``c.peer.success``. T is an exponential moving average of the
student, at 0.01 per update; the released 0.05 lets the bundled one follow its student's
drift (docs/methods/sdpo.md). S' and T' are on the student's 100 likeliest tokens and
one bucket for the rest. alpha=1 is the reverse KL, the paper's form.

Shown on the bundled student that reads attempts (regime "hinted"). See
docs/methods/sdpo.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="hinted")
    c.name = "sdpo"
    c.steps, c.rollout.prompts_per_step, c.rollout.group_size = 200, 8, 8
    c.optimizer.learning_rate = 3e-4  # bundled student
    c.teachers.self = dict(
        weights="ema", rate=0.01, context="Right: {peer}\n{question}"
    )
    c.peer.success = 1.0  # inferred: the released code has 0.5 in one place, 1.0 in one
    c.loss.sdpo = dict(
        signal="sdpo.distil",
        alpha=0.5,
        k=100,
        is_clip=2.0,
        other="self",
        weights=dict(has_context=dict(of="self")),
        normalizer="weights",  # the mean is over tokens of rows with a peer
    )
    return c
