"""The decoder and its files, against stored answers of torch; needs no torch."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jopd.losses.heads import logits_of
from jopd.models import cache as caches
from jopd.models import decoder, hf
from jopd.models.decoder import Decoder, DecoderConfig

pytestmark = pytest.mark.usefixtures("strict_promotion")

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures").glob("parity_*"))
REAL = ("stories260K", "llama2xs_279K", "babyllama_105", "babyllama_361")
SMALL = DecoderConfig(
    vocab_size=40,
    width=16,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=8,
    ffn=24,
    max_positions=64,
    qkv_bias=True,
    qk_norm=True,
    sliding_window=4,
    sliding_layers=(True, False, True),
)


@pytest.fixture(params=FIXTURES, ids=lambda path: path.name.removeprefix("parity_"))
def fixture(request) -> Path:
    return request.param


@pytest.fixture(scope="module")
def params():
    """Parameters of SMALL with no scale at 1 and no bias at 0."""
    drawn = decoder.init(SMALL, jax.random.key(0))
    leaves, tree = jax.tree.flatten(drawn)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        tree,
        [x + 0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)],
    )


def plain(tokens):
    """Positions and mask of rows without padding."""
    tokens = jnp.asarray(tokens, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
    return tokens, positions, jnp.ones(tokens.shape, bool)


@partial(jax.jit, static_argnums=0, static_argnames="return_kv")
def run(config, params, *inputs, return_kv=True):
    return Decoder(config).apply({"params": params}, *inputs, return_kv=return_kv)


def log_probs(config, params, tokens):
    hidden, _ = run(config, params, *plain(tokens), return_kv=False)
    head = jnp.asarray(decoder.head(params))
    return jax.nn.log_softmax(logits_of(hidden, head, config.logit_cap))


def draw_tokens(batch=2, length=12):
    return jax.random.randint(jax.random.key(2), (batch, length), 0, SMALL.vocab_size)


def stream(config, params, tokens, slots, step=1):
    """Hidden states of ``tokens``, ``step`` at a time through a cache."""
    tokens, positions, valid = plain(tokens)
    cache = caches.empty(config, len(tokens), slots)
    held = jnp.broadcast_to(jnp.arange(slots)[None], (len(tokens), slots))
    hidden = []
    for i in range(0, tokens.shape[1], step):
        now = slice(i, i + step)
        inputs = tokens[:, now], positions[:, now], valid[:, now]
        out, new = run(config, params, *inputs, cache, held, held < i)
        cache = caches.write(cache, new, i)
        hidden.append(out)
    return jnp.concatenate(hidden, 1)


# Against torch.


def test_fixtures_are_there():
    assert len(FIXTURES) >= 19


def test_log_probs_equal_torch(fixture):
    golden = np.load(fixture / "golden.npz")
    ours = log_probs(*hf.load(fixture), golden["tokens"])
    np.testing.assert_allclose(ours, golden["log_probs"], rtol=0, atol=2e-5)


def test_cache_equals_full_forward_in_every_family(fixture):
    config, params = hf.load(fixture)
    tokens = np.load(fixture / "golden.npz")["tokens"][:, :16]
    full, _ = run(config, params, *plain(tokens))
    cached = stream(config, params, tokens, 16, step=8)
    np.testing.assert_allclose(cached, full, atol=2e-5 * np.abs(full).max())


@pytest.mark.parametrize("case", ["qwen3_bias", "mistral", "gemma3"])
def test_gradients_equal_torch(case, tmp_path):
    fixture = Path(__file__).parents[1] / "fixtures" / f"parity_{case}"
    golden = np.load(fixture / "golden.npz")
    config, params = hf.load(fixture)

    def loss(params):
        chosen = log_probs(config, params, golden["tokens"])[:, :-1]
        tokens = jnp.asarray(golden["tokens"])[:, 1:, None]
        return -jnp.take_along_axis(chosen, tokens, -1).mean()

    # Written as weights, gradients get the names torch has for them.
    hf.save(tmp_path / "grads", config, jax.grad(loss)(params))
    ours = load_file(tmp_path / "grads" / "model.safetensors")
    assert set(ours) == set(golden.files) - {"tokens", "log_probs"}
    for name, gradient in ours.items():
        scale = np.abs(golden[name]).max()
        np.testing.assert_allclose(gradient, golden[name], atol=2e-5 * scale)


@pytest.mark.parametrize("name", REAL)
def test_real_model_equals_torch(shared, name):
    folder = shared / "models" / name
    golden = np.load(folder / "golden.npz")
    config, params = hf.load(folder)
    prompt, greedy = golden["prompt_ids"], golden["greedy_ids"]
    ours = log_probs(config, params, prompt[None])[0]
    theirs = jax.nn.log_softmax(jnp.asarray(golden["logits"]))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    # Every greedy id is the argmax after the ids before it.
    hidden = stream(config, params, greedy[None, :-1], len(greedy), step=16)
    chosen = jnp.argmax(hidden[0] @ decoder.head(params).T, -1)
    np.testing.assert_array_equal(chosen[len(prompt) - 1 :], greedy[len(prompt) :])


# Cache, padding, masks.


@pytest.mark.parametrize("step", [1, 5])
@pytest.mark.parametrize("remat", [False, True])
def test_cache_equals_full_forward(params, step, remat):
    config = dataclasses.replace(SMALL, remat=remat)
    full, _ = run(SMALL, params, *plain(draw_tokens()))
    cached = stream(config, params, draw_tokens(), 16, step)
    np.testing.assert_allclose(cached, full, atol=2e-5)


def test_gaps_and_slot_order_do_not_matter(params):
    """The same text at scattered places, with garbage in between, gives the same."""
    tokens, positions, valid = plain(draw_tokens(1, 9))
    full, _ = run(SMALL, params, tokens, positions, valid)
    places = np.array([2, 3, 5, 8, 9, 10, 13, 14, 19])

    def scatter(values, fill):
        return jnp.full((1, 20), fill, values.dtype).at[:, places].set(values)

    spread = scatter(tokens, 10**6), scatter(positions, 3), scatter(valid, False)
    hidden, _ = run(SMALL, params, *spread)
    assert jnp.isfinite(hidden).all()
    np.testing.assert_allclose(hidden[:, places], full, atol=2e-5)

    # The first 8 tokens from a cache whose slots are shuffled, then the last one.
    _, kv = run(SMALL, params, *(x[:, :19] for x in spread))
    order = jax.random.permutation(jax.random.key(3), 19)
    kv = caches.KV(kv.k[..., order], kv.v[..., order, :])
    slots = spread[1][:, :19][:, order], spread[2][:, :19][:, order]
    last = tokens[:, 8:], positions[:, 8:], valid[:, 8:]
    hidden, _ = run(SMALL, params, *last, kv, *slots)
    np.testing.assert_allclose(hidden, full[:, 8:], atol=2e-5)


def test_growing_a_cache_changes_nothing(params):
    tokens, positions, valid = plain(draw_tokens())
    _, cache = run(SMALL, params, tokens[:, :8], positions[:, :8], valid[:, :8])
    more = caches.write(caches.empty(SMALL, 2, 14), cache, 0)
    held = jnp.broadcast_to(jnp.arange(14)[None], (2, 14))
    rest = tokens[:, 8:], positions[:, 8:], valid[:, 8:]
    small, _ = run(SMALL, params, *rest, cache, held[:, :8], held[:, :8] >= 0)
    large, _ = run(SMALL, params, *rest, more, held, held < 8)
    np.testing.assert_allclose(small, large, atol=1e-6)


@pytest.mark.parametrize("layer", [0, 2])
def test_write_touches_its_slots_only(layer):
    cache = caches.empty(SMALL, 2, 6)
    new = jax.tree.map(jnp.ones_like, caches.empty(SMALL, 2, 2))
    filled = jax.jit(caches.write)(cache, new, 3)
    slots = np.array([0, 0, 0, 1, 1, 0], np.float32)
    np.testing.assert_array_equal(filled.k[layer, 1, 0, 5], slots)
    np.testing.assert_array_equal(filled.v[layer, 1, 1, :, 2], slots)


@pytest.mark.parametrize("remat", [False, True])
def test_padding_rows_make_no_nan(params, remat):
    config = dataclasses.replace(SMALL, remat=remat)
    tokens, positions, valid = plain(draw_tokens())
    valid = valid.at[0].set(False).at[1, 7:].set(False)
    tokens = jnp.where(valid, tokens, -7)

    def total(params):
        hidden, kv = run(config, params, tokens, positions, valid)
        return hidden.sum(), (hidden, kv)

    grads, outputs = jax.grad(total, has_aux=True)(params)
    for leaf in jax.tree.leaves((grads, outputs)):
        assert jnp.isfinite(leaf).all()


def test_invalid_tokens_touch_no_valid_one(params):
    tokens, positions, valid = plain(draw_tokens(1, 10))
    valid = valid.at[0, jnp.array([0, 1, 6])].set(False)
    one, _ = run(SMALL, params, tokens, positions, valid)
    other = tokens.at[0, 0].set(10**9).at[0, 6].set(-1)
    two, _ = run(SMALL, params, other, positions.at[0, 6].set(0), valid)
    np.testing.assert_array_equal(one[valid], two[valid])


def reach(config, params, length=10):
    """Which token's embedding the last but one hidden state has a gradient in."""
    tokens = jnp.arange(length)[None]

    def probe(embed):
        hidden, _ = run(config, params | {"embed": embed}, *plain(tokens))
        return (hidden[0, length - 2] * jnp.arange(1.0, 17.0)).sum()

    grads = jax.grad(probe)(params["embed"])[:length]
    return np.flatnonzero(np.abs(grads).max(-1)).tolist()


