"""From logits to a token and the log-probability it was really drawn with.

``Filter`` says how the distribution is reshaped; ``filtered_logits`` does it, ``draw``
samples from the result, and ``log_prob`` recomputes the recorded number later. All use
the same filtered row, so an importance ratio against it starts at exactly 1.

Randomness is one uniform per row and position (``row_uniforms``), derived from the
row's own key: a row draws the same tokens whatever batch or device it sits in.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopd.losses import divergences

LEAST = 1e-4  # temperature above 0: what logits divided by less overflow
# Width of the second level of ``sample``: one vector register row on TPU.
_LANES = 128


class Filter(NamedTuple):
    """How the behaviour distribution is cut. Static Python numbers, not arrays.

    Attributes:
      temperature: divides the logits, ``LEAST`` at the least; 0 is greedy, and then
        nothing below matters.
      top_k: keep the k likeliest tokens, ties with the k-th included; 0 keeps all.
      top_p: keep the fewest likeliest tokens whose mass reaches top_p; 1 keeps all.
      min_p: keep tokens with at least min_p times the likeliest one's probability; 0
        keeps all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def filtered_logits(logits: jax.Array, f: Filter) -> jax.Array:
    """Logits of the distribution that is sampled from: f32[..., V] -> f32[..., V].

    Temperature, then top-k, top-p, min-p, each on what the one before left: the order
    and the inclusive ends of Hugging Face transformers. Tokens cut out get -inf. Greedy
    gives 0 for the first of the largest logits and -inf for all others.

    Differs from transformers only in ties at the edge of top-p: all tokens as likely as
    the last one kept are kept here, there a sort decides. Raises ValueError for a value
    outside its range.
    """
    _check(f)
    logits = jnp.asarray(logits).astype(jnp.float32)
    if f.temperature == 0.0:
        tokens = _first_largest(logits)
        return jnp.where(_positions(logits) == tokens[..., None], 0.0, -jnp.inf)
    if f.temperature != 1.0:
        logits = logits / f.temperature
    if 0 < f.top_k < logits.shape[-1]:
        logits = _cut(logits, _top_k_mask(logits, f.top_k))
    if f.top_p < 1.0:
        logits = _cut(logits, _top_p_mask(logits, f.top_p))
    if f.min_p > 0.0:
        logits = _cut(logits, _min_p_mask(logits, f.min_p))
    return logits


def draw(
    uniform_B: jax.Array, logits_BV: jax.Array, f: Filter, *, exactly: bool = False
) -> tuple[jax.Array, jax.Array]:
    """One token per row and its log-probability under ``filtered_logits``.

    f32[B] in [0, 1), f32[B, V] -> i32[B], f32[B] (nats; exactly 0 when greedy, which
    does not read the uniforms). ``exactly``: in the bits of ``log_prob``.
    """
    if f.temperature == 0.0:
        _check(f)
        token_B = _first_largest(logits_BV)
        return token_B, jnp.zeros(token_B.shape, jnp.float32)
    logits_BV = filtered_logits(logits_BV, f)
    token_B, log_normalizer_B = _sample(uniform_B, logits_BV)
    if exactly:
        return token_B, divergences.log_prob(logits_BV, token_B, exactly=True)
    chosen_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=1)[:, 0]
    return token_B, chosen_B - log_normalizer_B


def log_prob(
    logits: jax.Array, tokens: jax.Array, f: Filter, *, exactly: bool = False
) -> jax.Array:
    """What ``draw`` recorded, from the same logits: f32[..., V], i32[...] -> f32[...].

    -inf for a token that the filter cuts out. Recomputed logits differ in the last
    bits, so that a token at the edge of a filter can come back as -inf.
    """
    filtered = filtered_logits(logits, f)
    return divergences.log_prob(filtered, tokens, exactly=exactly)


def sample(uniform_B: jax.Array, logits_BV: jax.Array) -> jax.Array:
    """Inverse-CDF sample of softmax(logits), one uniform per row.

        the first v with  sum_{w <= v} p_w > u

    f32[B] in [0, 1), f32[B, V] -> i32[B]. Never a token of probability 0 (logit -inf).
    Exact up to the grid of the uniform: 2^-23 per token. The search is in two levels,
    blocks of 128 tokens and then one block, which reads the row once; a Gumbel draw at
    V = 151936 costs over ten times as much on a CPU. Rows without a finite logit have
    no distribution; what comes back for them is some index below V.
    """
    return _sample(uniform_B, logits_BV)[0]


def row_uniforms(keys_B: jax.Array, position: jax.Array | int) -> jax.Array:
    """One uniform in [0, 1) per row, from the row's key with the position folded in.

    key[B], i32[] or i32[B] -> f32[B]. Each depends on its own key and position only.
    """
    position_B = jnp.broadcast_to(jnp.asarray(position), keys_B.shape)
    return jax.vmap(lambda key, at: jax.random.uniform(jax.random.fold_in(key, at)))(
        keys_B, position_B
    )


