"""MOPD (arXiv:2605.12652): a self-teacher that sees rollouts succeed and fail.

    python -m jopd.main --config=configs/mopd.py  # hinted

    L = mean_t min(rho, 2) JSD_a(S'(. | x, y_<t), T'(. | x, C, y_<t)),  a = 0.5

C shows up to two other rollouts of the prompt that succeeded and one that failed
(equations 1 to 7); what a row lacks is left out, a row without a success is not taught.
T is an exponential moving average of the student. On math the divergence is KL(S || T):
``--config.loss.mopd.alpha=1.0``. S' and T' are on the student's 100 likeliest tokens
and one bucket for the rest, as in the released code.

The released average moves by 0.05 per update; here 0.01, as for SDPO, since the bundled
one follows its student's drift (inferred). The student of regime "hinted" was trained
behind one attempt at a time and is lost behind three, so one is to be made that reads
them before this can help it: docs/methods/mopd.md
"""

from jopd.configs import load


def get_config():
    c = load("sdpo")
    c.name = "mopd"
    context = "Right: {peer}\nRight: {peer2}\nWrong: {failure}\n{question}"
    c.teachers.self.context = context
    c.peer.success = 0.5  # the released code has 0.5 in one place, 1.0 in its README
    c.loss.mopd = c.loss.sdpo
    del c.loss.sdpo
    return c
