"""Meshes and placements on two devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import tiny
from jopd.models import sharding
from jopd.setup import optimizer


def placed(params, mesh) -> dict[str, P]:
    leaves = jax.tree_util.tree_leaves_with_path(sharding.of_params(params, mesh))
    name = lambda path: "/".join(str(entry.key) for entry in path)
    return {name(path): leaf.spec for path, leaf in leaves}


@pytest.mark.parametrize(
    "sizes, shape, shards",
    [
        ({}, (2, 1, 1), 2),
        ({"data": 1, "fsdp": -1}, (1, 2, 1), 2),
        ({"data": 1, "tensor": 2}, (1, 1, 2), 1),
    ],
)
def test_meshes(sizes, shape, shards):
    mesh = sharding.make_mesh(**sizes)
    assert mesh.axis_names == sharding.AXES and mesh.devices.shape == shape
    assert sharding.row_shards(mesh) == shards


@pytest.mark.parametrize(
    "sizes, match",
    [
        ({"data": 3}, r"needs 3 devices, 2 are present"),
        ({"data": -1, "tensor": 4}, r"needs 4 devices, 2 are present"),
        ({"data": -1, "fsdp": -1}, r"at most one -1"),
        ({"data": 2, "fsdp": 0}, r"at most one -1"),
    ],
)
def test_mesh_errors(sizes, match):
    with pytest.raises(ValueError, match=match):
        sharding.make_mesh(**sizes)


def test_matrices_split_and_vectors_do_not():
    params = tiny.params(tiny.config(qkv_bias=True), 0)
    tensor = placed(params, sharding.make_mesh(1, 1, 2))
    assert tensor["embed"] == tensor["head"] == P("tensor", "fsdp")
    assert tensor["layers/q"] == tensor["layers/up"] == P(None, "fsdp", "tensor")
    assert tensor["layers/o"] == tensor["layers/down"] == P(None, "tensor", "fsdp")
    assert tensor["layers/q_bias"] == P(None, "tensor")
    assert tensor["norm"] == tensor["layers/mlp_norm"] == P()


def test_norms_of_every_kind_stay_whole():
    shape = tiny.config(post_norm=True, qk_norm_wide=True)
    specs = placed(tiny.params(shape, 0), sharding.make_mesh(1, 1, 2))
    norms = {name for name in specs if name.endswith("norm")}
    blocks = {
        f"{block}_{norm}"
        for block in ("attention", "mlp")
        for norm in ("norm", "post_norm")
    }
    assert norms == {"norm"} | {f"layers/{x}" for x in blocks | {"q_norm", "k_norm"}}
    assert {specs[name] for name in norms} == {P()}


def test_what_does_not_divide_stays_whole():
    params = tiny.params(tiny.config(vocab_size=25, ffn=7), 0)
    mesh = sharding.make_mesh(1, 1, 2)
    specs = placed(params, mesh)
    assert specs["embed"] == P(None, "fsdp")
    assert specs["layers/up"] == P(None, "fsdp", None)
    jax.device_put(params, sharding.of_params(params, mesh))


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_moments_lie_as_their_parameters(name):
    mesh = sharding.make_mesh(1, 2, 1)
    params = tiny.params(tiny.config(), 0)
    transform = optimizer.build(name, optimizer.schedule("constant", 1e-3, steps=1))
    state = transform.init(params)
    places = sharding.of_optimizer(state, params, mesh)
    assert jax.tree.structure(places) == jax.tree.structure(state)
    jax.device_put(state, places)
    whole = sharding.of_params(params, mesh)
    moments = 0
    for (path, leaf), place in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(places)
    ):
        if (
            "'q'" in jax.tree_util.keystr(path)
            and leaf.shape == params["layers"]["q"].shape
        ):
            assert place == whole["layers"]["q"]
            moments += 1
    assert moments == {"adamw": 2, "adam": 2, "lion": 1}.get(name, moments)


def test_rows_and_replicas():
    mesh = sharding.make_mesh()
    array = jax.device_put(jnp.arange(8).reshape(4, 2), sharding.rows(mesh))
    pieces = [np.asarray(shard.data).tolist() for shard in array.addressable_shards]
    assert pieces == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    whole = jax.device_put(jnp.arange(3), sharding.replicated(mesh))
    assert whole.sharding.is_fully_replicated


def test_rollouts_read_what_products_would_cast():
    shape = tiny.config(qkv_bias=True, qk_norm=True, lora_rank=2, lora_targets=("q",))
    params = tiny.params(shape, 0)
    params["layers"]["up"] = params["layers"]["up"].astype(jnp.int8)
    params["layers"]["up_scale"] = jnp.ones((2, shape.ffn))
    mesh = sharding.make_mesh(1, 2, 1)
    resting = jax.device_put(params, sharding.of_params(params, mesh))
    whole = sharding.for_rollouts(resting, "bfloat16", sharding.replicated(mesh))
    flat = jax.tree_util.tree_leaves_with_path
    for (path, leaf), (_, was) in zip(flat(whole), flat(params), strict=True):
        name = path[-1].key
        keeps = name.endswith(("norm", "_scale")) or name == "up"
        assert leaf.dtype == (was.dtype if keeps else jnp.bfloat16), name
        assert leaf.sharding.is_fully_replicated
        np.testing.assert_array_equal(leaf, was.astype(leaf.dtype))


def test_what_is_as_rollouts_read_it_is_not_copied():
    params = tiny.params(tiny.config(), 0)
    places = sharding.replicated(sharding.make_mesh())
    once = sharding.for_rollouts(params, "float32", places)
    again = sharding.for_rollouts(once, "float32", places)
    where = lambda x: [
        part.data.unsafe_buffer_pointer() for part in x.addressable_shards
    ]
    assert jax.tree.map(where, once) == jax.tree.map(where, again)


def test_layers_read_what_is_whole_over_fsdp():
    params = tiny.params(tiny.config(), 0)
    mesh = sharding.make_mesh(1, 2, 1)
    used = sharding.of_params(params, mesh, resting=False)
    assert all(place.is_fully_replicated for place in jax.tree.leaves(used))
    mesh = sharding.make_mesh(1, 1, 2)
    used = sharding.of_params(params, mesh, resting=False)
    assert used["layers"]["q"].spec == P(None, None, "tensor")
    assert used["layers"]["o"].spec == P(None, "tensor", None)
