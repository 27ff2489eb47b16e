"""Numbers per token from the logits of all models, made in the walk over chunks."""

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp

from jopd.losses import divergences
from jopd.types import Outputs

Fact = Callable[[Outputs], jax.Array]  # to f32[...], see ``facts``


def log_prob(outputs: Outputs, name: str) -> jax.Array:
    """Log-probability f32[...] of the written token under one model.

    Where a model that is not here has none, it is the student's: the two agree there.
    """
    if name == "student" and outputs.logp is not None:
        return outputs.logp
    if name in outputs.scored:
        given = outputs.scored[name]
        itself = jax.lax.stop_gradient(log_prob(outputs, "student"))
        return jnp.where(given > 0, itself, given)
    return divergences.log_prob(outputs.logits[name], outputs.tokens)


def token_facts(outputs: Outputs) -> dict[str, jax.Array]:
    """Per-token numbers for weights and logs, in nats: log-probs, entropies, KLs."""
    facts, logits = {}, outputs.logits
    for name in outputs.scored:
        facts[f"logp/{name}"] = log_prob(outputs, name)
    # Of a model that is not here, a part of its logits at the most.
    logits = {name: logits[name] for name in logits if name not in outputs.scored}
    for name, rows in logits.items():
        facts[f"logp/{name}"] = log_prob(outputs, name)
        facts[f"entropy/{name}"] = divergences.entropy(rows)
    for name, rows in logits.items():
        if name != "student":
            facts[kl_name("reverse", name)] = divergences.reverse_kl(
                logits["student"], rows
            )
            facts[kl_name("forward", name)] = divergences.forward_kl(
                logits["student"], rows
            )
    return facts


def kl_name(direction: str, name: str) -> str:
    """Key of a KL between the student and another model among the token facts."""
    return f"kl/{direction}" if name == "teacher" else f"kl/{direction}_{name}"


def named_facts(facts: Mapping[str, Fact], outputs: Outputs) -> dict[str, jax.Array]:
    """What a config's own facts say, beside the ``token_facts``."""
    return {f"fact/{name}": fact(outputs) for name, fact in facts.items()}


def facts_among(per_token: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The named ones, under the names that a config gave them."""
    names = [key for key in per_token if key.startswith("fact/")]
    return {key.removeprefix("fact/"): per_token[key] for key in names}


def facts_of(terms: Iterable) -> dict[str, Fact]:
    """The named facts that terms read, each once."""
    return {name: fact for term in terms for name, fact in term.facts}
