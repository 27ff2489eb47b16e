"""DistiLLM (arXiv:2402.03898): skew KL on fresh, replayed and gold sequences.

    python -m jopd.main --config=configs/distillm.py  # digits

    L = mean KL(T || alpha T + (1 - alpha) S),  alpha = 0.1

signal="skew_reverse_kl" is the other direction. The paper raises the share of student
sequences by the validation loss and writes fewer fresh ones as training goes on; here
the shares of an update are fixed: 4 fresh to 4 replayed to 4 gold rows, inferred.
See docs/methods/distillm.md
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "distillm"
    # 40 fresh rows, and as many replayed and gold ones: 120, near those of the others.
    c.rollout.prompts_per_step = 10
    c.mix.student, c.mix.replay, c.mix.gold = 0.4, 0.4, 0.4  # inferred
    c.loss.skew = dict(signal="skew_forward_kl", alpha=0.1, source="any")
    return c
