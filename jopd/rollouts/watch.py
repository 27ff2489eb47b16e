"""A teacher that reads rollouts while they are written, and ends some of them early.

Between two blocks of draws (``rollouts.blocks``) it runs the tokens of the last block
against a cache of its own, whose slots hold the same tokens as those of the student's
cache; so rows leave, wait and enter for both alike. Then a rule of ``jopd.stops`` looks
at the latest tokens. The newest draw is left for the next time: the student has not
read it either.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopd.losses import divergences
from jopd.losses.chunks import in_chunks
from jopd.losses.heads import logits_of, tempered
from jopd.models import cache as caches
from jopd.models import decoder
from jopd.rollouts import generate
from jopd.rollouts.generate import Loop, Request
from jopd.rollouts.stops import Seen


class Watch(NamedTuple):
    """Who looks at rollouts, and for what.

    Attributes:
      rule: ``Seen -> bool[B]``, rows that end here.
      window: the latest tokens it sees, W; rows with fewer go on.
      model, params: of the teacher that reads along; None where the rule needs none.
      vocabulary: columns of its head that count.
      temperature: of its distribution.
      chunk_tokens: tokens whose logits exist at one time.
    """

    rule: Callable[[Seen], jax.Array]
    window: int
    model: decoder.Decoder | None = None
    params: Any = None
    vocabulary: int = 0
    temperature: float = 1.0
    chunk_tokens: int = 128


class Reading(NamedTuple):
    """How far the teacher has read.

    Attributes:
      cache: its keys and values, slot by slot what the student's cache holds.
      hidden_BD: its state behind what it has read, which predicts the next token.
      logp_BL: f32, a record as ``Loop.logp_BL``.
    """

    cache: caches.KV
    hidden_BD: jax.Array
    logp_BL: jax.Array


def begin(
    watch: Watch, params, asked: Request, *, slots: int, copies: int, record: int
) -> Reading:
    """Reads the given tokens; room for ``slots`` new ones and ``record`` numbers."""
    cache, hidden_BD = generate.prefill(watch.model, params, asked, slots, copies)
    rows = len(asked.length_B)
    return Reading(cache, hidden_BD, jnp.zeros((rows, record), jnp.float32))


def enter(
    watch: Watch, params, reading: Reading, coming: Request, place_R, *, copies: int
) -> Reading:
    """Reads the given tokens of rows that come; see ``generate.enter``."""
    kv, hidden_RD = generate.prefill(watch.model, params, coming, 0, copies)
    return Reading(
        caches.put_rows(reading.cache, kv, place_R),
        reading.hidden_BD.at[place_R].set(hidden_RD, mode="drop"),
        reading.logp_BL.at[place_R].set(0.0, mode="drop"),
    )


def look(
    watch: Watch,
    params,
    asked: Request,
    loop: Loop,
    reading: Reading | None,
    *,
    block: int,
) -> tuple[Loop, Reading | None]:
    """Reads what the last ``block`` draws made known and ends the rows of the rule."""
    if reading is not None:
        reading = _read(watch, params, asked, loop, reading, block)
    seen, known_B = _seen(loop, reading, watch.window)
    stop_B = watch.rule(seen) & known_B
    return loop._replace(done_B=loop.done_B | stop_B), reading


def _read(watch, params, asked: Request, loop: Loop, reading: Reading, block: int):
    """Scores the ``block`` draws before the newest one."""
    width, length = asked.tokens_BP.shape[1], loop.tokens_BL.shape[1]
    room = caches.slots(reading.cache) - width
    first = loop.step - 1 - block
    draw_K = first + jnp.arange(block)
    tokens_BK = jnp.take(loop.tokens_BL, draw_K % length, axis=1)
    number_BK = draw_K - loop.start_B[:, None]
    hidden_BKD, kv = watch.model.apply(
        {"params": params},
        tokens_BK,
        asked.length_B[:, None] + number_BK,
        jnp.ones_like(tokens_BK, bool),
        reading.cache,
        *generate.in_slots(asked, loop.start_B, first, room),
    )
    before_BKD = jnp.concatenate([reading.hidden_BD[:, None], hidden_BKD[:, :-1]], 1)
    head_VD = decoder.head(params)[: watch.vocabulary]
    cap = watch.model.config.logit_cap

    def score(chunk):
        hidden, tokens = chunk
        logits = tempered(logits_of(hidden, head_VD, cap), watch.temperature)
        return divergences.log_prob(logits, tokens)

    live_BK = jnp.broadcast_to(~loop.done_B[:, None], tokens_BK.shape)
    logp_BK = in_chunks(
        score, (before_BKD, tokens_BK), live_BK, chunk_tokens=watch.chunk_tokens
    )
    slot_K = width + draw_K % room
    cache = caches.scatter(reading.cache, kv, slot_K)
    logp_BL = reading.logp_BL.at[:, draw_K % length].set(logp_BK)
    return Reading(cache, hidden_BKD[:, -1], logp_BL)


def _seen(loop: Loop, reading: Reading | None, window: int):
    """The latest tokens before the newest, and which rows have so many."""
    draw_W = loop.step - 1 - window + jnp.arange(window)
    latest = functools.partial(
        jnp.take, indices=draw_W % loop.tokens_BL.shape[1], axis=1
    )
    teacher_BW = None if reading is None else latest(reading.logp_BL)
    seen = Seen(latest(loop.tokens_BL), latest(loop.logp_BL), teacher_BW)
    return seen, (draw_W[0] >= loop.start_B) & ~loop.done_B
