"""A teacher that reads along: what it ends, and that nothing else changes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from drawing import DRAW, MODEL, NEW, RING, ROWS, asked, in_blocks, in_one_loop
from jopd.models import decoder
from jopd.rollouts import blocks as engine
from jopd.rollouts import sampling, stops
from jopd.rollouts.watch import Watch

CAP = 6.0
OTHER = decoder.Decoder(
    tiny.config(width=24, layers=3, kv_heads=2, sliding_window=6, logit_cap=CAP)
)
TEMPERATURE = 0.8
WINDOW = 6  # with blocks of 6 the first look reaches back to the first draw


@pytest.fixture(scope="module")
def params():
    return tiny.params(MODEL.config, 5)


@pytest.fixture(scope="module")
def teacher():
    return tiny.params(OTHER.config, 11)


def watching(rule, teacher=None, window: int = WINDOW) -> Watch:
    return Watch(
        rule,
        window,
        model=None if teacher is None else OTHER,
        params=teacher,
        vocabulary=tiny.VOCABULARY,
        temperature=TEMPERATURE,
        chunk_tokens=7,
    )


@jax.jit
def whole_rows(teacher, tokens_BT, length_B):
    """Log-probability of every token, all rows whole, without a cache."""
    position_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    valid_BT = position_BT < length_B[:, None]
    hidden_BTD, _ = OTHER.apply({"params": teacher}, tokens_BT, position_BT, valid_BT)
    head_VD = decoder.head(teacher)[: tiny.VOCABULARY]
    plain = sampling.Filter(temperature=TEMPERATURE)
    logp = jax.vmap(lambda logits, tokens: sampling.log_prob(logits, tokens, plain))
    logits_BTV = CAP * jnp.tanh(hidden_BTD[:, :-1] @ head_VD.T / CAP)
    return jnp.pad(logp(logits_BTV, tokens_BT[:, 1:]), ((0, 0), (1, 0)))


def means(rolled, request, logp_BT, block: int) -> list[tuple[int, int, float]]:
    """(row, tokens drawn, mean log-ratio) at every look at a row that goes on."""
    found = []
    for row, start in enumerate(np.asarray(request.length_B)):
        drawn = rolled.length_B[row] - start
        for count in range(1 + block, drawn, block):
            if count - 1 < WINDOW:
                continue
            inside = slice(start + count - 1 - WINDOW, start + count - 1)
            gap = rolled.behavior_logp_BT[row, inside] - logp_BT[row, inside]
            found.append((row, count, gap.mean()))
    return found


@pytest.mark.parametrize(
    "block, devices, copies, at_once, above",
    [(8, 1, 1, 0, 3), (6, 2, 4, 8, 3), (6, 2, 4, 8, 12)],
)
def test_rows_end_where_their_windows_say(
    params, teacher, block, devices, copies, at_once, above
):
    """``above`` looks find a mean above the limit: few rows end late, or many early."""
    request, key = asked(copies=copies), jax.random.key(3)
    whole = in_one_loop(params, request, key, copies)
    logp_BT = np.asarray(whole_rows(teacher, whole.tokens_BT, whole.length_B))
    looks = means(whole, request, logp_BT, block)
    values = np.sort([mean for _, _, mean in looks])
    # Between two values, so that rounding cannot tip one.
    below, next_above = values[-above - 1], values[-above]
    limit = float((below + next_above) / 2)
    assert next_above - below > 1e-3
    rule = functools.partial(stops.divergence, limit=limit)
    settings = dict(devices=devices, copies=copies, at_once=at_once)
    got = in_blocks(
        params, request, key, block, watched=watching(rule, teacher), **settings
    )
    want_B = np.array(whole.length_B)
    for row, count, mean in reversed(looks):
        if mean > limit:
            want_B[row] = np.asarray(request.length_B)[row] + count
    np.testing.assert_array_equal(got.length_B, want_B)
    cut_B = want_B < whole.length_B
    assert cut_B.any() and (whole.length_B[~cut_B].max() > block)
    np.testing.assert_array_equal(got.finished_B, whole.finished_B & ~cut_B)
    inside_BT = np.arange(whole.tokens_BT.shape[1]) < want_B[:, None]
    np.testing.assert_array_equal(
        got.tokens_BT, np.where(inside_BT, whole.tokens_BT, 0)
    )
    np.testing.assert_allclose(
        got.behavior_logp_BT, np.where(inside_BT, whole.behavior_logp_BT, 0), atol=RING
    )


@jax.jit
def kl_of_rows(params, teacher, tokens_BT, length_B):
    """KL(student || teacher) where every token was drawn, all rows whole."""
    position_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    valid_BT = position_BT < length_B[:, None]

    def log_probs(model, params):
        hidden, _ = model.apply({"params": params}, tokens_BT, position_BT, valid_BT)
        logits = hidden[:, :-1] @ decoder.head(params)[: tiny.VOCABULARY].T
        if cap := model.config.logit_cap:
            logits = cap * jnp.tanh(logits / cap)
        return jax.nn.log_softmax(logits / TEMPERATURE)

    student, other = log_probs(MODEL, params), log_probs(OTHER, teacher)
    kl_BT = jnp.sum(jnp.exp(student) * (student - other), axis=-1)
    return jnp.pad(kl_BT, ((0, 0), (1, 0)))


def below_the_limit(seen: stops.Seen, *, mean_over: int):
    """Rows of which a window has a mean KL below a limit, cut behind the first."""
    width = seen.reverse_kl_BW.shape[1]
    number_BW = seen.count_B[:, None] - width + jnp.arange(width)
    sums_BW = jnp.cumsum(jnp.where(number_BW >= 0, seen.reverse_kl_BW, 0), axis=1)
    before_BW = jnp.pad(sums_BW, ((0, 0), (mean_over, 0)))[:, :width]
    low_BW = sums_BW - before_BW < mean_over * seen.memory["limit"]
    low_BW &= number_BW >= mean_over - 1
    return jnp.any(low_BW, axis=1), width - jnp.argmax(low_BW, axis=1)


@pytest.mark.parametrize("devices, copies, at_once", [(1, 1, 0), (2, 4, 8)])
def test_rows_are_cut_back_to_where_they_agreed(
    params, teacher, devices, copies, at_once
):
    """By a rule that reads KLs of short rows, too, and a limit told at the call."""
    request, key, mean_over, block = asked(copies=copies), jax.random.key(3), 3, 6
    whole = in_one_loop(params, request, key, copies)
    kl_BT = np.asarray(kl_of_rows(params, teacher, whole.tokens_BT, whole.length_B))
    starts, ends = np.asarray(request.length_B), np.asarray(whole.length_B)
    rows = [kl_BT[row, start:end] for row, (start, end) in enumerate(zip(starts, ends))]
    of_three = np.lib.stride_tricks.sliding_window_view
    z = [of_three(kl, mean_over).mean(axis=1) if len(kl) > 2 else kl[:0] for kl in rows]
    values = np.sort(np.concatenate([found for found in z if len(found)]))
    few = values[len(values) // 4 : len(values) // 2]
    limit = float((few[1:] + few[:-1])[np.argmax(np.diff(few))] / 2)
    want_B = ends.copy()
    for row, (start, end) in enumerate(zip(starts, ends)):
        for count in range(1 + block, end - start, block):
            low = np.flatnonzero(z[row][: max(count - mean_over, 0)] < limit)
            if len(low):
                want_B[row] = start + low[0] + mean_over
                break
    rule = functools.partial(below_the_limit, mean_over=mean_over)
    looks = watching(rule, teacher, window=NEW - 1)
    looks = looks._replace(compares=True, any_length=True)
    settings = dict(devices=devices, copies=copies, at_once=at_once, watched=looks)
    bound = engine.in_blocks(
        model=MODEL, max_new_tokens=NEW, block=block, **settings, **DRAW
    )
    got = bound(params, request, key, memory={"limit": jnp.float32(limit)})
    np.testing.assert_array_equal(got.length_B, want_B)
    cut_B = want_B < ends
    assert 2 <= cut_B.sum() < ROWS
    np.testing.assert_array_equal(got.finished_B, whole.finished_B & ~cut_B)
    inside_BT = np.arange(whole.tokens_BT.shape[1]) < want_B[:, None]
    np.testing.assert_array_equal(
        got.tokens_BT, np.where(inside_BT, whole.tokens_BT, 0)
    )


def test_loops_end_without_a_teacher(params, monkeypatch):
    """Greedy rows run into loops; those that have one at a look end there."""
    monkeypatch.setitem(DRAW, "stop_ids", ())
    monkeypatch.setitem(DRAW, "filters", sampling.Filter(temperature=0.0))
    request, key = asked(limits=NEW), jax.random.key(0)
    rule = functools.partial(stops.repetition, limit=0.4, ngram=2)
    window, block = 8, 4
    whole = in_one_loop(params, request, key)
    got = in_blocks(params, request, key, block, watched=watching(rule, window=window))
    for row in range(ROWS):
        start = int(request.length_B[row])
        new = whole.tokens_BT[row, start : whole.length_B[row]]
        want = len(new)
        for count in range(1 + block, NEW, block):
            if count - 1 < window or want < NEW:
                continue
            latest = new[count - 1 - window : count - 1]
            grams = list(itertools.pairwise(latest))
            share = np.mean([gram in grams[:i] for i, gram in enumerate(grams)])
            want = count if share > 0.4 else want
        assert got.length_B[row] - start == want
    assert (got.length_B < whole.length_B).any()
    assert (got.length_B == whole.length_B).any()
