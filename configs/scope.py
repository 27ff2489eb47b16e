"""SCOPE (arXiv:2604.10688): right rollouts teach themselves, wrong ones the teacher.

    python -m jopd.main --config=configs/scope.py  # hinted

    L = mean over prompts of sum_right w NLL + sum_wrong w OPD, sums over tokens;
    w in right: softmax of -mean log S (rare ones), in wrong: of mean log T (understood)

Signs, sums and temperatures are the paper's. The released flags turn the student's sign
around and scale to a mean of 1: ``--config.loss.own.weights.rare.sign=1.0`` and
``scale=mean_one`` there. No clip is stated. docs/methods/scope.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="hinted")
    c.name = "scope"
    c.steps = 200
    c.rollout.prompts_per_step, c.rollout.group_size = 16, 8
    c.optimizer.learning_rate = 3e-4  # bundled pair
    c.rollout.temperature = 0.6
    likely = dict(function="scope.by_likelihood", temperature=1.0)
    right = dict(of="student", rows="correct", sign=-1.0, **likely)
    wrong = dict(of="teacher", rows="wrong", sign=1.0, **likely)
    c.loss.own = dict(signal="nll", weights=dict(rare=right), normalizer="rows")
    c.loss.opd = dict(
        signal="policy_gradient",
        clip_low=1.0,
        clip_high=float("inf"),
        weights=dict(understood=wrong),
        normalizer="rows",
    )
    return c
