"""What every key may be: one table, and one line of error for all of it.

A new key of ``base_config`` gets a row in ``RANGES``; a new argument of a signal,
weight, advantage, report or rule gets one in ``ARGUMENTS`` where its type alone allows
what is not meant.
"""

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import NamedTuple

from jopd.data import dataset, templates
from jopd.losses import objective
from jopd.losses.binding import name_of
from jopd.methods import omniopd
from jopd.setup import optimizer
from jopd.teachers import remote, roles


class Range(NamedTuple):
    """Values that a key may have: in words, and whether one is among them."""

    says: str
    holds: Callable[[object], bool]


def whole(low: int, high: float = math.inf, *, also: tuple = ()) -> Range:
    """Whole numbers, ends included; ``also`` are further ones outside of them."""
    says = f"at least {low}" if high == math.inf else f"from {low} to {high}"
    says = " or ".join((f"a whole number, {says}", *map(str, also)))
    number = lambda v: isinstance(v, Integral) and not isinstance(v, bool)
    return Range(says, lambda v: number(v) and (low <= v <= high or v in also))


def real(low: float, high: float, *, above=False, below=False, infinite="") -> Range:
    """Finite numbers, ends included unless ``above`` the low, ``below`` the high one.

    ``infinite`` names signs, of "+-", whose infinity is meant, too.
    """
    ends = f"{'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"
    says = f"a number in {ends}" + (f" or {infinite}inf" if infinite else "")

    def holds(value) -> bool:
        if not isinstance(value, Real) or isinstance(value, bool):
            return False
        if math.isinf(value):
            return ("+" if value > 0 else "-") in infinite
        over = value > low if above else value >= low  # neither for NaN
        return over and (value < high if below else value <= high)

    return Range(says, holds)


def choice(*known: str) -> Range:
    words = ", ".join(name or "'' for none" for name in known)
    return Range(f"one of {words}", lambda v: isinstance(v, str) and v in known)


def several(one: Range, what: str) -> Range:
    """A tuple or list, empty too, of what ``one`` holds."""
    among = lambda v: isinstance(v, tuple | list) and all(map(one.holds, v))
    return Range(f"a tuple of {what}, each {one.says}", among)


FLAG = Range("True or False", lambda v: isinstance(v, bool))
TEXT = Range("text", lambda v: isinstance(v, str))
NAMED = Range("a name or a function", lambda v: isinstance(v, str) or callable(v))
DAY = Range("a day, YYYY-MM-DD, or '' for today", templates.is_day)
GROUP = Range("keys with values, as dict(...)", lambda v: isinstance(v, Mapping))


def _recorded(value) -> bool:
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return all(map(_recorded, value))
    return isinstance(value, str | Real | NoneType) or callable(value)


RECORDED = Range(
    "texts, numbers, None, functions, or lists and dicts of them", _recorded
)
COUNT, FROM_0 = whole(1), whole(0)
SHARE = real(0, 1)
RATE = real(0, 10)  # of learning: what is above trains nothing, it only breaks
AMOUNT = real(0, 1e6)
FACTOR = real(-1e6, 1e6)  # of a term
HEAT = real(0, 100)
MASS = real(0, 1, above=True)
WARMUP = Range(
    "a share in [0, 1) or a whole number of updates",
    lambda v: SHARE.holds(v) or (AMOUNT.holds(v) and v == int(v)),
)
DTYPE = choice("auto", "float32", "bfloat16")
SCHEDULE = choice(*optimizer.SCHEDULES)
SWITCH = choice("auto", "always", "never")

TEACHER = {
    "weights": choice(*roles.WEIGHTS),
    "path": TEXT,
    "dtype": DTYPE,
    "quantize": choice("", "int8"),
    "rate": MASS,
    **dict.fromkeys(("every_steps", "check_steps", "reward_window"), COUNT),
    "reward_margin": real(-1e6, 1e6),
    "tail_ratio": real(1, 1e6),
    **dict.fromkeys(("tokenizer", "template"), choice("student", "own")),
    "support": choice("teacher", "student"),
    **{"route": GROUP, "top_k": whole(0, 1024)},
    **dict.fromkeys(("url", "model", "context"), TEXT),
}

