"""CGTR (arXiv:2606.03532): a self-teacher refreshed after a gain, never by a clock.

    python -m jopd.main --config=configs/cgtr.py  # hinted

    L = L_GRPO + lambda mean_t min(rho, 2) JSD_.5(S'(. | x, y<t), T'(. | x, peer, y<t))

T is the student as it was when the gate last opened: at every fifth update, at the
earliest 30 after the copy before, if the mean reward of the last 5 updates exceeds that
of the last copy by more than 0.05 and no rollout of them was longer than 3.2 mean
lengths. S' and T' are on the student's 20 likeliest tokens and one bucket for the rest.

The numbers of the gate, of the loss and of the batch are the paper's. Inferred: lambda,
which it does not state, the clip of GRPO (DAPO's), and what the first copy is compared
with. The hint is SDPO's, a successful rollout of the same prompt. docs/methods/cgtr.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="hinted")
    c.name = "cgtr"
    c.steps = 200
    c.optimizer.learning_rate = (
        3e-4  # bundled student; the paper, on 8B: 1e-5, constant
    )
    c.optimizer.weight_decay = 0.01
    c.rollout.prompts_per_step, c.rollout.group_size = 16, 4
    # The gate's numbers are the defaults: 30, 5, 5, 0.05 and 3.2.
    c.teachers.self = dict(weights="gated", context="Right: {peer}\n{question}")
    clips = dict(clip_low=0.2, clip_high=0.28)
    c.loss.grpo = dict(
        signal="policy_gradient", other=None, advantage="group_reward", **clips
    )
    c.loss.distil = dict(
        signal="sdpo.distil",
        alpha=0.5,
        k=20,
        is_clip=2.0,
        other="self",
        coef=1.0,  # lambda: inferred
        weights=dict(has_context=dict(of="self")),
        normalizer="weights",
    )
    return c
