"""Rejects configs that cannot work, with the reason, before anything is loaded."""

import re

import jax
from ml_collections import ConfigDict

from jopd.models import decoder, lora
from jopd.setup import judges, keys, optimizer, ranges, schedules
from jopd.setup.builders import build_terms
from jopd.setup.needs import (
    facts_read,
    fields_read,
    frozen_named,
    models_named,
    needs_rewards,
    panels_of,
    teachers_of,
)
from jopd.setup.validation_rollout import check_rollout
from jopd.setup.validation_scores import check_without_logits
from jopd.setup.validation_text import check_audit, check_probes
from jopd.teachers import peers, roles


def validate(config: ConfigDict, *, train: bool = True) -> None:
    """Rejects what cannot work, with the reason, before any model is loaded.

    Args:
      train: False for evaluation only: a model may then be compared with itself.

    Raises:
      ValueError: names the key, its value and what to use instead.
    """
    ranges.check_all(keys.flatten(config))
    if not config.loss:
        raise ValueError("config.loss has no terms; add one, e.g. dict(signal='nll')")
    terms = build_terms(config)
    if not terms:
        raise ValueError(
            "every term of config.loss has coefficient 0: nothing to train"
        )
    judges.check(config)
    _check_evaluations(config)
    _check_terms(config)
    _check_patterns(config)
    _check_adapter(config)
    _check_mix(config, terms)
    check_rollout(config)
    if train:
        check_audit(config, terms)
        _check_teachers(config, terms)
        _check_peers(config, terms)
        check_probes(config, terms)
        check_without_logits(config, terms)
        _check_rewards(config, terms)


def _check_evaluations(config: ConfigDict) -> None:
    if config.eval.prompts:
        return
    asking = {"eval.every_steps": (config.eval.every_steps, 0)}
    if config.export.enabled:
        asking["export.which"] = (config.export.which, "last")
    for key, (value, off) in asking.items():
        if value != off:
            raise ValueError(
                f"{key}={value!r} asks for evaluations, and eval.prompts=0 makes none; "
                f"use {key}={off!r}, or raise eval.prompts"
            )


def _check_terms(config: ConfigDict) -> None:
    for name, spec in config.loss.items():
        schedules.check(f"loss.{name}.coef", spec.get("coef", 1.0))
        beta = spec.get("beta")
        if spec.get("signal") == "jsd" and beta is not None and not 0 < beta < 1:
            raise ValueError(
                f"loss.{name}.beta={beta}: the generalised JSD vanishes at the ends; "
                "use a value inside (0, 1), or "
                f"signal={'forward_kl' if beta <= 0 else 'reverse_kl'!r} for the "
                "limit"
            )


def _check_adapter(config) -> None:
    lora.targeted(config.student.lora.targets)
    adapted = config.student.lora.rank or config.student.adapter
    if config.student.quantize and not adapted:
        raise ValueError(
            f"student.quantize={config.student.quantize!r}, but student.lora.rank=0 "
            "trains all weights, which eight bits cannot follow; set a rank, such as "
            "16, or student.quantize=''"
        )
    if (rank := config.optimizer.project.rank) and adapted:
        raise ValueError(
            f"optimizer.project.rank={rank} projects gradients of whole matrices, and "
            "an adapter is trained here, which keeps them in a few directions itself; "
            "use optimizer.project.rank=0, or student.lora.rank=0 and no adapter"
        )
    if config.export.adapter and not adapted:
        raise ValueError(
            "export.adapter=True, but student.lora.rank=0 trains all weights, not an "
            "adapter; set a rank, such as 16, or export.adapter=False"
        )


