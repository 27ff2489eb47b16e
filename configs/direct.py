"""A sampled KL estimate, differentiated directly (http://joschu.net/blog/kl-approx.html).

    python -m jopd.main --config=configs/direct.py  # digits

    L = mean d^2 / 2,  d = log student(y) - log teacher(y)        (k2)

On fresh tokens its mean gradient is that of the reverse KL, token by token that of
plain OPD. The other two estimates are there to show that a good value is not a good
loss: the mean gradient of k3 is that of the *forward* KL, that of k1 is zero.

    --config.loss.direct.signal=k3        (or k1)

See docs/methods/direct.md (https://thinkingmachines.ai/blog/on-policy-distillation)
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "direct"
    c.loss.direct = dict(signal="k2", other="teacher")
    return c
