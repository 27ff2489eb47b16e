"""Which models and panels terms name, and what they read, found by tracing."""

import functools
import inspect
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jopd.losses import elsewhere, panel
from jopd.losses.binding import nearest
from jopd.losses.objective import Term
from jopd.losses.panel import Panel
from jopd.teachers import audit, peers, probes, roles, spans
from jopd.types import Aligned, Memory, Outputs, Scores

VOCABULARY = 1024  # of what is traced
MODELS = ("other", "of", "anchor")  # arguments that name one


def teachers_of(config: ConfigDict) -> dict[str, roles.Teacher]:
    """Every model that terms may name, checked only where one does."""
    known = {"teacher": config.teacher, **config.teachers}
    found = {}
    for name, spec in known.items():
        wrong = sorted(set(spec) - set(roles.Teacher._fields))
        if name in ("student", "reference"):
            raise ValueError(f"teachers.{name} cannot be: the name is taken")
        if wrong:
            keys = ", ".join(roles.Teacher._fields)
            raise ValueError(
                f"teachers.{name} has no key {wrong[0]!r}; "
                f"{nearest(wrong[0], roles.Teacher._fields)}known: {keys}"
            )
        found[name] = roles.Teacher(**spec.to_dict())
    path = config.reference.path
    found["reference"] = roles.Teacher(weights="path" if path else "initial", path=path)
    return found


def models_named(terms: tuple[Term, ...]) -> set[str]:
    """Frozen models that terms read: ``other``, ``of``, ``anchor`` of functions.

    Those that its facts and what it remembers are made of are among them.
    """
    names = set()
    for term in terms:
        made = [make for _, make in (*term.memories, *term.facts)]
        names |= _given((*_functions(term), *made), MODELS.__contains__)
    return names - {"student", None}


def memories_named(term: Term) -> set[str]:
    """Memories that functions of a term read, by their argument ``memory``."""
    return _given(_functions(term), "memory".__eq__) - {"", None}


def facts_named(term: Term) -> set[str]:
    """Named facts that a term, or what it remembers, reads."""
    return _facts_given((*_functions(term), *(make for _, make in term.memories)))


def _facts_given(functions) -> set[str]:
    """Facts by their arguments, ``fact`` or ``..._fact``."""
    of_facts = lambda argument: argument == "fact" or argument.endswith("_fact")
    return _given(functions, of_facts) - {"", None}


def _functions(term: Term) -> list:
    every = (term.signal, term.advantage, *term.weights, term.report)
    return [function for function in every if function is not None]


def _given(functions, among) -> set:
    """What functions get for those of their arguments that are ``among``."""
    signatures = [inspect.signature(function).parameters for function in functions]
    return {
        parameter.default
        for parameters in signatures
        for name, parameter in parameters.items()
        if among(name)
    }


def panels_of(config: ConfigDict) -> tuple[Panel, ...]:
    """Every panel of the config, checked.

    Raises:
      ValueError: names the key, its value and what to use instead.
    """
    known, found = teachers_of(config), []
    for name, spec in config.panels.items():
        spec = spec.to_dict()
        keys = [key for key in Panel._fields if key != "name"]
        unknown, models = sorted(set(spec) - set(keys)), ", ".join(sorted(known))
        if unknown:
            keys = ", ".join(keys)
            raise ValueError(f"panels.{name} has no key {unknown[0]!r}; known: {keys}")
        if "members" not in spec:
            raise ValueError(f"panels.{name} has no members; name some of {models}")
        for key in ("members", "plus", "minus"):
            value = spec.setdefault(key, ())
            spec[key] = (value,) if isinstance(value, str) else value
        spec.setdefault("weights", ())
        for key in ("members", "weights", "plus", "minus"):
            value, kinds = spec[key], int | float if key == "weights" else str
            several = isinstance(value, tuple | list)
            if not several or not all(isinstance(one, kinds) for one in value):
                raise ValueError(
                    f"panels.{name}.{key}={value!r:.80} must be a tuple of "
                    f"{'numbers' if key == 'weights' else 'names of models'}"
                )
            spec[key] = tuple(value)
        found.append(Panel(name=name, **spec))
        panel.check(found[-1], known, config.panels)
    return tuple(found)


def frozen_named(config: ConfigDict, terms: tuple[Term, ...]) -> set[str]:
    """``models_named`` with the members of panels in their place."""
    return panel.with_members(models_named(terms), panels_of(config))


def fields_read(term: Term) -> set[str]:
    """Names of the fields of ``Scores`` that a term's weights and advantage read."""
    return {path[0].name for path in _leaves_read(term)}


def distributions_read(term: Term) -> set[str]:
    """Models of which a term's weights and advantage read more than log-probs."""
    wide = ("entropy", "reverse_kl", "forward_kl")
    return {path[1].key for path in _leaves_read(term) if path[0].name in wide}


def facts_read(term: Term) -> set[str]:
    """Names in ``Scores.extra`` that a term's weights and advantage read."""
    return {path[1].key for path in _leaves_read(term) if path[0].name == "extra"}


