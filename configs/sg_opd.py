"""SG-OPD (arXiv:2606.09304): go beyond the teacher where the verifier agrees with it.

    python -m jopd.main --config=configs/sg_opd.py  # digits

    A = d + 0.8 (log T - log R) where a d > 0, else d;  d = log T - log S, R the initial
    student, a the sign of the group advantage.  L = PG(A) + alpha(k) NLL(gold)

Paper: 1.8 = 1 + 0.8, fallback 1, G = 8, a share of 0.125, phases at 30 and 35 % of the
run. It prints d as a cost in both places; this is the ascent. Inferred: alpha 1 to 0.1,
the mean over gold tokens (a plain sum there), the clip of the ratio, no clip of A. Gold
rows stand for its verified teacher rollouts: solutions of the bundled task are right by
construction, one's own go through the verifier first. docs/methods/sg_opd.md
"""

from jopd.config import base_config


def get_config():
    c = base_config()
    c.name = "sg_opd"
    c.rollout.prompts_per_step, c.rollout.group_size = 14, 8
    c.mix.student, c.mix.gold = 0.875, 0.125
    route = dict(extrapolate=1.8, fallback=1.0, other="teacher", anchor="reference")
    c.loss.routed = dict(
        signal="policy_gradient",
        other=None,
        clip_low=0.2,  # both inferred: the trainer's usual ones
        clip_high=0.2,
        advantage=dict(function="sg_opd.routed", **route),
        normalizer="sequences",
    )
    same = {key: c.loss.routed.advantage.get_ref(key) for key in route}
    c.loss.routed.report = dict(function="sg_opd.cells", **same)
    steps = c.get_ref("steps")
    phases = dict(hold=steps * 3 // 10, steps=(steps * 7 + 19) // 20)
    alpha = dict(schedule="hold", value=1.0, end=0.1, **phases)  # both inferred
    c.loss.anchor = dict(signal="nll", source="gold", coef=alpha)
    return c
