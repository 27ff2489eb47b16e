"""What terms read, found by tracing, also of functions that are not of this library."""

import jax
import jax.numpy as jnp

from jopd.losses import objective
from jopd.setup.compared import frozen_named, models_named, teachers_of
from jopd.teachers import audit, peers
from jopd.types import Outputs, Scores


def fields_read(term: objective.Term) -> set[str]:
    """Names of the fields of ``Scores`` that a term's weights and advantage read."""
    return {path[0].name for path in _leaves_read(term)}


def facts_read(term: objective.Term) -> set[str]:
    """Names in ``Scores.extra`` that a term's weights and advantage read."""
    return {path[1].key for path in _leaves_read(term) if path[0].name == "extra"}


def needs_rewards(term: objective.Term) -> bool:
    """Whether a term is idle where no verifier gives rewards."""
    return "reward" in fields_read(term) or bool(set(peers.FACTS) & facts_read(term))


def waits_for_rewards(config, terms) -> bool:
    """Whether an update, its reports or a teacher that moves with it read rewards."""
    known = teachers_of(config)
    waits = any(known[name].weights == "gated" for name in frozen_named(config, terms))
    return waits or any(needs_rewards(term) or _reports_rewards(term) for term in terms)


def _reports_rewards(term: objective.Term) -> bool:
    return any(path[0].name == "reward" for path in _leaves_read(term, (term.report,)))


def _leaves_read(term: objective.Term, functions=None) -> set[tuple]:
    """Paths of the leaves of ``Scores`` that functions of a term read.

    Its weights and its advantage, unless told.
    """
    scores = _abstract_scores(("student", *models_named((term,))))
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(scores)]
    read = set()
    for function in functions or (*term.weights, term.advantage):
        if function is not None:
            jaxpr = jax.make_jaxpr(function)(scores).jaxpr
            used = {id(var) for equation in jaxpr.eqns for var in equation.invars}
            used |= {id(var) for var in jaxpr.outvars}
            leaves = zip(paths, jaxpr.invars, strict=True)
            read |= {path for path, var in leaves if id(var) in used}
    return read


def _abstract_scores(models: tuple[str, ...]) -> Scores:
    """Scores of two rows of two tokens: shapes and dtypes only."""
    token, row = (2, 2), (2,)
    of = jax.ShapeDtypeStruct
    named = dict.fromkeys(models, of(token, jnp.float32))
    return Scores(
        mask=of(token, jnp.bool_),
        source=of(token, jnp.int32),
        position=of(token, jnp.int32),
        logp=named,
        entropy=named,
        reverse_kl=named,
        forward_kl=named,
        behavior_logp=of(token, jnp.float32),
        reward=of(row, jnp.float32),
        group=of(row, jnp.int32),
        age=of(row, jnp.int32),
        uniform=of(token, jnp.float32),
        extra=dict.fromkeys((*audit.FACTS, *peers.FACTS), of(token, jnp.float32)),
    )


def trace_signals(terms) -> None:
    """Traces every signal, so that a bad argument is said before anything loads."""
    rows = jax.ShapeDtypeStruct((2, 1024), jnp.float32)
    token = jax.ShapeDtypeStruct((2,), jnp.float32)
    for term in terms:
        logits = dict.fromkeys(("student", *models_named((term,))), rows)
        written = jax.ShapeDtypeStruct((2,), jnp.int32)
        outputs = Outputs(logits, written, token, term.advantage and token)
        jax.eval_shape(term.signal, outputs)
