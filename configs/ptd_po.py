r"""PTD-PO in text (arXiv:2606.07000): GRPO, and a hinted teacher where it failed.

    python -m jopd.main --config=configs/ptd_po.py  # hinted

    L = L_GRPO + 0.01 KL + lambda mean_t JSD(S(. | x, y_<t), S_0(. | x, hint, y_<t))

The last mean is over the tokens of wrong rollouts in groups with a mean reward below 1,
on the 100 likeliest tokens of either model and one bucket for the rest. The teacher is
the initial student behind a hint that says what to do and not what comes out: here the
question in plain words (column ``hint`` of the task in words), which that student reads
in the question's place; others want "{hint}\n{question}".

The paper's prompts have images; its losses do not see them, and only these are here.
lambda is 0.5 (0.05 for 8B); rewards are the verifier's alone, the paper's a tenth for
the format besides; the rate and 64 rollouts are inferred. See docs/methods/ptd_po.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="hinted")
    c.name = "ptd_po"
    c.steps, c.rollout.prompts_per_step, c.rollout.group_size = 200, 8, 8
    c.rollout.top_p = 0.99
    c.optimizer.learning_rate = 3e-4  # bundled student
    c.data.fields = ("hint",)
    c.teachers.self = dict(weights="initial", context="{hint}")
    clips = dict(clip_low=0.2, clip_high=0.28)
    c.loss.grpo = dict(
        signal="policy_gradient", other=None, advantage="group_reward", **clips
    )
    c.loss.reference = dict(signal="k3", other="reference", coef=0.01)
    among = dict(support="union", k=100, form="tail", direction="jsd", jsd_alpha=0.5)
    failed = dict(function="ptd_po.failed", below=1.0)
    c.loss.tutor = dict(
        signal="restricted_kl",
        other="self",
        coef=0.5,
        weights=dict(failed=failed),
        normalizer="weights",
        **among,
    )
    return c