RANGES = {
    "name": TEXT,
    "seed": whole(0, 2**32 - 1),  # a larger one would be the same as a smaller
    "steps": COUNT,
    "epochs": AMOUNT,
    **dict.fromkeys(("resume", "student.remat", "student.exact"), FLAG),
    **{f"student.{key}": TEXT for key in ("path", "lora.targets", "adapter")},
    "student.dtype": DTYPE,
    "student.quantize": TEACHER["quantize"],
    "student.lora.rank_stabilized": FLAG,
    "student.lora.rank": FROM_0,
    "student.lora.alpha": real(0, 1e6, above=True),
    **{f"teacher.{key}": known for key, known in TEACHER.items()},
    "teachers": GROUP,
    "panels": GROUP,
    "reference.path": TEXT,
    "data.path": TEXT,
    "data.weights": several(real(0, 1e6, above=True), "shares"),
    "data.template": TEXT,
    "data.split": TEXT,
    "data.size": FROM_0,
    "data.eval_path": TEXT,
    "data.eval_split": TEXT,
    "data.eval_rows": FROM_0,
    "data.prompt_column": TEXT,
    "data.answer_column": TEXT,
    "data.solution_column": TEXT,
    "data.fields": several(TEXT, "names of columns"),
    "data.answer_after": TEXT,
    "data.separator": TEXT,
    "data.prefix_tokens": COUNT,
    "data.max_prompt_tokens": FROM_0,
    "data.on_long_prompt": choice("error", "drop", "truncate_left"),
    "data.on_long_solution": choice("auto", "drop", "truncate"),
    "data.chat_template": choice(*dataset.CHAT_TEMPLATE),
    "data.date": DAY,
    "data.roles": several(TEXT, "names of roles"),
    "data.ignored_keys": several(TEXT, "names of keys"),
    "data.student_template_kwargs": GROUP,
    "data.teacher_template_kwargs": GROUP,
    "data.max_context_tokens": FROM_0,
    "data.system": TEXT,
    "data.add_bos": SWITCH,
    "data.levels": several(COUNT, "levels"),
    "rollout.prompts_per_step": COUNT,
    "rollout.group_size": COUNT,
    "rollout.max_new_tokens": COUNT,
    "rollout.temperature": HEAT,
    "rollout.top_k": FROM_0,
    "rollout.top_p": MASS,
    "rollout.min_p": SHARE,
    "rollout.stop_ids": several(FROM_0, "ids of tokens"),
    "rollout.stop_strings": several(TEXT, "texts"),
    "rollout.ignore_eos": FLAG,
    "rollout.parallel": choice("auto", "pmap", "jit"),
    "rollout.block_tokens": FROM_0,
    "rollout.at_once": FROM_0,
    **{f"rollout.{key}.function": NAMED for key in ("early_stop", "behavior")},
    **{f"rollout.{key}.teacher": TEXT for key in ("early_stop", "behavior")},
    "rollout.early_stop.limit": AMOUNT,
    "rollout.early_stop.window": FROM_0,
    **{"rollout.prompt_buckets": several(COUNT, "lengths"), "rollout.horizon": GROUP},
    "rollout.prefix.source": TEXT,
    **{f"rollout.{key}.schedule": SCHEDULE for key in ("prefix", "behavior")},
    **{f"rollout.{key}.steps": FROM_0 for key in ("prefix", "behavior")},
    **dict.fromkeys(("rollout.prefix.share", "rollout.prefix.end"), SHARE),
    **dict.fromkeys(("rollout.behavior.budget", "rollout.behavior.end"), AMOUNT),
    "mix.student": real(0, 1000),
    "mix.gold": real(0, 1000),
    "mix.replay": real(0, 1000),
    "mix.on_policy_probability": SHARE,
    "mix.capacity": FROM_0,
    "mix.max_age_steps": FROM_0,
    "mix.updates_per_rollout": COUNT,
    "audit.chunks": FROM_0,
    "audit.chunk_tokens": COUNT,
    "audit.samples": COUNT,
    "audit.temperature": HEAT,
    "audit.anchors": choice(*omniopd.ORDERS),
    "audit.lead": FROM_0,
    "audit.similarity": NAMED,
    "audit.encoder": TEXT,
    "audit.teacher": choice("local", "http"),
    "audit.batch_rows": COUNT,
    "audit.judge_first": FLAG,
    "probes.samples": FROM_0,
    "probes.teacher": TEXT,
    "probes.temperature": real(0, 100, above=True),
    "remote.url": TEXT,
    "remote.model": TEXT,
    "remote.api": choice(*remote.APIS),
    "remote.key_env": TEXT,
    "remote.concurrency": whole(1, 4096),
    "remote.timeout_seconds": real(0, 86_400, above=True),
    "remote.retries": FROM_0,
    "remote.per_request": FROM_0,
    "remote.cache_dir": TEXT,
    "remote.body": GROUP,
    "remote.token_budget": FROM_0,
    "peer.success": real(-1e6, 1e6),
    "peer.remove": TEXT,
    "loss": GROUP,
    "memory": GROUP,
    "facts": GROUP,
    "objective.normalizer": choice(*objective.NORMALIZERS),
    "objective.temperature": HEAT,
    "objective.packing": FLAG,
    "objective.chunk_tokens": FROM_0,
    "objective.chunk_mib": FROM_0,
    "objective.strip_tokens": FROM_0,
    "optimizer.name": choice(*optimizer.OPTIMIZERS),
    "optimizer.learning_rate": RATE,
    "optimizer.schedule": SCHEDULE,
    "optimizer.warmup": WARMUP,
    "optimizer.end_learning_rate": RATE,
    **dict.fromkeys(("optimizer.b1", "optimizer.b2"), real(0, 1, below=True)),
    "optimizer.eps": real(0, 1),
    "optimizer.weight_decay": RATE,
    "optimizer.clip_norm": AMOUNT,
    "optimizer.accumulate": COUNT,
    "optimizer.project.rank": FROM_0,
    "optimizer.project.after": real(0, 1, above=True, below=True),
    **dict.fromkeys(("mesh.data", "mesh.fsdp", "mesh.tensor"), whole(1, also=(-1,))),
    **{f"eval.{key}": FROM_0 for key in ("every_steps", "max_new_tokens")},
    **{"eval.prompts": FROM_0, "eval.k": COUNT},
    "eval.temperature": HEAT,
    "eval.top_p": MASS,
    "eval.batch_rows": FROM_0,
    "eval.verifier": NAMED,
    "eval.verifier_processes": FROM_0,
    "rewards": GROUP,
    "eval.reward_truncated": FLAG,
    "eval.save_samples": FROM_0,
    "repetition.tail_chars": FROM_0,
    "repetition.threshold": AMOUNT,
    "repetition.ngram": COUNT,
    "checkpoint.every_steps": FROM_0,
    "checkpoint.every_minutes": AMOUNT,
    "checkpoint.keep_last": COUNT,
    "checkpoint.keep_best": FROM_0,
    "log.every_steps": COUNT,
    "log.check_sampler_every_steps": FROM_0,
    "log.sampler_tolerance": AMOUNT,
    "log.gradient_every_steps": FROM_0,
    "log.samples_every_steps": FROM_0,
    **dict.fromkeys(("log.token_facts", "log.tensorboard", "peer.own_failure"), FLAG),
    "log.leak_pattern": TEXT,
    "log.wandb_project": TEXT,
    **dict.fromkeys(("export.enabled", "export.adapter"), FLAG),
    "export.which": choice("last", "best"),
    **dict.fromkeys(("init_from.run", "init_from.checkpoint"), TEXT),
    "init_from.optimizer": FLAG,
    **dict.fromkeys(("compilation_cache", "jax_debug_nans"), FLAG),
}

