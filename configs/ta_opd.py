"""TA-OPD (arXiv:2605.26844): on-policy distillation on the teachable tenth of tokens.

    python -m jopd.main --config=configs/ta_opd.py  # words

    L = -mean over kept tokens of rho A,  A = log T(y) - log S(y)

Kept is the tenth of a batch with the most nz(D) nz(C): D the forward KL on the union of
both top k, C the teacher's mass on the student's top k. The paper: k = 16, shares of 5
to 50 %. Learning rate and clip are inferred. No computation is saved. See
docs/methods/ta_opd.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="words")
    c.name = "ta_opd"
    c.optimizer.learning_rate = 1e-3  # bundled pair
    c.facts.apart = dict(function="local_forward_kl", k=16, other="teacher")
    c.facts.reachable = dict(function="compatibility", k=16, other="teacher")
    c.loss.opd = dict(
        signal="policy_gradient",
        clip_low=1.0,
        clip_high=float("inf"),
        weights=dict(keep=dict(function="ta_opd.keep", share=0.1)),
        normalizer="weights",
    )
    return c
