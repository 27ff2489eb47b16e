"""Terms that get nothing: said once, with the reason, after a few updates of it."""

from jopd.losses.objective import Term
from jopd.setup import needs
from jopd.setup.experiment import Experiment

PATIENCE = 3  # logged updates in a row


def idle_terms(e: Experiment, logged: dict, counts: dict[str, int]) -> list[str]:
    """What to say after an update that was logged.

    Args:
      logged: its numbers.
      counts: term -> updates without anything so far, changed in place.
    """
    lines = []
    for term in e.terms:
        why, count = reason(e, term, logged), counts.get(term.name, 0)
        counts[term.name] = count + 1 if why else count * (count >= PATIENCE)
        if why and count + 1 == min(PATIENCE, e.config.steps):
            lines.append(f"loss.{term.name} gets nothing: {why}")
    return lines


def reason(e: Experiment, term: Term, logged: dict) -> str:
    """Why a term added nothing to an update; "" where it did, or may well the next."""
    name, mix = term.name, e.config.mix
    if not logged.get(f"tokens/{name}", 1):
        if logged.get(f"unserved/{name}"):
            guided = [p.name for p in e.panels if p.sides and p.name in term.models]
            if guided:
                return f"no row has rollouts for both sides of {' or '.join(guided)}"
            return f"no row follows the route of {' or '.join(term.models)}"
        if 0 < mix.on_policy_probability < 1:
            return ""  # on- and off-policy updates take turns
        return f"tokens/{name}=0, no token is of source {term.source!r}"
    if logged.get(f"weight/{name}", 1) == 0:
        return f"weight/{name}=0, its weights leave every token out"
    ends = (logged.get(f"advantage/{name}_min"), logged.get(f"advantage/{name}_max"))
    if ends != (0.0, 0.0):
        return ""
    if {"reward", "group"} <= needs.fields_read(term):
        mean = logged.get("reward/mean")
        return f"the rewards of every group are equal (reward/mean={mean})"
    return "its advantages are 0 on every token"
