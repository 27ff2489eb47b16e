"""Schedules by their formula, optimizers by one update."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from jopd.models import sharding
from jopd.setup import doubts, optimizer, ranges, validation
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


# Gradients kept to where a matrix has moved.

SHAPES = {"q": (2, 6, 5), "down": (2, 3, 7), "norm": (2, 6), "embed": (9, 6)}


def walked(transform, steps: int, seed=0):
    """Parameters after each update, from gradients that are the same for all."""
    rng = np.random.default_rng(seed)
    draw = lambda: {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32)
        for name, shape in SHAPES.items()
    }
    params, update = draw(), jax.jit(transform.update)
    state, found, grads = transform.init(params), [params], []
    for _ in range(steps):
        grads.append(draw())
        updates, state = update(grads[-1], state, params)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found, grads, state


def plain(rank=0, at=0, name="sgd"):
    rate = optax.constant_schedule(0.5)
    return optimizer.build(name, rate, clip_norm=0.0, project_rank=rank, project_at=at)


def test_a_gradient_is_left_what_lies_in_the_first_directions():
    """g V V^T of W [out, in], by numpy in float64: for [in, out] on the left."""
    found, grads, state = walked(plain(rank=2, at=3), 5)
    for name in ("q", "down"):
        moved = np.float64(found[3][name]) - np.float64(found[0][name])
        for n in range(2):
            _, _, v = np.linalg.svd(moved[n].T, full_matrices=False)
            onto = v[:2].T @ v[:2]
            for at in range(5):
                step = np.float64(found[at + 1][name][n]) - found[at][name][n]
                want = -0.5 * np.float64(grads[at][name][n])
                want = want if at < 3 else (want.T @ onto).T
                np.testing.assert_allclose(step, want, atol=1e-6)
            after = np.float64(found[5][name][n]) - found[3][name][n]
            assert np.linalg.matrix_rank(after, tol=1e-5) == 2
    for name in ("norm", "embed"):
        step = np.asarray(found[5][name] - found[4][name])
        np.testing.assert_allclose(step, -0.5 * grads[4][name], atol=1e-6)
    start = state[0].inner_state.start["q"]
    np.testing.assert_array_equal(start, found[0]["q"])


def test_projecting_twice_is_projecting_once():
    rng = np.random.default_rng(0)
    moved, grad = (jnp.asarray(rng.normal(size=(2, 6, 5)), jnp.float32) for _ in "ab")
    basis = optimizer._directions(moved, 3)
    once = optimizer._onto(grad, basis)
    np.testing.assert_allclose(optimizer._onto(once, basis), once, atol=1e-6)
    assert float(jnp.linalg.norm(once - grad)) > 1


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_a_rank_that_no_matrix_exceeds_projects_nothing(name):
    whole, _, state = walked(plain(rank=5, at=1, name=name), 3)
    free, _, _ = walked(plain(name=name), 3)
    jax.tree.map(np.testing.assert_array_equal, whole, free)
    assert sum(leaf.size for leaf in jax.tree.leaves(state[0])) == 1  # the counter
    less, _, _ = walked(plain(rank=4, at=1, name=name), 3)
    np.testing.assert_array_equal(less[1]["q"], free[1]["q"])
    assert float(jnp.max(jnp.abs(less[3]["q"] - free[3]["q"]))) > 1e-3
    np.testing.assert_array_equal(less[3]["down"], free[3]["down"])  # a side of three


def test_every_direction_of_a_square_matrix_is_the_matrix():
    grad, moved = (
        jnp.asarray(np.random.default_rng(s).normal(size=(1, 4, 4)), jnp.float32)
        for s in (0, 1)
    )
    whole = optimizer._onto(grad, optimizer._directions(moved, 4))
    np.testing.assert_allclose(whole, grad, atol=1e-6)


def test_off_is_the_chain_that_it_was():
    params = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
    config = base_config()
    state = build_optimizer(config)[1].init(params)
    assert "Projection" not in str(jax.tree.structure(state))
    config.optimizer.project.rank = 2
    state = build_optimizer(config)[1].init(params)
    assert "Projection" in str(jax.tree.structure(state))


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            dict(rank=32),
            r"rank=32 is no less .* 32 at most: .* use a rank below 32, or",
        ),
        (dict(rank=2, after=0.01), r"after=0.01 of steps=40 begins at update 0: there"),
        (
            dict(rank=2, after=0.99),
            r"after=0.99 of steps=40 begins at update 40: there",
        ),
    ],
)
def test_what_cannot_be_projected_is_said(changes, said):
    config = base_config()
    config.steps = 40
    config.optimizer.project.update(changes)
    with pytest.raises(ValueError, match=said):
        validation.check_projection(config, tiny.config(width=32, ffn=32, head_dim=16))


def test_matrices_that_are_left_alone_are_named():
    config, shape = base_config(), tiny.config()
    assert validation.check_projection(config, shape) == []
    config.optimizer.project.rank = 8
    (said,) = validation.check_projection(config, shape)
    assert said.endswith("smaller side is no larger: k (8), v (8)")
    config.optimizer.project.rank = 7
    assert validation.check_projection(config, shape) == []


def test_adapters_are_not_projected():
    config = base_config()
    config.loss.one = dict(signal="nll")
    config.optimizer.project.rank, config.student.lora.rank = 4, 2
    with pytest.raises(ValueError, match=r"project.rank=4 .* adapter is trained here"):
        validation.validate(config)


@pytest.mark.parametrize("axes", [(1, 2, 1), (1, 1, 2)], ids=["fsdp", "tensor"])
def test_split_matrices_are_projected_as_whole_ones(axes):
    """The same numbers, and where they rest they stay."""
    mesh = sharding.make_mesh(*axes)
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    grads = {"layers": {"q": draw(2, 6, 4), "down": draw(2, 8, 6)}}
    transform, found = plain(rank=3, at=1), []
    for several in (False, True):
        params = jax.tree.map(lambda g: g + 1, grads)
        state = transform.init(params)
        if several:
            places = sharding.of_optimizer(state, params, mesh)
            params = jax.device_put(params, sharding.of_params(params, mesh))
            state = jax.device_put(state, places)

        @jax.jit
        def update(params, state):
            updates, state = transform.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        for _ in range(3):
            params, state = update(params, state)
        found.append(jax.device_get(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *found)
    stays = lambda x, place: x.sharding.is_equivalent_to(place, x.ndim)
    assert all(jax.tree.leaves(jax.tree.map(stays, state, places)))
    q = state[0].inner_state
    assert q.start["layers"]["q"].sharding.spec[1:] != (None, None)
    assert not q.basis["layers"]["down" if axes[2] > 1 else "q"].is_fully_replicated
