"""The loop: collect, prepare, update, log, evaluate, save; method names unknown."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopd import (
    collect,
    console,
    control,
    diagnostics,
    evaluate,
    inputs,
    metrics,
    report,
    sharding,
    step,
    teachers,
    validation,
    workdir,
)
from jopd import config as configs
from jopd import experiment as experiments
from jopd.checkpoint import Checkpointer
from jopd.models import hf
from jopd.stages import Stages, build_stages, place_rows, repetition_test
from jopd.types import STUDENT


def first_state(e: experiments.Experiment, transform) -> step.TrainState:
    """Parameters as loaded, a fresh optimizer state beside them."""
    opt_state = jax.jit(
        transform.init,
        out_shardings=sharding.of_optimizer(
            jax.eval_shape(transform.init, e.params), e.params, e.mesh
        ),
    )(e.params)
    counter = jax.device_put(jnp.int32(0), sharding.replicated(e.mesh))
    return step.TrainState(counter, e.params, opt_state)


def check_sampler(e, stages: Stages, state, got: collect.Collected, at: int) -> dict:
    """Recorded against recomputed log-probs, in nats: their mean and largest gap.

    A wrong position, mask or temperature shows in the mean. The largest gap of a sharp
    model is rounding, a few 1e-5 where one unit in the last place of the weights moves
    as much, so only a hundredfold tolerance is asked of it.

    Raises:
      FloatingPointError: above ``log.sampler_tolerance`` in float32.
    """
    fresh = place_rows(e)(got.fresh)
    logp_BT = stages.replay_logp(state.params, fresh)
    gap_BT = jnp.abs(logp_BT - fresh.rollout.behavior_logp_BT)
    # A token at the edge of top-p or min-p may fall outside when it is recomputed.
    cut = e.config.rollout.top_p < 1 or e.config.rollout.min_p > 0
    drawn_BT = fresh.mask_BT & (fresh.rollout.source_BT == STUDENT)
    compared_BT = drawn_BT & (jnp.isfinite(logp_BT) | (not cut))
    gap_BT = jnp.where(compared_BT, gap_BT, 0.0)
    largest = float(jnp.max(gap_BT))
    average = float(jnp.sum(gap_BT) / jnp.maximum(jnp.sum(drawn_BT), 1))
    tolerance = e.config.log.sampler_tolerance
    wrong = average > tolerance or largest > 100 * tolerance
    if wrong and e.config.student.dtype == "float32":
        raise FloatingPointError(
            f"step {at}: log-probs recorded while sampling differ from the trainer's "
            f"by {average:.1e} nats in the mean and {largest:.1e} at most, more than "
            f"log.sampler_tolerance={tolerance:.0e} (100 times that at most) allows"
        )
    return {"check/sampler_gap_mean": average, "check/sampler_gap_max": largest}


def run(config, directory) -> dict:
    """Trains as ``config`` says, leaving everything in ``directory``.

    Running it again with the same arguments continues from the newest checkpoint, bit
    for bit as if it had not stopped (on the same devices).

    Returns:
      The summary, also in ``summary.json``; after SIGTERM ``{"interrupted": step}``.

    Raises:
      ValueError: bad config or input, before anything is compiled.
      FloatingPointError: NaN or infinity in a loss or gradient; checkpoints are kept.
    """
    began = time.perf_counter()
    directory = Path(directory)
    validation.validate(config)
    workdir.prepare(directory, config.to_dict())
    if config.compilation_cache:
        workdir.use_compilation_cache()
    with (
        control.Interrupt() as interrupt,
        control.CompileCounter() as compiled,
        jax.debug_nans(config.jax_debug_nans),
    ):
        e = experiments.build(config)
        workdir.write_config(directory, config.to_dict())
        console.startup(experiments.summary_rows(e))
        for note in e.notes:
            console.warn(note)
        run = open_run(e, directory)
        try:
            reached = loop(e, run, began, interrupt)
        finally:
            run.saver.wait()  # what is being written may be the last good checkpoint
        if reached < config.steps:
            console.say(f"stopped at step {reached}; the same command continues")
            return {"interrupted": reached}
        return finish(e, run, began, compiled.count)


class Run(NamedTuple):
    """What the loop holds on to; ``held`` and ``record`` change from step to step.

    ``held`` is what a checkpoint stores: train state, replay buffer and the teachers
    that move. ``record`` is what travels with it as JSON: numbers that a resumed run
    could not know.
    """

    directory: Path
    stages: Stages
    learning_rate: Any
    held: dict
    record: dict
    saver: Checkpointer
    writer: metrics.Writers


def open_run(e: experiments.Experiment, directory: Path) -> Run:
    """Stages bound, newest checkpoint restored, logs cut to where it stands."""
    c = e.config
    learning_rate, transform = configs.build_optimizer(c)
    held = {
        "train": first_state(e, transform),
        # Placed, so that a restored buffer lies where an uninterrupted run has it.
        "buffer": jax.device_put(
            collect.empty_buffer(e.mix, e.length_buckets[-1]),
            e.mesh.devices.flat[0],
        ),
        "teachers": teachers.start(e.teachers, e.params),
    }
    record = {
        "tokens_sampled": 0,
        "wall_seconds": 0.0,
        "gates": teachers.first_gates(e.teachers),
    }
    saver = Checkpointer(
        directory / "checkpoints",
        keep_last=c.checkpoint.keep_last,
        keep_best=c.checkpoint.keep_best,
    )
    restored = saver.restore(held)
    if restored is not None:
        at, held, found = restored
        record |= found
        console.say(f"resumed from step {at}")
    at = int(held["train"].step)
    if at > c.steps:
        raise ValueError(
            f"workdir {directory} is at step {at} already, past steps={c.steps}; raise "
            f"steps or choose another with --workdir=DIR"
        )
    workdir.cut_samples(directory, after=at, started=restored is not None)
    writer = metrics.open_writers(
        directory,
        last_step=at,
        tensorboard=c.log.tensorboard,
        wandb=c.log.wandb_project or None,
    )
    stages = build_stages(e, transform)
    return Run(directory, stages, learning_rate, held, record, saver, writer)


def loop(e: experiments.Experiment, run: Run, began: float, interrupt) -> int:
    """Updates until ``config.steps`` or an interrupt; returns the step reached."""
    c, stages, held, record = e.config, run.stages, run.held, run.record
    spent = record["wall_seconds"]
    start = int(held["train"].step)
    if "before" not in record:
        record["before"] = measure(e, run, start, "before")
    with console.Progress(c.steps, start_step=start) as progress:
        for at in range(start, c.steps):
            if interrupt.asked:
                break
            clock = time.perf_counter()
            state = held["train"]
            held["buffer"], got = stages.collect(state.params, held["buffer"], at)
            seconds = time.perf_counter() - clock
            logged = {"speed/seconds_collect": seconds, **got.facts}
            every = c.log.check_sampler_every_steps
            if every and at % every == 0 and got.fresh is not None:
                logged |= check_sampler(e, stages, state, got, at)

            coefs = configs.coefficients(c, at)
            frozen = e.frozen | held["teachers"]
            prepared = stages.prepare(state.params, frozen, got.batch)
            every = c.log.gradient_every_steps
            shared = every and (at + 1) % every == 0
            if shared:
                logged |= stages.term_norms(
                    state.params, frozen, got.batch, prepared, coefs
                )
            held["train"], numbers, parts = stages.update(
                state, frozen, got.batch, prepared, coefs
            )
            outcome = got.fresh and diagnostics.outcome(got.fresh)
            record["gates"], opened, moves = teachers.pass_gates(
                e.teachers, record["gates"], outcome, at + 1
            )
            held["teachers"] = teachers.move(
                e.teachers, held["teachers"], held["train"].params, at + 1, opened
            )
            logged |= moves
            logged |= {name: float(value) for name, value in numbers.items()}
            stop_if_unfinite(logged, at + 1)
            record.setdefault("seconds_to_first_step", time.perf_counter() - began)
            sampled = 0 if got.fresh is None else tokens_in(got.fresh, STUDENT)
            record["tokens_sampled"] += sampled

            due = (at + 1) % c.log.every_steps == 0 or at + 1 == c.steps
            if due:
                logged |= {f"coef/{name}": value for name, value in coefs.items()}
                logged["optim/learning_rate"] = float(run.learning_rate(at))
                logged |= describe(e, got, parts)
                seconds = time.perf_counter() - clock
                logged["speed/seconds_step"] = seconds
                logged["speed/tokens_per_second"] = tokens_in(got.batch) / seconds
                logged["speed/sampled_per_second"] = sampled / seconds
            progress.update(at + 1, logged)
            record["wall_seconds"] = spent + time.perf_counter() - began
            evaluated = None
            if (
                c.eval.every_steps
                and (at + 1) % c.eval.every_steps == 0 < c.steps - at - 1
            ):
                evaluated = measure(e, run, at + 1, "train")
                logged |= evaluation_metrics(evaluated)
            if due or shared or evaluated is not None:
                run.writer.write(at + 1, logged)
            kept = c.log.samples_every_steps
            if kept and (at + 1) % kept == 0 and got.fresh is not None:
                keep_rollouts(e, run, at + 1, got.fresh, parts)
            if c.checkpoint.every_steps and (at + 1) % c.checkpoint.every_steps == 0:
                save(run, at + 1, goodness(evaluated))
    reached = int(held["train"].step)
    if reached not in run.saver.steps():
        save(run, reached)
    return reached


@jax.jit
def finite(tree) -> jax.Array:
    """Whether no leaf holds NaN or infinity."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def save(run: Run, at: int, metric: float | None = None) -> None:
    """Saves what ``run`` holds, unless the last update broke the parameters.

    Raises:
      FloatingPointError: a later start from such a checkpoint could only fail.
    """
    if not finite(run.held["train"].params):
        raise FloatingPointError(
            f"step {at}: the update gave parameters that are NaN or infinite; the run "
            f"stops, they are not saved and earlier checkpoints are kept. Lower "
            f"optimizer.learning_rate"
        )
    run.saver.save(at, run.held, run.record, metric=metric)