def _check(f: Filter) -> None:
    if not 0.0 <= f.temperature < math.inf:
        raise ValueError(f"temperature={f.temperature} must be >= 0 (0 is greedy)")
    if 0.0 < f.temperature < LEAST:
        raise ValueError(
            f"temperature={f.temperature} must be 0 (greedy) or at least {LEAST}"
        )
    if f.top_k < 0 or f.top_k != int(f.top_k):
        raise ValueError(f"top_k={f.top_k} must be an integer >= 0 (0 keeps all)")
    if not 0.0 < f.top_p <= 1.0:
        raise ValueError(f"top_p={f.top_p} must be in (0, 1] (1 keeps all)")
    if not 0.0 <= f.min_p <= 1.0:
        raise ValueError(f"min_p={f.min_p} must be in [0, 1] (0 keeps all)")


def _cut(logits: jax.Array, keep: jax.Array) -> jax.Array:
    return jnp.where(keep, logits, -jnp.inf)


def _top_k_mask(logits: jax.Array, k: int) -> jax.Array:
    largest = jax.lax.top_k(jax.lax.stop_gradient(logits), k)[0]
    # The last column, by a reduction: XLA merges a slice [..., -1:] into its top-k and
    # then sorts the whole vocabulary on a CPU (1200 ms, not 8, at [32, 151936]).
    return logits >= jnp.min(largest, axis=-1, keepdims=True)


def _top_p_mask(logits: jax.Array, top_p: float) -> jax.Array:
    """True where the mass of all likelier tokens is below ``top_p``.

    Bisects the probability of the last token kept over the bit patterns of float32,
    which order as the non-negative floats do: exact after 30 halvings, and on a CPU far
    cheaper than sorting a vocabulary.
    """
    p = jax.nn.softmax(jax.lax.stop_gradient(logits), axis=-1)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        edge = jax.lax.bitcast_convert_type(middle, jnp.float32)
        likelier = jnp.sum(jnp.where(p > edge, p, 0.0), axis=-1, keepdims=True)
        enough = likelier < top_p
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    low = jnp.zeros_like(p[..., :1], dtype=jnp.int32)
    high = jax.lax.bitcast_convert_type(jnp.ones_like(p[..., :1]), jnp.int32)
    edge = jax.lax.fori_loop(0, 30, halve, (low, high))[1]
    return p >= jax.lax.bitcast_convert_type(edge, jnp.float32)


def _min_p_mask(logits: jax.Array, min_p: float) -> jax.Array:
    return logits >= jnp.max(logits, axis=-1, keepdims=True) + math.log(min_p)


def _positions(x: jax.Array) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)


def _blocks(logits: jax.Array) -> jax.Array:
    """f32[..., V] -> f32[..., N, 128], padded with -inf."""
    vocabulary = logits.shape[-1]
    blocks = -(-vocabulary // _LANES)
    padding = [(0, 0)] * (logits.ndim - 1) + [(0, blocks * _LANES - vocabulary)]
    padded = jnp.pad(logits.astype(jnp.float32), padding, constant_values=-jnp.inf)
    return padded.reshape(*logits.shape[:-1], blocks, _LANES)


def _take_block(blocks: jax.Array, block: jax.Array) -> jax.Array:
    """f32[..., N, 128], i32[...] -> f32[..., 128]."""
    return jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]


def _first_largest(logits: jax.Array) -> jax.Array:
    """argmax in two levels: XLA's own is some 20 times slower than a max on a CPU."""
    blocks = _blocks(logits)
    block = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
    lane = jnp.argmax(_take_block(blocks, block), axis=-1)
    return (block * _LANES + lane).astype(jnp.int32)


def _sample(uniform_B: jax.Array, logits_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The token and the row's logsumexp, which the search has anyway."""
    logits_BNL = _blocks(logits_BV)
    largest_B = jnp.max(logits_BNL, axis=(-2, -1))
    mass_BNL = jnp.exp(logits_BNL - largest_B[:, None, None])
    mass_BN = jnp.sum(mass_BNL, axis=-1)
    cumulative_BN = jnp.cumsum(mass_BN, axis=-1)
    total_B = cumulative_BN[:, -1]
    target_B = uniform_B.astype(jnp.float32) * total_B

    block_B = _first_above(mass_BN, cumulative_BN, target_B)
    before_BN = jnp.pad(cumulative_BN[:, :-1], ((0, 0), (1, 0)))
    before_B = jnp.take_along_axis(before_BN, block_B[:, None], axis=1)[:, 0]
    mass_BL = _take_block(mass_BNL, block_B)
    inside_BL = jnp.cumsum(mass_BL, axis=-1)
    lane_B = _first_above(mass_BL, inside_BL, target_B - before_B)
    return block_B * _LANES + lane_B, largest_B + jnp.log(total_B)


def _first_above(
    mass_BN: jax.Array, cumulative_BN: jax.Array, target_B: jax.Array
) -> jax.Array:
    """First index with mass whose cumulative mass exceeds the target, else the last.

    A parallel cumsum may round neighbours differently, and the target may round up to
    the total: without asking for mass, either could pick an index that has none.
    """
    has_mass = mass_BN > 0.0
    index = _positions(mass_BN)
    above = has_mass & (cumulative_BN > target_B[:, None])
    first = jnp.min(jnp.where(above, index, mass_BN.shape[-1]), axis=-1)
    return jnp.minimum(first, jnp.max(jnp.where(has_mass, index, 0), axis=-1))
