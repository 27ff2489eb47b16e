"""TrOPD (arXiv:2606.01249): distillation inside a trust region, guided at first.

    python -m jopd.main --config=configs/tropd.py  # 48.8 -> 56.2 %

    M ~ Bernoulli(min(1, teacher(y) / student(y)))                a fresh coin per token
    L = mean [ -M rho (log teacher(y) - log student(y))           term "trust"
               + (1 - M) sum_{v in top 64} T_v log(T_v / S_v) ]   term "outlier"
        - 0.001 mean log student(y) over a prefix the teacher wrote     term "guide"

The first two are over all tokens of the student, whose rollouts go on from the first
(1 + cos(pi step / steps)) / 2 of a response of the teacher. The outlier term is
differentiated directly, as the paper writes it; the released code is said to put it
through the policy gradient: docs/methods/tropd.md has that and the Mask and Clip
variants. No clip of rho is found.
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "tropd"
    # The paper's schedule is constant, too; the rate suits the bundled pair.
    c.optimizer.learning_rate, c.optimizer.schedule = 5e-4, "constant"
    c.loss.trust = dict(
        signal="policy_gradient",
        clip_low=1.0,  # inferred: no clip
        clip_high=float("inf"),
        weights=dict(accepted=dict(inverse=False)),
    )
    c.loss.outlier = dict(
        signal="top_k_forward_kl",
        k=64,
        tail=False,  # the formula; the code is said to renormalise on the 64
        coef=1.0,  # 0: the Mask variant
        weights=dict(accepted=dict(inverse=True)),
    )
    c.rollout.prefix.source = "teacher"  # written in the run; "gold": from the data
    # Forward KL on one sampled token; its teacher term has no gradient.
    c.loss.guide = dict(signal="nll", source="teacher", coef=0.001)
    return c
