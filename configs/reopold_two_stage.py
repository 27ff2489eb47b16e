"""REOPOLD in two stages (arXiv:2603.11137): first trusted tokens, then unsure ones.

    python -m jopd.main --config=configs/reopold_two_stage.py  # 48.8 -> 74.2 %

    J = 1 / sum M * sum rho max(R, floor) M,  R = log teacher(y) - log student(y)
    M = 1[R >= floor]                              before the switch (term "trusted")
    M = 1[H(student) in the top share of the batch]   from it on (term "unsure")

(equations 4, 7 and 8), divided by the tokens that M keeps. The switch is half of
``steps``. floor = log(lambda / (1 - lambda)); lambda, the share and the switch are
inferred from the paper's ablation figures. See docs/methods/reopold.md
"""

import math

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "reopold_two_stage"
    floor = math.log(0.2 / 0.8)  # lambda = 0.2: inferred
    switch = c.get_ref("steps") // 2  # inferred; follows an override of steps
    surrogate = dict(
        signal="policy_gradient",
        advantage=dict(function="log_ratio", floor=floor),
        clip_low=1.0,  # inferred: no clip
        clip_high=float("inf"),
        normalizer="weights",
    )
    c.loss.trusted = surrogate | dict(
        weights=dict(log_ratio_above=dict(threshold=floor)),
        coef=dict(schedule="step", value=1.0, end=0.0, steps=switch),
    )
    c.loss.unsure = surrogate | dict(
        weights=dict(entropy_top_share=dict(share=0.5)),  # share: inferred
        coef=dict(schedule="step", value=0.0, end=1.0, steps=switch),
    )
    return c
