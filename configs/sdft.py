"""SDFT (arXiv:2601.19897): self-distillation from a demonstration in the prompt.

    python -m jopd.main --config=configs/sdft.py  # hinted

    L = mean_t KL(T(. | x, demonstration, y_<t) || S(. | x, y_<t)),   t past the first 3

on the student's own rollouts, a mean over each of them and then over all (TRL and a
fork of the official code); T is an exponential moving average of the student at
0.01 per update. The direction is that of the audited code; the abstract and others call
it the reverse KL: signal="reverse_kl" is that.

Shown on the bundled student that reads solutions (regime "hinted").
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="hinted")
    c.name = "sdft"
    c.steps, c.rollout.prompts_per_step = 200, 16
    c.optimizer.learning_rate = 1e-3  # bundled student
    c.teachers.self = dict(
        weights="ema", rate=0.01, context="Solution: {solution}\n{question}"
    )
    c.loss.sdft = dict(
        signal="forward_kl",
        other="self",
        weights=dict(after_tokens=dict(count=3, rescale=True)),
        normalizer="sequences",  # "tokens" is one mean over all rollouts
    )
    return c