def needs_rewards(term: Term) -> bool:
    """Whether a term is idle where no verifier gives rewards."""
    return "reward" in fields_read(term) or any(
        fact in probes.FACTS or fact.startswith(peers.FACT) for fact in facts_read(term)
    )


def waits_for_rewards(config, terms) -> bool:
    """Whether an update, its reports or a teacher read rewards: one that moves with
    them, or that is shown which rollouts were right."""
    known = teachers_of(config)
    named = [known[name] for name in frozen_named(config, terms)]
    waits = any(one.weights == "gated" or roles.reads_rollouts(one) for one in named)
    return waits or any(needs_rewards(term) or _reports_rewards(term) for term in terms)


def _reports_rewards(term: Term) -> bool:
    return any(path[0].name == "reward" for path in _leaves_read(term, (term.report,)))


def _leaves_read(term: Term, functions=None) -> set[tuple]:
    """Paths of the leaves of ``Scores`` that functions of a term read.

    Its weights, its advantage and what they remember, unless told.
    """
    kept = {name: make(VOCABULARY) for name, make in term.memories}
    models, made = ("student", *models_named((term,))), dict(term.facts)
    scores = _abstract_scores(models, kept, made)
    steps = [functools.partial(_stepped, name, kept[name]) for name in kept]
    every = functions or (*term.weights, term.advantage, *steps)
    read = [leaves_read(f, scores) for f in every if f is not None]
    return set().union(*read)


def leaves_read(function, tree) -> set[tuple]:
    """Paths of the leaves of a tree of shapes that a function of it reads."""
    jaxpr = jax.make_jaxpr(function)(tree).jaxpr
    used = {id(var) for equation in jaxpr.eqns for var in equation.invars}
    used |= {id(var) for var in jaxpr.outvars}
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    leaves = zip(paths, jaxpr.invars, strict=True)
    return {path for path, var in leaves if id(var) in used}


def _stepped(name: str, memory: Memory, scores: Scores):
    return memory.step(scores.memory[name], scores)


def check_memory(where: str, make) -> None:
    """Rejects a memory that does not keep its shapes from update to update.

    Raises:
      ValueError: names it and both.
    """
    try:
        memory = make(VOCABULARY)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    models = _given((make,), MODELS.__contains__) - {None}
    before = jax.eval_shape(memory.start)
    scores = _abstract_scores(("student", *models), {}, _facts_given((make,)))
    try:
        after = jax.eval_shape(memory.step, before, scores)
        if memory.probe is not None:
            seen = jax.ShapeDtypeStruct((len(memory.probe.edges),), jnp.float32)
            after = jax.eval_shape(memory.probe.learn, after, seen)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except KeyError as error:
        raise ValueError(
            f"{where} reads {error} of the scores, which is not there; name a model "
            "by an argument other or of, a fact by fact"
        ) from error
    said = [_said(tree) for tree in (before, after)]
    if said[0] != said[1]:
        raise ValueError(
            f"{where} starts as {said[0]} and is {said[1]} after an update; it must "
            "keep its structure, shapes and dtypes"
        )


def _said(tree) -> str:
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree))


def _abstract_scores(models: tuple[str, ...], kept: dict, facts) -> Scores:
    """Scores of two rows of two tokens: shapes and dtypes only."""
    token, row = (2, 2), (2,)
    of = jax.ShapeDtypeStruct
    named = dict.fromkeys(models, of(token, jnp.float32))
    return Scores(
        mask=of(token, jnp.bool_),
        tokens=of(token, jnp.int32),
        source=of(token, jnp.int32),
        position=of(token, jnp.int32),
        logp=named,
        entropy=named,
        reverse_kl=named,
        forward_kl=named,
        behavior_logp=of(token, jnp.float32),
        finished=of(row, jnp.bool_),
        reward=of(row, jnp.float32),
        group=of(row, jnp.int32),
        age=of(row, jnp.int32),
        uniform=of(token, jnp.float32),
        extra=dict.fromkeys(
            (*audit.FACTS, *probes.FACTS, *_of_rows(models), *_of_spans(models)),
            of(token, jnp.float32),
        ),
        memory={name: jax.eval_shape(one.start) for name, one in kept.items()},
        facts=dict.fromkeys(facts, of(token, jnp.float32)),
    )


def _of_rows(models) -> list[str]:
    """What is found of rows that models read in their contexts, see ``peers``."""
    return [f"{peers.FACT}{name}" for name in models]


def _of_spans(models) -> list[str]:
    """What is found of models with tokens of their own, see ``spans.Scored``."""
    keys = (*spans.Scored._fields, "begins")
    return [f"{key}/{name}" for name in models for key in keys]


