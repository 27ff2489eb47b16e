"""REOPOLD (arXiv:2603.11137), one stage: the log-ratio of OPD with a floor.

    python -m jopd.main --config=configs/reopold.py  # digits

    J = mean rho max(R, floor),  floor = log(lam / (1 - lam))

R = log teacher(y) - log student(y)

(equations 4 and 7, every token kept). This form is the "clip outlier" row of
TrOPD's tables; ``configs/reopold_two_stage.py`` has the token masks. No clip of rho is
stated. Sources differ in the floor, see docs/methods/reopold.md: this is the one of two
of them, and that of a third is

    --config.loss.opd.advantage.form=scaled --config.loss.opd.advantage.lam=0.1
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "reopold"
    # lam 0.3: PowerOPD's authors and a port; 0.1, scaled: another port.
    floored = dict(function="reopold.floored", lam=0.3, form="odds")
    c.loss.opd = dict(
        signal="policy_gradient",
        other=None,
        advantage=floored,
        clip_low=1.0,  # inferred: no clip
        clip_high=float("inf"),
    )
    return c
