"""Rejects rollout options that cannot work, with the reason; see ``validation``."""

import jax
from ml_collections import ConfigDict

from jopd.losses import memories
from jopd.setup import optimizer, ranges, schedules
from jopd.setup.builders import build_behavior, build_stop, build_terms, one_of
from jopd.setup.config import base_config
from jopd.setup.needs import VOCABULARY, teachers_of
from jopd.teachers import roles


def check_rollout(config: ConfigDict) -> None:
    """Groups that stay together, prefixes and early stops that have what they need.

    Raises:
      ValueError: names the key, its value and what to use instead.
    """
    _check_temperatures(config)
    _check_at_once(config.rollout)
    _check_prefix(config)
    _check_stop(config)
    _check_behavior(config)
    _check_horizon(config)


def _check_temperatures(config: ConfigDict) -> None:
    mix = config.mix
    if config.rollout.temperature == 0 and mix.student * mix.on_policy_probability:
        raise ValueError(
            "rollout.temperature=0.0: nothing here learns from greedy rollouts, which "
            "have no importance ratio; set it above 0 (evaluation is greedy as it is)"
        )
    if config.objective.temperature == 0:
        raise ValueError(
            "objective.temperature=0.0 must be above 0; unless set it follows "
            "rollout.temperature"
        )


def _check_at_once(c: ConfigDict) -> None:
    if c.at_once % c.group_size:
        raise ValueError(
            f"rollout.at_once={c.at_once} is not a multiple of "
            f"rollout.group_size={c.group_size}; groups stay together, so use "
            f"{-(-c.at_once // c.group_size) * c.group_size}, or 0 for all rows"
        )


def _check_prefix(config: ConfigDict) -> None:
    prefix = config.rollout.prefix
    if not prefix.source:
        return
    known = teachers_of(config)
    able = ["gold", *(name for name in known if known[name].weights == "path")]
    one_of("rollout.prefix.source", prefix.source, able)
    if prefix.source != "gold":
        roles.check(prefix.source, known[prefix.source], config.data.fields)


def _check_stop(config: ConfigDict) -> None:
    c = config.rollout
    stop = build_stop(config)
    if stop is None:
        known = base_config().rollout.early_stop
        more = sorted(set(c.early_stop) - set(known))
        if more:
            raise ValueError(
                f"rollout.early_stop.{more[0]} is given to no rule; name one in "
                f"rollout.early_stop.function, or set one of {', '.join(known)}"
            )
        return
    given = getattr(stop.rule, "keywords", {})
    if given.get("limit", 1) <= 0:
        raise ValueError(
            f"rollout.early_stop.limit={c.early_stop.limit} must be above 0: at 0 "
            "nearly every rollout would end at the first look"
        )
    least = 0 if "count_B" in stop.reads else 1
    if not least <= c.early_stop.window < c.max_new_tokens:
        raise ValueError(
            f"rollout.early_stop.window={c.early_stop.window} must be at least 1 and "
            f"below rollout.max_new_tokens={c.max_new_tokens}: no rollout would be seen"
        )
    if not 0 < c.block_tokens < c.max_new_tokens:
        raise ValueError(
            f"rollout.early_stop looks every rollout.block_tokens={c.block_tokens} "
            f"draws, but a rollout has at most {c.max_new_tokens}: set it below that"
        )
    means, in_a_row = given.get("mean_over"), given.get("patience")
    if means and in_a_row and c.early_stop.window:
        seen = min(means + in_a_row - 2 + c.block_tokens, c.max_new_tokens - 1)
        if c.early_stop.window < seen:
            raise ValueError(
                f"rollout.early_stop.window={c.early_stop.window}: {in_a_row} means of "
                f"{means} tokens in a row, wherever they end between two looks, are "
                f"seen in {seen} tokens; use 0, for all, or at least {seen}"
            )
    if memory := given.get("memory"):
        _kept_memory(config, "early_stop", memory)
    if c.early_stop.teacher:
        _check_company(config, "early_stop", "reads along")


def _kept_memory(config: ConfigDict, key: str, name: str):
    """What makes the memory that ``rollout.<key>`` names."""
    kept = memories.named(build_terms(config))
    if name not in kept:
        raise ValueError(
            f"rollout.{key}.memory={name!r} is read by no term, and what no term reads "
            "is not kept; let a weight or the report of a term read it"
        )
    return kept[name]


def _check_horizon(config: ConfigDict) -> None:
    spec, mix, where = config.rollout.horizon, config.mix, "rollout.horizon"
    if not spec:
        return
    if "memory" not in spec:
        schedules.check(where, spec)
        one_of(f"{where}.schedule", spec.schedule, optimizer.SCHEDULES)
        inside = ranges.whole(1, config.rollout.max_new_tokens)
        needed = ["value"] + ["end"] * (spec.schedule != "constant")
        for key in needed + ["start"] * ("warmup" in spec):
            ranges.check(f"{where}.{key}", spec.get(key, 0), inside)
        return
    if set(spec) != {"memory"}:
        raise ValueError(
            f"{where}={spec.to_dict()!r} has a memory, which says how long rollouts "
            "are, and more besides; leave out one or the other"
        )
    memory = _kept_memory(config, "horizon", spec.memory)(VOCABULARY)
    held = jax.eval_shape(memory.start)
    if memory.probe is None or "horizon" not in held:
        raise ValueError(
            f"{where}.memory={spec.memory!r} says of no length; use one that does, "
            "such as adwin.window"
        )
    if mix.updates_per_rollout > 1 or mix.on_policy_probability < 1:
        raise ValueError(
            f"{where}.memory={spec.memory!r} judges rollouts of the update that asks "
            f"for them, but with mix.updates_per_rollout={mix.updates_per_rollout} and "
            f"mix.on_policy_probability={mix.on_policy_probability} some updates have "
            "none; set both to 1, or use a schedule"
        )


def _check_behavior(config: ConfigDict) -> None:
    if build_behavior(config) is None:
        return
    _check_company(config, "behavior", "draws with it")
    if config.student.exact:
        raise ValueError(
            "student.exact=True gives sampler and trainer the same bits, but by "
            f"rollout.behavior.function={config.rollout.behavior.function!r} the "
            "sampler is another distribution; switch one of them off"
        )


def _check_company(config: ConfigDict, key: str, does: str) -> None:
    """A teacher that is there while rollouts are written must be able to."""
    where, name = f"rollout.{key}.teacher", config.rollout[key].teacher
    known = teachers_of(config)
    able = [name for name in known if known[name].weights in ("path", "initial")]
    one_of(where, name, able)
    roles.check(name, known[name], config.data.fields)
    if known[name].context:
        raise ValueError(
            f"{where}={name!r} has a context of its own, but who {does} reads the "
            "student's prompt; name another teacher"
        )