def check_fact(where: str, fact) -> None:
    """Traces a named fact, so that a bad argument is said before anything loads.

    Raises:
      ValueError: names the fact.
    """
    models = {"student", *_given((fact,), MODELS.__contains__)} - {None}
    logits = dict.fromkeys(models, jax.ShapeDtypeStruct((2, VOCABULARY), jnp.float32))
    of = lambda dtype: jax.ShapeDtypeStruct((2,), dtype)
    try:
        found = jax.eval_shape(fact, Outputs(logits, of(jnp.int32), of(jnp.float32)))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except KeyError as error:
        raise ValueError(
            f"{where} reads the logits of {error}, which are not there; name a model "
            "by an argument other or of"
        ) from error
    if getattr(found, "shape", None) != (2,):
        shape = list(getattr(found, "shape", ()))
        raise ValueError(
            f"{where} gives {shape} for 2 tokens; a fact gives a number for each"
        )


def trace_signals(terms, known: Mapping[str, roles.Teacher] = {}) -> None:
    """Traces every signal, so that a bad argument is said before anything loads.

    ``known`` teachers may be without logits; of some likely tokens are known.

    Raises:
      ValueError: names the term, and the model whose logits it needs.
    """
    # Nothing is computed: a vocabulary that holds every id a term may name.
    rows = jax.ShapeDtypeStruct((2, 2**20), jnp.float32)
    token = jax.ShapeDtypeStruct((2,), jnp.float32)
    without_logits = roles.without_logits(known)
    for term in (term for term in terms if term.reads == "logits"):
        named = models_named((term,))
        here = named - without_logits.keys()
        logits = dict.fromkeys(("student", *here), rows)
        scored = dict.fromkeys(named & without_logits.keys(), token)
        written = jax.ShapeDtypeStruct((2,), jnp.int32)
        outputs = Outputs(
            logits, written, token, term.advantage and token, scored=scored
        )
        flags = jax.ShapeDtypeStruct((2,), jnp.bool_)
        own = roles.of_own_tokens(known) & named
        outputs = outputs._replace(aligned=dict.fromkeys(own, Aligned(rows, flags)))
        try:
            jax.eval_shape(term.signal, outputs)
        except ValueError as error:
            raise ValueError(f"loss.{term.name}: {error}") from error
        except KeyError as error:
            if not without_logits.keys() >= set(error.args):
                raise
            name = error.args[0]
            if known[name].top_k and knows_enough(
                term.signal, outputs, name, known[name]
            ):
                continue
            said = whole(f"loss.{term.name}", name, without_logits[name])
            raise ValueError(said) from error


def reads_aligned(term: Term, name: str) -> bool:
    """Whether a term's signal reads a model over the model's own tokens."""
    rows = jax.ShapeDtypeStruct((2, VOCABULARY), jnp.float32)
    token = jax.ShapeDtypeStruct((2,), jnp.float32)
    named = models_named((term,))
    if name not in named or term.reads != "logits":
        return False
    logits = dict.fromkeys({"student", *named} - {name}, rows)
    written = jax.ShapeDtypeStruct((2,), jnp.int32)
    given = Outputs(logits, written, token, term.advantage and token)
    given = given._replace(scored={name: token})
    try:
        jax.eval_shape(term.signal, given)
    except KeyError:  # of ``name``, as ``trace_signals`` has found
        return True
    return False


def knows_enough(signal, outputs: Outputs, name: str, teacher: roles.Teacher) -> bool:
    """Whether a signal finds the same where of a model only likely tokens are known.

    Tried on random logits, as no name of an argument tells whose likely tokens a
    signal reads. ``outputs`` says which other models and arrays there are.
    """
    rng, rows = np.random.default_rng(0), 8
    draw = lambda *shape: jnp.asarray(rng.normal(0, 3, shape), jnp.float32)
    names = sorted({*outputs.logits, name})
    logits = {one: draw(rows, 2 * VOCABULARY) for one in names}
    # Of the student's likeliest token, so that no ratio makes a difference small.
    written = jnp.argmax(logits["student"], axis=-1)
    own = jnp.max(jax.nn.log_softmax(logits["student"]), axis=-1)
    advantage = None if outputs.advantage is None else draw(rows)
    scored = {one: -jnp.abs(draw(rows)) for one in outputs.scored}
    given = Outputs(logits, written, own, advantage, scored=scored)
    ids = jax.lax.top_k(logits[teacher.support], teacher.top_k)[1]
    logp = jax.nn.log_softmax(logits[name])
    likely = elsewhere.Likely(ids, jnp.take_along_axis(logp, ids, axis=-1))
    part = elsewhere.spread(likely, scored[name], logits["student"])
    try:
        whole, found = (
            signal(given._replace(logits=logits | {name: known}))
            for known in (logits[name], part)
        )
    except ValueError:  # ids beyond this vocabulary
        return False
    return bool(jnp.allclose(whole, found, rtol=1e-4, atol=1e-5))


def whole(who: str, name: str, why: str) -> str:
    """That whole distributions are asked of a model that has none."""
    key = roles.key(name)
    return (
        f"{who} compares whole distributions with {name!r}, and {key}.{why} gives "
        "log-probabilities of what was written only; use signal='policy_gradient' or "
        "another that reads those"
        + (
            f", or one on k likely tokens, {key}.top_k of as many, and {key}.support "
            "for whose"
        )
        * (why != "tokenizer='own'")
    )
