"""StableOPD (arXiv:2604.08527): on-policy distillation that does not inflate.

    python -m jopd.main --config=configs/stableopd.py  # digits

    L = PG(rollouts) + lambda_gold * NLL(gold) + beta_KL * KL(student || reference)

PG is the clipped surrogate with A = log teacher(y) - log student(y) on the student's
own tokens; every prompt brings one gold solution; the reference is the initial student
and its KL is taken on student tokens. The paper states neither coefficient, nor the
clip, nor the aggregation: all four are inferred here. Two ports read them otherwise,
with lambda_gold 0.1, beta_KL 0.01, a mean per response and no clip that acts:

    --config.loss.gold.coef=0.1 --config.objective.normalizer=sequences
    --config.loss.opd.clip_low=1 --config.loss.opd.clip_high=inf

The control, SFT on the same gold rows alone:

    --config.loss.opd.coef=0 --config.loss.reference.coef=0
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "stableopd"
    c.mix.student, c.mix.gold = 0.8, 0.2  # 4 rollouts + 1 gold solution per prompt
    c.loss.opd = dict(signal="policy_gradient", clip_low=0.2, clip_high=0.2)  # inferred
    # Full-vocabulary KL; signal="k3" is the sampled form (estimator inferred).
    c.loss.reference = dict(
        signal="reverse_kl", other="reference", coef=0.01
    )  # inferred
    c.loss.gold = dict(signal="nll", source="gold", coef=1.0)  # lambda_gold: inferred
    c.objective.normalizer = "tokens"  # inferred; "sequences" is the other reading
    return c
