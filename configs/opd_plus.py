"""OPD+ (arXiv:2606.01039): the policy gradient of a chosen f-divergence, exact in mean.

    python -m jopd.main --config=configs/opd_plus.py  # digits

    L = -mean rho A,  A = u f'(u) - f(u),  u = teacher(y) / student(y)

For jsd A = log((1 + u) / 2) / 2. It is one of the two better rows of the paper's table
of corrected forms; its forward_kl, A = u, is the worst, and never negative: it spreads
the bundled student at the rates that the others bear. Those and the uncorrected -f(u):

    --config.loss.opd.advantage.divergence=reverse_kl      (or forward_kl)
    --config.loss.opd.advantage.function=opd_plus.stopped

No clip is stated, of rho or of u. See docs/methods/opd_plus.md
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "opd_plus"
    c.loss.opd = dict(
        signal="policy_gradient",
        other=None,
        advantage=dict(
            function="opd_plus.corrected",
            divergence="jsd",  # paper: 48.9; reverse_kl 49.0, forward_kl 46.4
            bound=80.0,  # of |log u|, inferred: only float32's range; others use 6
        ),
        clip_low=1.0,  # inferred: no clip
        clip_high=float("inf"),
    )
    return c
