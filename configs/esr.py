"""ESR (arXiv:2605.27028): rollouts end after a few tokens, and that is all that learns.

    python -m jopd.main --config=configs/esr.py  # words

    L = mean over y_t, t <= N, of KL(S || T),   y ~ S cut at N tokens

Behind some hundred tokens of the student's a teacher goes on with what stands there in
the place of correcting it, so what it says there is worth less than it costs. N is
``rollout.max_new_tokens``; evaluations keep a limit of their own. What the short
rollouts save is spent on more prompts: 128 of 24 tokens, where
`configs/restricted_opd.py` and others have 64 of some 35. At 12 tokens all weights
forget the rest: 27 % of the answers are right before and 0 after 400 updates.

Paper: the sum, full-vocabulary reverse KL, N 100 of some thousands (50 to 200 are
alike). Inferred: N 24 of 35, a mean over tokens (its equations have a sum), the
learning rate, full weights (it trains an adapter). See docs/methods/esr.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="words")
    c.name = "esr"
    c.eval.max_new_tokens = c.rollout.max_new_tokens
    c.rollout.max_new_tokens = 24
    c.loss.esr = dict(signal="reverse_kl")
    return c
