"""OGLS-SD, version 1 (arXiv:2605.12400): towards right rollouts, away from wrong ones.

    python -m jopd.main --config=configs/ogls_sd.py  # hinted

    q_t = softmax(z + s (mean_g z(. | g, x, y_<t) - mean_b z(. | b, x, y_<t)))
    L   = sum_{t < 1024} clipped KL(S || q_t), over wrong rollouts

z are logits of the initial student, g right and b wrong rollouts of the same prompt, b
the scored one among them. What all contexts have in common, their style, cancels; what
tells right from wrong is amplified. Every summand of the KL is cut at +-0.05. Rows with
no g, or no b, are left out; right rollouts have no loss.

The paper shows all of 8 rollouts and ends at s = 3, the way there is not given: linear
(inferred), and 3 of either kind here. Its temperature 1.1 is that of the rollouts. The
marks, the rate and the budget are those of the bundled student (inferred). See
docs/methods/ogls_sd.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="hinted")
    c.name = "ogls_sd"
    c.steps, c.rollout.prompts_per_step, c.rollout.group_size = 200, 8, 8
    c.rollout.temperature = 1.1
    c.optimizer.learning_rate = 3e-4  # bundled student
    c.peer.own_failure = True
    plus, minus = ("peer", "peer2", "peer3"), ("failure", "failure2", "failure3")
    for mark, fields in (("Right", plus), ("Wrong", minus)):
        for field in fields:
            context = f"{mark}: {{{field}}}\n{{question}}"
            c.teachers[field] = dict(weights="initial", context=context)
    strength = dict(schedule="linear", value=0.0, end=3.0)
    c.panels.steered = dict(
        kind="guided", members="reference", plus=plus, minus=minus, strength=strength
    )
    clipped = dict(signal="opsd.clipped", direction="reverse_kl", both_sides=True)
    wrong = dict(function="rewarded", below=0.5)
    weights = dict(wrong=wrong, first_tokens=dict(count=1024))
    c.loss.ogls = dict(
        **clipped, clip=0.05, other="steered", weights=weights, normalizer="rows"
    )
    return c
