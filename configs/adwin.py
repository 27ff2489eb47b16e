"""ADWIN (arXiv:2605.28396): rollouts end where the rest would teach the same.

    python -m jopd.main --config=configs/adwin.py  # words

    w = min{w in grid: cos(g_w, g) >= sqrt(1/2)},   y ~ S cut at w tokens
    L = mean over y_t of KL(S || T),   g_w its gradient of t <= w alone, g of all

Every fifth update is of whole rollouts, from which the window is chosen; what is saved
is tokens, the student's and the teacher's. Evaluations keep the whole length.

Secondary (the paper's text was not at hand): the threshold, 5 updates. Ours: the plain
cosine in the place of the Fisher matrix's, the update's own rows as probe, the grid
(there 64 to 2048 of 8192 tokens), the loss. See docs/methods/adwin.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="words")
    c.name = "adwin"
    c.rollout.prompts_per_step = 16
    grid = (4, 8, 16, 32, 64)
    c.memory.window = dict(function="adwin.window", grid=grid, every_steps=5)
    c.rollout.horizon = dict(memory="window")
    report = dict(function="adwin.levels", memory="window")
    c.loss.opd = dict(signal="reverse_kl", report=report)
    return c
