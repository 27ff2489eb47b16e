"""The behaviour policy at work: batched prefill, then a decode loop over a KV cache.

``generate`` is one pure function. ``sharding.data_parallel`` wraps it in ``jax.pmap``
with replicated parameters, where every device leaves its loop as soon as its own rows
are done and nothing is communicated; plain ``jax.jit`` over sharded parameters serves
models that need several devices. Both give the same tokens: randomness belongs to the
row.

Cache slots and positions are independent. Prompts of different lengths are padded on
the right to P slots, what draw number j of the loop gave goes to slot P + j (around a
ring, when rows that came later are still drawn), and positions say where a token really
stands; so all rows write to one slot and no row is ever moved.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopd.losses.heads import logits_of
from jopd.models import cache as caches
from jopd.models import decoder
from jopd.rollouts import sampling
from jopd.types import STUDENT, Rollout

PLAIN = sampling.Filter()  # temperature 1, nothing cut


class Policy(NamedTuple):
    """Who draws, and how; static. Fields are those of ``generate``."""

    model: decoder.Decoder
    stop_ids: tuple[int, ...]
    vocabulary: int
    filters: sampling.Filter = PLAIN


class Request(NamedTuple):
    """What to continue.

    Attributes:
      tokens_BP: i32, given tokens (prompt, then response prefix if any), right-padded.
      length_B: i32, number of given tokens, at least 1.
      prompt_length_B: i32, how many of them are the prompt; the rest is a prefix.
      limit_B: i32, most new tokens per row, at most ``max_new_tokens``.
      row_B: i32, identity of the row; with the key it fixes the random stream.
      prefix_source_BP: i32, who wrote each given token that is not prompt.
    """

    tokens_BP: jax.Array
    length_B: jax.Array
    prompt_length_B: jax.Array
    limit_B: jax.Array
    row_B: jax.Array
    prefix_source_BP: jax.Array


class Loop(NamedTuple):
    """Carry of the decode loop: ``step`` draws are done, ``count_B`` of each row count.

    ``start_B`` draws were done when a row came. Draw j is column j mod L of the two
    records. A row that is done has ended or reached its limit; one that is finished has
    ended. ``states_BKD`` are the states that the latest K draws were made from, draw j
    in column j mod K, where somebody reads them, else None.
    """

    step: jax.Array
    start_B: jax.Array
    cache: caches.KV
    token_B: jax.Array
    count_B: jax.Array
    done_B: jax.Array
    finished_B: jax.Array
    tokens_BL: jax.Array
    logp_BL: jax.Array
    states_BKD: jax.Array | None = None


def request(tokens_BP, length_B, *, limit, row_B=None, prompt_length_B=None) -> Request:
    """A ``Request`` with the usual defaults: rows numbered, no prefixes, one limit."""
    tokens_BP, length_B = jnp.asarray(tokens_BP), jnp.asarray(length_B)
    rows = jnp.arange(len(tokens_BP)) if row_B is None else jnp.asarray(row_B)
    return Request(
        tokens_BP=tokens_BP,
        length_B=length_B,
        prompt_length_B=length_B if prompt_length_B is None else prompt_length_B,
        limit_B=jnp.broadcast_to(jnp.asarray(limit, jnp.int32), length_B.shape),
        row_B=rows,
        prefix_source_BP=jnp.full(tokens_BP.shape, STUDENT, jnp.int32),
    )


def generate(
    params,
    asked: Request,
    key: jax.Array,
    *,
    model: decoder.Decoder,
    max_new_tokens: int,
    stop_ids: tuple[int, ...],
    vocabulary: int,
    filters: sampling.Filter = PLAIN,
    copies: int = 1,
) -> Rollout:
    """Samples a continuation of every row.

    Args:
      params: of ``model``.
      key: the random stream; token t of row r is drawn with
        fold_in(fold_in(key, r), t).
      max_new_tokens: static bound on new tokens; rows stop earlier at a stop id
        (which is kept as their last token) or at their own limit.
      vocabulary: ids at and past it are never drawn (padded heads).
      copies: rows come in runs of this many with the same given tokens, which are
        read once per run.

    Returns:
      A ``Rollout`` of width P + max_new_tokens, with ``age_B`` 0 and ``group_B`` =
      rows.

    Raises:
      ValueError: the rows are not whole runs of ``copies``.
    """
    policy = Policy(model, stop_ids, vocabulary, filters)
    room = dict(max_new_tokens=max_new_tokens, slots=max_new_tokens)
    loop = begin(params, asked, key, policy=policy, copies=copies, **room)
    return join(asked, advance(params, asked, key, loop, max_new_tokens, policy=policy))


def begin(
    params,
    asked: Request,
    key: jax.Array,
    *,
    policy: Policy,
    max_new_tokens: int,
    slots: int,
    copies: int = 1,
    states: int = 0,
) -> Loop:
    """Reads the given tokens and draws the first; room for ``slots`` new tokens.

    ``states``: latest draws whose states are kept. Else as ``generate``, whose first
    part it is.
    """
    if len(asked.length_B) % copies:
        raise ValueError(
            f"{len(asked.length_B)} rollout rows are not runs of copies={copies}"
        )
    drawer = _drawer(params, asked, key, policy)
    cache, hidden_BD = prefill(policy.model, params, asked, slots, copies)
    loop = _start(asked, cache, max_new_tokens, policy.stop_ids)
    if states:
        rows, width = hidden_BD.shape
        kept_BKD = jnp.zeros((rows, states, width), hidden_BD.dtype)
        loop = loop._replace(states_BKD=kept_BKD)
    return drawer(loop, hidden_BD)


def enter(
    params,
    asked: Request,
    key: jax.Array,
    loop: Loop,
    coming: Request,
    place_R: jax.Array,
    *,
    policy: Policy,
    copies: int = 1,
) -> tuple[Request, Loop]:
    """Puts other rows in the places of some: reads them and draws their first token.

    Args:
      coming: rows with given tokens as wide as those of ``asked``.
      place_R: i32, which row each replaces; one past the last for none.

    Else as ``generate``. The records of a replaced row are gone: keep them before.
    """
    drawer = _drawer(params, coming, key, policy)
    kv, hidden_RD = prefill(policy.model, params, coming, 0, copies)
    fresh = _start(coming, kv, loop.tokens_BL.shape[1], policy.stop_ids)
    if loop.states_BKD is not None:
        kept = loop.states_BKD.shape[1:]
        empty_RKD = jnp.zeros((len(place_R), *kept), loop.states_BKD.dtype)
        fresh = fresh._replace(states_BKD=empty_RKD)
    # As if they had always been there: their first draw is the loop's latest.
    late_R = jnp.full_like(place_R, loop.step - 1)
    fresh = drawer(fresh._replace(step=loop.step - 1, start_B=late_R), hidden_RD)
    put = lambda old, new: old.at[place_R].set(new, mode="drop")
    bare = lambda loop: loop._replace(step=None, cache=None)
    merged = jax.tree.map(put, bare(loop), bare(fresh))
    rows = jax.tree.map(put, asked, coming)
    cache = caches.put_rows(loop.cache, kv, place_R)
    return rows, merged._replace(step=loop.step, cache=cache)


def advance(
    params,
    asked: Request,
    key: jax.Array,
    loop: Loop,
    until: jax.Array | int,
    *,
    policy: Policy,
) -> Loop:
    """Draws until ``until`` draws are done or every row has ended.

    Past the room in the cache the oldest slots are written again, so there must be room
    for the longest row. Else as ``generate``, whose second part it is.
    """
    drawer = _drawer(params, asked, key, policy)

    def decode(loop: Loop) -> Loop:
        cache, hidden_BD = _feed(policy.model, params, asked, loop)
        return drawer(loop._replace(cache=cache), hidden_BD)

    def unfinished(loop: Loop):
        return (loop.step < until) & ~jnp.all(loop.done_B)

    return jax.lax.while_loop(unfinished, decode, loop)


def prefill(model, params, asked: Request, slots: int, copies: int):
    """Runs the given tokens: a cache of P + ``slots`` slots, and states [B, D]."""
    tokens_RP, length_R = asked.tokens_BP[::copies], asked.length_B[::copies]
    positions_RP = jnp.broadcast_to(jnp.arange(tokens_RP.shape[1]), tokens_RP.shape)
    valid_RP = positions_RP < length_R[:, None]
    hidden_RPD, kv = model.apply({"params": params}, tokens_RP, positions_RP, valid_RP)
    last_R = (length_R - 1)[:, None, None]
    hidden_RD = jnp.take_along_axis(hidden_RPD, last_R, axis=1)[:, 0]
    cache = caches.grown(caches.repeat_rows(kv, copies), slots)
    return cache, jnp.repeat(hidden_RD, copies, axis=0)


def _start(asked: Request, cache, max_new_tokens: int, stop_ids) -> Loop:
    rows = len(asked.length_B)
    last_B = jnp.take_along_axis(asked.tokens_BP, (asked.length_B - 1)[:, None], 1)[
        :, 0
    ]
    # A prefix may already be a complete response; such a row has nothing to draw.
    complete_B = (asked.length_B > asked.prompt_length_B) & _is_stop(last_B, stop_ids)
    return Loop(
        step=jnp.int32(0),
        start_B=jnp.zeros(rows, jnp.int32),
        cache=cache,
        token_B=jnp.zeros(rows, jnp.int32),
        count_B=jnp.zeros(rows, jnp.int32),
        done_B=complete_B | (asked.limit_B <= 0),
        finished_B=complete_B,
        tokens_BL=jnp.zeros((rows, max_new_tokens), jnp.int32),
        logp_BL=jnp.zeros((rows, max_new_tokens), jnp.float32),
    )


def _is_stop(token_B: jax.Array, stop_ids: tuple[int, ...]) -> jax.Array:
    return jnp.isin(token_B, jnp.asarray(stop_ids, jnp.int32))


def _drawer(params, asked: Request, key, policy: Policy):
    """``(loop, hidden_BD) -> loop`` with one more token drawn in every live row."""
    head_VD, c = decoder.head(params)[: policy.vocabulary], policy.model.config
    keys_B = jax.vmap(functools.partial(jax.random.fold_in, key))(asked.row_B)

    def draw(loop: Loop, hidden_BD) -> Loop:
        logits_BV = logits_of(hidden_BD, head_VD, c.logit_cap, exactly=c.exact)
        uniform_B = sampling.row_uniforms(keys_B, loop.step - loop.start_B)
        token_B, logp_B = sampling.draw(
            uniform_B, logits_BV, policy.filters, exactly=c.exact
        )
        live_B = ~loop.done_B
        count_B = loop.count_B + live_B
        stopped_B = live_B & _is_stop(token_B, policy.stop_ids)
        token_B = jnp.where(live_B, token_B, 0)
        return loop._replace(
            step=loop.step + 1,
            token_B=token_B,
            count_B=count_B,
            done_B=loop.done_B | stopped_B | (count_B >= asked.limit_B),
            finished_B=loop.finished_B | stopped_B,
            tokens_BL=_record(loop.tokens_BL, token_B, loop.step, live_B),
            logp_BL=_record(loop.logp_BL, logp_B, loop.step, live_B),
            states_BKD=_with_state(loop.states_BKD, hidden_BD, loop.step),
        )

    return draw


def _with_state(old_BKD: jax.Array | None, new_BD: jax.Array, step):
    """``new_BD`` in column ``step``, around, where states are kept."""
    if old_BKD is None:
        return None
    column = step % old_BKD.shape[1]
    return jax.lax.dynamic_update_slice_in_dim(old_BKD, new_BD[:, None], column, 1)


def _record(old_BL: jax.Array, new_B: jax.Array, step, live_B) -> jax.Array:
    """Column ``step``, around; rows that are done keep what they wrote there."""
    column = step % old_BL.shape[1]
    kept_B1 = jax.lax.dynamic_slice_in_dim(old_BL, column, 1, axis=1)
    new_B1 = jnp.where(live_B[:, None], new_B[:, None], kept_B1)
    return jax.lax.dynamic_update_slice_in_dim(old_BL, new_B1, column, axis=1)


def _feed(model, params, asked: Request, loop: Loop):
    """Feeds the last drawn token of every row; the cache and its hidden state."""
    width = asked.tokens_BP.shape[1]
    room = caches.slots(loop.cache) - width
    newest = loop.step - 1  # the draw whose token is being fed
    number_B = newest - loop.start_B
    hidden_B1D, cache = model.apply(
        {"params": params},
        loop.token_B[:, None],
        (asked.length_B + number_B)[:, None],
        jnp.ones_like(loop.token_B, bool)[:, None],
        loop.cache,
        *in_slots(asked, loop.start_B, newest, room),
        width + newest % room,
    )
    return cache, hidden_B1D[:, 0]


def in_slots(asked: Request, start_B: jax.Array, newest: jax.Array, room: int):
    """Where the token in each slot stands, and whether it is this row's: [B, S] each.

    Slots hold the given tokens and, around a ring of ``room``, what was drawn before
    draw ``newest``.
    """
    width = asked.tokens_BP.shape[1]
    slot_S = jnp.arange(width + room)[None]
    age_S = (newest - (slot_S - width)) % room
    number_BS = (newest - start_B)[:, None] - age_S  # negative: not this row's
    given_BS = slot_S < asked.length_B[:, None]
    answered_BS = (age_S > 0) & (number_BS >= 0)
    return (
        jnp.where(slot_S < width, slot_S, number_BS + asked.length_B[:, None]),
        jnp.where(slot_S < width, given_BS, answered_BS),
    )


def join(asked: Request, loop: Loop) -> Rollout:
    """Joins given and drawn tokens to rows ``prompt | response | padding``.

    Of the loop only ``count_B``, ``finished_B`` and the records are read, whose first
    column must be the first draw of every row.
    """
    rows, width = asked.tokens_BP.shape
    total = width + loop.tokens_BL.shape[1]
    place_T = jnp.arange(total)[None]
    length_B = asked.length_B + loop.count_B
    drawn_BT = (place_T >= asked.length_B[:, None]) & (place_T < length_B[:, None])
    index_BT = jnp.clip(place_T - asked.length_B[:, None], 0, total - width - 1)
    given_BT = jnp.pad(asked.tokens_BP, ((0, 0), (0, total - width)))
    sources_BT = jnp.pad(asked.prefix_source_BP, ((0, 0), (0, total - width)))
    tokens_BT = jnp.take_along_axis(loop.tokens_BL, index_BT, axis=1)
    logp_BT = jnp.take_along_axis(loop.logp_BL, index_BT, axis=1)
    inside_BT = place_T < length_B[:, None]
    return Rollout(
        tokens_BT=jnp.where(inside_BT, jnp.where(drawn_BT, tokens_BT, given_BT), 0),
        prompt_length_B=asked.prompt_length_B,
        length_B=length_B,
        finished_B=loop.finished_B,
        behavior_logp_BT=jnp.where(drawn_BT, logp_BT, 0.0),
        source_BT=jnp.where(drawn_BT, STUDENT, sources_BT),
        group_B=asked.row_B,
        age_B=jnp.zeros(rows, jnp.int32),
    )
