"""Rows to draw, in one loop and in blocks, that several test files share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import tiny
from jopd.models import decoder
from jopd.rollouts import blocks as engine
from jopd.rollouts import generate as rollout
from jopd.rollouts import sampling
from jopd.types import STUDENT, TEACHER

CONFIG = tiny.config(qk_norm=True, sliding_window=4, sliding_layers=(True, False))
MODEL = decoder.Decoder(CONFIG)
P, NEW, ROWS = 5, 24, 32
DRAW = {
    "stop_ids": (3,),
    "vocabulary": tiny.VOCABULARY,
    "filters": sampling.Filter(temperature=0.8),
}

# With few rows at a time and slots in another order sums round differently: as much as
# sampler and trainer may differ.
RING = 1e-5


def asked(limits=None, copies: int = 1) -> rollout.Request:
    """Rows of all lengths, some with a prefix; limits from nothing to everything."""
    rng = np.random.default_rng(0)
    repeat = lambda x: np.repeat(x[: ROWS // copies], copies, axis=0)
    length_B = repeat(rng.integers(2, P + 1, ROWS))
    prompt_B = length_B - repeat(rng.integers(0, 2, ROWS))
    tokens_BP = repeat(rng.integers(4, 10, (ROWS, P)))
    behind_BP = np.arange(P) >= prompt_B[:, None]
    limit_B = rng.integers(0, NEW + 1, ROWS) if limits is None else limits
    return rollout.Request(
        tokens_BP=jnp.asarray(tokens_BP, jnp.int32),
        length_B=jnp.asarray(length_B, jnp.int32),
        prompt_length_B=jnp.asarray(prompt_B, jnp.int32),
        limit_B=jnp.asarray(np.broadcast_to(limit_B, ROWS), jnp.int32),
        row_B=jnp.arange(ROWS, dtype=jnp.int32) + 7,
        prefix_source_BP=jnp.asarray(np.where(behind_BP, TEACHER, STUDENT), jnp.int32),
    )


@functools.cache
def one_loop(**settings):
    bound = functools.partial(
        rollout.generate, model=MODEL, max_new_tokens=NEW, **settings
    )
    return jax.jit(bound)


def in_one_loop(params, request, key, copies: int = 1):
    return jax.device_get(one_loop(copies=copies, **DRAW)(params, request, key))


def in_blocks(params, request, key, block: int, **settings):
    bound = engine.in_blocks(
        model=MODEL, max_new_tokens=NEW, block=block, **settings, **DRAW
    )
    return bound(params, request, key)
