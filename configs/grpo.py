"""GRPO (arXiv:2402.03300) with DAPO's clip: a verifier's reward and no teacher.

    python -m jopd.main --config=configs/grpo.py  # hinted

    L = -mean min(rho A, clip(rho, 1 - 0.2, 1 + 0.28) A),  A = (R - mean R) / std R

over a group of 8 rollouts per prompt; rho = student / behaviour. The mean is over all
tokens of the batch and the upper clip is wider than the lower (DAPO, arXiv:2503.14476);
the objective of a negative A is bounded at 3 A (dual clip, arXiv:1912.09729). With one
update per batch of rollouts rho is 1 and no clip acts. DAPO has no KL to the reference;
the first paper has, with coefficient 0.04:

    --config.loss.reference.coef=0.04

The other methods are compared with it; see docs/methods/grpo.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="hinted")
    c.name = "grpo"
    c.steps, c.rollout.prompts_per_step, c.rollout.group_size = 200, 8, 8
    clips = dict(clip_low=0.2, clip_high=0.28, dual_clip=3.0)
    advantage = dict(function="group_reward", std=True)  # std=False: Dr. GRPO
    c.loss.grpo = dict(
        signal="policy_gradient", other=None, advantage=advantage, **clips
    )
    c.loss.reference = dict(signal="k3", other="reference", coef=0.0)
    c.objective.normalizer = "tokens"  # DAPO; "sequences" is the first GRPO's
    c.optimizer.learning_rate = 3e-4  # bundled student
    return c
