"""Generation against full forward passes, alone, in other company, and on devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.models import decoder, sharding
from jopd.rollouts import generate as rollout
from jopd.rollouts import sampling
from jopd.types import STUDENT, TEACHER

# A window makes the positions in the cache count, not only their order.
CONFIG = tiny.config(qk_norm=True, sliding_window=4, sliding_layers=(True, False))
MODEL = decoder.Decoder(CONFIG)
P, NEW = 5, 8
STOP = (3, 11)
FILTERS = {
    "plain": sampling.Filter(),
    "cut": sampling.Filter(temperature=0.7, top_k=12, top_p=0.9, min_p=0.02),
    "greedy": sampling.Filter(temperature=0.0),
}


@pytest.fixture(scope="module")
def params():
    return tiny.params(CONFIG, 5)


def asked(prefixes: bool = True) -> rollout.Request:
    """Eight rows: mixed lengths and limits, prefixes, one that is complete already."""
    rng = np.random.default_rng(0)
    length_B = np.asarray([1, 5, 3, 4, 5, 2, 4, 3])
    tokens_BP = rng.integers(4, 10, (8, P))
    source_BP = np.full((8, P), STUDENT)
    prompt_B = length_B.copy()
    if prefixes:
        prompt_B[[3, 4]] = [2, 3]
        tokens_BP[4, 4] = STOP[1]  # a prefix that ends in a stop token
        tokens_BP[6, 3] = STOP[1]  # a prompt that does, which ends nothing
        source_BP[3, 2:] = TEACHER
    return rollout.Request(
        tokens_BP=jnp.asarray(tokens_BP, jnp.int32),
        length_B=jnp.asarray(length_B, jnp.int32),
        prompt_length_B=jnp.asarray(prompt_B, jnp.int32),
        limit_B=jnp.asarray([NEW, NEW, 2, NEW, NEW, 0, NEW, NEW], jnp.int32),
        row_B=jnp.asarray([10, 11, 12, 13, 14, 15, 16, 17], jnp.int32),
        prefix_source_BP=jnp.asarray(source_BP, jnp.int32),
    )


def bound(filters=FILTERS["plain"], **changes):
    settings = {
        "model": MODEL,
        "max_new_tokens": NEW,
        "stop_ids": STOP,
        "vocabulary": tiny.VOCABULARY,
        "filters": filters,
    }
    return functools.partial(rollout.generate, **(settings | changes))


@functools.cache
def compiled(filters=FILTERS["plain"]):
    return jax.jit(bound(filters))


@jax.jit
def full_logits(params, tokens_BT, length_B):
    """f32[B, T, V]: row t predicts token t + 1; nothing cached."""
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    valid_BT = positions_BT < length_B[:, None]
    hidden_BTD, _ = MODEL.apply({"params": params}, tokens_BT, positions_BT, valid_BT)
    return hidden_BTD @ decoder.head(params)[: tiny.VOCABULARY].T


def drawn_at(request: rollout.Request, rolled) -> list[tuple[int, int, int]]:
    """(row, index of the draw, place in the row) of every drawn token."""
    pairs = zip(np.asarray(request.length_B), np.asarray(rolled.length_B))
    return [(b, i, s + i) for b, (s, e) in enumerate(pairs) for i in range(e - s)]


@pytest.mark.parametrize("name", FILTERS)
def test_every_draw_is_that_of_a_full_forward(params, name):
    """Token and log-probability, redrawn from uncached logits with the same uniform."""
    filters, request, key = FILTERS[name], asked(), jax.random.key(1)
    rolled = compiled(filters)(params, request, key)
    logits = full_logits(params, rolled.tokens_BT, rolled.length_B)
    places = drawn_at(request, rolled)
    rows, draws, at = (np.asarray(column) for column in zip(*places))
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(request.row_B[rows])
    uniforms = sampling.row_uniforms(keys, jnp.asarray(draws))
    token, logp = sampling.draw(uniforms, logits[rows, at - 1], filters)
    np.testing.assert_array_equal(rolled.tokens_BT[rows, at], token)
    got = rolled.behavior_logp_BT[rows, at]
    np.testing.assert_allclose(got, logp, atol=1e-5)
    recomputed = sampling.log_prob(logits[rows, at - 1], token, filters)
    np.testing.assert_allclose(got, recomputed, atol=1e-5)
    assert np.any(np.asarray(got) < -0.1) or name == "greedy"
    assert len(places) > 20


def test_recorded_log_probs_are_of_the_filtered_distribution(params):
    """In numpy, with temperature and top-k spelled out."""
    filters = sampling.Filter(temperature=0.7, top_k=4)
    request = asked()
    rolled = jax.jit(bound(filters))(params, request, jax.random.key(0))
    logits = np.asarray(full_logits(params, rolled.tokens_BT, rolled.length_B), float)
    for b, _, t in drawn_at(request, rolled):
        row = logits[b, t - 1] / 0.7
        row = np.where(row >= np.sort(row)[-4], row, -np.inf)
        want = row[rolled.tokens_BT[b, t]] - np.log(np.exp(row).sum())
        np.testing.assert_allclose(rolled.behavior_logp_BT[b, t], want, atol=1e-5)


def test_greedy_takes_the_likeliest_token(params):
    request = asked()
    rolled = compiled(FILTERS["greedy"])(params, request, jax.random.key(0))
    logits = full_logits(params, rolled.tokens_BT, rolled.length_B)
    best_BT = np.asarray(jnp.argmax(logits, axis=-1))
    for b, _, t in drawn_at(request, rolled):
        assert rolled.tokens_BT[b, t] == best_BT[b, t - 1]


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_contiguous_and_end_where_they_should(params, seed):
    request = asked()
    rolled = compiled()(params, request, jax.random.key(seed))
    rolled = jax.tree.map(np.asarray, rolled)
    request = jax.tree.map(np.asarray, request)
    np.testing.assert_array_equal(rolled.prompt_length_B, request.prompt_length_B)
    np.testing.assert_array_equal(rolled.group_B, request.row_B)
    np.testing.assert_array_equal(rolled.age_B, 0)
    assert rolled.tokens_BT.shape == (8, P + NEW)
    for b in range(8):
        given, length = request.length_B[b], rolled.length_B[b]
        response = rolled.tokens_BT[b, request.prompt_length_B[b] : length]
        drawn = rolled.tokens_BT[b, given:length]
        assert (
            rolled.tokens_BT[b, :given].tolist()
            == request.tokens_BP[b, :given].tolist()
        )
        assert not np.any(rolled.tokens_BT[b, length:])
        assert np.all(rolled.behavior_logp_BT[b, given:length] < 0)
        assert not np.any(rolled.behavior_logp_BT[b, :given])
        assert not np.any(rolled.behavior_logp_BT[b, length:])
        assert np.all(rolled.source_BT[b, given:length] == STUDENT)
        assert np.all(
            rolled.source_BT[b, :given] == request.prefix_source_BP[b, :given]
        )
        # The stop token is kept, and nothing follows it.
        stops = np.isin(drawn, STOP)
        assert not stops[:-1].any()
        ended = bool(len(response) and response[-1] in STOP)
        assert rolled.finished_B[b] == ended
        if not ended:
            assert len(drawn) == request.limit_B[b]
        assert len(drawn) <= request.limit_B[b]
    assert rolled.finished_B[4] and rolled.length_B[4] == request.length_B[4]
    assert not rolled.finished_B[5] and rolled.length_B[5] == request.length_B[5]
    assert rolled.length_B[6] > request.length_B[6]


def test_ids_past_the_vocabulary_are_never_drawn(params):
    """Heads are padded; here the padding rows would win every draw."""
    embed = params["embed"]
    loud = params | {"head": params["head"].at[tiny.VOCABULARY :].set(100 * embed[4:8])}
    many = asked(prefixes=False)
    for seed in range(5):
        rolled = compiled()(loud, many, jax.random.key(seed))
        assert np.max(rolled.tokens_BT) < tiny.VOCABULARY


def rows_of(rolled, order):
    return jax.tree.map(lambda x: np.asarray(x)[np.asarray(order)], rolled)


def assert_same_rollout(got, want):
    for field in want._fields:
        a, b = getattr(got, field), getattr(want, field)
        if field == "behavior_logp_BT":
            np.testing.assert_allclose(a, b, atol=1e-5)
        else:
            np.testing.assert_array_equal(a, b)


def test_a_row_does_not_depend_on_its_company(params):
    key = jax.random.key(9)
    base = compiled()(params, asked(), key)
    order = np.asarray([3, 7, 0, 5, 1, 2, 4, 6])
    shuffled = jax.tree.map(lambda x: x[order], asked())
    got = compiled()(params, shuffled, key)
    assert_same_rollout(rows_of(got, np.argsort(order)), rows_of(base, range(8)))
    strangers = asked(prefixes=False)
    mixed = jax.tree.map(lambda a, b: a.at[4:].set(b[4:]), asked(), strangers)
    mixed = mixed._replace(row_B=mixed.row_B.at[4:].add(100))
    got = compiled()(params, mixed, key)
    assert_same_rollout(rows_of(got, range(4)), rows_of(base, range(4)))
    # Another identity draws another response.
    other = asked()._replace(row_B=asked().row_B + 50)
    assert np.any(compiled()(params, other, key).tokens_BT != base.tokens_BT)


def test_wider_prompt_padding_draws_the_same(params):
    key = jax.random.key(2)
    request = asked()
    pad = lambda x, fill: jnp.pad(x, ((0, 0), (0, 3)), constant_values=fill)
    wide = request._replace(
        tokens_BP=pad(request.tokens_BP, 2**30),
        prefix_source_BP=pad(request.prefix_source_BP, 0),
    )
    base, got = (compiled()(params, r, key) for r in (request, wide))
    assert not np.any(np.asarray(got.tokens_BT)[:, P + NEW :])
    cut = jax.tree.map(lambda x: x[:, : P + NEW] if x.ndim > 1 else x, got)
    assert_same_rollout(cut, base)


class Counted:
    """A model that counts its calls at run time, on every device."""

    def __init__(self):
        self.config, self.calls = CONFIG, 0

    def count(self):
        self.calls += 1

    def apply(self, *arguments, **options):
        jax.debug.callback(self.count)
        return MODEL.apply(*arguments, **options)


def calls_of(request, wrap, params, **changes) -> int:
    model = Counted()
    jax.block_until_ready(
        wrap(bound(model=model, **changes))(params, request, jax.random.key(0))
    )
    jax.effects_barrier()
    return model.calls


def test_the_loop_ends_with_its_last_row(params):
    """One prefill and, as the first token comes of it, one call less than tokens."""
    everything = tuple(range(tiny.VOCABULARY))
    assert calls_of(asked(), jax.jit, params, stop_ids=everything) == 1
    limited = asked()._replace(limit_B=jnp.asarray([3, 1, 0, 2, 3, 1, 0, 2]))
    assert calls_of(limited, jax.jit, params, stop_ids=()) == 3


def test_every_device_ends_with_its_own_rows(params):
    limited = asked()._replace(limit_B=jnp.asarray([1, 1, 0, 1, 7, 1, 0, 2]))
    wrap = functools.partial(sharding.data_parallel, devices=2)
    assert calls_of(limited, wrap, params, stop_ids=()) == 1 + 7


def test_pmap_and_sharded_jit_draw_the_same(params):
    key = jax.random.key(4)
    base = compiled()(params, asked(), key)
    mapped = sharding.data_parallel(bound(), 2)
    mesh = sharding.make_mesh(1, 1, 2)
    replicated = jax.device_put(params, sharding.replicated(mesh))
    assert_same_rollout(mapped(replicated, asked(), key), base)
    split = jax.device_put(params, sharding.of_params(params, mesh))
    assert_same_rollout(compiled()(split, asked(), key), base)


def test_a_run_of_copies_is_read_once_and_drawn_apart(params):
    rows = jax.tree.map(lambda x: jnp.repeat(x, 3, axis=0), asked())
    rows = rows._replace(row_B=jnp.arange(24))
    key = jax.random.key(0)
    alone = compiled()(params, rows, key)
    shared = jax.jit(bound(copies=3))(params, rows, key)
    for name in ("tokens_BT", "length_B", "finished_B", "source_BT"):
        np.testing.assert_array_equal(getattr(shared, name), getattr(alone, name))
    np.testing.assert_allclose(
        shared.behavior_logp_BT, alone.behavior_logp_BT, atol=2e-6
    )
    assert len({tuple(row) for row in np.asarray(shared.tokens_BT)[:3]}) > 1
    with pytest.raises(ValueError, match="24 rollout rows are not runs of copies=5"):
        bound(copies=5)(params, rows, key)


def test_rows_must_divide_by_devices(params):
    seven = jax.tree.map(lambda x: x[:7], asked())
    with pytest.raises(ValueError, match=r"7 rollout rows .* 2 devices; use 6 or 8"):
        sharding.data_parallel(bound(), 2)(params, seven, jax.random.key(0))


def test_request_fills_in_the_defaults():
    request = rollout.request(
        np.zeros((3, 2), np.int32), np.asarray([1, 2, 2]), limit=4
    )
    assert request.row_B.tolist() == [0, 1, 2]
    assert request.limit_B.tolist() == [4, 4, 4]
    assert request.prompt_length_B.tolist() == [1, 2, 2]
    assert np.all(np.asarray(request.prefix_source_BP) == STUDENT)
