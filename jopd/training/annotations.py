"""What is added to a batch before its update: audits, peers, probes, leaks."""

import dataclasses
import functools

import jax
import numpy as np

from jopd.batches import asking, collect
from jopd.data.dataset import Dataset
from jopd.losses import panel
from jopd.reporting import console, leaks
from jopd.rollouts import sampling
from jopd.setup import lengths, schedules
from jopd.setup import rows as row_sets
from jopd.setup.experiment import Experiment
from jopd.teachers import audit, peers, probes, remote, similarity
from jopd.training import own_tokens, served, step, stored
from jopd.training.placing import place_rows
from jopd.training.writers import make_generate, placed

PROBE_STREAM = 2**31 - 2  # apart from the steps, which are folded into the same key


def make_annotate(e: Experiment) -> collect.Annotate | None:
    """What is added to every batch before its update, or None."""
    found = []
    if e.config.audit.chunks:
        found.append(make_audit(e))
    if e.rows.peers is not None:
        shown = e.rows.peers
        texts_of = e.rows.training.texts
        found.append(peers.make_annotate(shown, e.rows.train.prompts, texts_of))
    found += [own_tokens.make_annotate(e, name) for name in sorted(e.of_own_tokens)]
    found += [served.make_annotate(e, name) for name in sorted(e.served)]
    found += [stored.make_annotate(e, name) for name in sorted(e.stored)]
    if schedules.strengths(e.config):
        found.append(make_strengths(e))
    if e.config.probes.samples:
        found.append(probes.make_annotate(make_ask(e)))
    if e.config.log.leak_pattern:
        found.append(
            leaks.make_annotate(e.config.log.leak_pattern, e.rows.training.texts)
        )
    return collect.in_turn(found)


def make_strengths(e: Experiment) -> collect.Annotate:
    """Strengths of guided panels that follow a schedule, f32[B, T] of an update."""
    names = {one.name for one in e.panels}
    at = {n: own for n, own in schedules.strengths(e.config).items() if n in names}

    def annotate(params, batch, step: int):
        del params
        shape, now = batch.mask_BT.shape, {n: own(step) for n, own in at.items()}
        extra = {
            f"{panel.STRENGTH}{n}": np.full(shape, x, "f4") for n, x in now.items()
        }
        facts = {f"panel/{name}_strength": value for name, value in now.items()}
        return batch._replace(extra=batch.extra | extra), facts

    return annotate


def make_audit(e: Experiment) -> collect.Annotate:
    """The audit of every update as ``config.audit`` asks for it."""
    c = e.config.audit
    facts = step.make_facts({"student": e.models["student"]}, e.shape)
    place = place_rows(e)
    prompts = e.rows.read_by("teacher")
    teacher = make_text_teacher(e, prompts)
    if c.teacher == "http" and e.config.remote.api != "completions":
        texts = row_sets.untemplated(e.config, e.rows.tokenizer, prompts)
        prompts = dataclasses.replace(prompts, texts=texts)
    own = lambda params, batch: facts(params, {}, place(batch))["entropy/student"]
    return audit.make_annotate(
        audit.Plan(
            c.chunks, c.chunk_tokens, c.samples, c.temperature, c.anchors, c.lead
        ),
        teacher,
        prompts,
        entropy=own,
        similarity=similarity.resolve(c.similarity, encoder=c.encoder),
        tokenizer=e.rows.tokenizer,
        seed=e.config.seed,
        say=console.say if c.judge_first and c.teacher == "http" else None,
    )


def make_ask(e: Experiment) -> probes.Ask:
    """The teacher of ``config.probes`` as it is asked; a function of seed and step."""
    c = e.config.probes
    drawn = sampling.Filter(temperature=c.temperature)
    generate = make_generate(e, drawn, name=c.teacher, copies=c.samples)
    rows = e.rows.training._replace(dataset=e.rows.read_by(c.teacher))
    longest = max(map(len, rows.dataset.prompts))
    limit = e.config.rollout.max_new_tokens
    writer = asking.Writer(generate, (longest,), limit)
    # One shape for all calls, with whole runs of samples on every device.
    prompts = e.config.rollout.prompts_per_step
    size = prompts + -prompts % e.mesh.devices.size
    seed = jax.random.fold_in(jax.random.key(e.config.seed), PROBE_STREAM)
    params = placed(e, c.teacher, e.frozen[c.teacher])

    def ask(ids: np.ndarray, step: int) -> np.ndarray:
        key, found = jax.random.fold_in(seed, step), []
        for number, part in enumerate(probes.in_parts(ids, size)):
            own = jax.random.fold_in(key, number)
            batch, _ = asking.fresh_rows(rows, writer, params, part, own, c.samples)
            found.append(np.asarray(batch.reward_B).reshape(size, c.samples).mean(1))
        return np.concatenate(found)[: len(ids)]

    return ask


def make_text_teacher(e: Experiment, prompts: Dataset) -> remote.Client:
    """What continues the student's chunks: a server, or the teacher of this run."""
    c = e.config.audit
    if c.teacher == "http":
        return e.server
    drawn = sampling.Filter(temperature=c.temperature)
    limits = dict(max_new_tokens=c.chunk_tokens, copies=c.samples)
    generate = make_generate(e, drawn, name="teacher", **limits)
    longest = max(map(len, prompts.prompts)) + lengths.longest_response(e.config)
    # Whole runs of samples on every device.
    step_rows = c.samples * e.mesh.devices.size
    return audit.local_teacher(
        functools.partial(generate, placed(e, "teacher", e.frozen["teacher"])),
        e.rows.tokenizer,
        widths=lengths.auto_buckets(longest),
        batch_rows=c.batch_rows + -c.batch_rows % step_rows,
        copies=c.samples,
    )
