"""OPD^2 (arXiv:2607.15161): what the teacher itself learned, where OPD agrees with it.

    python -m jopd.main --config=configs/opd2.py  # digits

    A = r - E_S[r], r = log T - log R;  0 unless (d - E_S[d]) A > 0, d = log T - log S

R is the teacher before its reasoning training, ``--config.reference.path=DIR``. The
bundled teacher has no such model; a student that knows less than the one that is
trained stands for it. The initial student as R made it worse. Means are exact (by
readers' notes: over the student's top 1024 tokens). Direct-OPD (arXiv:2607.05394) is r
alone, ``center=False`` and ``gate=False`` of loss.opd.advantage, beside a KL to the
initial student, ``--config.loss.start.coef=0.01`` (inferred; its controller of that
number is not here). docs/methods/delta.md
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "opd2"
    c.reference.path = "demo:early"
    moved = dict(function="delta.shift", center=True, gate=True)
    c.loss.opd = dict(
        signal="policy_gradient",
        other=None,
        advantage=dict(other="teacher", anchor="reference", **moved),
        clip_low=0.2,  # both inferred: the trainer's usual ones
        clip_high=0.2,
    )
    c.teachers.start = dict(weights="initial")
    c.loss.start = dict(signal="reverse_kl", other="start", coef=0.0)  # off, as there
    return c
