"""What models whose logits are not here said of the tokens that were written.

Annotations leave it in ``Batch.extra``: ``logp/<name>``, and of some models also the
likeliest tokens at every place, ``likely_ids/<name>`` and ``likely_logp/<name>``. Of
one with another tokenizer that a term reads whole there are its final hidden states at
the student's places, ``states/<name>``, and where they count, ``begins/<name>``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopd.types import Aligned, Batch

LEAST_TAIL = 1e-7  # what float32 log-probabilities can tell from none


class Likely(NamedTuple):
    """``ids`` i32[..., K], distinct, and their ``logp`` f32[..., K] in nats."""

    ids: jax.Array
    logp: jax.Array


def scored_in(batch: Batch) -> dict[str, jax.Array]:
    """``Outputs.scored`` of whole rows."""
    return _named(batch, "logp/")


def likely_in(batch: Batch) -> dict[str, Likely]:
    """By name, of the models that said so."""
    logp = _named(batch, "likely_logp/")
    return {
        name: Likely(ids, logp[name])
        for name, ids in _named(batch, "likely_ids/").items()
    }


def states_in(batch: Batch) -> dict[str, jax.Array]:
    """Hidden states f32[B, T, D] of models with another tokenizer, unaligned."""
    return _named(batch, "states/")


def begins_in(batch: Batch, names) -> dict[str, jax.Array]:
    """Where those of ``names`` count, f32[B, T]: 1 or 0."""
    known = _named(batch, "begins/")
    return {name: known[name] for name in names if name in known}


def without_states(batch: Batch) -> Batch:
    """The same for who has been given the states apart."""
    kept = {k: v for k, v in batch.extra.items() if not k.startswith("states/")}
    return batch._replace(extra=kept)


def aligned(logits, begins) -> tuple[dict[str, jax.Array], dict[str, Aligned]]:
    """(logits over the student's tokens, those over others'), by name."""
    apart = {name: Aligned(logits[name], begins[name] > 0) for name in begins}
    return {name: logits[name] for name in logits if name not in begins}, apart


def _named(batch: Batch, kind: str) -> dict[str, jax.Array]:
    return {
        key.removeprefix(kind): value
        for key, value in batch.extra.items()
        if key.startswith(kind)
    }


def spread(likely: Likely, scored: jax.Array, student: jax.Array) -> jax.Array:
    """Log-probabilities f32[..., V] that have the likely ones and one tail.

    What is left of the mass is shared evenly by all other tokens, so any divergence on
    the likely tokens, with or without their tail in one bucket, is exact; on all tokens
    it is none. A tail below ``LEAST_TAIL`` is not known, and taken as that.

    Args:
      scored: f32[...]; above 0 nothing is known, and the model agrees with the student.
      student: f32[..., V], its logits.
    """
    ids, logp = likely
    size, known = student.shape[-1], ids.shape[-1]
    best = jnp.max(logp, axis=-1, keepdims=True)
    # 1 - sum p without the loss of digits that a sure model's first token would cost.
    others = jnp.sum(jnp.exp(logp), axis=-1, keepdims=True) - jnp.exp(best)
    tail = jnp.maximum(-jnp.expm1(best) - others, LEAST_TAIL)
    even = jnp.log(tail) - jnp.log(float(max(size - known, 1)))
    whole = jnp.broadcast_to(even, student.shape)
    whole = jnp.put_along_axis(whole, ids, logp, axis=-1, inplace=False)
    return jnp.where(scored[..., None] > 0, jax.lax.stop_gradient(student), whole)
