"""GNDPO (arXiv:2606.09091): log-ratios whitened over the batch as advantages.

    python -m jopd.main --config=configs/gndpo.py  # digits

    s = clip(log T - log S, -5, 5),  A = (s - mean s) / sqrt(var s + 1e-8)

over all response tokens of the update. Paper: mean and deviation; released code: the
bound of 5, and means per row. The control that the paper lacks is the bound alone:
``--config.loss.opd.advantage.center=False --config.loss.opd.advantage.scale=False``.
Several updates per rollout: docs/methods/gndpo.md
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "gndpo"
    c.rollout.prompts_per_step, c.rollout.group_size = 16, 8
    whitening = dict(bound=5.0, center=True, scale=True, scope="batch")
    c.loss.opd = dict(
        signal="policy_gradient",
        other=None,
        clip_low=1.0,  # inferred: no clip
        clip_high=float("inf"),
        advantage=dict(function="gndpo.whitened", **whitening),
        normalizer="sequences",
    )
    same = {key: c.loss.opd.advantage.get_ref(key) for key in whitening}
    c.loss.opd.report = dict(function="gndpo.flips", **same)
    return c
