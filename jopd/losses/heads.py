"""From hidden states to logits, the one way to them."""

import jax
import jax.numpy as jnp

from jopd import exact
from jopd.losses import divergences


def logits_of(
    hidden: jax.Array, head_VD: jax.Array, cap: float = 0.0, *, exactly: bool = False
) -> jax.Array:
    """f32[..., V]; the matmul runs in the hidden states' precision, sums in float32.

    ``cap`` is ``logit_cap`` of the model's config, c below, and
    ``exactly`` its ``exact``.

        logits = W h,  or  c tanh(W h / c)  where c is not 0
    """
    if exactly:
        rows = hidden.reshape(-1, hidden.shape[-1])
        head_VD = head_VD.astype(hidden.dtype)  # once, not in every tile
        found = exact.in_tiles(lambda *both: logits_of(*both, cap), rows, head_VD)
        return found.reshape(*hidden.shape[:-1], -1)
    logits = jnp.einsum(
        "...d,vd->...v",
        hidden,
        head_VD.astype(hidden.dtype),
        preferred_element_type=jnp.float32,
    )
    return cap * jnp.tanh(logits / cap) if cap else logits


def tempered(logits, temperature: float):
    """``logits / temperature`` of every leaf."""
    if temperature == 1.0:
        return logits
    return jax.tree.map(lambda rows: rows / temperature, logits)


def exact_logp(logits: dict[str, jax.Array], tokens: jax.Array) -> jax.Array:
    """The student's log-probs f32[...] of tokens, in the sampler's bits."""
    return divergences.log_prob(logits["student"], tokens, exactly=True)