@pytest.mark.parametrize(
    ("layers", "window", "first"), [(1, 0, 0), (1, 4, 5), (2, 3, 4), (2, 1, 8)]
)
def test_causality_and_window_by_gradients(params, layers, window, first):
    """Layers of window w see ``w - 1`` positions further back each, never ahead."""
    config = dataclasses.replace(
        SMALL, layers=layers, sliding_window=window, sliding_layers=()
    )
    cut = params | {"layers": jax.tree.map(lambda x: x[:layers], params["layers"])}
    assert reach(config, cut) == list(range(first, 9))


def test_mixed_layers_see_all(params):
    assert reach(SMALL, params) == list(range(9))


# Switches.


def test_remat_changes_no_value_and_no_gradient(params):
    def loss(params, remat):
        config = dataclasses.replace(SMALL, remat=remat)
        hidden, _ = run(config, params, *plain(draw_tokens()), return_kv=False)
        return jnp.square(hidden).sum()

    plainly = jax.value_and_grad(loss)(params, False)
    again = jax.value_and_grad(loss)(params, True)
    for a, b in zip(jax.tree.leaves(plainly), jax.tree.leaves(again)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_remat_trades_work_for_memory(params):
    def loss(params, tokens, remat):
        model = Decoder(dataclasses.replace(SMALL, remat=remat))
        given = {"params": params}, *plain(tokens)
        return jnp.square(model.apply(*given, return_kv=False)[0]).sum()

    found = []
    for remat in (True, False):
        gradient = jax.jit(jax.grad(loss), static_argnums=2)
        compiled = gradient.lower(params, draw_tokens(8, 96), remat).compile()
        room = compiled.memory_analysis().temp_size_in_bytes
        found.append((room, compiled.cost_analysis()["flops"]))
    (less, more_work), (more, work) = found
    assert less < 0.4 * more and more_work > 1.2 * work, found


def test_return_kv_only_drops_the_keys(params):
    with_kv, kv = run(SMALL, params, *plain(draw_tokens()))
    without, nothing = run(SMALL, params, *plain(draw_tokens()), return_kv=False)
    np.testing.assert_array_equal(with_kv, without)
    assert nothing is None
    assert kv.k.shape == (3, 2, 2, 8, 12)
    assert kv.v.shape == (3, 2, 2, 12, 8)


def test_bfloat16_compute_stays_close(params):
    config = dataclasses.replace(SMALL, dtype="bfloat16")
    half, kv = run(config, params, *plain(draw_tokens()))
    full, _ = run(SMALL, params, *plain(draw_tokens()))
    assert half.dtype == kv.k.dtype == jnp.bfloat16
    assert jnp.abs(half.astype(jnp.float32) - full).max() < 0.15 * jnp.abs(full).max()


def test_the_scale_of_embeddings_is_rounded_in_the_dtype(params):
    """As transformers does it: in bfloat16 the root of 24 is 4.90625."""
    half = dataclasses.replace(SMALL, dtype="bfloat16")
    found = [
        run(dataclasses.replace(half, embed_scale=scale), params, *plain(draw_tokens()))
        for scale in (24**0.5, 4.90625, 4.9375)
    ]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert (found[0][0] != found[2][0]).any()
    full = dataclasses.replace(SMALL, embed_scale=24**0.5)
    exact, _ = run(full, params, *plain(draw_tokens()))
    assert jnp.abs(exact - found[0][0].astype(jnp.float32)).max() > 0


def test_unequal_rows_are_independent(params):
    """Row order is of no consequence, and rows do not see each other."""
    tokens = draw_tokens(3, 8)
    together, _ = run(SMALL, params, *plain(tokens))
    alone, _ = run(SMALL, params, *plain(tokens[1:2]))
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_init_draws_like_hugging_face(tied):
    config = dataclasses.replace(SMALL, vocab_size=400, width=64, tied=tied)
    drawn = decoder.init(config, jax.random.key(0), "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(drawn)} == {jnp.dtype("bfloat16")}
    layers = drawn["layers"]
    assert abs(jnp.std(layers["down"].astype(jnp.float32)) - 0.02) < 1e-3
    assert (layers["attention_norm"] == 1).all() and (layers["q_bias"] == 0).all()
    assert not jnp.array_equal(layers["q"][0], layers["q"][1])
    assert decoder.head(drawn) is drawn["embed" if tied else "head"]
    by_hand = (2 - tied) * 400 * 64 + 64
    by_hand += 3 * (64 * 64 + 64 * 24 * 3 + 32 * 64 + 64 + 64 * 2 + 8 * 2)
    assert decoder.count(drawn) == by_hand


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kv_heads": 3}, "heads=4 is not divisible by kv_heads=3"),
        ({"head_dim": 7}, "head_dim=7"),
        ({"rotary_dim": 5}, "rotary_dim=5 is odd"),
        ({"sliding_layers": (True,)}, "1 entries for layers=3"),
        ({"nope_layers": (True,)}, "nope_layers has 1 entries for layers=3"),
        ({"activation": "gelu"}, "activation='gelu'"),
        ({"qk_norm_wide": True}, "qk_norm and qk_norm_wide exclude each other"),
    ],
)
def test_config_refuses(change, text):
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(SMALL, **change)


def test_unknown_rope_type_lists_the_known():
    config = dataclasses.replace(SMALL, rope_scaling=(("rope_type", "ntk"),))
    with pytest.raises(ValueError, match=r"'ntk' is not.*yarn"):
        decoder.rope_frequencies(config)
