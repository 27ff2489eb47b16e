"""TGOPD (arXiv:2609.02998): a teacher is believed where it answers the prompt itself.

    python -m jopd.main --config=configs/tgopd.py  # partial

    q = share of the teacher's own 3 responses to the prompt that the verifier passes
    A = log T - log S  where q >= 2/3,  else  r - mean_G r, for all rows of the prompt

From a reader's notes, not from the paper's text: 3 probes, 2/3, G = 4, no division by
the deviation, clip 0.2, one or the other and no blend. Inferred: limit and temperature
of the probes, those of the rollouts. The notes' arm without GRPO keeps nine tenths of
the gain: ``--config.loss.grpo.coef=0.0``. docs/methods/tgopd.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="partial")
    c.name = "tgopd"
    c.steps, c.optimizer.learning_rate = 200, 3e-4  # bundled pair
    c.probes.samples = 3
    clip = dict(clip_low=0.2, clip_high=0.2)
    trusted = dict(function="tgopd.trusted", at_least=2 / 3)
    c.loss.opd = dict(signal="policy_gradient", weights=dict(trusted=trusted), **clip)
    c.loss.grpo = dict(
        signal="policy_gradient",
        other=None,
        advantage=dict(function="group_reward", std=False),
        weights=dict(untrusted=trusted | dict(inverse=True)),
        **clip,
    )
    return c
