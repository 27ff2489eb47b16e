"""RLSD (arXiv:2604.03128): the verifier gives the sign, a self-teacher the size.

    python -m jopd.main --config=configs/rlsd.py  # 48.8 -> 44.9 %

    Ahat_t = A [(1 - l) + l clip((T(y_t) / S(y_t))^sign(A), 0.8, 1.2)],  A of GRPO
    L = -mean min(rho Ahat, clip(rho, 0.8, 1.28) Ahat),  dual clip 3

with l falling from 0.5 to 0 over the first 50 updates (the released script: 60). T is
the student of the last multiple of 10 updates (script: 20), reading the answer beside
the question. Exactly the terms ``grpo`` and ``evidence`` below: see
jopd/methods/rlsd.py. ``uniform`` is off: it gives groups of equal rewards a small
advantage of one sign (``--config.loss.uniform.coef=0.05`` for a constant one).
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "rlsd"
    c.rollout.prompts_per_step, c.rollout.group_size = 16, 8
    c.optimizer.learning_rate = 1e-4  # bundled pair: as GRPO
    c.teachers.self = dict(
        weights="snapshot", every_steps=10, context="{question}{answer};{question}"
    )
    surrogate = dict(
        signal="policy_gradient",
        other=None,
        advantage="group_reward",
        clip_low=0.2,
        clip_high=0.28,
        dual_clip=3.0,
    )
    decay = dict(schedule="linear", steps=50)
    c.loss.grpo = dict(coef=dict(value=0.5, end=1.0, **decay), **surrogate)
    c.loss.evidence = dict(
        coef=dict(value=0.5, end=0.0, **decay),
        weights=dict(evidence=dict(function="rlsd.evidence", clip=0.2, other="self")),
        report=dict(function="rlsd.evidence_report", clip=0.2, other="self"),
        **surrogate,
    )
    # Groups of equal rewards teach nothing above. Off; as a fallback for them try
    # dict(value=0.05, end=0.0, **decay), a size that is inferred.
    uniform = dict(function="rlsd.uniform_group", clip=0.2, other="self")
    c.loss.uniform = dict(coef=0.0, **(surrogate | dict(advantage=uniform)))
    return c
