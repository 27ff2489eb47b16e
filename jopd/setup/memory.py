"""What a run holds on a device, from shapes alone: said, and judged, before any load.

Parameters, optimizer and gradient are exact, by the shardings that they will have. The
cache of rollouts and the logits of a chunk are what their arrays take. Activations, and
what a compiled program needs beside, come on top.
"""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopd.losses import states
from jopd.losses.objective import Shape
from jopd.models import cache as caches
from jopd.models import decoder, lora, quantize, sharding
from jopd.setup import builders, lengths
from jopd.setup.cast import Cast, Weights, wanted
from jopd.teachers import moving


class Part(NamedTuple):
    """What one thing takes.

    Attributes:
      name: of it.
      most: bytes on each device.
      least: those that are surely taken; the rest where rollouts are that long.
      phase: "" for all of a run, else "rollout" or "update": these follow each other.
      keys: by which it gets smaller.
    """

    name: str
    most: int
    least: int
    phase: str
    keys: str


class Plan(NamedTuple):
    """The parts; ``limit`` of a device in bytes, None where it does not say.

    ``host``: bytes of a checkpoint's copy in the memory of the host.
    """

    parts: tuple[Part, ...]
    host: int
    limit: int | None

    def least(self) -> int:
        """Bytes on a device that are surely held at one time."""
        return self._total([part._replace(most=part.least) for part in self.parts])

    def most(self) -> int:
        return self._total(self.parts)

    def _total(self, parts) -> int:
        phases = {"": 0, "rollout": 0, "update": 0}
        for part in parts:
            phases[part.phase] += part.most
        return phases[""] + max(phases["rollout"], phases["update"])


