"""OPSD (arXiv:2601.18734): the student taught by itself with the solution in sight.

    python -m jopd.main --config=configs/opsd.py  # 48.8 -> 1.6 %

    L = mean_t sum_v min(T_v log(T_v / S_v), 0.05),  T = S_0(. | x, solution, y_<t)

The self-teacher is the initial student (``weights``: live and ema are the other two of
the released code) and reads ``context`` in the place of the question. The clip of each
summand is in the released code's later version, not in the paper's first.

The bundled student has never seen a solution in its prompt, so on the bundled task this
shows the mechanism, not the method's strength.
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "opsd"
    c.optimizer.learning_rate = 1e-4  # bundled pair
    c.teachers.self = dict(weights="initial", context="{question}{solution};{question}")
    c.loss.opsd = dict(
        signal="opsd.clipped", direction="forward_kl", clip=0.05, other="self"
    )
    return c
