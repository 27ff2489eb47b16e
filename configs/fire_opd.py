"""FiRe-OPD (arXiv:2606.02684): drop rollouts that the teacher finds unlikely, reweight.

    python -m jopd.main --config=configs/fire_opd.py  # digits

    w = (1 + 1 - H_T / max H_T)(1 + H_S / max H_S), mean 1 in each row; rows whose mean
    log T is in the lowest fifth of the batch: 0.  A = log T - log S

All values are the paper's; the clip is the released code's. With row means of 1 the sum
of the weights is the number of kept tokens, which "weights" divides by. The code takes
quantile, maxima and mean per micro-batch; nearest to it is
``--config.loss.opd.weights.tokens.scope=batch``. docs/methods/fire_opd.md
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "fire_opd"
    c.loss.opd = dict(
        signal="policy_gradient",
        clip_low=0.2,
        clip_high=0.2,
        weights=dict(
            rows=dict(function="fire.familiar_rows", drop=0.2),
            tokens=dict(function="fire.sure_and_unsure", scope="sequence"),
        ),
        normalizer="weights",
    )
    return c
