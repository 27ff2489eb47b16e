"""TA-OPD (arXiv:2605.26844): on-policy distillation on the teachable half of tokens.

    python -m jopd.main --config=configs/ta_opd.py  # words

    L = -mean over kept tokens of rho A,  A = log T(y) - log S(y)

Kept is the half of a batch with the most nz(D) nz(C): D the forward KL on the union of
both top k, C the teacher's mass on the student's top k. The paper: k = 16, shares of 5,
10, 30 and 50 %, of which 50 is its best; a tenth of an update of the bundled pair is
450 tokens, and makes this student worse. Learning rate and clip are inferred. No
computation is saved. See docs/methods/ta_opd.md
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
        weights=dict(keep=dict(function="ta_opd.keep", share=0.5)),
        normalizer="weights",
    )
    return c
