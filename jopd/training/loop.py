"""The loop: collect, prepare, update, log, evaluate, save; method names unknown."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jopd.batches import collect
from jopd.reporting import console, diagnostics, metrics
from jopd.setup import adapter, schedules, validation
from jopd.setup.experiment import Experiment, build
from jopd.setup.summary import summary_rows
from jopd.teachers import moving
from jopd.training import control, ending, idle, kept, observe, origins, sums, workdir
from jopd.training.state import Run, open_run, save, save_reached, saved_if_it_fails
from jopd.types import STUDENT


def run(config, directory) -> dict:
    """Trains as ``config`` says, leaving everything in ``directory``.

    Running it again with the same arguments continues from the newest checkpoint, bit
    for bit as if it had not stopped (on the same devices).

    Returns:
      The summary, also in ``summary.json``; after SIGTERM, SIGINT or SIGHUP
      ``{"interrupted": step}``, None where nothing was trained yet.

    Raises:
      ValueError: bad config or input, before anything is compiled.
      FloatingPointError: NaN or infinity in a loss or gradient; checkpoints are kept.
    """
    began = time.perf_counter()
    directory = Path(directory)
    validation.validate(config)
    config = adapter.continuing(workdir.dated(directory, config))
    written = workdir.written(config.to_dict())
    if config.compilation_cache:
        workdir.use_compilation_cache()
    with (
        console.lasting_streams(),
        workdir.locked(directory),
        control.CompileCounter() as compiled,
        jax.debug_nans(config.jax_debug_nans),
        control.Interrupt() as interrupt,
    ):
        run = None
        metrics.check_trackers(config.log.tensorboard, config.log.wandb_project)
        if workdir.prepare(directory, written) and config.init_from.run:
            kept.pick(Path(config.init_from.run), config.init_from.checkpoint)
        try:
            e = build(config)
            made_of = origins.found(e)
            origins.check(directory, made_of)
            workdir.write_config(directory, written)
            origins.keep(directory, made_of)
            console.startup(summary_rows(e))
            for note in e.notes:
                console.warn(note)
            run = open_run(e, directory, compiled)
            train(e, run, began, interrupt)
            return ending.finish(e, run)
        except control.Stop:
            return stopped(run, directory)


def train(e: Experiment, run: Run, began: float, interrupt: control.Interrupt) -> None:
    """All updates that are left; whatever ends them, those that were made are kept."""
    try:
        loop(e, run, began, interrupt)
    except control.Stop:
        with interrupt.held():
            save_reached(run)
        raise
    finally:
        with interrupt.held():
            run.saver.wait()  # what is being written may be the last good checkpoint


def stopped(run: Run | None, directory: Path) -> dict:
    """Says where a run was stopped, which saved itself if it was open already."""
    saved = sums.steps_in(directory / "checkpoints")
    step = max(saved, default=None) if run is None else int(run.state["train"].step)
    where = "before its first update" if step is None else f"at step {step}"
    console.say(f"stopped {where}; the same command continues")
    return {"interrupted": step}


def loop(e: Experiment, run: Run, began: float, interrupt: control.Interrupt) -> None:
    """Updates until ``config.steps``, of which the last is saved."""
    c, record = e.config, run.record
    spent = record["wall_seconds"]
    start = int(run.state["train"].step)
    idle_for: dict[str, int] = {}
    if "before" not in record:
        record["before"] = observe.measure(e, run, start, "before")
        if record["before"]:
            run.writer.write(start, observe.evaluation_metrics(record["before"]))
    if record.get("unmeasured") == start and evaluation_is_due(c, start):
        make_up(e, run, start, interrupt)
    with console.Progress(c.steps, start_step=start) as progress:
        for done in range(start, c.steps):
            interrupt.check()
            clock = time.perf_counter()
            with saved_if_it_fails(run):
                drawn = gather(e, run, done)
                with interrupt.held():
                    update = advance(e, run, done, drawn)
                    record.setdefault(
                        "seconds_to_first_step", time.perf_counter() - began
                    )
                    if _due(c.log.every_steps, done + 1, c.steps):
                        log_step(e, run, done, update, clock)
                        for line in idle.idle_terms(e, update.logged, idle_for):
                            console.warn(line)
                    progress.update(done + 1, update.logged)
                    record["wall_seconds"] = spent + time.perf_counter() - began
                keep(e, run, done + 1, update, interrupt)
    with interrupt.held():
        save_reached(run)
    interrupt.check()  # asked for in the last update


class Drawn(NamedTuple):
    """What an update is made of; ``buffer`` is as it will be after it."""

    buffer: Any
    got: collect.Collected
    logged: dict


class Update(NamedTuple):
    """One update as it went. ``logged`` grows until it is written; ``judged`` are its
    fresh rollouts as ``observe.judged`` gives them, None where nothing asked for it.
    """

    got: collect.Collected
    parts: dict[str, jax.Array]
    sampled: int
    logged: dict
    judged: tuple | None


def gather(e: Experiment, run: Run, done: int) -> Drawn:
    """Rows of the update after ``done`` others. Changes nothing: may be repeated.

    Raises:
      FloatingPointError: sampler and trainer disagree.
    """
    c, state, clock = e.config, run.state, time.perf_counter()
    student = state["train"]
    buffer, got = run.stages.collect(student, state["buffer"], done)
    logged = {"speed/seconds_collect": time.perf_counter() - clock, **got.facts}
    if got.fresh is not None and _due(c.log.check_sampler_every_steps, done):
        found, said = observe.check_sampler(e, run.stages, student, got, done)
        logged |= found
        if said and run.record.setdefault("sampler_gap_said", done) == done:
            console.warn(said[0])
    return Drawn(buffer, got, logged)


def advance(e: Experiment, run: Run, done: int, drawn: Drawn) -> Update:
    """The update after ``done`` others: prepare, update, move teachers.

    All that it changes in ``run`` is changed before anything is looked at, which may
    fail: a checkpoint of then is of one step throughout.

    Raises:
      FloatingPointError: a loss or the gradient is NaN or infinite.
    """
    c, stages, state, record = e.config, run.stages, run.state, run.record
    student, (_, got, logged) = state["train"], drawn
    coefs = schedules.coefficients(c, done)
    frozen = e.frozen | state["teachers"]
    prepared = stages.prepare(student.params, frozen, got.batch, student.memory)
    seen = (frozen, got.batch, prepared, coefs)
    if _due(c.log.gradient_every_steps, done + 1):
        logged |= stages.term_norms(student.params, *seen)
    sampled = 0 if got.fresh is None else observe.tokens_in(got.fresh, STUDENT)
    read = observe.teacher_tokens(e, got, done)
    state["train"], numbers, parts = stages.update(student, *seen)
    state["buffer"] = drawn.buffer
    logged |= move_teachers(e, run, got, done + 1)
    record["tokens_sampled"] += sampled
    record["teacher_tokens"] += read
    if done == 0:
        for line in observe.check_ratio(e, got, parts):
            console.warn(line)
    # The devices are at work from here until the first of their numbers is read.
    judged = None
    if got.fresh is not None and _due(c.log.every_steps, done + 1, c.steps):
        judged = observe.judged(e, got.fresh)
        logged |= observe.describe_rollouts(e, judged)
    logged |= {name: float(value) for name, value in numbers.items()}
    observe.stop_if_unfinite(e, logged, parts, got.batch, done + 1)
    return Update(got, parts, sampled, logged, judged)


def move_teachers(e: Experiment, run: Run, got, at: int) -> dict:
    """Teachers that follow the student do so; returns what is logged of it."""
    state, record = run.state, run.record
    outcome = got.fresh and diagnostics.outcome(got.fresh)
    record["gates"], opened, logged = moving.pass_gates(
        e.teachers, record["gates"], outcome, at
    )
    state["teachers"] = moving.move(
        e.teachers, state["teachers"], state["train"].params, at, opened
    )
    return logged


def log_step(e: Experiment, run: Run, done: int, update: Update, clock: float) -> None:
    """Adds what is only computed for steps that are logged."""
    logged, coefs = update.logged, schedules.coefficients(e.config, done)
    logged |= {f"coef/{name}": value for name, value in coefs.items()}
    logged["optim/learning_rate"] = float(run.learning_rate(done))
    visited = (done + 1) * collect.visited(e.mix)
    logged["epoch"] = visited / len(e.rows.train.prompts)
    ngram = e.config.repetition.ngram
    logged |= diagnostics.token_metrics(update.parts, update.got.batch, ngram=ngram)
    seconds = time.perf_counter() - clock
    logged["speed/seconds_step"] = seconds
    logged["speed/tokens_per_second"] = observe.tokens_in(update.got.batch) / seconds
    logged["speed/sampled_per_second"] = update.sampled / seconds
    logged["speed/compilations"] = run.compiled.count


def keep(
    e: Experiment, run: Run, at: int, update: Update, interrupt: control.Interrupt
) -> None:
    """Evaluates, writes and saves what is due at step ``at``."""
    c, due = e.config, evaluation_is_due(e.config, at)
    logs = _due(c.log.every_steps, at, c.steps) or _due(c.log.gradient_every_steps, at)
    try:
        if due:
            update.logged.update(evaluate(e, run, at, interrupt))
    finally:  # an evaluation that was cut short takes no line with it
        with interrupt.held():
            if logs or due:
                run.writer.write(at, update.logged)
            if update.got.fresh is not None and _due(c.log.samples_every_steps, at):
                seen = (update.got, update.parts, update.judged)
                observe.keep_rollouts(e, run, at, *seen)
    run.record.pop("unmeasured", None)
    if save_is_due(c, run, at):
        with interrupt.held():
            save(run, at)


def evaluation_is_due(c, at: int) -> bool:
    """In the course of a run; that of its last step comes when it is done."""
    return _due(c.eval.every_steps, at) and at < c.steps


def evaluate(e: Experiment, run: Run, at: int, interrupt: control.Interrupt) -> dict:
    """The scalars of an evaluation in the course of a run.

    A checkpoint saved before it is done says so: a run that goes on there makes it up.
    """
    run.record["unmeasured"] = at
    interrupt.check()
    found = observe.measure(e, run, at, "train")
    run.record["judged"] = [at, observe.goodness(found)]
    return observe.evaluation_metrics(found)


def make_up(e: Experiment, run: Run, at: int, interrupt: control.Interrupt) -> None:
    """The evaluation that a signal or a failure kept from checkpoint ``at``."""
    run.writer.write(at, evaluate(e, run, at, interrupt))
    run.saver.judge(at, run.record["judged"][1])
    del run.record["unmeasured"]


def save_is_due(c, run: Run, at: int) -> bool:
    """By steps, or by the clock since the last one."""
    minutes = c.checkpoint.every_minutes
    late = bool(minutes) and run.saver.seconds_since() >= 60 * minutes
    return late or _due(c.checkpoint.every_steps, at)


def _due(every: int, at: int, last: int | None = None) -> bool:
    """Whether ``at`` is one of every ``every`` steps (0: never) or the last one."""
    return (bool(every) and at % every == 0) or at == last
