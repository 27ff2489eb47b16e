"""Rejects rollout options that cannot work, with the reason; see ``validation``."""

from ml_collections import ConfigDict

from jopd.setup.builders import build_stop, one_of
from jopd.setup.config import base_config
from jopd.setup.needs import teachers_of
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
    rule = build_stop(config)
    if rule is None:
        known = base_config().rollout.early_stop
        more = sorted(set(c.early_stop) - set(known))
        if more:
            raise ValueError(
                f"rollout.early_stop.{more[0]} is given to no rule; name one in "
                f"rollout.early_stop.function, or set one of {', '.join(known)}"
            )
        return
    if getattr(rule, "keywords", {}).get("limit", 1) <= 0:
        raise ValueError(
            f"rollout.early_stop.limit={c.early_stop.limit} must be above 0: at 0 "
            "nearly every rollout would end at the first look"
        )
    if not 0 < c.early_stop.window < c.max_new_tokens:
        raise ValueError(
            f"rollout.early_stop.window={c.early_stop.window} must be at least 1 and "
            f"below rollout.max_new_tokens={c.max_new_tokens}: no rollout would be seen"
        )
    if not 0 < c.block_tokens < c.max_new_tokens:
        raise ValueError(
            f"rollout.early_stop looks every rollout.block_tokens={c.block_tokens} "
            f"draws, but a rollout has at most {c.max_new_tokens}: set it below that"
        )
    if not c.early_stop.teacher:
        return
    known = teachers_of(config)
    able = [name for name in known if known[name].weights in ("path", "initial")]
    one_of("rollout.early_stop.teacher", c.early_stop.teacher, able)
    teacher = known[c.early_stop.teacher]
    roles.check(c.early_stop.teacher, teacher, config.data.fields)
    if teacher.context:
        raise ValueError(
            f"rollout.early_stop.teacher={c.early_stop.teacher!r} has a context of its "
            "own, but who reads along reads the student's prompt; name another teacher"
        )
