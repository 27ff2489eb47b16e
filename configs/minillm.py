"""MiniLLM (arXiv:2306.08543): policy gradient of the sequence-level reverse KL.

    python -m jopd.main --config=configs/minillm.py  # digits

    R_t = mean of log teacher(y) - log student(y) over token t and those after it
    L = mean [ -min(rho A, clip(rho) A) + KL(S || T) ],  A = R whitened over the batch

The second term is the exact single-step part. Left out, as they are not of the
distillation loss: sampling from a mixture of teacher and student, and the language
modelling term on other text. The clip is inferred. See docs/methods/minillm.md
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "minillm"
    c.loss.sequence = dict(
        signal="policy_gradient",
        other=None,
        advantage=dict(function="minillm.reward_to_go", discount=1.0),
        clip_low=0.2,  # inferred
        clip_high=0.2,  # inferred
    )
    c.loss.single_step = dict(signal="reverse_kl")
    return c
