"""Schedules by their formula, optimizers by one update."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopd.setup import doubts, optimizer, ranges
from jopd.setup.builders import build_optimizer
from jopd.setup.config import base_config


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("peak, end", [(0.3, 0.03), (0.3, 0.9), (0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("name", optimizer.SCHEDULES)
def test_schedules(name, peak, end, warmup):
    steps = 20
    schedule = optimizer.schedule(name, peak, steps=steps, warmup_steps=warmup, end=end)
    for at in range(steps + 5):
        share = min(max(at - warmup, 0) / (steps - warmup), 1)
        want = {
            "constant": peak,
            "linear": peak + share * (end - peak),
            "cosine": end + (peak - end) * (1 + math.cos(math.pi * share)) / 2,
            "step": peak if at < steps else end,
        }[name]
        if at < warmup:
            want = peak * (at + 1) / (warmup + 1)
        assert float(schedule(at)) == pytest.approx(want, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("steps, warmup, short", [(9, 8, 0), (8, 8, 1), (1, 0, 0)])
def test_a_warmup_that_the_run_does_not_outlast_is_said(steps, warmup, short):
    config = base_config()
    config.steps, config.optimizer.warmup = steps, warmup
    config.optimizer.learning_rate, config.optimizer.schedule = 0.8, "constant"
    rate, _ = build_optimizer(config)
    reached = max(float(rate(at)) for at in range(steps))
    said = doubts.short_warmup(config)
    assert len(said) == short == (reached < 0.8)
    for note in said:
        assert f"warmup={warmup} does not end within steps={steps}" in note
        assert f"gets to {reached:.2g} of 0.8" in note


@pytest.mark.parametrize("steps, warmup", [(1, 0), (8, 1), (60, 8), (400, 50)])
def test_the_warm_up_is_a_share_and_the_first_update_moves(steps, warmup):
    config = base_config()
    config.steps = steps
    assert optimizer.warmup_updates(config.optimizer.warmup, steps) == warmup
    rate, _ = build_optimizer(config)
    peak = config.optimizer.learning_rate
    assert float(rate(0)) == pytest.approx(peak / (warmup + 1))
    assert float(rate(warmup)) == pytest.approx(peak)
    assert doubts.short_warmup(config) == []


def test_a_warm_up_of_updates_is_whole():
    holds = ranges.RANGES["optimizer.warmup"].holds
    assert all(map(holds, (0, 0.0, 0.99, 1, 1.0, 50)))
    assert not any(map(holds, (-0.1, 1.5, 50.5, float("nan"), True)))
    assert optimizer.warmup_updates(1.0, 60) == 1


def test_a_schedule_may_be_all_warm_up_or_zero():
    assert float(optimizer.schedule("linear", 1.0, steps=3, warmup_steps=3)(3)) == 1
    assert float(optimizer.schedule("cosine", 0.0, steps=3)(1)) == 0


def first_update(transform, grads):
    params = {"w": jnp.asarray([1.0, -2.0, 0.5])}
    updates, _ = transform.update({"w": grads}, transform.init(params), params)
    return np.asarray(updates["w"])


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_every_optimizer_descends(name):
    transform = optimizer.build(name, optax.constant_schedule(0.1), clip_norm=0.0)
    grads = jnp.asarray([3.0, -4.0, 1.0])
    assert np.all(first_update(transform, grads) * grads < 0)


def test_muon_orthogonalises_each_layer_by_itself():
    transform = optimizer.build(
        "muon", optax.constant_schedule(0.1), b1=0.0, clip_norm=0.0
    )
    rng = np.random.default_rng(0)
    grads = {"w": jnp.asarray(rng.normal(size=(3, 6, 4)), jnp.float32)}
    grads["w"] = grads["w"].at[1].multiply(100.0)
    grads["embed"] = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    params = jax.tree.map(jnp.zeros_like, grads)
    updates, _ = transform.update(grads, transform.init(params), params)
    for grad, update in zip(np.asarray(grads["w"]), np.asarray(updates["w"])):
        left, _, right = np.linalg.svd(grad, full_matrices=False)
        direction = update / (-0.1 * 0.2 * np.sqrt(6))
        np.testing.assert_allclose(direction, left @ right, atol=0.35)
        # Five Newton-Schulz steps leave singular values near 1, whatever they were.
        sizes = np.linalg.svd(direction, compute_uv=False)
        assert sizes.min() > 0.6 and sizes.max() < 1.3
    # The embedding is Adam's: its first update is the sign of the gradient.
    np.testing.assert_allclose(
        updates["embed"], -0.1 * np.sign(grads["embed"]), rtol=1e-3
    )


def test_adamw_is_its_formula():
    transform = optimizer.build(
        "adamw", optax.constant_schedule(0.1), b1=0.5, b2=0.75, eps=0.25,
        weight_decay=0.1, clip_norm=0.0,
    )  # fmt: skip
    params, grads = np.asarray([1.0, -2.0, 0.5]), np.asarray([3.0, -4.0, 1.0])
    want = -0.1 * (grads / (np.abs(grads) + 0.25) + 0.1 * params)
    np.testing.assert_allclose(
        first_update(transform, jnp.asarray(grads)), want, rtol=1e-6
    )
    # Second update: both moments decay by their own rate.
    state = transform.init({"w": jnp.asarray(params)})
    for grad in (grads, 2 * grads):
        updates, state = transform.update(
            {"w": jnp.asarray(grad)}, state, {"w": jnp.asarray(params)}
        )
    mean = (0.5 * 0.5 * grads + 0.5 * 2 * grads) / (1 - 0.25)
    square = (0.75 * 0.25 * grads**2 + 0.25 * 4 * grads**2) / (1 - 0.75**2)
    want = -0.1 * (mean / (np.sqrt(square) + 0.25) + 0.1 * params)
    np.testing.assert_allclose(updates["w"], want, rtol=1e-5)


def test_the_global_norm_is_clipped():
    grads = jnp.asarray([3.0, -4.0, 0.0])
    rate = optax.constant_schedule(1.0)
    clipped = first_update(optimizer.build("sgd", rate, clip_norm=1.0), grads)
    np.testing.assert_allclose(clipped, [-0.6, 0.8, 0], atol=1e-6)
    free = first_update(optimizer.build("sgd", rate, clip_norm=0.0), grads)
    np.testing.assert_allclose(free, [-3, 4, 0])


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="'warm'; known: constant, linear, cosine"):
        optimizer.schedule("warm", 1.0, steps=1)
    with pytest.raises(ValueError, match="'adamx'; known: adamw"):
        optimizer.build("adamx", optax.constant_schedule(1.0))


def test_learning_rate_follows_the_updates():
    rate = optimizer.schedule("linear", 1.0, steps=4)
    transform = optimizer.build("sgd", rate, clip_norm=0.0)
    params = jnp.zeros(1)
    state, seen = transform.init(params), []
    for _ in range(5):
        updates, state = jax.jit(transform.update)(jnp.ones(1), state, params)
        seen.append(float(-updates[0]))
    np.testing.assert_allclose(seen, [1, 0.75, 0.5, 0.25, 0], atol=1e-6)
