"""From names in a config to functions: terms, stop rules, optimizer.

``ConfigDict`` stops here: everything below takes plain values.
"""

import difflib
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jopd import methods
from jopd.losses import facts, objective, reports, signals, states, weights
from jopd.losses.binding import arguments_of, bind, name_of, names, nearest, resolve
from jopd.rollouts import behavior, stops
from jopd.setup import optimizer, ranges
from jopd.setup.needs import (
    VOCABULARY,
    check_fact,
    check_memory,
    facts_named,
    leaves_read,
    memories_named,
    models_named,
)
from jopd.types import SOURCES

SCHEDULED = ("budget", "schedule", "end", "steps")  # keys of ``rollout.behavior``
TERM_KEYS = ("signal", "weights", "advantage", "source", "coef", "normalizer", "report")
TERM_KEYS += ("reads", "layers")


def build_term(
    name: str,
    spec: ConfigDict,
    normalizer: str,
    kept: dict | None = None,
    made: dict | None = None,
) -> objective.Term:
    """A term of ``config.loss``. Keys that are not of the term go to the signal.

    ``kept`` are the memories that it may name, of ``build_memories``, ``made`` the
    facts, of ``build_facts``.
    """
    where = f"loss.{name}"
    spec = spec.to_dict()
    ranges.check(f"{where}.weights", spec.get("weights", {}), ranges.GROUP)
    arguments = {key: value for key, value in spec.items() if key not in TERM_KEYS}
    signal = resolve(spec["signal"], signals, f"signal of {where}")
    signal = _checked(signal, arguments, where, TERM_KEYS)
    reads, layers = _below_the_head(signal, spec, where)
    factors = []
    for key, value in spec.get("weights", {}).items():
        ranges.check(f"{where}.weights.{key}", value, ranges.GROUP)
        own = {"function": key} | value
        at = f"{where}.weights.{key}"
        factors.append(build_scored(own, f"weight of {where}", at))
    advantage, report = spec.get("advantage") or None, spec.get("report") or None
    of = lambda part: (f"{part} of {where}", f"{where}.{part}")
    term = objective.Term(
        name=name,
        signal=signal,
        weights=tuple(factors),
        advantage=advantage and build_scored(advantage, *of("advantage")),
        source=spec.get("source", "student"),
        normalizer=spec.get("normalizer") or normalizer,
        report=report and build_scored(report, *of("report"), reports),
        reads=reads,
        layers=layers,
    )
    term = term._replace(memories=_remembered(term, where, kept or {}))
    term = term._replace(facts=_read(term, where, made or {}))
    term = term._replace(models=tuple(sorted(models_named((term,)))))
    one_of(f"{where}.source", term.source, (*SOURCES, "any"))
    one_of(f"{where}.normalizer", term.normalizer, objective.NORMALIZERS)
    return term


LAYERS = ranges.several(ranges.COUNT, "layers, counted from 1")


def _below_the_head(signal, spec: dict, where: str) -> tuple[str, tuple[int, ...]]:
    """(what a term's signal reads, which layers of the student; () are all).

    Raises:
      ValueError: names the key; also where the signal plainly reads the other thing.
    """
    reads, layers = spec.get("reads", "logits"), spec.get("layers", ())
    one_of(f"{where}.reads", reads, states.READS)
    first = next(iter(inspect.signature(signal).parameters), "")
    if first in ("states", "outputs") and (first == "states") != (reads == "states"):
        other = "states" if reads == "logits" else "logits"
        raise ValueError(
            f"{where}.reads={reads!r}, but {name_of(signal)} reads {other}; add "
            f"reads={other!r}"
        )
    if reads == "logits":
        if "layers" in spec:
            raise ValueError(
                f"{where}.layers={layers!r} is of terms with reads='states'; this one "
                "reads logits: leave it out"
            )
        return reads, ()
    if spec.get("advantage"):
        raise ValueError(
            f"{where}.advantage={spec['advantage']!r:.80} is for signals over logits; "
            "one over states has weights only"
        )
    ranges.check(f"{where}.layers", layers, LAYERS)
    if sorted(set(layers)) != list(layers):
        raise ValueError(
            f"{where}.layers={layers!r} must be in ascending order, each once; leave "
            "it out for all"
        )
    return reads, tuple(layers)


