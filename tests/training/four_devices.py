"""Two updates on four devices in several layouts, and what their programs send.

A process of its own, as devices are counted when jax starts: prints JSON for mesh_test.
"""

import dataclasses
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools" / "bench")]

import collectives  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

import tiny  # noqa: E402
from jopd.losses import signals  # noqa: E402
from jopd.losses.objective import Shape, Term  # noqa: E402
from jopd.models import decoder, sharding  # noqa: E402
from jopd.training import step  # noqa: E402

VOCABULARY, ROWS, WIDTH = 88, 8, 48  # no two sizes are alike
STUDENT = tiny.config(
    vocab_size=VOCABULARY, layers=3, heads=4, kv_heads=2, qk_norm=True, ffn=40
)
TEACHER = tiny.config(
    vocab_size=VOCABULARY, layers=3, heads=4, kv_heads=2, width=32, ffn=72, tied=True
)
TERMS = (
    # Reads what the teacher thinks of a token, so that scoring walks over logits, too.
    Term("opd", signals.policy_gradient, advantage=lambda s: s.logp["teacher"]),
    Term("kl", signals.reverse_kl, source="any"),
)
COEFS = {"opd": jnp.float32(1.0), "kl": jnp.float32(0.5)}
OPTIMIZER = optax.sgd(0.1)
# Axes of the mesh, and what else differs.
LAYOUTS = {
    "one": (None, {}),
    "data": ((4, 1, 1), {}),
    "fsdp": ((1, 4, 1), {}),
    "fsdp, remat, accumulate": ((1, 4, 1), {"remat": True, "accumulate": 2}),
    "data and tensor": ((2, 1, 2), {}),
    "fsdp and tensor": ((1, 2, 2), {}),
    "one, experts": (None, {"experts": 4, "experts_per_token": 2}),
    "data and fsdp, experts": ((2, 2, 1), {"experts": 4, "experts_per_token": 2}),
    "tensor, experts": ((2, 1, 2), {"experts": 4, "experts_per_token": 2}),
}


def held(student, mesh):
    """Parameters, frozen parameters and a batch where they belong."""
    params = tiny.params(student, 0, 0.1)
    frozen = {"teacher": tiny.params(TEACHER, 7, 0.1)}
    batch = tiny.batch(0, rows=ROWS, width=WIDTH, vocabulary=VOCABULARY)
    if mesh is None:
        return params, frozen, batch
    put = lambda tree: jax.device_put(tree, sharding.of_params(tree, mesh))
    batch = jax.device_put(batch, sharding.rows(mesh))
    return put(params), {"teacher": put(frozen["teacher"])}, batch


def run(axes, *, accumulate: int = 1, **changes) -> dict:
    """Losses, parameters and programs of two updates."""
    mesh = axes and sharding.make_mesh(*axes)
    student = dataclasses.replace(STUDENT, **changes)
    params, frozen, batch = held(student, mesh)
    models = {
        "student": decoder.Decoder(student, mesh),
        "teacher": decoder.Decoder(TEACHER, mesh),
    }
    shape = Shape(VOCABULARY, chunk_tokens=24, rows=mesh and sharding.rows(mesh))
    cut = dict(accumulate=accumulate)
    prepare = step.make_prepare(models, TERMS, shape, **cut)
    update = step.make_update(models["student"], TERMS, OPTIMIZER, shape, **cut)
    state = step.TrainState(jnp.int32(0), params, OPTIMIZER.init(params))
    prepare = prepare.lower(state.params, frozen, batch).compile()
    prepared = prepare(state.params, frozen, batch)
    update = jax.jit(update).lower(state, frozen, batch, prepared, COEFS).compile()
    losses, places = [], jax.tree.map(lambda x: x.sharding, params)
    for _ in range(2):
        # As given: what is compiled ahead wants what it was compiled for.
        params = jax.device_put(state.params, places)
        state = state._replace(params=params)
        prepared = prepare(params, frozen, batch)
        state, metrics, _ = update(state, frozen, batch, prepared, COEFS)
        losses.append(float(metrics["loss"]))
    programs = {"prepare": prepare, "update": update}
    pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(places))
    return {
        "losses": losses,
        "params": [np.asarray(x).tolist() for x in jax.tree.leaves(state.params)],
        "stays": all(x.sharding.is_equivalent_to(place, x.ndim) for x, place in pairs),
        "sent": {
            name: collectives.sent(program.as_text())
            for name, program in programs.items()
        },
        "bytes": {
            name: program.memory_analysis().temp_size_in_bytes
            for name, program in programs.items()
        },
    }


if __name__ == "__main__":
    found = {name: run(axes, **more) for name, (axes, more) in LAYOUTS.items()}
    print(json.dumps(found))
