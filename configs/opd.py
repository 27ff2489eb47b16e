"""Vanilla on-policy distillation (Thinking Machines, 2025; Qwen3, arXiv:2505.09388).

    python -m jopd.main --config=configs/opd.py  # digits

Importance-ratio policy gradient with A = log teacher(y) - log student(y) on the
student's own tokens, nothing clipped, no reward
(https://thinkingmachines.ai/blog/on-policy-distillation).
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "opd"
    unclipped = dict(clip_low=1.0, clip_high=float("inf"))
    c.loss.opd = dict(signal="policy_gradient", **unclipped)
    return c
