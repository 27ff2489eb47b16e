"""Models with their layers apart write what the same models in one stack write."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drawing
import runs
import tiny
from jopd.models import apart, hf
from jopd.models import cache as caches
from jopd.models.decoder import Decoder
from jopd.rollouts import blocks
from jopd.rollouts import generate as rollout
from jopd.setup import model as one_model
from jopd.training import loop

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures").glob("parity_*"))
LORA = dict(lora_rank=2, lora_scale=2.0, lora_targets=("q", "down"))


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, *given):
    return model.apply({"params": params}, *given)


def both(config, params):
    alone = Decoder(config, apart=True), apart.parameters(params)
    return (Decoder(config), params), alone


def read(model, params, tokens_BT, *, at_once: int):
    """Hidden states, some tokens at a time, in a cache with room for two more.

    The first go without one. Slots are filled from the fourth on, around, so that their
    order is not that of the positions.
    """
    rows, length = tokens_BT.shape
    positions_BT = jnp.broadcast_to(jnp.arange(length), tokens_BT.shape)
    given = tokens_BT, positions_BT, jnp.ones_like(tokens_BT, bool)
    hidden, kv = run(model, params, *(leaf[:, :at_once] for leaf in given))
    slots = length + 2 - length % at_once
    cache = caches.grown(kv, slots - at_once)
    order_S = (jnp.arange(slots) + at_once) % slots
    cache = caches.take(cache, jnp.arange(rows), order_S)
    held_S, found = order_S, [hidden]
    for start in range(at_once, length - at_once + 1, at_once):
        now = slice(start, start + at_once)
        where = jnp.broadcast_to(held_S, (rows, slots))
        slot = start - at_once
        hidden, cache = run(
            model,
            params,
            *(x[:, now] for x in given),
            cache,
            where,
            where < start,
            slot,
        )
        found.append(hidden)
    return jnp.concatenate(found, axis=1), cache


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda path: path.name[7:])
def test_every_family(folder):
    config, params = hf.load(folder)
    config = dataclasses.replace(config, dtype="float32")
    tokens_BT = np.random.default_rng(0).integers(0, config.vocab_size, (2, 12))
    found = [read(*one, tokens_BT, at_once=3) for one in both(config, params)]
    close = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4)
    (stacked, kept), (alone, kept_alone) = found
    close(alone, stacked)
    jax.tree.map(close, jax.tree.map(jnp.stack, kept_alone, is_leaf=_many), kept)


def _many(node) -> bool:
    return isinstance(node, tuple) and not isinstance(node, caches.KV)


@pytest.mark.parametrize(
    "changes",
    [LORA, {"remat": True}, {"exact": True}],
    ids=["lora", "remat", "exact"],
)
def test_what_no_directory_has(changes):
    config = tiny.config(**changes)
    params = tiny.params(config, 0)
    tokens_BT = np.random.default_rng(0).integers(0, tiny.VOCABULARY, (2, 12))
    stacked, alone = (
        read(*one, tokens_BT, at_once=1)[0] for one in both(config, params)
    )
    np.testing.assert_allclose(alone, stacked, atol=1e-5)


@pytest.mark.parametrize("block", [None, 5])
def test_the_same_rows_are_written(block):
    """In one loop; and in blocks, with places that are filled again and fewer rows."""
    params, request = tiny.params(drawing.CONFIG, 0), drawing.asked()
    settings = dict(max_new_tokens=drawing.NEW, **drawing.DRAW)
    found = []
    for model, given in both(drawing.CONFIG, params):
        write = functools.partial(rollout.generate, model=model, **settings)
        if block:
            sizes = dict(block=block, at_once=8)
            write = blocks.in_blocks(model=model, **sizes, **settings)
        found.append(write(given, request, jax.random.key(0)))
    stacked, alone = found
    np.testing.assert_array_equal(alone.tokens_BT, stacked.tokens_BT)
    np.testing.assert_allclose(
        alone.behavior_logp_BT, stacked.behavior_logp_BT, atol=drawing.RING
    )


def test_nothing_is_copied():
    params = jax.device_put(tiny.params(tiny.config(width=32, ffn=64), 0))
    found = apart.parameters(params)
    assert found["embed"] is params["embed"] and "layers" not in found
    whole, second = params["layers"]["gate"], found["layer_1"]["gate"]
    start = whole.unsafe_buffer_pointer() + whole.nbytes // 2
    assert second.unsafe_buffer_pointer() == start
    np.testing.assert_array_equal(second, whole[1])


def test_large_models_are():
    small = tiny.config(vocab_size=2**20)
    assert not apart.faster(small)
    large = dataclasses.replace(small, layers=32, width=1024, ffn=2048)
    assert apart.faster(large)
    assert not apart.faster(dataclasses.replace(large, exact=True))


@pytest.fixture
def all_are_large(monkeypatch):
    monkeypatch.setattr(apart, "LARGE", 0)
    apart.faster.cache_clear()
    yield
    apart.faster.cache_clear()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"student__lora__rank": 2},
        {"rollout__at_once": 2, "rollout__block_tokens": 4},
    ],
    ids=["full", "lora", "places"],
)
def test_a_run_writes_with_the_weights_that_it_trains(tmp_path, all_are_large, changes):
    runs.make_pair(tmp_path)
    config = runs.config(
        tmp_path,
        "opd",
        steps=3,
        eval__prompts=0,
        log__check_sampler_every_steps=1,
        **changes,
    )
    loop.run(config, str(tmp_path / "run"))
    gaps = [row["check/sampler_gap_mean"] for row in runs.updates(tmp_path / "run")]
    assert len(gaps) == 3 and max(gaps) < 1e-5


def test_a_model_of_ones_own_does(all_are_large):
    model = one_model.load("demo:student")
    apart_ones = model.generate(["1+2="], samples=3, max_new_tokens=12)
    assert "layer_0" in model._written_with and "layers" in model.params
    apart.LARGE = 2**40
    apart.faster.cache_clear()
    assert (
        one_model.load("demo:student").generate(["1+2="], samples=3, max_new_tokens=12)
        == apart_ones
    )
