"""The functions of a run, bound to its experiment; nothing compiles before a call."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopd.batches import collect, layout
from jopd.data.dataset import Dataset
from jopd.models import sharding
from jopd.reporting import evaluation, leaks, statistics
from jopd.rollouts import blocks, sampling, watch
from jopd.rollouts.generate import generate as one_loop
from jopd.setup import config as configs
from jopd.setup import inputs, optimizer
from jopd.setup.experiment import Experiment
from jopd.teachers import audit, peers, remote, similarity
from jopd.training import step

PREFIX_STREAM = 2**31 - 1  # apart from the steps, which are folded into the same key


class Stages(NamedTuple):
    """The compiled functions of a run."""

    collect: Any
    prepare: Any
    update: Any
    term_norms: Any
    replay_logp: Any
    evaluate: Any


def build_stages(e: Experiment, transform) -> Stages:
    """Binds every stage to an experiment; nothing compiles before its first call."""
    c = e.config
    filters = train_filters(c)
    copies = shared_reading(e, e.mix.fresh, e.mix.group_size)
    generate = make_generate(e, filters, copies=copies, watched=make_watch(e))
    models = {name: e.models[name] for name in ("student", *sorted(e.teachers))}
    own_prompts = {name: train for name, (train, _) in e.own_prompts.items()}
    place = place_rows(e, own_prompts, e.served, packed=e.packed)
    return Stages(
        collect=collect.make_collect(
            generate=generate,
            dataset=e.train,
            tokenizer=e.tokenizer,
            # Rewards that nothing reads are given while the devices update.
            verifier=e.verifier if e.rewards_first else None,
            mix=e.mix,
            seed=c.seed,
            prompt_buckets=e.given_buckets,
            # Packed rows are cut by their packing: one width fewer that programs know.
            length_buckets=e.length_buckets[-1:] if e.packed else e.length_buckets,
            max_new_tokens=c.rollout.max_new_tokens,
            place=place,
            prefix=make_prefix(e),
            annotate=make_annotate(e),
            shards=e.shape.shards,
            accumulate=c.optimizer.accumulate,
        ),
        prepare=step.make_prepare(
            models,
            e.terms,
            e.shape,
            panels=e.panels,
            accumulate=c.optimizer.accumulate,
        ),
        update=step.make_update(
            models["student"],
            e.terms,
            transform,
            e.shape,
            panels=e.panels,
            accumulate=c.optimizer.accumulate,
            with_facts=c.log.token_facts,
        ),
        term_norms=step.make_term_norms(
            models["student"],
            e.terms,
            e.shape,
            panels=e.panels,
            accumulate=c.optimizer.accumulate,
        ),
        replay_logp=step.make_replay_logp(models["student"], filters, e.shape),
        evaluate=make_evaluate(e),
    )


def shared_reading(e: Experiment, rows: int, group: int) -> int:
    """How many of ``rows`` rollouts share the reading of their prompt: all ``group`` of
    one, which are side by side, where every device has whole groups; else 1."""
    return group if rows // e.mesh.devices.size % group == 0 else 1


def make_generate(
    experiment: Experiment,
    filters: sampling.Filter,
    *,
    name: str = "student",
    max_new_tokens: int | None = None,
    copies: int = 1,
    watched: watch.Watch | None = None,
):
    """``(params, request, key) -> Rollout`` of a model on the run's devices."""
    c, devices = experiment.config.rollout, experiment.mesh.devices.size
    settings = dict(
        model=experiment.models[name],
        max_new_tokens=max_new_tokens or c.max_new_tokens,
        stop_ids=experiment.stop_ids,
        vocabulary=experiment.shape.vocabulary,
        filters=filters,
        copies=copies,
    )
    bound = functools.partial(one_loop, **settings)
    if experiment.generator == "jit":
        compiled = jax.jit(bound)
        rows = sharding.rows(experiment.mesh)
        return lambda params, asked, key: compiled(
            params, jax.device_put(asked, rows), key
        )
    longest = settings["max_new_tokens"]
    if c.at_once or 0 < c.block_tokens < longest:
        mapped = blocks.in_blocks(
            block=min(c.block_tokens or longest, longest),
            devices=devices,
            at_once=-(-c.at_once // copies) * copies,
            watched=watched,
            **settings,
        )
    else:
        mapped = sharding.data_parallel(bound, devices)
    whole = sharding.replicated(experiment.mesh)
    return lambda params, asked, key: mapped(jax.device_put(params, whole), asked, key)


def make_watch(e: Experiment) -> watch.Watch | None:
    """Who ends rollouts early, as ``config.rollout.early_stop`` says.

    Raises:
      ValueError: the teacher that reads along has its own rendering of the prompts.
    """
    c = e.config.rollout
    rule, name = configs.build_stop(e.config), c.early_stop.teacher
    if rule is None:
        return None
    if not name:
        return watch.Watch(rule, c.early_stop.window)
    if name in e.own_prompts:
        raise ValueError(
            f"rollout.early_stop.teacher={name!r} renders prompts in its own way "
            "(data.teacher_template_kwargs), but who reads along reads the student's; "
            "switch one of them off"
        )
    return watch.Watch(
        rule,
        c.early_stop.window,
        model=e.models[name],
        params=jax.device_put(e.frozen[name], sharding.replicated(e.mesh)),
        vocabulary=e.shape.vocabulary,
        temperature=c.temperature or 1.0,
        chunk_tokens=e.shape.chunk_tokens,
    )


def make_prefix(e: Experiment):
    """``(ids, step) -> response tokens`` that rollouts start from, or None.

    A teacher's response to a prompt is drawn once for all: it depends on the seed and
    the prompt, not on the step.
    """
    c = e.config.rollout
    if not c.prefix.source:
        return None
    share = optimizer.schedule(
        c.prefix.schedule,
        c.prefix.share,
        steps=c.prefix.steps or e.config.steps,
        end=c.prefix.end,
    )
    nothing = np.zeros(0, np.int32)
    written = _make_written(e)

    def prefix(ids, step: int) -> list[np.ndarray]:
        part = float(share(step))
        if part <= 0:
            return [nothing] * len(ids)
        responses = written(ids)
        return collect.first_part(
            [nothing if r is None else r for r in responses], part
        )

    return prefix


def _make_written(e: Experiment):
    """``ids -> responses`` of the data set, or of a teacher in the run."""
    name = e.config.rollout.prefix.source
    if name == "gold":
        return lambda ids: [e.train.solutions[i] for i in ids]
    generate = make_generate(e, train_filters(e.config), name=name)
    dataset = e.own_prompts[name][0] if name in e.own_prompts else e.train
    longest = max(len(prompt) for prompt in dataset.prompts)
    key = jax.random.fold_in(jax.random.key(e.config.seed), PREFIX_STREAM)
    limit = e.config.rollout.max_new_tokens

    def written(ids) -> list[np.ndarray]:
        asked = collect.ask(dataset, ids, copies=1, buckets=(longest,), limit=limit)
        asked = asked._replace(row_B=np.asarray(ids, np.int32))
        rolled = jax.device_get(generate(e.frozen[name], asked, key))
        spans = zip(rolled.tokens_BT, rolled.prompt_length_B, rolled.length_B)
        return [row[start:end] for row, start, end in spans]

    return written


def train_filters(config) -> sampling.Filter:
    c = config.rollout
    return sampling.Filter(c.temperature, c.top_k, c.top_p, c.min_p)


def make_annotate(e: Experiment) -> collect.Annotate | None:
    """What is added to every batch before its update, or None."""
    found = []
    if e.config.audit.chunks:
        found.append(make_audit(e))
    if e.peer_prompts is not None:
        found.append(make_peers(e))
    if e.config.log.leak_pattern:
        found.append(leaks.make_annotate(e.config.log.leak_pattern, e.tokenizer))
    return collect.in_turn(found)


def make_peers(e: Experiment) -> collect.Annotate:
    """Prompts of the teachers that read another rollout, as ``config.peer`` says."""
    return peers.make_annotate(
        e.peer_prompts.contexts,
        examples=e.peer_prompts.examples,
        own_prompts=e.train.prompts,
        encode=e.peer_prompts.encode,
        tokenizer=e.tokenizer,
        success=e.config.peer.success,
        widths=e.peer_prompts.widths,
        remove=e.config.peer.remove,
    )


def make_audit(e: Experiment) -> collect.Annotate:
    """The audit of every update as ``config.audit`` asks for it."""
    c = e.config.audit
    facts = step.make_facts({"student": e.models["student"]}, e.shape)
    place = place_rows(e)
    prompts = e.own_prompts["teacher"][0] if "teacher" in e.own_prompts else e.train
    teacher = make_text_teacher(e, prompts)
    texts = prompts.texts
    if c.teacher == "http" and e.config.remote.api != "completions":
        texts = inputs.untemplated(e.config, e.tokenizer, prompts)
    return audit.make_annotate(
        audit.Plan(c.chunks, c.chunk_tokens, c.samples, c.temperature, c.anchors),
        entropy=lambda params, batch: facts(params, {}, place(batch))[
            "entropy/student"
        ],
        continue_texts=teacher.continue_texts,
        counts=teacher.counts,
        similarity=similarity.resolve(c.similarity, encoder=c.encoder),
        tokenizer=e.tokenizer,
        teacher_prompts=prompts.prompts,
        teacher_texts=texts,
        seed=e.config.seed,
    )


def make_text_teacher(e: Experiment, prompts: Dataset) -> remote.Client:
    """What continues the student's chunks: a server, or the teacher of this run."""
    c = e.config.audit
    if c.teacher == "http":
        return inputs.connect(e.config)
    generate = make_generate(
        e,
        sampling.Filter(temperature=c.temperature),
        name="teacher",
        max_new_tokens=c.chunk_tokens,
        copies=c.samples,
    )
    longest = max(len(p) for p in prompts.prompts)
    longest += e.config.rollout.max_new_tokens
    # Whole runs of samples on every device.
    step_rows = c.samples * e.mesh.devices.size
    return audit.local_teacher(
        functools.partial(generate, e.frozen["teacher"]),
        e.tokenizer,
        widths=inputs.auto_buckets(longest, 8),
        batch_rows=c.batch_rows + -c.batch_rows % step_rows,
        copies=c.samples,
    )


def evaluation_rows(e: Experiment) -> int:
    """Rows generated at one time, as many as are needed and divisible by devices."""
    c, devices = e.config.eval, e.mesh.devices.size
    asked = c.batch_rows or e.mix.fresh or e.mix.rows
    rows = min(asked, c.k * min(c.prompts, len(e.held.prompts)))
    return rows + -rows % devices


def make_evaluate(e: Experiment):
    """``(params, frozen) -> (numbers, samples)`` as ``config.eval`` says.

    Divergences are those to ``teacher``, over all rows whatever its route; other models
    only serve terms.
    """
    c = e.config
    models = {
        name: e.models[name] for name in ("student", "teacher") if name in e.models
    }
    sampled = sampling.Filter(temperature=c.eval.temperature, top_p=c.eval.top_p)
    rows = evaluation_rows(e)
    bound = functools.partial(
        evaluation.evaluate,
        dataset=e.held,
        tokenizer=e.tokenizer,
        generate=make_generate(e, sampled, copies=shared_reading(e, rows, c.eval.k)),
        generate_greedy=make_generate(e, sampling.Filter(temperature=0.0)),
        facts=step.make_facts(models, e.shape),
        verifier=e.verifier,
        repetition=repetition_test(e),
        leak_pattern=c.log.leak_pattern,
        prompts=c.eval.prompts,
        k=c.eval.k,
        batch_rows=rows,
        buckets=e.prompt_buckets[-1:],
        limit=c.rollout.max_new_tokens,
        seed=c.seed,
        place=place_rows(
            e,
            {name: held for name, (_, held) in e.own_prompts.items() if name in models},
        ),
        save_samples=c.eval.save_samples,
    )

    def run(params, frozen):
        return bound(
            params,
            {name: frozen.get(name, params) for name in models if name != "student"},
        )

    return run


def place_rows(
    experiment: Experiment,
    own_prompts: dict | None = None,
    served: dict | None = None,
    *,
    packed: bool = False,
):
    """Puts the rows of a batch on the devices that work on them.

    ``own_prompts`` are the prompts, by model, of the data set that the rows come from,
    ``served`` which of its rows models with a route serve.
    """
    rows = sharding.rows(experiment.mesh)
    shards = experiment.shape.shards
    accumulate = experiment.config.optimizer.accumulate

    def place(batch):
        batch = collect.with_prompts(batch, own_prompts or {})
        batch = collect.with_serves(batch, served or {})
        if packed:
            batch = layout.with_packing(
                batch, experiment.length_buckets, shards, accumulate
            )
        return jax.device_put(jax.tree.map(jnp.asarray, batch), rows)

    return place


def repetition_test(experiment: Experiment):
    """``text -> bool`` with the config's thresholds or those scaled to its length."""
    c = experiment.config.repetition
    tail, threshold = statistics.repetition_limits(
        experiment.config.rollout.max_new_tokens
    )
    return functools.partial(
        statistics.repetition,
        tail=c.tail_chars or tail,
        threshold=c.threshold or threshold,
    )
