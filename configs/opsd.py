"""OPSD (arXiv:2601.18734): the student taught by itself with the solution in sight.

    python -m jopd.main --config=configs/opsd.py  # hinted

    L = mean_t KL(T || S),  T = S_0(. | x, solution, y_<t)

The self-teacher is the initial student (``weights``: live and ema are the other two of
the released code) and reads ``context`` in the place of the question. The released code
also cuts every summand T_v log(T_v / S_v) at 0.05. With a large vocabulary use that:

    --config.loss.opsd.clip=0.05

With a small one and a sure teacher the summand of the right token lies above the cut
and has no gradient, and the rest pushes that token down: no clip here.

Shown on the bundled student that reads solutions (regime "hinted").
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="hinted")
    c.name = "opsd"
    c.steps, c.rollout.prompts_per_step = 200, 16
    c.optimizer.learning_rate = 1e-3  # bundled student
    c.teachers.self = dict(
        weights="initial", context="Solution: {solution}\n{question}"
    )
    c.loss.opsd = dict(
        signal="opsd.clipped", direction="forward_kl", clip=None, other="self"
    )
    return c
