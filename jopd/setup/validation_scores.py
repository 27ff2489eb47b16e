"""Rejects what asks more of a teacher than log-probabilities of what was written.

Those with another tokenizer, or behind a server, give no more.
"""

from ml_collections import ConfigDict

from jopd.setup.needs import (
    distributions_read,
    facts_read,
    models_named,
    panels_of,
    teachers_of,
    trace_signals,
    whole,
)
from jopd.teachers import roles, spans


def check_without_logits(config: ConfigDict, terms) -> None:
    """Raises ValueError: names the term or key, and what to use instead."""
    known = teachers_of(config)
    others = roles.without_logits(known)
    trace_signals(terms, known)
    _check_states(config, terms, others)
    _check_spans(terms, roles.of_own_tokens(known))
    if not others:
        return
    _check_distributions(config, terms, others)
    for name in sorted(others):
        if roles.reads_rollouts(known[name]):
            raise ValueError(
                f"{name}.context={known[name].context!r} shows other rollouts, which "
                f"change from batch to batch; {name}.{others[name]} reads prompts that "
                "do not"
            )
    _check_writers(config, others)
    _check_sources(config, terms, known)
    if config.objective.temperature != 1:
        first = min(others)
        raise ValueError(
            f"objective.temperature={config.objective.temperature} divides the logits "
            f"of both models, and {first}.{others[first]} has none; set "
            "objective.temperature=1.0"
        )


def _check_states(config: ConfigDict, terms, others) -> None:
    """Models whose states terms read run here, over the student's tokens."""
    formulas = {panel.name for panel in panels_of(config)}
    for term in terms:
        for name in term.models if term.reads == "states" else ():
            if name in formulas:
                raise ValueError(
                    f"loss.{term.name} reads the states of {name!r}, a panel, which is "
                    "a formula over logits and has none; name a model"
                )
            if name in others:
                key = roles.key(name)
                raise ValueError(
                    f"loss.{term.name} reads the states of {name!r}, and {key}."
                    f"{others[name]} gives log-probabilities only; use a teacher with "
                    f"the student's tokens and {key}.weights='path'"
                )


def _check_spans(terms, of_own_tokens: set[str]) -> None:
    """How tokens lie on a teacher's is known where it has its own."""
    for term in terms:
        for fact in sorted(facts_read(term)):
            key, _, name = fact.partition("/")
            if key in (*spans.Scored._fields, "begins") and name not in of_own_tokens:
                raise ValueError(
                    f"loss.{term.name} reads {fact}, how the student's tokens lie on "
                    f"those of {name!r}, which is for a teacher with tokenizer='own'"
                )


def _check_distributions(config: ConfigDict, terms, others) -> None:
    for term in terms:
        made = term._replace(signal=None, advantage=None, weights=(), report=None)
        wide = distributions_read(term) | models_named((made,))
        for name in sorted(wide & others.keys()):
            raise ValueError(whole(f"loss.{term.name}", name, others[name]))
    for panel in panels_of(config):
        for name in sorted(others.keys() & {*panel.members, *panel.sides}):
            raise ValueError(whole(f"panels.{panel.name}", name, others[name]))


def _check_sources(config: ConfigDict, terms, known) -> None:
    """What is stored is of gold rows, and of prefixes that are their beginnings."""
    sources = ["gold", *["teacher"] * (config.rollout.prefix.source == "gold")]
    for term in terms:
        for name in sorted(models_named((term,)) & known.keys()):
            if known[name].weights == "stored" and term.source not in sources:
                raise ValueError(
                    f"loss.{term.name}.source={term.source!r} reads {name!r}, whose "
                    f"stored scores are of {' and '.join(sources)} tokens; use "
                    f"source={sources[0]!r}"
                )


def _check_writers(config: ConfigDict, others) -> None:
    c = config.rollout
    keys = {
        "rollout.prefix.source": c.prefix.source,
        "rollout.early_stop.teacher": c.early_stop.function and c.early_stop.teacher,
        "rollout.behavior.teacher": c.behavior.function and c.behavior.teacher,
        "probes.teacher": config.probes.samples and config.probes.teacher,
        "audit.teacher": config.audit.chunks
        and config.audit.teacher == "local"
        and "teacher",
    }
    for key, name in keys.items():
        if name in others:
            raise ValueError(
                f"{key} has {name!r} write, or read along, with the student's tokens, "
                f"which {name}.{others[name]} cannot; name another model"
            )
