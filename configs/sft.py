"""Supervised fine-tuning on gold solutions: the off-policy baseline.

    python -m jopd.main --config=configs/sft.py  # digits

Nothing is sampled in training; the teacher is only there to be compared with. Standard
maximum likelihood, as in the SFT stage of on-policy distillation
(https://thinkingmachines.ai/blog/on-policy-distillation).
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "sft"
    c.mix.student, c.mix.gold = 0.0, 1.0
    c.loss.nll = dict(signal="nll", source="gold")
    return c
