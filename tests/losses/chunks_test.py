"""Which tokens a walk over chunks visits; each result comes back to its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.losses import chunks
from jopd.setup import experiment
from jopd.setup.config import base_config

CUTS = [(1, 1), (4, 1), (4, 2), (7, 2), (100, 1), (100, 2)]


def tokens(rows: int, width: int, share: float):
    """Numbered tokens, and a mask that holds about ``share`` of them."""
    number_BT = np.arange(1, rows * width + 1).reshape(rows, width)
    inside_BT = np.random.default_rng(0).random((rows, width)) < share
    if share < 1:
        inside_BT[:2] = False  # the first device has fewer than the other
    arrays = {
        "flat": jnp.asarray(number_BT),
        "deep": jnp.asarray(number_BT[..., None] * [1.0, 10.0]),
        "inside": jnp.asarray(inside_BT),
    }
    return arrays, inside_BT


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("chunk_tokens, shards", CUTS)
def test_every_token_of_the_mask_comes_back_to_its_place(chunk_tokens, shards, share):
    arrays, inside_BT = tokens(6, 5, share)
    walk = functools.partial(
        chunks.in_chunks,
        lambda chunk: jax.tree.map(lambda x: 2 * x, chunk),
        chunk_tokens=chunk_tokens,
        rows=tiny.rows_over(shards),
    )
    found = jax.jit(walk)(arrays, inside_BT)
    for name in ("flat", "deep"):
        mask = inside_BT if name == "flat" else inside_BT[..., None]
        want = np.where(mask, 2 * np.asarray(arrays[name]), 0)
        got = np.where(mask, np.asarray(found[name]), 0)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("chunk_tokens, shards", CUTS)
def test_as_many_chunks_as_the_fullest_shard_needs(chunk_tokens, shards):
    arrays, inside_BT = tokens(6, 5, 0.4)
    seen = []

    def function(chunk):
        jax.debug.callback(lambda flat: seen.append(np.asarray(flat)), chunk["flat"])
        return chunk["flat"]

    walk = jax.jit(
        lambda a, m: chunks.in_chunks(
            function, a, m, chunk_tokens=chunk_tokens, rows=tiny.rows_over(shards)
        )
    )
    jax.block_until_ready(walk(arrays, inside_BT))
    jax.effects_barrier()
    per_shard = inside_BT.reshape(shards, -1).sum(axis=1)
    size = min(chunk_tokens, inside_BT.size // shards)
    assert len(seen) == shards * -(-per_shard.max() // size)
    assert all(len(flat) == size for flat in seen)
    visited = np.concatenate([flat.ravel() for flat in seen])
    own = np.asarray(arrays["flat"])[inside_BT]
    counts = dict(zip(*np.unique(visited, return_counts=True), strict=True))
    assert all(counts[number] == 1 for number in own)


@pytest.mark.parametrize("share", [0.4, 1.0])
@pytest.mark.parametrize("chunk_tokens, shards", CUTS)
def test_a_sum_and_its_gradient_see_the_mask_only(chunk_tokens, shards, share):
    arrays, inside_BT = tokens(6, 5, share)
    rng = np.random.default_rng(1)
    hidden_BTD = jnp.asarray(rng.normal(size=(6, 5, 3)), jnp.float32)
    head_VD = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)

    def of_chunk(hidden, head, rows, heads, coefs):
        value = jnp.where(rows["inside"], jnp.sum((hidden @ head.T) ** 2, -1), 0.0)
        value = value * rows["flat"]
        return coefs * jnp.sum(value), {"value": value}

    def walked(hidden_BTD, head_VD):
        return chunks.sum_over_chunks(
            of_chunk, chunk_tokens, tiny.rows_over(shards), hidden_BTD, head_VD,
            arrays, inside_BT, {}, 0.5,
        )  # fmt: skip

    def plain(hidden_BTD, head_VD):
        return of_chunk(hidden_BTD, head_VD, arrays, {}, 0.5)

    gradient = functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    (loss, parts), grads = jax.jit(gradient(walked))(hidden_BTD, head_VD)
    (want, want_parts), want_grads = gradient(plain)(hidden_BTD, head_VD)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_allclose(parts["value"], want_parts["value"], rtol=1e-5)
    for got, expected in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(walked)(hidden_BTD, head_VD)[0], want, rtol=1e-5)


@pytest.mark.parametrize(
    "tokens, strip_tokens, size",
    [(8, 0, 8), (8, 2, 2), (8, 8, 8), (8, 16, 8), (12, 8, 6), (100, 8, 5), (7, 4, 1)],
)
def test_a_strip_divides_its_chunk(tokens, strip_tokens, size):
    seen = []

    def function(chunk):
        seen.append(chunk["a"].shape[0])
        return {"twice": 2 * chunk["a"], "sum": chunk["a"] + chunk["b"][:, 0]}

    chunk = {"a": jnp.arange(tokens), "b": 10 * jnp.arange(tokens)[:, None]}
    found = chunks.in_strips(function, strip_tokens, chunk)
    # Traced for a strip, and before that for the shapes of the whole.
    assert seen[-1] == size == chunks.strip_of(tokens, strip_tokens)
    np.testing.assert_array_equal(found["twice"], 2 * np.arange(tokens))
    np.testing.assert_array_equal(found["sum"], 11 * np.arange(tokens))


@pytest.mark.parametrize("strip_tokens", [0, 1, 2, 4])
def test_a_sum_over_strips_has_the_gradient_of_the_sum(strip_tokens):
    rng = np.random.default_rng(2)
    draw = lambda *size: jnp.asarray(rng.normal(size=size), jnp.float32)
    logits, other, weight, coef = draw(8, 5), draw(8, 5), draw(8), draw()

    def strip_loss(logits, rest, coef):
        other, weight = rest
        value = weight * jnp.sum(logits**2 * other, axis=-1)
        return coef * jnp.sum(value), {"value": value}

    def in_strips(logits):
        rest = other, weight
        loss, parts = chunks.sum_over_strips(
            strip_loss, strip_tokens, logits, rest, coef
        )
        return -3.0 * loss, parts

    def whole(logits):
        loss, parts = strip_loss(logits, (other, weight), coef)
        return -3.0 * loss, parts

    gradient = functools.partial(jax.value_and_grad, has_aux=True)
    (loss, parts), grad = jax.jit(gradient(in_strips))(logits)
    (want, want_parts), want_grad = gradient(whole)(logits)
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(parts["value"], want_parts["value"], rtol=1e-6)
    np.testing.assert_allclose(grad, want_grad, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(in_strips(logits)[0], want, rtol=1e-6)


@pytest.mark.parametrize("cores", [None, 1, 2, 64])
def test_strips_are_for_wide_vocabularies_on_a_cpu(cores, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    c = base_config()
    for columns in (18, 3000, 4096, 8192, 49_152, 151_936):
        chunk = experiment.chunk_tokens(c, columns)
        most = experiment.strip_tokens(c, columns)
        size = chunks.strip_of(chunk, most)
        assert (size == chunk) == (
            4 * columns * chunk <= max(2 * (cores or 1), 4) << 20
        )
        assert columns > 4096 or size == chunk, "a chunk of 4 MiB stays whole"
        assert most / 2 < size <= most or size == chunk, "not a few tokens of many"
    assert experiment.strip_tokens(c, 151_936) == (220 if cores == 64 else 6)
    c.objective.strip_tokens = 3
    assert experiment.strip_tokens(c, 18) == 3
    c.objective.strip_tokens = 0
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert experiment.strip_tokens(c, 151_936) == 0
