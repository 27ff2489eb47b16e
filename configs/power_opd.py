"""PowerOPD (arXiv:2606.17199): on-policy distillation with a bounded advantage.

    python -m jopd.main --config=configs/power_opd.py  # 48.8 -> 87.1 %

    L = -mean rho A,  A = teacher(y)^alpha - student(y)^alpha, between -1 and 1

alpha -> 0 is alpha times the advantage of plain OPD, alpha = 1 the difference of the
probabilities. alpha and the clip are inferred. See docs/methods/power_opd.md
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "power_opd"
    c.loss.opd = dict(
        signal="policy_gradient",
        other=None,
        advantage=dict(function="power_ratio", alpha=0.5),  # inferred
        clip_low=1.0,  # inferred: no clip
        clip_high=float("inf"),
    )
    return c
