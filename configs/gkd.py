"""GKD (arXiv:2306.13649): generalised JSD on student or gold sequences, by a coin.

    python -m jopd.main --config=configs/gkd.py  # digits

A coin per update, with probability ``mix.on_policy_probability`` (lambda in the paper),
picks student rollouts; else the whole update is gold rows. The loss is full-vocabulary.
On texts that the teacher writes in the run in the place of all of them (seq_kd):

    --config.mix.on_policy_probability=1 --config.rollout.prefix.source=teacher
    --config.rollout.prefix.schedule=constant --config.loss.jsd.source=teacher
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "gkd"
    c.mix.on_policy_probability = 0.5
    c.loss.jsd = dict(signal="jsd", beta=0.5, source="any")
    return c
