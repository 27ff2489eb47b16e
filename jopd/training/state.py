"""What a run holds from step to step: opened, restored and saved."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopd.batches import collect
from jopd.losses import memories
from jopd.models import sharding
from jopd.reporting import console, metrics
from jopd.setup import builders
from jopd.setup.experiment import Experiment
from jopd.teachers import moving
from jopd.training import control, kept, step, workdir
from jopd.training.checkpoint import Checkpointer
from jopd.training.stages import Stages, build_stages


class Run(NamedTuple):
    """What the loop holds on to; ``state`` and ``record`` change from step to step.

    ``state`` is what a checkpoint stores: train state, replay buffer and the teachers
    that move. ``record`` is what travels with it as JSON: numbers that a resumed run
    could not know. ``compiled`` counts the programs of this process.
    """

    directory: Path
    stages: Stages
    learning_rate: Any
    state: dict
    record: dict
    saver: Checkpointer
    writer: metrics.Writers
    compiled: control.CompileCounter


def open_run(e: Experiment, directory: Path, compiled: control.CompileCounter) -> Run:
    """Stages bound, newest checkpoint restored, logs cut to where it stands."""
    c = e.config
    learning_rate, transform = builders.build_optimizer(c)
    train = first_state(e, transform)
    state = {
        "train": train,
        # Placed, so that a restored buffer lies where an uninterrupted run has it.
        "buffer": jax.device_put(
            collect.empty_buffer(e.mix, e.widths.rows[-1]),
            e.mesh.devices.flat[0],
        ),
        "teachers": moving.start(e.teachers, e.params),
    }
    record = {
        "tokens_sampled": 0,
        "teacher_tokens": 0,
        "wall_seconds": 0.0,
        "gates": moving.first_gates(e.teachers),
    }
    saver = Checkpointer(
        directory / "checkpoints",
        keep_last=c.checkpoint.keep_last,
        keep_best=c.checkpoint.keep_best,
    )
    restored = saver.restore(state)
    if restored is not None:
        at, state, found = restored
        record |= found
        console.say(f"resumed from step {at}")
    elif c.init_from.run:
        state |= start_from(e, train)
    record["stop_ids"] = list(e.stop_ids)
    record["about"] = about(e)
    at = int(state["train"].step)
    if at > c.steps:
        raise ValueError(
            f"workdir {directory} is at step {at} already, past steps={c.steps}; raise "
            f"steps or choose another with --workdir=DIR"
        )
    workdir.cut_samples(
        directory,
        after=at,
        started=restored is not None,
        unmeasured=record.get("unmeasured"),
    )
    writer = metrics.open_writers(
        directory,
        last_step=at,
        tensorboard=c.log.tensorboard,
        wandb=c.log.wandb_project or None,
        name=c.name,
        config=workdir.written(c.to_dict()),
    )
    stages = build_stages(e, transform)
    return Run(directory, stages, learning_rate, state, record, saver, writer, compiled)


def about(e: Experiment) -> dict:
    """What a model card says of a run beside its config and its evaluations."""

    def whose(t) -> str:
        known = {"path": t.path, "served": f"{t.model}, behind a server"}
        known["stored"] = f"scores in {t.path}"
        return known.get(t.weights, f"the {t.weights} student")

    return {
        "rows": [len(e.rows.train.prompts), len(e.rows.held.prompts)],
        "teachers": {name: whose(teacher) for name, teacher in e.teachers.items()},
        "versions": workdir.versions(),
        "commit": workdir.git_commit(),
    }


def first_state(e: Experiment, transform) -> step.TrainState:
    """Parameters as loaded, a fresh optimizer state and empty memories beside them."""
    opt_state = jax.jit(
        transform.init,
        out_shardings=sharding.of_optimizer(
            jax.eval_shape(transform.init, e.params), e.params, e.mesh
        ),
    )(e.params)
    fresh = jnp.int32(0), memories.start(e.terms, e.shape.vocabulary)
    counter, memory = jax.device_put(fresh, sharding.replicated(e.mesh))
    return step.TrainState(counter, e.params, opt_state, memory)


def start_from(e: Experiment, fresh: step.TrainState) -> dict:
    """What differs in a first state that another run's student gives."""
    c = e.config.init_from
    at = kept.pick(Path(c.run), c.checkpoint)
    train = kept.train_state(Path(c.run), at, fresh, optimizer=c.optimizer)
    console.say(f"starts from checkpoint {at} of {c.run}")
    return {"train": train, "teachers": moving.start(e.teachers, train.params)}


@jax.jit
def finite(tree) -> jax.Array:
    """Whether no leaf holds NaN or infinity."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def save(run: Run, at: int) -> None:
    """Saves what ``run`` holds, unless the last update broke the parameters.

    It is judged by the evaluation of this step, where there was one.

    Raises:
      FloatingPointError: a later start from such a checkpoint could only fail.
    """
    if not finite(run.state["train"].params):
        raise FloatingPointError(
            f"step {at}: the update gave parameters that are NaN or infinite; the run "
            f"stops, they are not saved and earlier checkpoints are kept. Lower "
            f"optimizer.learning_rate"
        )
    step, metric = run.record.get("judged", (at, None))
    metric = metric if step == at else None
    run.saver.save(at, run.state, run.record, metric=metric)


def save_reached(run: Run) -> None:
    """Saves the last update, unless it is saved already."""
    reached = int(run.state["train"].step)
    if reached not in run.saver.steps():
        save(run, reached)


@contextlib.contextmanager
def saved_if_it_fails(run: Run):
    """What fails between two updates, a server or a writer, costs none of them.

    Wrong numbers (``FloatingPointError``) are not saved. That the save fails, too, on a
    full disk perhaps, is not what there is to say.
    """
    try:
        yield
    except FloatingPointError:
        raise
    except Exception:
        with contextlib.suppress(Exception):
            save_reached(run)
        raise
