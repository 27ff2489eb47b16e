"""The stages of an update lowered for a mesh from shapes alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies

from jopd.losses import signals
from jopd.losses.objective import Shape, Term
from jopd.models import decoder, sharding
from jopd.rollouts import sampling
from jopd.rollouts.generate import Request, generate
from jopd.training import step
from jopd.types import Batch, Rollout


def config(sizes, vocab: int, **more) -> decoder.DecoderConfig:
    names = ("width", "layers", "heads", "kv_heads", "head_dim", "ffn")
    return decoder.DecoderConfig(
        vocab_size=vocab,
        max_positions=65536,
        qk_norm=True,
        **dict(zip(names, sizes, strict=True)),
        **more,
    )


def placed(tree, places):
    """Shapes on their devices."""
    put = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
    return jax.tree.map(put, tree, places)


def mesh_of(args) -> jax.sharding.Mesh:
    """Over forced devices of the CPU, or those of a TPU that is not there."""
    if not args.topology:
        return sharding.make_mesh(args.data, args.fsdp, args.tensor)
    devices = topologies.get_topology_desc(args.topology, "tpu").devices
    shape = args.data, args.fsdp, args.tensor
    kinds = (jax.sharding.AxisType.Auto,) * 3
    return jax.sharding.Mesh(
        np.array(devices).reshape(shape), sharding.AXES, axis_types=kinds
    )


def params_of(shape, dtype: str, mesh):
    tree = jax.eval_shape(lambda: decoder.init(shape, jax.random.key(0), dtype))
    return placed(tree, sharding.of_params(tree, mesh))


def batch_of(rows: int, tokens: int, mesh) -> Batch:
    f = lambda dtype, *shape: jax.ShapeDtypeStruct(
        shape, dtype, sharding=sharding.rows(mesh)
    )
    B, T = rows, tokens
    rollout = Rollout(
        tokens_BT=f("int32", B, T),
        source_BT=f("int32", B, T),
        prompt_length_B=f("int32", B),
        length_B=f("int32", B),
        behavior_logp_BT=f("float32", B, T),
        finished_B=f("bool", B),
        group_B=f("int32", B),
        age_B=f("int32", B),
    )
    return Batch(rollout, f("bool", B, T), f("float32", B), f("int32", B))


def stages(args, sizes):
    """(name, function that lowers it) of what is asked for."""
    mesh = mesh_of(args)
    more = dict(vocab=args.vocab, dtype=args.dtype)
    student = config(sizes[args.student], remat=not args.no_remat, **more)
    teacher = config(sizes[args.teacher], **more)
    models = {
        "student": decoder.Decoder(student, mesh),
        "teacher": decoder.Decoder(teacher, mesh),
    }
    terms = (Term("exact", signals.reverse_kl, models=("teacher",)),)
    shape = Shape(args.vocab, 128, rows=sharding.rows(mesh))
    params = params_of(student, "float32", mesh)
    frozen = {"teacher": params_of(teacher, args.dtype, mesh)}
    batch = batch_of(args.rows, args.tokens, mesh)
    whole = sharding.replicated(mesh)
    optimizer = optax.adamw(1e-4)
    prepare = step.make_prepare(models, terms, shape, replicated=whole)
    update = step.make_update(models["student"], terms, optimizer, shape)
    if args.stage in ("prepare", "both"):
        yield "prepare", lambda: prepare.lower(params, frozen, batch)
    if args.stage in ("update", "both"):
        ready = jax.eval_shape(prepare, params, frozen, batch)
        split = lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=sharding.rows(mesh) if x.ndim > 1 else whole
        )
        ready = jax.tree.map(split, ready)
        state = jax.eval_shape(optimizer.init, params)
        state = placed(state, sharding.of_optimizer(state, params, mesh))
        count = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
        held = step.TrainState(count, params, state)
        coefs = {"exact": jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)}
        yield (
            "update",
            lambda: jax.jit(update, donate_argnums=0).lower(
                held, frozen, batch, ready, coefs
            ),
        )
    if args.stage == "generate":
        rows = lambda dtype, *size: jax.ShapeDtypeStruct(
            size, dtype, sharding=sharding.rows(mesh)
        )
        B = args.rows
        asked = Request(
            rows("int32", B, 256),
            *(rows("int32", B) for _ in range(4)),
            rows("int32", B, 256),
        )
        places = sharding.of_params(params, mesh, resting=False)
        cast = params_of(student, args.dtype, mesh)
        bound = functools.partial(
            generate,
            model=decoder.Decoder(student),
            max_new_tokens=args.tokens,
            stop_ids=(0,),
            vocabulary=args.vocab,
            filters=sampling.Filter(1.0, 0, 1.0, 0.0),
        )
        key = jax.eval_shape(lambda: jax.random.key(0))
        yield "generate", lambda: jax.jit(bound).lower(placed(cast, places), asked, key)
