"""REOPOLD (arXiv:2603.11137), one stage: the log-ratio of OPD with a floor.

    python -m jopd.main --config=configs/reopold.py  # 48.8 -> 78.5 %, 5:28 on 1 core

    J = mean rho max(R, floor),  floor = log(lambda / (1 - lambda))

R = log teacher(y) - log student(y)

(equations 4 and 7, every token kept). This form is the "clip outlier" row of
TrOPD's tables; ``configs/reopold_two_stage.py`` has the token masks. No clip of rho is
stated. lambda is inferred from the paper's ablation figures. docs/methods/reopold.md
"""

import math

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "reopold"
    floor = math.log(0.2 / 0.8)  # lambda = 0.2: inferred
    c.loss.opd = dict(
        signal="policy_gradient",
        advantage=dict(function="log_ratio", floor=floor),
        clip_low=1.0,  # inferred: no clip
        clip_high=float("inf"),
    )
    return c
