"""KAT post hoc (arXiv:2606.09471): no loss behind where teacher and student just agree.

    python -m jopd.main --config=configs/kat.py  # words

    z_t = mean KL(S || T) over the last 16 tokens;  cut where z < tau, 4 times in a row

Such a run of low KL is a loop, or text that the student cannot get out of: it and all
behind it are left out, from the start of its first window on. tau is the .7 quantile of
the smallest z of the last 512 rollouts, so that 30 % of such rollouts would be spared.
A fixed one: ``--config.loss.opd.weights.before.threshold=0.02`` with ``memory=''``.

The paper ends rollouts there, too, which saves their tokens; here they are written to
their end. Its window is 64, its exempt tokens 16 or 32, its queue 4096 and 512 at the
least: scaled here to responses of 64 tokens (inferred). See docs/methods/kat.md
"""

from jopd.config import base_config


def get_config():
    c = base_config(regime="words")
    c.name = "kat"
    c.rollout.prompts_per_step = 16
    before = dict(
        function="kat.before_agreement",
        memory="minima",
        spared=0.3,
        patience=4,
        warmup_steps=50,
        least=64,
        cut="start",
        window=16,
        exempt=4,
    )
    weights = dict(before=before)
    c.loss.opd = dict(signal="reverse_kl", weights=weights, normalizer="weights")
    used = c.loss.opd.weights.before
    windows = dict(window=used.get_ref("window"), exempt=used.get_ref("exempt"))
    c.memory.minima = dict(function="kat.minima", capacity=512, **windows)
    spared = used.get_ref("spared")
    c.loss.opd.report = dict(function="kat.levels", memory="minima", spared=spared)
    return c
