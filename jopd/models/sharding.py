"""Device mesh and parameter placement, as data.

Axes: ``data`` replicates the model and splits rows; ``fsdp`` splits rows and also
parameters and optimizer state; ``tensor`` splits matrices inside a layer.
"""

import math
import re
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")

# Path of a parameter -> axes of its dimensions, first match wins. Layer parameters have
# a leading [N] axis that is scanned over and never split.
RULES: tuple[tuple[str, tuple], ...] = (
    (r"^(embed|head)$", ("tensor", "fsdp")),
    (r"^layers/(q|k|v|gate|up)$", (None, "fsdp", "tensor")),
    (r"^layers/(o|down)$", (None, "tensor", "fsdp")),
    (r"^layers/(q|k|v|gate|up)_a$", (None, "fsdp")),
    (r"^layers/(q|k|v|gate|up)_b$", (None, None, "tensor")),
    (r"^layers/(o|down)_a$", (None, "tensor")),
    (r"^layers/(o|down)_b$", (None, None, "fsdp")),
    (r"^layers/((q|k|v)_bias|(q|k|v|gate|up)_scale)$", (None, "tensor")),
    (r"", ()),
)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over all local devices; one axis may be -1 and takes what is left.

    Raises:
      ValueError: the axes do not multiply to the number of devices.
    """
    devices = jax.local_devices()
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise ValueError(f"mesh sizes {dict(zip(AXES, sizes))}: use at most one -1")
    if -1 in sizes:
        rest = -math.prod(sizes)
        sizes[sizes.index(-1)] = max(len(devices) // rest, 1)
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh {dict(zip(AXES, sizes))} needs {math.prod(sizes)} devices, "
            f"{len(devices)} are present; set mesh.data=-1 or make the product equal"
        )
    # Explicit axis types are make_mesh's default today and reject plain jitted code.
    return Mesh(np.array(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * 3)


def row_shards(mesh: Mesh) -> int:
    """Over how many devices the rows of a batch are split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def rows(mesh: Mesh) -> NamedSharding:
    """Leading axis over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, P(ROWS))


def of_params(params, mesh: Mesh):
    """Pytree of ``NamedSharding`` by ``RULES``; a dimension that does not divide stays
    whole on every device rather than being padded."""

    def place(path, leaf):
        name = "/".join(str(getattr(entry, "key", entry)) for entry in path)
        spec = next(spec for rule, spec in RULES if re.search(rule, name))
        fits = [
            axis if axis and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(spec, leaf.shape)
        ]
        return NamedSharding(mesh, P(*fits))

    return jax.tree_util.tree_map_with_path(place, params)


def of_optimizer(opt_state, params, mesh: Mesh):
    """Shardings of an optax state: moments lie where their parameters do."""
    flat = {
        _tail(path): (leaf.shape, placed)
        for (path, leaf), placed in zip(
            jax.tree_util.tree_leaves_with_path(params),
            jax.tree.leaves(of_params(params, mesh)),
        )
    }

    def place(path, leaf):
        for length in range(len(path), 0, -1):
            shape, placed = flat.get(_tail(path[-length:]), (None, None))
            if shape == getattr(leaf, "shape", None):
                return placed
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, opt_state)


def data_parallel(function: Callable, devices: int) -> Callable:
    """``jax.pmap`` of a bound ``rollout.generate`` over local devices, equal rows each.

    Args:
      function: ``(params, request, key) -> Rollout``.
      devices: how many local devices; the number of rows must be a multiple of it.

    Parameters should carry a replicated sharding over those devices (``replicated``);
    other placements work but are copied anew at every call.
    """
    mapped = jax.pmap(
        function, in_axes=(None, 0, None), devices=jax.local_devices()[:devices]
    )

    def call(params, asked, key):
        rolled = mapped(params, rows_per_device(asked, devices), key)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rolled)

    return call


def rows_per_device(rows, devices: int):
    """Leaves [B, ...] to [devices, B / devices, ...], the order kept.

    Raises:
      ValueError: the rows do not divide.
    """
    count = len(jax.tree.leaves(rows)[0])
    if count % devices:
        raise ValueError(
            f"{count} rollout rows are not divisible by {devices} devices; use "
            f"{count - count % devices or devices} or {count + -count % devices} rows"
        )
    return jax.tree.map(
        lambda x: x.reshape(devices, count // devices, *x.shape[1:]), rows
    )


def _tail(path) -> str:
    return jax.tree_util.keystr(path)