def finish(
    e: experiments.Experiment, run: Run, began: float, compilations: int
) -> dict:
    """Evaluates, exports, writes summary and report, and shows the table."""
    c, directory, record = e.config, run.directory, run.record
    after = measure(e, run, c.steps, "after")
    summary = {
        "before": record["before"],
        "after": after,
        "steps": c.steps,
        "wall_seconds": record["wall_seconds"],
        "seconds_to_first_step": record.get("seconds_to_first_step"),
        "compilations": compilations,
        "tokens_sampled": record["tokens_sampled"],
        "config_name": c.name,
        "seed": c.seed,
        "versions": workdir.versions(),
        "git_commit": workdir.git_commit(),
    }
    left = [directory / "summary.json", directory / "metrics.jsonl"]
    workdir.write_json(left[0], summary)
    run.writer.close()
    run.saver.close()
    if c.export.enabled:
        hf.save(
            directory / "export",
            e.models["student"].config,
            run.held["train"].params,
            source=inputs.model_path(c.student.path),
        )
        left.append(directory / "export")
    left.append(report.write_report(directory))
    console.before_after(summary["before"], after, left)
    return summary


def measure(e, run: Run, at: int, phase: str) -> dict:
    """Evaluates the student as it is and keeps a few of its rollouts."""
    frozen = e.frozen | run.held["teachers"]
    found, samples = run.stages.evaluate(run.held["train"].params, frozen)
    workdir.append_samples(run.directory / "samples.jsonl", at, phase, samples)
    return found