# Of functions, ``function.argument``, where the type alone allows what is not meant and
# the function itself does not refuse it.
_IDS, _AGREES = several(FROM_0, "ids of tokens"), ("before_agreement", "agreement")
ARGUMENTS = {
    "after_tokens.count": FROM_0,
    **{"first_tokens.count": FROM_0, "last_tokens.count": COUNT},
    "compatibility.k": COUNT,
    "hybrid.shared": Range("left out: a run fills it in", lambda v: v is None),
    "group_reward.eps": real(0, 1),
    "importance.low": AMOUNT,
    "importance.high": real(0, 1e6, infinite="+"),
    "local_forward_kl.k": COUNT,
    "log_ratio.bound": real(0, 1e6, above=True, infinite="+"),
    "overlap.k": COUNT,
    "sampled_rank.k": COUNT,
    "random_rows.drop": SHARE,
    "random_end.rate": SHARE,
    "random_end.exempt": FROM_0,
    "staleness.decay": SHARE,
    "reward_to_go.discount": SHARE,
    "reward_to_go.bound": real(0, 1e6, above=True, infinite="+"),
    "reward_to_go.eps": real(0, 1),
    "chunk_rate.alpha": AMOUNT,
    "chunk_rate.samples": COUNT,
    "corrected.bound": real(0, 1e6, above=True, infinite="+"),
    "stopped.bound": real(0, 1e6, above=True, infinite="+"),
    "repetition.ngram": COUNT,
    "distil.k": COUNT,
    "restricted_kl.ids": _IDS,
    "frozen.ids": _IDS,
    "within.start": _IDS,
    "within.end": _IDS,
    "evidence.start": _IDS,
    "evidence.end": _IDS,
    "evidence_report.start": _IDS,
    "evidence_report.end": _IDS,
    "extrapolated.tau": real(0, 1e6, above=True, infinite="+"),
    "routed.clip": real(0, 1e6, above=True, infinite="+"),
    "cells.clip": real(0, 1e6, above=True, infinite="+"),
    "sure_and_unsure.alpha": AMOUNT,
    "sure_and_unsure.beta": AMOUNT,
    "by_likelihood.temperature": real(0, 1e6, above=True, infinite="+"),
    "whitened.bound": real(0, 1e6, above=True, infinite="+"),
    "flips.bound": real(0, 1e6, above=True, infinite="+"),
    "sequence_ratio.bound": real(0, 1e6, above=True, infinite="+"),
    "sequence_ratio.low": SHARE,
    "sequence_ratio.high": real(0, 1e6, infinite="+"),
    "statistics.decay": SHARE,
    "frozen.top": FROM_0,
    "frozen.drop_most_frequent": FROM_0,
    "frozen.min_count": FROM_0,
    "frozen.after": FROM_0,
    "carried.top": FROM_0,
    "carried.drop_most_frequent": FROM_0,
    "carried.min_count": FROM_0,
    "levels.spared": SHARE,
    **{f"{f}.spared": SHARE for f in _AGREES},
    **{f"{f}.{k}": COUNT for f in _AGREES for k in ("patience", "least")},
    **{f"{f}.{k}": FROM_0 for f in _AGREES for k in ("exempt", "warmup_steps")},
    **dict.fromkeys(("before_agreement.window", "agreement.mean_over"), COUNT),
    "minima.window": COUNT,
    "minima.exempt": FROM_0,
    "minima.capacity": COUNT,
}
TYPES = {
    bool: FLAG,
    int: Range("a whole number", whole(-(2**31)).holds),
    float: Range("a number, not NaN", real(-1e30, 1e30, infinite="+-").holds),
    str: TEXT,
    NoneType: Range("None", lambda v: v is None),
}

