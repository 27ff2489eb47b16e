"""A mixture of experts against all experts computed for all tokens, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.models import decoder, experts, lora, quantize

SHAPE = tiny.config(experts=5, experts_per_token=2, ffn=7)
TOKENS = 13


def silu(x):
    return x / (1 + np.exp(-x))


def drawn(seed: int = 0):
    rng = np.random.default_rng(seed)
    shapes = experts.shapes(SHAPE).values()
    rows_MD = rng.normal(size=(TOKENS, SHAPE.width))
    return rows_MD, experts.Weights(*(rng.normal(size=s) for s in shapes))


def plain(rows_MD, weights, per_token: int, normalized: bool):
    """Token by token, expert by expert."""
    scores_ME = rows_MD @ weights.router
    probs_ME = np.exp(scores_ME - scores_ME.max(1, keepdims=True))
    probs_ME /= probs_ME.sum(1, keepdims=True)
    out_MD = np.zeros_like(rows_MD)
    for token, probs in enumerate(probs_ME):
        chosen = np.argsort(-probs)[:per_token]
        total = probs[chosen].sum() if normalized else 1.0
        for e in chosen:
            h = rows_MD[token]
            h = silu(h @ weights.gate[e]) * (h @ weights.up[e])
            out_MD[token] += probs[e] / total * (h @ weights.down[e])
    return out_MD


def ours(rows_MD, weights, per_token: int, normalized: bool):
    rows_MD, weights = jax.tree.map(jnp.float32, (rows_MD, weights))
    how = dict(per_token=per_token, normalized=normalized, activation=jax.nn.silu)
    return experts.mixture(rows_MD, weights, **how)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("per_token", [1, 2, 5])
def test_equals_each_expert_alone(per_token, normalized):
    rows_MD, weights = drawn()
    want = plain(rows_MD, weights, per_token, normalized)
    got = ours(rows_MD, weights, per_token, normalized)
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("normalized", [False, True])
def test_gradients_are_those_of_finite_differences(normalized):
    rows_MD, weights = drawn(1)
    probe_MD = np.random.default_rng(2).normal(size=rows_MD.shape)
    grads = jax.grad(
        lambda rows, weights: jnp.sum(ours(rows, weights, 2, normalized) * probe_MD),
        argnums=(0, 1),
    )(jnp.float32(rows_MD), jax.tree.map(jnp.float32, weights))
    given = (rows_MD, weights)
    rng, eps = np.random.default_rng(3), 1e-6
    # One direction in each array, in float64; no token changes its experts for it.
    for at, grad in enumerate(jax.tree.leaves(grads)):
        leaves = jax.tree.leaves(given)
        along = rng.normal(size=leaves[at].shape)
        ends = []
        for sign in (1, -1):
            leaves[at] = jax.tree.leaves(given)[at] + sign * eps * along
            moved = jax.tree.unflatten(jax.tree.structure(given), leaves)
            ends.append(np.sum(plain(*moved, 2, normalized) * probe_MD))
        slope = (ends[0] - ends[1]) / (2 * eps)
        np.testing.assert_allclose(np.sum(grad * along), slope, rtol=2e-3)


def test_no_token_is_dropped_where_all_want_one_expert():
    rows_MD, weights = drawn()
    router = np.zeros_like(weights.router)
    router[:, 3] = rows_MD.mean(0) * 50
    rows_MD = np.abs(rows_MD)
    weights = weights._replace(router=np.abs(router))
    got = ours(rows_MD, weights, 1, True)
    np.testing.assert_allclose(
        got, plain(rows_MD, weights, 1, True), rtol=3e-4, atol=3e-4
    )


def hidden(config, params):
    tokens_BT = np.arange(12).reshape(2, 6) % config.vocab_size
    positions_BT = np.broadcast_to(np.arange(6), (2, 6))
    run = decoder.Decoder(config).apply
    return run({"params": params}, tokens_BT, positions_BT, tokens_BT >= 0)[0]


def test_eight_bits_lose_little():
    params = tiny.params(SHAPE, 0)
    config, small = quantize.int8(SHAPE, params)
    kernel = small["layers"]["expert_down"]
    assert kernel.dtype == np.int8 and np.abs(kernel).max() == 127
    assert small["layers"]["expert_up_scale"].shape == (2, 5, 7)
    assert small["layers"]["expert_router"].dtype == jnp.float32
    exact, rounded = hidden(SHAPE, params), hidden(config, small)
    assert 0 < np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


def test_adapters_are_beside_attention_only():
    adapted = lora.adapted(SHAPE, rank=2)
    assert adapted.lora_targets == ("q", "k", "v", "o")
    with pytest.raises(ValueError, match=r"'up' finds none of the matrices q, k, v, o"):
        lora.adapted(SHAPE, rank=2, targets="up")
    names = set(lora.start(adapted, jax.random.key(0))["layers"])
    assert names == {f"{name}_{part}" for name in "qkvo" for part in "ab"}


def test_more_experts_of_a_token_than_there_are():
    with pytest.raises(ValueError, match="experts_per_token=6 of experts=5"):
        dataclasses.replace(SHAPE, experts_per_token=6)
