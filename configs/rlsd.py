"""RLSD (arXiv:2604.03128): the verifier gives the sign, a self-teacher the size.

    python -m jopd.main --config=configs/rlsd.py  # hinted

    Ahat_t = A [(1 - l) + l clip((T(y_t) / S(y_t))^sign(A), 0.8, 1.2)],  A of GRPO
    L = -mean min(rho Ahat, clip(rho, 0.8, 1.28) Ahat),  dual clip 3

with l falling from 0.5 to 0 over the first 50 updates (the released script: 60). T is
the student of the last multiple of 10 updates (script: 20), reading a solution beside
the question. Exactly the terms ``grpo`` and ``evidence`` below: see
jopd/methods/rlsd.py. ``uniform`` is off: it gives groups of equal rewards a small
advantage of one sign (``--config.loss.uniform.coef=0.05`` for a constant one).

What the released code has, too: a reward for the form of the answer, in its script
(always 0 on the bundled tasks, whose responses have neither a box nor ####), and
a rise of l before it falls, which its script leaves out (both terms share the key):

    --config.rewards.correct=0.9 --config.rewards.format=0.1
    --config.loss.evidence.coef.warmup=10
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="hinted")
    c.name = "rlsd"
    c.steps, c.rollout.prompts_per_step, c.rollout.group_size = 200, 8, 8
    c.optimizer.learning_rate = 3e-4  # bundled student: as GRPO
    c.teachers.self = dict(
        weights="snapshot", every_steps=10, context="Solution: {solution}\n{question}"
    )
    surrogate = dict(
        signal="policy_gradient",
        other=None,
        advantage="group_reward",
        clip_low=0.2,
        clip_high=0.28,
        dual_clip=3.0,
    )
    rest = dict(schedule="linear", start=1.0, value=0.5, end=1.0, steps=50, warmup=0)
    c.loss.grpo = dict(coef=rest, **surrogate)
    shared = {key: c.loss.grpo.coef.get_ref(key) for key in ("steps", "warmup")}
    decay = dict(schedule="linear", value=0.5, end=0.0, **shared)
    c.loss.evidence = dict(
        coef=decay,
        weights=dict(evidence=dict(function="rlsd.evidence", clip=0.2, other="self")),
        report=dict(function="rlsd.evidence_report", clip=0.2, other="self"),
        **surrogate,
    )
    # Groups of equal rewards teach nothing above. Off; as a fallback for them try
    # decay | dict(value=0.05), a size that is inferred.
    uniform = dict(function="rlsd.uniform_group", clip=0.2, other="self")
    c.loss.uniform = dict(coef=0.0, **(surrogate | dict(advantage=uniform)))
    return c
