"""TrOPD (arXiv:2606.01249): distillation inside a trust region, guided at first.

    python -m jopd.main --config=configs/tropd.py  # far

    M ~ Bernoulli(min(1, teacher(y) / student(y)))                a fresh coin per token
    L = mean [ -M rho (log teacher(y) - log student(y))           term "trust"
               + (1 - M) sum_{v in top 64} T_v log(T_v / S_v) ]   term "outlier"
        - 0.001 mean log student(y) over a prefix the teacher wrote     term "guide"

The first two are over all tokens of the student, whose rollouts go on from the first
(1 + cos(pi step / P)) / 2 of a response of the teacher, at their full length. P is the
whole run in the paper, here the first quarter: half of the tokens would else be the
teacher's, which hardly count. The outlier term is differentiated directly, as the paper
writes it; the released code is said to put it through the policy gradient. That, and
the paper's schedules:

    --config.loss.outlier.coef=0 --config.loss.scalar.coef=1
    --config.rollout.prefix.steps=0 --config.optimizer.schedule=constant

No clip of rho is found, in the paper neither. Mask and Clip: docs/methods/tropd.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="far")
    c.name = "tropd"
    # One mean over all live tokens, whoever wrote them. The paper's rate: 5e-6.
    c.objective.normalizer = "batch"
    # No clip: inferred.
    surrogate = dict(signal="policy_gradient", clip_low=1.0, clip_high=float("inf"))
    c.loss.trust = surrogate | dict(weights=dict(accepted=dict(inverse=False)))
    c.loss.outlier = dict(
        signal="top_k_forward_kl",
        k=64,
        tail=False,  # the formula; the code is said to renormalise on the 64
        coef=1.0,  # 0: the Mask variant
        weights=dict(accepted=dict(inverse=True)),
    )
    # The released form of the outlier term, off.
    c.loss.scalar = surrogate | dict(
        advantage="tropd.state_forward_kl",
        coef=0.0,
        weights=dict(accepted=dict(inverse=True)),
    )
    c.rollout.prefix.source = "teacher"  # written in the run; "gold": from the data
    c.rollout.prefix.steps = c.get_ref("steps") // 4  # follows an override of steps
    # Forward KL on one sampled token; its teacher term has no gradient.
    c.loss.guide = dict(signal="nll", source="teacher", coef=0.001)
    return c
