"""The functions of a run, bound to its experiment; nothing compiles before a call."""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

from jopd.batches import collect
from jopd.batches.asking import Writer
from jopd.losses import states
from jopd.models import lora, sharding
from jopd.reporting import evaluation, statistics
from jopd.rollouts import sampling
from jopd.setup import lengths, schedules
from jopd.setup.experiment import Experiment
from jopd.training import own_tokens, served, step
from jopd.training.annotations import make_annotate
from jopd.training.placing import deal_rows, place_rows
from jopd.training.writers import (
    make_generate,
    make_prefix,
    placed,
    rollout_writer,
    shared_reading,
    train_filters,
)


class Stages(NamedTuple):
    """The compiled functions of a run."""

    collect: Any
    prepare: Any
    update: Any
    term_norms: Any
    replay_logp: Any
    evaluate: Any


def build_stages(e: Experiment, transform) -> Stages:
    """Binds every stage to an experiment; nothing compiles before its first call.

    With an adapter ``params`` and ``state`` are its own, and so are those of moving
    teachers in ``frozen``: here the base is put beside them.
    """
    whole = functools.partial(lora.joined, base=e.base)
    wholes = lambda frozen: {name: whole(params) for name, params in frozen.items()}
    beside = functools.partial(beside_base, e)
    here = sorted(e.teachers.keys() - e.without_logits)
    models = {name: e.models[name] for name in ("student", *here)}
    student = models["student"]
    more = dict(panels=e.panels, accumulate=e.config.optimizer.accumulate)
    read = dict(layers=step.layers_in(models)) if states.of_states(e.terms) else {}
    collect_rows, evaluate = make_collect(e), make_evaluate(e)
    prepare = step.make_prepare(
        models, e.terms, e.shape, replicated=sharding.replicated(e.mesh), **more
    )
    update = step.make_update(
        student,
        e.terms,
        transform,
        e.shape,
        with_facts=e.config.log.token_facts,
        **more,
        **read,
    )
    norms = step.make_term_norms(student, e.terms, e.shape, **more, **read)
    replay_logp = step.make_replay_logp(student, train_filters(e.config), e.shape)
    return Stages(
        collect=lambda student, *rest: collect_rows(
            student._replace(params=whole(student.params)), *rest
        ),
        prepare=lambda params, frozen, *rest: prepare(
            whole(params), wholes(frozen), *rest
        ),
        update=lambda state, frozen, *rest: update(state, beside(frozen), *rest),
        term_norms=lambda params, frozen, *rest: norms(params, beside(frozen), *rest),
        replay_logp=lambda params, *rest: replay_logp(whole(params), *rest),
        evaluate=lambda params, frozen: evaluate(whole(params), wholes(frozen)),
    )


def beside_base(e: Experiment, frozen: dict[str, Any]) -> dict[str, Any]:
    """``frozen`` as ``step.make_gradient`` reads it: whole models, and with an adapter
    the student's base."""
    whole = {name: lora.joined(params, e.base) for name, params in frozen.items()}
    return whole | ({"student": e.base} if e.base else {})


def make_collect(e: Experiment):
    """``(student, buffer, step) -> (buffer, Collected)`` as the config mixes rows.

    ``student`` has ``params`` and ``memory``, as a ``TrainState`` has.
    """
    rows, made = e.rows.training, make_annotate(e)
    horizon = schedules.horizon(e.config)
    if not e.rewards_first:
        # Rewards that nothing reads are given while the devices update.
        rows = rows._replace(verifier=None)
    return collect.make_collect(
        rows,
        rollout_writer(e),
        e.mix,
        seed=e.config.seed,
        # Packed rows are cut by their packing: one width fewer that programs know.
        widths=e.widths.rows[-1:] if e.config.objective.packing else e.widths.rows,
        deal=deal_rows(e),
        prefix=make_prefix(e),
        horizon=horizon and (lambda student, step: horizon(student.memory, step)),
        annotate=made and (lambda student, *rest: made(student.params, *rest)),
    )


def evaluation_rows(e: Experiment) -> int:
    """Rows generated at one time, as many as are needed and divisible by devices."""
    held, devices = len(e.rows.held.prompts), e.mesh.devices.size
    return lengths.evaluation_rows(e.config, e.mix, held, devices)


def make_evaluate(e: Experiment, *, save_all: bool = False):
    """``(params, frozen) -> (numbers, samples)`` as ``config.eval`` says.

    Divergences are those to ``teacher``, over all rows whatever its route; other models
    only serve terms.
    """
    c, rows = e.config, evaluation_rows(e)
    read = make_reading(e, {"teacher"} & e.teachers.keys())
    limit = lengths.evaluation_limit(c)
    shapes = dict(buckets=e.widths.prompts[-1:], limit=limit)
    write = functools.partial(make_generate, e, max_new_tokens=limit)
    drawn = sampling.Filter(temperature=c.eval.temperature, top_p=c.eval.top_p)
    copies = shared_reading(e, rows, c.eval.k)
    bound = functools.partial(
        evaluation.evaluate,
        rows=e.rows.held_out,
        sampled=Writer(write(drawn, copies=copies), **shapes),
        greedy=Writer(write(sampling.Filter(temperature=0.0)), **shapes),
        asked=evaluation.Asked(
            prompts=c.eval.prompts,
            k=c.eval.k,
            batch_rows=rows,
            seed=c.seed,
            repetition=repetition_test(e, limit),
            temperature=c.eval.temperature,
            top_p=c.eval.top_p,
            leak_pattern=c.log.leak_pattern,
            save_samples=c.eval.save_samples,
            save_all=save_all,
        ),
    )

    def evaluate(params, frozen):
        facts = functools.partial(read, params, frozen)
        return bound(placed(e, "student", params), facts=facts)

    return evaluate


def make_reading(e: Experiment, names: Iterable[str], named=None):
    """``(params, frozen, batch) -> token facts`` of held-out rows.

    ``names``: teachers that the student is compared with; ``named``: facts of one's
    own. A teacher that shows no logits has only log-probabilities of what was written.
    """
    compared = {"student", *names} & e.models.keys() - e.without_logits
    models = {name: e.models[name] for name in sorted(compared)}
    token_facts = step.make_facts(models, e.shape, named)
    own = {name: held for name, (_, held) in e.rows.own_prompts.items()}
    place = place_rows(e, {name: own[name] for name in own if name in models})
    others = [own_tokens.make_scored(e, n) for n in names if n in e.of_own_tokens]
    others += [served.make_scored(e, n) for n in names if n in e.served]

    def read(params, frozen, batch):
        for scored in others:
            batch = scored(batch)
        theirs = {name: frozen.get(name, params) for name in models}
        theirs.pop("student")
        return token_facts(params, theirs, place(batch))

    return read


def repetition_test(e: Experiment, limit: int):
    """``text -> bool`` with the config's thresholds or those of texts of so many tokens
    at most."""
    c = e.config.repetition
    tail, threshold = statistics.repetition_limits(limit)
    return functools.partial(
        statistics.repetition,
        tail=c.tail_chars or tail,
        threshold=c.threshold or threshold,
    )
