"""REOPOLD in two stages (arXiv:2603.11137): first trusted tokens, then unsure ones.

    python -m jopd.main --config=configs/reopold_two_stage.py  # digits

    J = 1 / sum M * sum rho max(R, floor) M,  R = log teacher(y) - log student(y)
    M = 1[R >= floor]                              before the switch (term "trusted")
    M = 1[H(student) in the top share of the batch]   from it on (term "unsure")

(equations 4, 7 and 8), divided by the tokens that M keeps. Terms share their keys: the
floor, log(lam / (1 - lam)), and the switch are set once, whichever term names them.
Two sources say share 0.2; one says switch 1/3 and one 1/2 of the run. The other
readings (docs/methods/reopold.md names who has which):

    --config.loss.trusted.advantage.form=scaled --config.loss.trusted.advantage.lam=0.1
    --config.loss.trusted.coef.steps=133
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "reopold_two_stage"
    surrogate = dict(
        signal="policy_gradient",
        other=None,
        # lam 0.3: PowerOPD's authors and a port; 0.1, scaled: another port.
        advantage=dict(function="reopold.floored", lam=0.3, form="odds"),
        clip_low=1.0,  # inferred: no clip
        clip_high=float("inf"),
        normalizer="weights",
    )
    # A half of the run is one port's, a third another's; follows an override of steps.
    switch = c.get_ref("steps") // 2
    c.loss.trusted = surrogate | dict(
        coef=dict(schedule="step", value=1.0, end=0.0, steps=switch)
    )
    same = c.loss.trusted.advantage
    floor = {key: same.get_ref(key) for key in ("lam", "form")}
    c.loss.trusted.weights = dict(trusted=dict(function="reopold.trusted", **floor))
    c.loss.unsure = surrogate | dict(
        advantage=dict(function="reopold.floored", **floor),
        weights=dict(entropy_top_share=dict(share=0.2)),  # two sources
        coef=dict(schedule="step", value=0.0, end=1.0, steps=switch),
    )
    return c
