"""Device mesh and parameter placement, as data.

Axes: ``data`` replicates the model and splits rows; ``fsdp`` splits rows and also
parameters and optimizer state; ``tensor`` splits matrices inside a layer.
"""

import functools
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
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
    (r"^layers/expert_(gate|up)$", (None, None, "fsdp", "tensor")),
    (r"^layers/expert_(gate|up)_scale$", (None, None, "tensor")),
    (r"^layers/expert_down$", (None, None, "tensor", "fsdp")),
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


def of_params(params, mesh: Mesh, *, resting: bool = True):
    """Pytree of ``NamedSharding`` by ``RULES``, as parameters rest, or as products read
    them, whole over ``fsdp``; a dimension that does not divide stays whole on every
    device rather than being padded."""

    def place(path, leaf):
        axes = _rule(_name(path))
        return _placed(leaf.shape, axes if resting else _used(axes), mesh)

    return jax.tree_util.tree_map_with_path(place, params)


def uneven(config, mesh: Mesh) -> list[str]:
    """Sizes of a ``DecoderConfig`` that a mesh does not divide, and what that costs."""
    whole = "those matrices are whole on each of these devices"
    cut = "heads are cut, and attention puts them together again in every layer"
    sizes = (
        *(("vocab_size", "tensor", whole), ("ffn", "tensor", whole)),
        *(("width", "fsdp", whole), ("kv_heads", "tensor", cut)),
    )
    return [
        f"{name}={size} is not divisible by mesh.{axis}={mesh.shape[axis]}: {cost}"
        for name, axis, cost in sizes
        if (size := getattr(config, name)) % mesh.shape[axis]
    ]


def for_rollouts(params, dtype: str, places):
    """Parameters cast and moved, cast first, to where whoever writes reads them.

    What is multiplied with in ``dtype`` is cast now and not at every token; norms and
    the scales of int8 stay what they are, so no bit of a product changes. Leaves that
    are as they should be are not copied.
    """

    def cast(path, leaf):
        keeps = leaf.dtype == jnp.int8 or _name(path).endswith(("norm", "_scale"))
        return leaf if keeps else leaf.astype(dtype)

    params = jax.tree_util.tree_map_with_path(cast, params)
    return jax.device_put(params, places)


def product(x: jax.Array, kernel: jax.Array, name: str, mesh: Mesh | None):
    """``x @ kernel`` in the precision of ``x``, with rows where they are.

    ``fsdp`` holds the parameter ``name``, or a layer's slice of one, in parts while it
    rests: it is cast, gathered, multiplied with and forgotten, once more in the
    backward pass. Its gradient is summed in float32 and comes back in parts. Left to
    itself the compiler gathers the tokens of all devices and multiplies them with each
    one's part of the weights: traffic and activations then do not shrink with devices.

    Args:
      x: [M, in].
      kernel: [in, out].
    """
    if mesh is None:
        return x @ kernel.astype(x.dtype)
    axes = _rule(name)[-2:]
    places = (_placed(kernel.shape, one, mesh) for one in (axes, _used(axes)))
    return _product(*places, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(rest: NamedSharding, used: NamedSharding, x, kernel):
    return x @ jax.lax.with_sharding_constraint(kernel.astype(x.dtype), used)


def _product_forward(rest, used, x, kernel):
    return _product(rest, used, x, kernel), (x, kernel)


def _product_backward(rest, used, kept, dy):
    x, kernel = kept
    dx = dy @ jax.lax.with_sharding_constraint(kernel.astype(x.dtype), used).T
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        return dx, None  # int8 is never trained
    d_kernel = jnp.einsum("mi,mo->io", x, dy, preferred_element_type=jnp.float32)
    d_kernel = jax.lax.with_sharding_constraint(d_kernel, rest)
    return dx, d_kernel.astype(kernel.dtype)


_product.defvjp(_product_forward, _product_backward)


def looked_up(embed: jax.Array, tokens_BT: jax.Array, mesh: Mesh | None):
    """Rows [B, T, D] of an embedding, each device's part of D for all tokens.

    To send activations once is less than to gather the table, and the gradient of each
    part stays where it is.
    """
    if mesh is None:
        return jnp.take(embed, tokens_BT, axis=0)
    put = lambda x, *axes: jax.lax.with_sharding_constraint(
        x, _placed(x.shape, axes, mesh)
    )
    x_BTD = jnp.take(embed, put(tokens_BT, "data"), axis=0)
    return put(x_BTD, "data", None, "fsdp")


def on_rows(function: Callable, mesh: Mesh | None) -> Callable:
    """``function(x, weights)`` of the rows x [B, ...] that a device has, for what would
    look at all rows otherwise, such as an order of tokens. Weights are whole over the
    axes that rows are split over, their gradients the sums of those of all devices."""
    if mesh is None:
        return function
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(P(ROWS), P()),
        out_specs=P(ROWS),
        axis_names=set(ROWS),
        check_vma=False,
    )


def rows_local(x: jax.Array, mesh: Mesh | None) -> jax.Array:
    """``x`` with its leading axis over the devices that rows are split over."""
    return x if mesh is None else jax.lax.with_sharding_constraint(x, rows(mesh))


def _name(path) -> str:
    return "/".join(str(getattr(entry, "key", entry)) for entry in path)


def _used(axes) -> tuple:
    """Without the axis over which parameters are split only while they rest."""
    return tuple(None if axis == "fsdp" else axis for axis in axes)


def _rule(name: str) -> tuple:
    return next(spec for rule, spec in RULES if re.search(rule, name))


def _placed(shape: tuple[int, ...], axes, mesh: Mesh) -> NamedSharding:
    fits = [
        axis if axis and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(axes, shape)
    ]
    return NamedSharding(mesh, P(*fits))


def of_optimizer(opt_state, params, mesh: Mesh):
    """Shardings of an optax state: moments lie where their parameters do.

    So do directions of what a matrix reads, which are as wide as they are many.
    """
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
            if shape and leaf.ndim > 2 and shape[:-1] == leaf.shape[:-1]:
                return NamedSharding(mesh, P(*placed.spec[:-1], None))
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