def _remembered(term: objective.Term, where: str, kept: dict) -> tuple:
    named = sorted(memories_named(term))
    if unknown := [name for name in named if name not in kept]:
        raise ValueError(
            f"{where} reads the memory {unknown[0]!r}; known: "
            f"{', '.join(kept) or 'none'}; add memory.{unknown[0]}=dict(function=...)"
        )
    return tuple((name, kept[name]) for name in named)


def _read(term: objective.Term, where: str, known: dict) -> tuple:
    named = sorted(facts_named(term))
    if unknown := [name for name in named if name not in known]:
        raise ValueError(
            f"{where} reads the fact {unknown[0]!r}; {nearest(unknown[0], known)}"
            f"known: {', '.join(known) or 'none'}; add "
            f"facts.{unknown[0]}=dict(function=...)"
        )
    return tuple((name, known[name]) for name in named)


def build_facts(config: ConfigDict) -> dict:
    """Name -> ``Outputs -> f32[...]`` of ``config.facts``, bound and checked."""
    return _build_named(config.facts, "facts", facts, check_fact)


class Stop(NamedTuple):
    """The rule of ``rollout.early_stop``: bound, what it sees, and the fields of
    ``stops.Seen`` that it reads."""

    rule: Any
    window: int
    reads: frozenset[str]


def build_stop(config: ConfigDict) -> Stop | None:
    """Whatever ends rollouts early; None where nothing does.

    Raises:
      ValueError: names the key, its value and what to use instead.
    """
    spec = config.rollout.early_stop.to_dict()
    name = spec.pop("function")
    if not name:
        return None
    window = spec.pop("window") or config.rollout.max_new_tokens - 1
    where, alone = "rollout.early_stop", not spec.pop("teacher")
    rule = resolve(name, stops, where)
    if not spec["limit"] and "limit" not in arguments_of(rule):
        spec.pop("limit")  # the default, which a rule of one's own need not take
    rule = _checked(rule, spec, where)
    kept = build_memories(config)
    started = {key: jax.eval_shape(kept[key](VOCABULARY).start) for key in kept}
    of = lambda dtype: jax.ShapeDtypeStruct((2, window), dtype)
    whose, told = jax.ShapeDtypeStruct((2,), jnp.int32), of(jnp.float32)
    shown = stops.Seen(of(jnp.int32), told, *[None if alone else told] * 2, whose)
    shown = shown._replace(memory=started)
    try:
        said = jax.eval_shape(rule, shown)
    except ValueError as error:
        raise ValueError(
            f"{where}: {error}; set {where}.window or {where}.teacher"
        ) from error
    except KeyError as error:
        raise ValueError(
            f"{where} reads the memory {error}; known: {', '.join(kept) or 'none'}; "
            f"add memory.{error.args[0]}=dict(function=...)"
        ) from error
    found, *back = said if isinstance(said, tuple) else (said,)
    shapes = {one.shape for one in (found, *back)}
    if found.dtype != bool or shapes != {(2,)} or len(back) > 1:
        raise ValueError(
            f"{where}.function={name!r} gives {found.dtype}{list(found.shape)} for 2 "
            "rows; a rule gives a bool for each, and may give a number of tokens"
        )
    read = {path[0].name for path in leaves_read(rule, shown)}
    return Stop(rule, window, frozenset(read))


