"""OPRD (arXiv:2606.06021): the student's states are drawn to the teacher's.

    python -m jopd.main --config=configs/oprd.py  # far

    L = mean over rows, over the last 2000 tokens, over layers of |h_S - h_T|^2 / D

Teacher and student have one shape, as in the paper (a model and what RL made of it):
here an early student of the task in digits and the later one. Beside the head's loss:
``--config.loss.states.coef=10 --config.loss.opd.signal=reverse_kl``. Pairs of unlike
shape need a bridge: ``tools/fit_bridge.py``, then ``signal='oprd.bridged'``.

Paper: all layers, no normalisation, coefficient 1, the mean over a row's tokens first.
Its rate of 1e-5 is for 1.5B parameters, ours that of the pair. See docs/methods/oprd.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="far")
    c.name = "oprd"
    c.teacher.path = "demo:student"  # of the student's shape
    c.loss.states = dict(
        signal="oprd.mse",
        reads="states",
        weights=dict(last_tokens=dict(count=2000)),
        normalizer="sequences",
    )
    return c