def plan(
    config, cast: Cast, terms, mesh, mix, widths: lengths.Widths, shape: Shape, **more
) -> Plan:
    """The parts of a run, or of an evaluation alone.

    ``more`` are ``generator``, ``held`` (prompts of an evaluation) and ``train``.
    """
    parts, trained = _models(config, cast, mesh)
    train, generator = more["train"], more["generator"]
    host = 0
    if train:
        state = _optimizer(config, trained, mesh)
        movers = [n for n, t in cast.teachers.items() if t.weights in moving.MOVING]
        own, keys = per_device(trained, mesh), "student.lora.rank, mesh.fsdp"
        parts += [_exact(name, own, keys) for name in movers]
        parts.append(_exact("optimizer", state[0], f"optimizer.name, {keys}"))
        parts.append(_exact("gradient", own, keys, "update"))
        host = whole(trained) * (1 + len(movers)) + state[1]
    parts += _copy(config, cast, mesh, generator)
    parts.append(_cache(config, cast, mesh, mix, widths, **more))
    if train:
        tokens = mix.rows // config.optimizer.accumulate * widths.rows[-1]
        parts.append(_logits(terms, mesh, shape, tokens // sharding.row_shards(mesh)))
        parts += _states(config, cast, terms, mesh, mix.rows * widths.rows[-1])
    return Plan(tuple(parts), host, limit_of(mesh.devices.flat[0]))


def _exact(name: str, size: int, keys: str, phase: str = "") -> Part:
    return Part(name, size, size, phase, keys)


def _models(config, cast: Cast, mesh) -> tuple[list[Part], Any]:
    """Parameters of every model that has some, and what is trained, as shapes."""
    parts, seen, trained = [], set(), None
    for name, (shape, weights) in wanted(config, cast).items():
        if weights is None or weights in seen:
            continue
        seen.add(weights)
        params = abstract(shape, weights)
        parts.append(_exact(name, per_device(params, mesh), _keys_of(name)))
        if name != "student":
            continue
        trained = params
        if shape.lora_rank:
            made = jax.eval_shape(lambda s=shape: lora.start(s, jax.random.key(0)))
            parts.append(_exact("adapter", per_device(made, mesh), "student.lora.rank"))
            trained = made
    return parts, trained


def _keys_of(name: str) -> str:
    if name in ("student", "reference"):
        return "student.lora.rank, mesh.fsdp"
    where = name if name == "teacher" else f"teachers.{name}"
    return f"{where}.quantize='int8', {where}.dtype='bfloat16', mesh.fsdp"


def abstract(shape: decoder.DecoderConfig, weights: Weights):
    """Parameters as ``cast.load_models`` will hold them, as shapes."""
    bare = lora.without(shape)
    like = jax.eval_shape(lambda: decoder.init(bare, jax.random.key(0)))

    def typed(path, leaf):
        name = path[-1].key
        kind = weights.dtype
        if weights.int8 and name in (*quantize.MATRICES, *quantize.OF_EXPERTS):
            kind = "int8"
        if name.endswith("_scale"):
            kind = "float32"
        return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(kind))

    return jax.tree_util.tree_map_with_path(typed, like)


def _optimizer(config, trained, mesh) -> tuple[int, int]:
    """Bytes of its state on a device, and of all of it."""
    transform = builders.build_optimizer(config)[1]
    state = jax.eval_shape(transform.init, trained)
    placed = sharding.of_optimizer(state, trained, mesh)
    return _sum(state, placed), whole(state)


def per_device(tree, mesh) -> int:
    """Bytes of parameters on each device."""
    return _sum(tree, sharding.of_params(tree, mesh))


def whole(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _sum(tree, placed) -> int:
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(placed))
    return sum(
        math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, place in pairs
    )


def _copy(config, cast: Cast, mesh, generator: str) -> list[Part]:
    """The student as ``sharding.for_rollouts`` has it, where that is another copy."""
    shape, weights = wanted(config, cast)["student"]
    held = abstract(shape, weights)
    cast_to = lambda params: sharding.for_rollouts(params, shape.dtype, None)
    read = jax.eval_shape(cast_to, held)
    places = jax.tree.map(lambda _: sharding.replicated(mesh), read)
    if generator == "jit":
        places = sharding.of_params(read, mesh, resting=False)
    new = [
        (leaf, place)
        for old, rests, leaf, place in zip(
            *map(jax.tree.leaves, (held, sharding.of_params(held, mesh), read, places))
        )
        if old.dtype != leaf.dtype
        or rests.shard_shape(leaf.shape) != place.shard_shape(leaf.shape)
    ]
    keys = "student.dtype, mesh.tensor"
    size = _sum(*zip(*new)) if new else 0
    return [_exact("student as it writes", size, keys, "rollout")] * bool(size)


def _cache(config, cast: Cast, mesh, mix, widths, *, generator, held, train) -> Part:
    """Keys and values of as many rows as are drawn at one time: of rollouts, those of a
    teacher that draws with the student or reads along too, or of an evaluation where
    those are more."""
    c, models = config.rollout, wanted(config, cast)
    own = [models["student"][0]]
    beside = [c[key].teacher for key in ("behavior", "early_stop") if c[key].function]
    company = [models[name][0] for name in beside if name in models]
    split = mesh.devices.size if generator == "pmap" else sharding.row_shards(mesh)
    measured = lengths.evaluation_rows(config, mix, held, mesh.devices.size)

    def part(shapes, rows: int, given: int, limit: int, keys: str) -> Part:
        rows = math.ceil(min(rows, c.at_once * split or rows) / split)
        size = lambda slots: sum(
            whole(jax.eval_shape(lambda shape=shape: caches.empty(shape, rows, slots)))
            for shape in shapes
        )
        block = min(c.block_tokens or limit, limit) if generator == "pmap" else limit
        # Under jit the heads of a cache may be split as the student is.
        least = size(widths.prompts[0] + block) // mesh.shape["tensor"]
        return Part("KV cache", size(given + limit), least, "rollout", keys)

    keys = "rollout.at_once, rollout.prompts_per_step, rollout.max_new_tokens"
    fresh = mix.fresh, widths.given[-1], c.max_new_tokens, keys
    parts = [part(own + company, *fresh)] * train
    which = "eval" if config.eval.max_new_tokens else "rollout"
    keys = f"eval.batch_rows, rollout.at_once, {which}.max_new_tokens"
    limit = lengths.evaluation_limit(config)
    parts.append(part(own, measured, widths.prompts[-1], limit, keys))
    return max(parts, key=lambda part: part.most)


def _logits(terms, mesh, shape: Shape, tokens: int) -> Part:
    """Of one chunk of at most so many tokens, of all models that terms read."""
    models = {"student", *(name for term in terms for name in term.models)}
    rows = min(shape.chunk_tokens, tokens) * shape.vocabulary * 4 * len(models)
    keys = "objective.chunk_tokens, objective.chunk_mib"
    return Part("logits of a chunk", rows, rows // mesh.shape["tensor"], "update", keys)


def _states(config, cast: Cast, terms, mesh, tokens: int) -> list[Part]:
    """Of layers that terms read: frozen models' of all rows, the student's of those of
    a micro-batch, both again in float32 there."""
    shapes = {name: shape for name, (shape, _) in wanted(config, cast).items()}
    kept = states.read_of(terms, {name: shape.layers for name, shape in shapes.items()})
    if not kept:
        return []
    split, parts = sharding.row_shards(mesh), config.optimizer.accumulate
    size = 0
    for name, layers in kept.items():
        numbers = tokens // split * len(layers) * shapes[name].width
        held = jnp.dtype(shapes[name].dtype).itemsize
        alone = numbers * held // (parts if name == "student" else 1)
        size += alone + 4 * numbers // parts
    keys = "loss.*.layers, rollout.prompts_per_step, rollout.max_new_tokens"
    return [Part("states between layers", size, 0, "update", keys)]


def limit_of(device) -> int | None:
    """Bytes that a device has for arrays, None where it does not say."""
    return (device.memory_stats() or {}).get("bytes_limit")


def free_on_host() -> int | None:
    """Bytes of memory that the system could give, None where it does not say."""
    file = Path("/proc/meminfo")
    found = file.is_file() and re.search(r"MemAvailable:\s+(\d+) kB", file.read_text())
    return int(found[1]) << 10 if found else None


def check(plan: Plan, device: str, devices: int, free: int | None) -> list[str]:
    """A warning where a run may not fit, from shapes alone.

    Args:
      device: what the device is called.
      devices: how many share the memory of the host; 0 where they have their own.
      free: bytes of that.

    Raises:
      ValueError: a device says what it has, and the plan surely exceeds it.
    """
    least, most = plan.least(), plan.most()
    if plan.limit and least > plan.limit:
        raise ValueError(
            f"the run needs at least {said(least)} on each device, and {device} has "
            f"{said(plan.limit)}: {_largest(plan)}; activations come on top "
            "(student.remat, objective.packing)"
        )
    if plan.limit and most > plan.limit:
        return [
            f"the run may need {said(most)} on each device, where {device} has "
            f"{said(plan.limit)}, if rollouts are that long: {_largest(plan)}"
        ]
    shared = devices * least + plan.host
    if devices and free is not None and shared > free:
        return [
            f"the run needs at least {said(shared)} and {said(free)} of memory are "
            f"free: {_largest(plan)}"
        ]
    return []


def _largest(plan: Plan) -> str:
    parts = sorted(plan.parts, key=lambda part: -part.most)[:3]
    return ", ".join(f"{part.name} {said(part.most)} ({part.keys})" for part in parts)


def line(plan: Plan) -> str:
    """The plan for the start table."""
    total = f"{said(plan.most())} a device, activations apart"
    total += f", of {said(plan.limit)}" if plan.limit else ""
    unit = _unit(plan.most())[1]  # of all of it
    parts = [f"{part.name} {part.most / unit:,.1f}" for part in plan.parts]
    parts += [f"checkpoint copy on the host {plan.host / unit:,.1f}"] * bool(plan.host)
    return f"{total}: {', '.join(parts)}"


def said(size: int) -> str:
    """Bytes as people read them."""
    name, unit = _unit(size)
    return f"{size / unit:,.1f} {name}"


def _unit(size: int) -> tuple[str, int]:
    return ("GiB", 2**30) if size >= 2**30 else ("MiB", 2**20)
