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

import jax
import jax.numpy as jnp

from jopd.losses.heads import logits_of
from jopd.models import cache as caches
from jopd.models import decoder
from jopd.rollouts import sampling
from jopd.rollouts.behavior import Company, Partner
from jopd.rollouts.records import PLAIN, Loop, Policy, Request
from jopd.types import STUDENT, Rollout


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
    partner: Partner | None = None,
    company: Company | None = None,
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
      partner: who draws with the student, ``company`` what it is this time; the
        log-probabilities are those of what the two draw from.

    Returns:
      A ``Rollout`` of width P + max_new_tokens, with ``age_B`` 0 and ``group_B`` =
      rows.

    Raises:
      ValueError: the rows are not whole runs of ``copies``.
    """
    who = dict(
        policy=Policy(model, stop_ids, vocabulary, filters, partner), company=company
    )
    room = dict(max_new_tokens=max_new_tokens, slots=max_new_tokens)
    loop = begin(params, asked, key, copies=copies, **who, **room)
    return join(asked, advance(params, asked, key, loop, max_new_tokens, **who))


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
    company: Company | None = None,
) -> Loop:
    """Reads the given tokens and draws the first; room for ``slots`` new tokens.

    ``states``: latest draws whose states are kept. Else as ``generate``, whose first
    part it is.
    """
    if len(asked.length_B) % copies:
        raise ValueError(
            f"{len(asked.length_B)} rollout rows are not runs of copies={copies}"
        )
    drawer = _drawer(params, asked, key, policy, company)
    held, hidden = _prefill_all(params, asked, policy, company, slots, copies)
    loop = _start(asked, held, max_new_tokens, policy.stop_ids)
    if states:
        rows, width = hidden[0].shape
        kept_BKD = jnp.zeros((rows, states, width), hidden[0].dtype)
        loop = loop._replace(states_BKD=kept_BKD)
    return drawer(loop, hidden)


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
    company: Company | None = None,
) -> tuple[Request, Loop]:
    """Puts other rows in the places of some: reads them and draws their first token.

    Args:
      coming: rows with given tokens as wide as those of ``asked``.
      place_R: i32, which row each replaces; one past the last for none.

    Else as ``generate``. The records of a replaced row are gone: keep them before.
    """
    drawer = _drawer(params, coming, key, policy, company)
    kvs, hidden = _prefill_all(params, coming, policy, company, 0, copies)
    fresh = _start(coming, kvs, loop.tokens_BL.shape[1], policy.stop_ids)
    if loop.states_BKD is not None:
        kept = loop.states_BKD.shape[1:]
        empty_RKD = jnp.zeros((len(place_R), *kept), loop.states_BKD.dtype)
        fresh = fresh._replace(states_BKD=empty_RKD)
    # As if they had always been there: their first draw is the loop's latest.
    late_R = jnp.full_like(place_R, loop.step - 1)
    fresh = drawer(fresh._replace(step=loop.step - 1, start_B=late_R), hidden)
    put = lambda old, new: old.at[place_R].set(new, mode="drop")
    bare = lambda loop: loop._replace(step=None, caches=None)
    merged = jax.tree.map(put, bare(loop), bare(fresh))
    rows = jax.tree.map(put, asked, coming)
    pairs = zip(loop.caches, kvs, strict=True)
    held = tuple(caches.put_rows(old, new, place_R) for old, new in pairs)
    return rows, merged._replace(step=loop.step, caches=held)


def advance(
    params,
    asked: Request,
    key: jax.Array,
    loop: Loop,
    until: jax.Array | int,
    *,
    policy: Policy,
    company: Company | None = None,
) -> Loop:
    """Draws until ``until`` draws are done or every row has ended.

    Past the room in the cache the oldest slots are written again, so there must be room
    for the longest row. Else as ``generate``, whose second part it is.
    """
    drawer = _drawer(params, asked, key, policy, company)
    readers = _readers(params, policy, company)

    def decode(loop: Loop) -> Loop:
        fed = [
            _feed(model, theirs, asked, loop, cache)
            for (model, theirs), cache in zip(readers, loop.caches, strict=True)
        ]
        held, hidden = zip(*fed)
        return drawer(loop._replace(caches=held), hidden)

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


def _readers(params, policy: Policy, company: Company | None) -> list:
    """Models and parameters of those who draw."""
    theirs = [(policy.partner.model, company.params)] if policy.partner else []
    return [(policy.model, params), *theirs]


def _prefill_all(params, asked, policy: Policy, company, slots: int, copies: int):
    """As ``prefill``, of all who draw: their caches and their states."""
    readers = _readers(params, policy, company)
    return zip(*(prefill(*reader, asked, slots, copies) for reader in readers))


def _start(asked: Request, held, max_new_tokens: int, stop_ids) -> Loop:
    rows = len(asked.length_B)
    last_B = jnp.take_along_axis(asked.tokens_BP, (asked.length_B - 1)[:, None], 1)[
        :, 0
    ]
    # A prefix may already be a complete response; such a row has nothing to draw.
    complete_B = (asked.length_B > asked.prompt_length_B) & _is_stop(last_B, stop_ids)
    return Loop(
        step=jnp.int32(0),
        start_B=jnp.zeros(rows, jnp.int32),
        caches=tuple(held),
        token_B=jnp.zeros(rows, jnp.int32),
        count_B=jnp.zeros(rows, jnp.int32),
        done_B=complete_B | (asked.limit_B <= 0),
        finished_B=complete_B,
        tokens_BL=jnp.zeros((rows, max_new_tokens), jnp.int32),
        logp_BL=jnp.zeros((rows, max_new_tokens), jnp.float32),
    )


def _is_stop(token_B: jax.Array, stop_ids: tuple[int, ...]) -> jax.Array:
    return jnp.isin(token_B, jnp.asarray(stop_ids, jnp.int32))


def _drawer(params, asked: Request, key, policy: Policy, company: Company | None):
    """``(loop, states [B, D] of all who draw) -> loop`` with one more token in every
    live row."""
    filters, partner = policy.filters, policy.partner
    head_VD, c = decoder.head(params)[: policy.vocabulary], policy.model.config
    keys_B = jax.vmap(functools.partial(jax.random.fold_in, key))(asked.row_B)

    def together(logits_BV, theirs_BD) -> jax.Array:
        theirs_VD = decoder.head(company.params)[: policy.vocabulary]
        theirs_BV = logits_of(theirs_BD, theirs_VD, partner.model.config.logit_cap)
        ours_BV = sampling.filtered_logits(logits_BV, filters)
        heated = sampling.Filter(temperature=filters.temperature)
        theirs_BV = sampling.filtered_logits(theirs_BV, heated)
        return partner.rule(ours_BV, theirs_BV, company.budget)

    def draw(loop: Loop, hidden) -> Loop:
        hidden_BD, *theirs = hidden
        logits_BV = logits_of(hidden_BD, head_VD, c.logit_cap, exactly=c.exact)
        uniform_B = sampling.row_uniforms(keys_B, loop.step - loop.start_B)
        if partner:
            logits_BV = together(logits_BV, *theirs)
        token_B, logp_B = sampling.draw(
            uniform_B, logits_BV, PLAIN if partner else filters, exactly=c.exact
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


def _feed(model, params, asked: Request, loop: Loop, cache: caches.KV):
    """Feeds the last drawn token of every row; the cache and its hidden state."""
    width = asked.tokens_BP.shape[1]
    room = caches.slots(cache) - width
    newest = loop.step - 1  # the draw whose token is being fed
    number_B = newest - loop.start_B
    hidden_B1D, cache = model.apply(
        {"params": params},
        loop.token_B[:, None],
        (asked.length_B + number_B)[:, None],
        jnp.ones_like(loop.token_B, bool)[:, None],
        cache,
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