def keep_rollouts(e, run: Run, at: int, fresh, parts: dict) -> None:
    """Adds a few of an update's rollouts to ``samples.jsonl``."""
    group = evaluate.Rolled(
        jax.tree.map(np.asarray, fresh),
        collect.responses(e.tokenizer, fresh.rollout),
        # Fresh rows come first in a batch, so theirs are the first rows of the parts.
        {key: np.asarray(parts[key]) for key in parts if key.startswith("logp/")},
        len(fresh.reward_B),
    )
    count = min(e.config.eval.save_samples, group.count)
    rows = [
        evaluate.sample_row(group, row, e.train, e.tokenizer, e.verifier)
        for row in range(count)
    ]
    workdir.append_samples(run.directory / "samples.jsonl", at, "rollout", rows)


def evaluation_metrics(found: dict) -> dict:
    """The scalars of an evaluation under ``eval/``."""
    return {
        f"eval/{name}": value
        for name, value in found.items()
        if isinstance(value, (int, float))
    }


def goodness(found: dict | None) -> float | None:
    """What keep-best compares: avg@k with a verifier, else -KL to the teacher."""
    if found is None:
        return None
    if found["avg_at_k"] is not None:
        return found["avg_at_k"]
    return None if found["reverse_kl"] is None else -found["reverse_kl"]


def describe(e: experiments.Experiment, got: collect.Collected, parts: dict) -> dict:
    """Host-side numbers of one update: rollout health and means of token facts."""
    found = diagnostics.token_metrics(parts, got.batch, ngram=e.config.repetition.ngram)
    if got.fresh is not None:
        texts = collect.responses(e.tokenizer, got.fresh.rollout)
        found |= diagnostics.rollout_metrics(got.fresh, texts, repetition_test(e))
    return found


def tokens_in(batch, source: int | None = None) -> int:
    """Response tokens of a batch, of one source or of all."""
    counted_BT = np.asarray(batch.mask_BT)
    if source is not None:
        counted_BT = counted_BT & (np.asarray(batch.rollout.source_BT) == source)
    return int(counted_BT.sum())


def stop_if_unfinite(logged: dict, at: int) -> None:
    name = diagnostics.unfinite(logged)
    if name is not None:
        raise FloatingPointError(
            f"step {at}: {name} is {logged[name]}; the run stops and its checkpoints "
            "are kept. Lower optimizer.learning_rate, or look at the last good metrics"
        )
