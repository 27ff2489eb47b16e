"""PowerOPD (arXiv:2606.17199): on-policy distillation with a bounded advantage.

    python -m jopd.main --config=configs/power_opd.py  # digits

    L = -mean rho A,  A = teacher(y)^alpha - student(y)^alpha, between -1 and 1

alpha -> 0 is alpha times the advantage of plain OPD, alpha = 1 the difference of the
probabilities. alpha, and no clip, are those of the authors' script
(EIT-NLP/PowerOPD, scripts/run_poweropd.sh). Its loss is -A log student(y): on fresh
rollouts rho is 1 and the gradient the same. See docs/methods/power_opd.md
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "power_opd"
    c.loss.opd = dict(
        signal="policy_gradient",
        other=None,
        advantage=dict(function="power_ratio", alpha=5.0),  # authors' script
        clip_low=1.0,  # no clip: authors' script
        clip_high=float("inf"),
        # The stop token has no reward: authors' script.
        weights=dict(end=dict(function="before_end")),
    )
    return c
