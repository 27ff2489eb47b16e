"""Gates, filters and supports on scored tokens, each beside the arm its paper lacks."""

from studies import methods

TITLE = "Eight systems beside the baselines that their papers lack"
ABOUT = """
What selects, filters or whitens is compared with a control: as many rows dropped by a
coin for FiRe-OPD's filter, as many tokens kept by a coin for TA-OPD, rows ended by a
coin of 0.02 per token for KAT (not matched in amount), the clip alone for GNDPO, other
ids of like frequency for Rock-Freeze, the naive form for many faces, a teacher copied
every 30 updates or never for CGTR; and with plain OPD or the exact reverse KL. All but
the controls are runs of [methods](methods.md), each in its regime there; a control has
the rate and the budget of its method.
"""
SEEDS = (0, 1, 2)
COMMON = methods.COMMON


def _control(of: str, baseline: str, **overrides) -> dict:
    """``of`` with its idea taken out."""
    spec, keys = (
        methods.ARMS[of],
        {k.replace("__", "."): overrides[k] for k in overrides},
    )
    keys = spec.get("overrides", {}) | keys
    return {"config": spec["config"], "overrides": keys, "baseline": baseline}


ARMS = {
    "OPD, digits": methods.shared("opd", ""),
    "OPD": methods.shared("opd, words"),
    "OPD, half right": methods.shared("opd, hinted", ""),
    "reverse KL": methods.shared("reverse KL, words", ""),
    "SG-OPD": methods.shared("sg_opd", "OPD, digits"),
    "rows dropped by a coin": _control(
        "opd",
        "OPD, digits",
        loss__opd__weights__random_rows__drop=0.2,
        loss__opd__normalizer="weights",
    ),
    "FiRe-OPD": methods.shared("fire_opd", "rows dropped by a coin"),
    "FiRe-OPD's filter alone": _control(
        "opd",
        "rows dropped by a coin",
        loss__opd__weights__rows__function="fire.familiar_rows",
        loss__opd__weights__rows__drop=0.2,
        loss__opd__normalizer="weights",
    ),
    "SCOPE": methods.shared("scope", "OPD, half right"),
    "the clip alone": _control(
        "gndpo",
        "OPD, digits",
        loss__opd__advantage__center=False,
        loss__opd__advantage__scale=False,
    ),
    "GNDPO": methods.shared("gndpo", "the clip alone"),
    "neither clip nor whitening": _control(
        "gndpo",
        "the clip alone",
        loss__opd__advantage__center=False,
        loss__opd__advantage__scale=False,
        loss__opd__advantage__bound=1e6,
    ),
    "half of the tokens by a coin": _control(
        "ta_opd", "OPD", loss__opd__weights__keep__score="random"
    ),
    "TA-OPD": methods.shared("ta_opd", "half of the tokens by a coin"),
    "other ids frozen": _control(
        "rock_freeze", "reverse KL", loss__opd__weights__frozen__control=True
    ),
    "Rock-Freeze": methods.shared("rock_freeze", "other ids frozen"),
    "many faces, naive": _control(
        "restricted_opd", "reverse KL", loss__opd__form="naive"
    ),
    "many faces, renormalised": methods.shared("restricted_opd", "many faces, naive"),
    "rows ended by a coin": _control(
        "reverse KL, words",
        "reverse KL",
        loss__exact__weights__random_end__rate=0.02,
        loss__exact__weights__random_end__exempt=4,
        loss__exact__normalizer="weights",
    ),
    "KAT": methods.shared("kat", "rows ended by a coin"),
    "refreshed by a clock": _control(
        "cgtr", "never refreshed", teachers__self__weights="snapshot"
    ),
    "never refreshed": _control("cgtr", "", teachers__self__weights="initial"),
    "CGTR": methods.shared("cgtr", "refreshed by a clock"),
}
BASELINE = "OPD"
METRICS = {
    "before.avg_at_k": "avg@4 before, %",
    "avg_at_k": "avg@4, %",
    "accuracy": "greedy, %",
    "pass_at_k": "pass@4, %",
    "reverse_kl": "reverse KL",
    "mean_length": "length",
}
JUDGED = ("avg_at_k", "-reverse_kl")


def _beats(arm: str, against: str) -> dict:
    return dict(arm=arm, against=against, metric="avg_at_k", direction="higher")


CLAIMS = {
    f"{arm} beats {ARMS[arm]['baseline']}": _beats(arm, ARMS[arm]["baseline"])
    for arm in ARMS
    if ARMS[arm].get("baseline")
}

FOUND = """
Three seeds each; the whole effect of a method is in methods.md.

- **TA-OPD**: its choice of tokens beats a coin that keeps as many (+2.5 ± 1.7) and is
  level with all tokens: half of the tokens, chosen so, teach what all do.
- **many faces**: the naive divergence on a support ends in a student that writes
  nonsense to the limit in all seeds; renormalised it does not.
- **GNDPO** over its clip alone: +6.0 ± 8.9, not decided. The clip itself does nothing
  (+0.6 ± 10.7 without it): what loses 13.7 to plain OPD is GNDPO's mean per response
  with 16 prompts of 8 rollouts, and whitening makes up for a part of that.
- **FiRe-OPD**'s filter alone is not better than dropping as many rows by a coin (-4.2 ±
  15.3), nor is it with the weights and the clip; both lose to all rows.
- **Rock-Freeze** loses 4.0 ± 1.6 to freezing other ids of like frequency, which itself
  costs nothing: the tokens that it freezes are ones to learn here.
- **KAT**'s cut loses 8.7 ± 3.8 in samples to ending rows by a coin, and is level in
  greedy answers; the coin keeps more tokens.
- **CGTR**'s gate, a clock and a teacher that never moves are level (within 1 point):
  in 200 updates no copy was of a student that had drifted, so there was nothing for the
  gate to keep out. The paper's claim is about runs that do drift.
- **SG-OPD** and **SCOPE** lose to plain OPD at its rate (-8.2 ± 4.0, -5.9 ± 4.5).

Responses here have 35 tokens, with one right way; what is filtered, cut or frozen is
signal. The papers' long and noisy responses are another case.
"""