def check_projection(config, shape: decoder.DecoderConfig) -> list[str]:
    """That gradients can be projected as asked, of the student's shape alone.

    Returns a line where some matrices are not.

    Raises:
      ValueError: no matrix would be, or no update before or after it begins.
    """
    rank, after = config.optimizer.project.rank, config.optimizer.project.after
    if not rank:
        return []
    at = round(after * config.steps)
    if not 0 < at < config.steps:
        raise ValueError(
            f"optimizer.project.after={after} of steps={config.steps} begins at update "
            f"{at}: there must be updates before it, whose directions are kept, and "
            "behind it; choose a share between, or more steps"
        )
    params = jax.eval_shape(lambda: decoder.init(shape, jax.random.key(0)))["layers"]
    chosen = optimizer.projected(params, rank)
    sides = {name: min(w.shape[-2:]) for name, w in params.items() if w.ndim > 2}
    if not any(chosen.values()):
        most = max(sides.values())
        raise ValueError(
            f"optimizer.project.rank={rank} is no less than the smaller side of any "
            f"matrix of the student's layers, {most} at most: nothing would be "
            f"projected; use a rank below {most}, or 0"
        )
    alone = [f"{name} ({sides[name]})" for name in sides if not chosen[name]]
    return [
        f"optimizer.project.rank={rank} leaves matrices alone whose smaller side is no "
        f"larger: {', '.join(alone)}"
    ] * bool(alone)


def _check_mix(config: ConfigDict, terms) -> None:
    mix = config.mix
    if mix.student + mix.gold == 0:
        raise ValueError("mix.student and mix.gold are both 0: no rows to train on")
    if mix.on_policy_probability < 1 and mix.updates_per_rollout > 1:
        raise ValueError(
            f"mix.updates_per_rollout={mix.updates_per_rollout} reuses rollouts that "
            f"mix.on_policy_probability={mix.on_policy_probability} may not have made; "
            f"set one of them to 1"
        )
    if mix.replay and not mix.student:
        raise ValueError("mix.replay needs student rollouts; mix.student is 0")
    sampled = mix.student > 0 and mix.on_policy_probability > 0
    gold = mix.gold > 0 or mix.on_policy_probability < 1
    for term in terms:
        if term.source == "teacher" and not (sampled and config.rollout.prefix.source):
            raise ValueError(
                f"loss.{term.name} speaks of teacher tokens, but no rollout starts "
                "from any; set rollout.prefix.source to 'gold' or a teacher's name"
            )
        if term.source == "student" and not sampled:
            raise ValueError(
                f"loss.{term.name} speaks of student tokens, but mix.student="
                f"{mix.student} gives none; raise it or set source='gold'"
            )
        if term.source == "gold" and not gold:
            raise ValueError(
                f"loss.{term.name} speaks of gold tokens, but mix.gold={mix.gold} "
                "gives none; set mix.gold above 0"
            )


def _check_rewards(config: ConfigDict, terms) -> None:
    """Rewards must exist, and groups have something to compare."""
    if config.eval.verifier == "none" and not config.rewards:
        check_no_rewards(config, terms, "eval.verifier='none' gives 0 to every row")
    for term in terms:
        read = fields_read(term)
        if {"reward", "group"} <= read and config.rollout.group_size == 1:
            raise ValueError(
                f"loss.{term.name} compares a row's reward with its group's, but "
                "rollout.group_size=1 leaves it alone, with an advantage of 0; use a "
                "group_size of at least 2"
            )


def check_no_rewards(config: ConfigDict, terms, why: str) -> None:
    """Raises ValueError if something reads rewards, which ``why`` says there are none.

    Terms do, and teachers that are refreshed when rewards have risen.
    """
    known = teachers_of(config)
    for name in sorted(frozen_named(config, terms)):
        if known[name].weights == "gated":
            raise ValueError(
                f"{name}.weights='gated' waits for rewards to rise, but {why}; name a "
                f"verifier and data.answer_column, or set {name}.weights='snapshot'"
            )
    for term in terms:
        if needs_rewards(term):
            raise ValueError(
                f"loss.{term.name} reads rewards, but {why}; name a verifier and, in "
                "data.answer_column, what it compares with, or remove the term"
            )


