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