FREE = ("loss", "memory", "facts", "teachers", "panels")  # sections of named groups


def check(key: str, value, known: Range) -> None:
    """Raises ValueError with key, value and range unless the range holds the value."""
    if not known.holds(value):
        raise ValueError(f"{key}={value!r:.200} must be {known.says}")


def check_all(flat: Mapping[str, object]) -> None:
    """Checks every key of a flat config; raises as ``check``, also of a missing one.

    Keys of ``teachers`` have the ranges of ``teacher``; terms are checked by
    ``check_arguments``, where their functions are known.
    """
    for key, known in RANGES.items():
        if key in flat:
            check(key, flat[key], known)
        elif known is not GROUP:
            raise ValueError(f"{key} is missing; it must be {known.says}")
    for key, value in flat.items():
        check(key, value, RECORDED)  # what config.json can say
        first, *rest = key.split(".", 2)
        if first in FREE and len(rest) == 1:
            check(key, value, GROUP)
        elif first == "teachers" and rest[1:] and rest[1] in TEACHER:
            check(key, value, TEACHER[rest[1]])


def check_arguments(function, arguments: Mapping[str, object], where: str) -> None:
    """Checks what a config gives a function of a term, by its annotations and rows.

    Raises:
      ValueError: names the argument, its value and its range.
    """
    function = getattr(function, "func", function)
    parameters = inspect.signature(function).parameters
    ours = name_of(function).startswith("jopd.")
    for key, value in arguments.items():
        row = ARGUMENTS.get(f"{function.__name__}.{key}") if ours else None
        known = row or _annotated(parameters[key].annotation)
        if known:
            check(f"{where}.{key}", value, known)


def _annotated(annotation) -> Range | None:
    """The range of an annotated type, None of one that is not plain."""
    union = isinstance(annotation, UnionType)
    kinds = typing.get_args(annotation) if union else (annotation,)
    if not all(kind in TYPES for kind in kinds):
        return None
    ranges = [TYPES[kind] for kind in kinds]
    says = " or ".join(known.says for known in ranges)
    return Range(says, lambda v: any(known.holds(v) for known in ranges))