def _check_teachers(config: ConfigDict, terms) -> None:
    known = teachers_of(config)
    panels = [one.name for one in panels_of(config)]
    for name, teacher in known.items():
        roles.check_route(name, teacher, config.data.fields)
    for one in panels_of(config):
        schedules.check(
            f"panels.{one.name}.strength", config.panels[one.name].get("strength", 1.0)
        )
        routed = [n for n in (*one.members, *one.sides) if known[n].route]
        if one.kind == "guided" and routed:
            raise ValueError(
                f"panels.{one.name}: kind='guided' is served by what its sides have to "
                f"read, and {routed[0]!r} has a route; leave that out"
            )
    own = config.data.teacher_template_kwargs
    other_rendering = own and own != config.data.student_template_kwargs
    moved = config.student.adapter or config.init_from.run  # from what is at its path
    for name in sorted(models_named(terms)):
        if name not in (*known, *panels):
            raise ValueError(
                f"a term names the model {name!r}; known: "
                f"{', '.join((*sorted(known), *panels))} (add it to config.teachers)"
            )
    for name in sorted(frozen_named(config, terms)):
        teacher = known[name]
        roles.check(name, teacher, config.data.fields)
        if name not in models_named(terms):
            continue  # a panel's member alone, which may well be the student
        same = teacher.weights == "path" and teacher.path == config.student.path
        if same and not (moved or other_rendering or teacher.context):
            raise ValueError(
                f"{name}.path and student.path are both {config.student.path!r}: with "
                "the same weights and no other context the divergence is identically "
                "zero; name another teacher or give it a context"
            )


def _check_peers(config: ConfigDict, terms) -> None:
    """Who reads other rollouts has some, and a term leaves out rows that lack them."""
    known = teachers_of(config)
    read = {name: roles.rollouts_of(known[name].context) for name in known}
    names = {name for name in frozen_named(config, terms) if read[name]}
    members = {one.name: set(one.shares) for one in panels_of(config)}
    if read["teacher"]:
        raise ValueError(
            f"teacher.context uses {{{read['teacher'][0]}}}, but evaluation compares "
            "with this teacher too, on rollouts that have no others beside them; "
            "define it in config.teachers by another name"
        )
    for term in terms:
        facts = sorted(f for f in facts_read(term) if f.startswith(peers.FACT))
        # A guided panel serves no row that one of its sides cannot be read for.
        by_name = [members.get(name, {name}) for name in term.models]
        shown, weighed = names & set().union(*by_name), set()
        for name in (fact.removeprefix(peers.FACT) for fact in facts):
            of = members.get(name, {name})
            weighed |= of
            if not of & names:
                raise ValueError(
                    f"loss.{term.name} asks which rows {name!r} reads in its context, "
                    "which shows no other rollouts; use {peer} or {failure} in it"
                )
        if bare := sorted(shown - weighed):
            raise ValueError(
                f"loss.{term.name} compares with {bare[0]!r}, whose context uses "
                f"{{{read[bare[0]][0]}}}, also on rows without one; add weights="
                f"dict(has_context=dict(of={bare[0]!r}))"
            )
        read_at_all = names & frozen_named(config, (term,))
        if read_at_all and term.source != "student":
            raise ValueError(
                f"loss.{term.name}.source={term.source!r}: only student rows have "
                "other rollouts beside them; use 'student'"
            )
    direct = [members.get(name, {name}) for term in terms for name in term.models]
    needed = [{name} for name in sorted(names & set().union(*direct))]
    for one in panels_of(config):  # of a side one is enough
        if any(one.name in term.models for term in terms):
            needed += [set(side) for side in (one.plus, one.minus) if side]
    for side in needed:
        _check_group(config, {name: read[name] for name in sorted(side)})


def _check_group(config: ConfigDict, read: dict[str, tuple[str, ...]]) -> None:
    """That a group has enough others for the context of one of the models."""
    size, least = config.rollout.group_size, {}
    for name, fields in read.items():
        if not fields:
            return  # shows none
        # Without its first a row is not read in the context.
        kind, number = roles.rollout_meant(fields[0])
        itself = kind == "failure" and config.peer.own_failure
        least[name] = number + 1 - itself
    name = min(least, key=least.get)
    if least[name] > size:
        raise ValueError(
            f"the context of {name!r} uses {{{read[name][0]}}}, and "
            f"rollout.group_size={size} makes {size - 1} other rollouts of a prompt; "
            f"use a group_size of at least {least[name]}"
        )


def _check_patterns(config: ConfigDict) -> None:
    for key in ("log.leak_pattern", "peer.remove"):
        section, name = key.split(".")
        try:
            re.compile(config[section][name])
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(
                f"{key}={config[section][name]!r:.80} is no regular expression: {error}"
            ) from error
