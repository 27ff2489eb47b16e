"""What is logged of the terms of an update, from the scores that weighed them."""

import jax
import jax.numpy as jnp

from jopd.losses import groups
from jopd.losses.objective import Term, Weighed, product_of_weights, scope
from jopd.types import Scores


def term_metrics(
    terms: tuple[Term, ...], scores: Scores, weighed: dict[str, Weighed]
) -> dict[str, jax.Array]:
    """What is logged of every term: its tokens, its mean weight, its advantages.

    Means and extremes are over the tokens in the term's scope; ``weight/<term>`` of a
    0/1 weight is the share of tokens that it keeps. ``advantage/<term>_flips`` counts
    the tokens on which the weight turns the sign of the advantage around,
    ``unserved/<term>`` rows with tokens of its source that a model of the term does not
    serve. The numbers of a term's own report are ``<term>/<name>``.
    """
    found = {}
    for term in terms:
        inside_BT = scope(term, scores)
        tokens = jnp.sum(inside_BT)
        found[f"tokens/{term.name}"] = tokens
        if any(name in scores.serves for name in term.models):
            left_out_BT = groups.written_by(scores, term.source) & ~inside_BT
            found[f"unserved/{term.name}"] = jnp.sum(jnp.any(left_out_BT, axis=1))
        if term.weights:
            total = jnp.sum(product_of_weights(term, scores))
            found[f"weight/{term.name}"] = total / jnp.maximum(tokens, 1)
        advantage_BT = weighed[term.name].advantage_BT
        if advantage_BT is not None:
            some = tokens > 0
            mean = jnp.sum(advantage_BT) / jnp.maximum(tokens, 1)
            low = jnp.min(jnp.where(inside_BT, advantage_BT, jnp.inf))
            high = jnp.max(jnp.where(inside_BT, advantage_BT, -jnp.inf))
            found[f"advantage/{term.name}"] = mean
            found[f"advantage/{term.name}_min"] = jnp.where(some, low, 0.0)
            found[f"advantage/{term.name}_max"] = jnp.where(some, high, 0.0)
            if term.weights:
                turned_BT = product_of_weights(term, scores) < 0
                flips = jnp.sum(turned_BT & (advantage_BT != 0))
                found[f"advantage/{term.name}_flips"] = flips
        if term.report is not None:
            own = term.report(scores)
            found |= {f"{term.name}/{name}": value for name, value in own.items()}
    return found