def build_behavior(config: ConfigDict):
    """The rule of ``rollout.behavior``, bound; None where the student draws alone.

    Raises:
      ValueError: names the key, its value and what to use instead.
    """
    spec = config.rollout.behavior.to_dict()
    name, where = spec.pop("function"), "rollout.behavior"
    given = {key: spec[key] for key in spec.keys() - {"teacher", *SCHEDULED}}
    if not name:
        if given:
            raise ValueError(
                f"{where}.{min(given)} is given to no rule; name one in "
                f"{where}.function, or set one of teacher, {', '.join(SCHEDULED)}"
            )
        return None
    rule = _checked(resolve(name, behavior, where), given, where)
    logits, budget = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, VOCABULARY), ())
    )
    try:
        found = jax.eval_shape(rule, logits, logits, budget)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if getattr(found, "shape", None) != logits.shape:
        raise ValueError(
            f"{where}.function={name!r} gives {getattr(found, 'shape', found)} for "
            f"logits of {logits.shape}; a rule gives logits"
        )
    return rule


def build_scored(given, where: str, key: str, namespace=weights):
    """A function of scores from its name, or ``dict(function=name, **arguments)``.

    ``where`` names its place in a sentence, ``key`` in the config.
    """
    arguments = dict(given) if isinstance(given, dict) else {"function": given}
    if "function" not in arguments:
        raise ValueError(f"{where} has no function; write dict(function=..., ...)")
    function = resolve(arguments.pop("function"), namespace, where)
    return _checked(function, arguments, key)


def _checked(function, arguments: dict, where: str, beside=()):
    """``bind``, with every value inside of its range."""
    bound = bind(function, arguments, where, beside)
    ranges.check_arguments(function, arguments, where)
    return bound


def build_terms(config: ConfigDict) -> tuple[objective.Term, ...]:
    """The terms with a coefficient that is not identically zero.

    Raises:
      ValueError: a term cannot be built; one without a signal may be a slip.
    """
    for name, spec in config.loss.items():
        if "signal" not in spec:
            others = [other for other in config.loss if other != name]
            slip = difflib.get_close_matches("signal", list(spec), n=1)
            meant = f"did you mean signal by {slip[0]!r}? " if slip else ""
            raise ValueError(
                f"loss.{name} has no signal; {meant or nearest(name, others)}"
                f"known: {', '.join(names(signals))}"
            )
    kept, made = build_memories(config), build_facts(config)
    return tuple(
        build_term(name, spec, config.objective.normalizer, kept, made)
        for name, spec in config.loss.items()
        if spec.get("coef", 1.0) != 0
    )


def build_memories(config: ConfigDict) -> dict:
    """Name -> ``vocabulary -> Memory`` of ``config.memory``, bound and checked."""
    return _build_named(config.memory, "memory", methods, check_memory)


def _build_named(section: ConfigDict, kind: str, namespace, check) -> dict:
    found = {}
    for name, spec in section.items():
        where = f"{kind}.{name}"
        found[name] = build_scored(spec.to_dict(), where, where, namespace)
        check(where, found[name])
    return found


def build_optimizer(config: ConfigDict):
    """(learning-rate schedule, gradient transformation)."""
    c = config.optimizer
    learning_rate = optimizer.schedule(
        c.schedule,
        c.learning_rate,
        steps=config.steps,
        warmup_steps=optimizer.warmup_updates(c.warmup, config.steps),
        end=c.end_learning_rate,
    )
    transform = optimizer.build(
        c.name,
        learning_rate,
        b1=c.b1,
        b2=c.b2,
        eps=c.eps,
        weight_decay=c.weight_decay,
        clip_norm=c.clip_norm,
        project_rank=c.project.rank,
        project_at=round(c.project.after * config.steps),
    )
    return learning_rate, transform


def one_of(what: str, value, known) -> None:
    """Raises ValueError with the known values if ``value`` is none of them."""
    if value not in known:
        raise ValueError(
            f"{what}={value!r:.80} is unknown; use one of {', '.join(known)}"
        )
