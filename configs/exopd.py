"""ExOPD of G-OPD (arXiv:2602.12125): on beyond the teacher, away from an anchor.

    python -m jopd.main --config=configs/exopd.py  # digits

    A = log T - log S + (lambda - 1)(log T - log R)

lambda 1.25, the authors' script; 1 is OPD. R is the initial student, for a larger
teacher also what it was before its own training, ``--config.reference.path=DIR``. REOPD
(arXiv:2608.11698) extrapolates less where S is far from T; with a constant budget for
its adaptive one: ``--config.loss.opd.advantage.tau=0.007``. docs/methods/delta.md
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "exopd"
    beyond = dict(function="delta.extrapolated", extrapolate=1.25, tau=float("inf"))
    c.loss.opd = dict(
        signal="policy_gradient",
        other=None,
        advantage=dict(other="teacher", anchor="reference", **beyond),
        clip_low=1.0,  # inferred: no clip
        clip_high=float("inf"),
    )
    return c
