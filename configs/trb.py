"""TRB (arXiv:2605.31159): early rollouts are drawn with the teacher, within a budget.

    python -m jopd.main --config=configs/trb.py  # far

    y_t ~ mu,  mu = argmin KL(mu || T)  s.t.  KL(mu || S) <= eps_k  nats a token
    = S^(1 - b) T^b / Z,   eps_k = eps_0 (1 - k / K) for K updates, then the student's

A student early in its training writes prefixes that are hopeless, and what a teacher
says behind them is worth little. The loss is that of before and after: reverse KL where
the rollouts went, without a correction for who drew.

Paper: mu, the schedule, eps_0 .02 and K 50 of its plotted run, the student's 16
likeliest tokens. Inferred: the whole vocabulary here, which has 18 tokens; the rate.
SKD as another rule: docs/methods/trb.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="far")
    c.name = "trb"
    c.rollout.behavior = dict(
        function="blend",
        teacher="teacher",
        budget=0.02,
        schedule="linear",
        end=0.0,
        steps=50,
    )
    c.loss.opd = dict(signal="reverse_kl")
    return c
