"""A teacher that reads rollouts while they are written, and ends some of them early.

Between two blocks of draws (``rollouts.blocks``) it runs the tokens of the last block
against a cache of its own, whose slots hold the same tokens as those of the student's
cache; so rows leave, wait and enter for both alike. Then a rule of ``jopd.stops`` looks
at the latest tokens. The newest draw is left for the next time: the student has not
read it either.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopd.losses import divergences
from jopd.losses.chunks import in_chunks
from jopd.losses.heads import logits_of, tempered
from jopd.models import cache as caches
from jopd.models import decoder
from jopd.rollouts import generate
from jopd.rollouts.records import Loop, Policy, Request
from jopd.rollouts.stops import Seen


class Watch(NamedTuple):
    """Who looks at rollouts, and for what.

    Attributes:
      rule: ``Seen -> bool[B]``, rows that end here, or these and how many tokens leave
        each of them at its end, the newest included.
      window: the latest tokens it sees, W.
      compares: it reads KLs of the student to the teacher that reads along.
      any_length: it is asked about rows with fewer tokens, too.
      model, params: of the teacher that reads along; None where the rule needs none.
      vocabulary: columns of its head that count.
      temperature: of its distribution.
      chunk_tokens: tokens whose logits exist at one time.
    """

    rule: Callable[[Seen], jax.Array | tuple[jax.Array, jax.Array]]
    window: int
    compares: bool = False
    any_length: bool = False
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
      kl_BL: f32, one of KL(student || teacher) where each token was drawn, or None.
    """

    cache: caches.KV
    hidden_BD: jax.Array
    logp_BL: jax.Array
    kl_BL: jax.Array | None


def begin(
    watch: Watch, params, asked: Request, *, slots: int, copies: int, record: int
) -> Reading:
    """Reads the given tokens; room for ``slots`` new ones and ``record`` numbers."""
    cache, hidden_BD = generate.prefill(watch.model, params, asked, slots, copies)
    empty_BL = jnp.zeros((len(asked.length_B), record), jnp.float32)
    return Reading(cache, hidden_BD, empty_BL, empty_BL if watch.compares else None)


def enter(
    watch: Watch, params, reading: Reading, coming: Request, place_R, *, copies: int
) -> Reading:
    """Reads the given tokens of rows that come; see ``generate.enter``."""
    kv, hidden_RD = generate.prefill(watch.model, params, coming, 0, copies)
    # What the records of these rows hold is of others, and no row's own.
    return reading._replace(
        cache=caches.put_rows(reading.cache, kv, place_R),
        hidden_BD=reading.hidden_BD.at[place_R].set(hidden_RD, mode="drop"),
    )


def look(
    watch: Watch,
    policy: Policy,
    models: tuple,
    asked: Request,
    loop: Loop,
    reading: Reading | None,
    memory: Mapping[str, Any],
    *,
    block: int,
) -> tuple[Loop, Reading | None]:
    """Reads what the last ``block`` draws made known and ends the rows of the rule.

    The first two of ``models`` are the parameters of who draws and of who reads along.
    """
    if reading is not None:
        reading = _read(watch, policy, models, asked, loop, reading, block)
    seen = _seen(loop, reading, watch.window)._replace(memory=memory)
    said = watch.rule(seen)
    stop_B, back_B = said if isinstance(said, tuple) else (said, 0)
    stop_B &= ~loop.done_B
    if not watch.any_length:
        stop_B &= seen.count_B >= watch.window
    count_B = loop.count_B - jnp.where(stop_B, back_B, 0)
    return loop._replace(done_B=loop.done_B | stop_B, count_B=count_B), reading


def _read(watch, policy, models, asked, loop: Loop, reading: Reading, block: int):
    """Scores the ``block`` draws before the newest one."""
    width, length = asked.tokens_BP.shape[1], loop.tokens_BL.shape[1]
    room = caches.slots(reading.cache) - width
    first = loop.step - 1 - block
    draw_K = first + jnp.arange(block)
    tokens_BK = jnp.take(loop.tokens_BL, draw_K % length, axis=1)
    number_BK = draw_K - loop.start_B[:, None]
    hidden_BKD, kv = watch.model.apply(
        {"params": models[1]},
        tokens_BK,
        asked.length_B[:, None] + number_BK,
        jnp.ones_like(tokens_BK, bool),
        reading.cache,
        *generate.in_slots(asked, loop.start_B, first, room),
    )
    before_BKD = jnp.concatenate([reading.hidden_BD[:, None], hidden_BKD[:, :-1]], 1)
    states = {"teacher": before_BKD}
    if watch.compares:
        kept = loop.states_BKD.shape[1]
        states["student"] = jnp.take(loop.states_BKD, draw_K % kept, axis=1)
    score = functools.partial(_scores, watch, policy, models)
    live_BK = jnp.broadcast_to(~loop.done_B[:, None], tokens_BK.shape)
    found = in_chunks(
        score, (states, tokens_BK), live_BK, chunk_tokens=watch.chunk_tokens
    )
    column_K = draw_K % length
    records = {
        name: getattr(reading, name).at[:, column_K].set(values_BK)
        for name, values_BK in found.items()
    }
    cache = caches.scatter(reading.cache, kv, width + draw_K % room)
    return reading._replace(cache=cache, hidden_BD=hidden_BKD[:, -1], **records)


def _scores(watch: Watch, policy: Policy, models, chunk) -> dict[str, jax.Array]:
    """What is recorded of some tokens, from the states that they were drawn from."""
    states, tokens = chunk

    def logits(name: str, model: decoder.Decoder, params) -> jax.Array:
        head_VD = decoder.head(params)[: watch.vocabulary]
        found = logits_of(states[name], head_VD, model.config.logit_cap)
        return tempered(found, watch.temperature)

    teacher = logits("teacher", watch.model, models[1])
    found = {"logp_BL": divergences.log_prob(teacher, tokens)}
    if watch.compares:
        student = logits("student", policy.model, models[0])
        found["kl_BL"] = divergences.reverse_kl(student, teacher)
    return found


def _seen(loop: Loop, reading: Reading | None, window: int) -> Seen:
    """The latest tokens before the newest."""
    draw_W = loop.step - 1 - window + jnp.arange(window)
    latest = functools.partial(
        jnp.take, indices=draw_W % loop.tokens_BL.shape[1], axis=1
    )
    of_teacher = lambda record_BL: None if record_BL is None else latest(record_BL)
    return Seen(
        tokens_BW=latest(loop.tokens_BL),
        student_logp_BW=latest(loop.logp_BL),
        teacher_logp_BW=of_teacher(reading and reading.logp_BL),
        reverse_kl_BW=of_teacher(reading and reading.kl_BL),
        count_B=loop.step - 1 - loop.start_B,
    )
