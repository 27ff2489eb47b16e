"""Fits the bridge between the states of a student and a teacher of unlike shape.

    python tools/fit_bridge.py --config=opd --rank=8 --out=bridge.npz
    python -m jopd.main --config=oprd --config.student.path=demo:student \\
        --config.teacher.path=demo:teacher --config.loss.states.signal=oprd.bridged \\
        --config.loss.states.bridge=bridge.npz --config.loss.states.coef=10

The student writes to training prompts as a run of the config would, both read it, and
of every pair of layers (``losses.states.layer_map``) the teacher's first ``--rank``
principal directions and the student's linear map onto them are kept
(``methods.oprd.fit``). Nothing is trained: the map is solved for by least squares,
where the paper takes 20 epochs of a learner (OPRD, arXiv:2606.06021). How much of the
teacher's variance the directions hold, and how near the map comes (cosine), is said.
Other flags are keys of the config, as for ``jopd train``.
"""

import argparse
import runpy
import sys
from pathlib import Path

import jax
import numpy as np

from jopd import commandline
from jopd.batches import collect
from jopd.losses import memories, objective, states
from jopd.methods import oprd
from jopd.reporting import console
from jopd.setup import builders, experiment, overrides, shipped
from jopd.training import stages, step


def rows_of(e: experiment.Experiment, name: str, layers, tokens: int):
    """States [N, L, D] of student and teacher on at most so many response tokens."""
    stage = stages.build_stages(e, builders.build_optimizer(e.config)[1])
    buffer = collect.empty_buffer(e.mix, e.widths.rows[-1])
    kept = memories.start(e.terms, e.shape.vocabulary)
    student = step.TrainState(0, e.params, None, kept)
    reads = {
        who: jax.jit(
            lambda params, batch, who=who: objective.align(
                step.taken_apart(
                    step.hidden_states(e.models[who], params, batch, who, layers[who]),
                    layers[who],
                )[1]
            )
        )
        for who in ("student", name)
    }
    params = {"student": e.params, name: e.frozen[name]}
    found: dict[str, list] = {who: [] for who in reads}
    number = 0
    while sum(len(one) for one in found["student"]) < tokens:
        buffer, got = stage.collect(student, buffer, number)
        mask_BT = np.asarray(got.batch.mask_BT)
        for who, read in reads.items():
            found[who].append(np.asarray(read(params[who], got.batch))[mask_BT])
        number += 1
    return {who: np.concatenate(parts)[:tokens] for who, parts in found.items()}


def fit(config, *, name: str, layers=(), rank: int = 8, tokens: int = 16_384):
    """(bridge, share of variance [L], cosine [L]) of a config's student and teacher.

    Raises:
      ValueError: the teacher's parameters are not here, or as ``oprd.fit``.
    """
    e = experiment.build(config)
    if name not in e.frozen:
        raise ValueError(
            f"--teacher={name!r} has no parameters of its own here; known: "
            f"{', '.join(e.frozen) or 'none'}, and a term must name it"
        )
    if e.base is not None:
        raise ValueError("the student has an adapter; fit the bridge with lora.rank=0")
    term = objective.Term("bridge", oprd.mse, models=(name,), layers=layers)
    chosen = states.layers_of(term, step.layers_in(e.models))
    console.say(f"layers of the student {chosen['student']}, of {name} {chosen[name]}")
    # Two layers may stand beside one: states are read once, in the order of the pairs.
    seen = rows_of(e, name, chosen, tokens)
    both = chosen["student"], chosen[name]
    found = oprd.fit(seen["student"], seen[name], rank, both)
    own = np.einsum("nld,lrd->nlr", seen["student"], found.student)
    centred = seen[name] - found.mean
    others = np.einsum("nld,lrd->nlr", centred, found.teacher)
    share = np.sum(others**2, (0, 2)) / np.sum(centred**2, (0, 2))
    size = np.linalg.norm(own, axis=-1) * np.linalg.norm(others, axis=-1)
    cosine = np.mean(np.sum(own * others, -1) / np.maximum(size, oprd.LEAST), 0)
    return found, share, cosine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--teacher", default="teacher", help="its name in the config")
    parser.add_argument("--layers", default="all", help="of the student, as 1,2,4")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--out", required=True, type=Path)
    words, given = overrides.split(sys.argv[1:])
    args = parser.parse_args(words)
    with commandline.one_error():
        commandline.check_file("--out", args.out)
        file = args.config if args.config.endswith(".py") else shipped.find(args.config)
        config = runpy.run_path(str(file))["get_config"]()
        overrides.apply(config, given)
        layers = args.layers.split(",") if args.layers != "all" else ()
        how = dict(layers=tuple(map(int, layers)), rank=args.rank, tokens=args.tokens)
        found, share, cosine = fit(config.lock(), name=args.teacher, **how)
        with args.out.open("wb") as file:
            np.savez(file, **found._asdict())
        for number, (held, near) in enumerate(zip(share, cosine), start=1):
            console.say(f"pair {number}: {held:.1%} of the variance, cosine {near:.3f}")
        console.say(str(args.out))


if __name__ == "__main__":
    main()
