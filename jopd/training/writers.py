"""Who writes in a run: models bound to its devices, limits and stopping rules."""

import functools

import jax
import numpy as np

from jopd.batches import asking
from jopd.batches.asking import Writer
from jopd.data import decoding
from jopd.models import apart, sharding
from jopd.models.decoder import Decoder
from jopd.rollouts import blocks, sampling, strings, watch
from jopd.rollouts.behavior import Company, Partner
from jopd.rollouts.generate import generate
from jopd.setup import builders, optimizer, schedules
from jopd.setup.experiment import Experiment

PREFIX_STREAM = 2**31 - 1  # apart from the steps, which are folded into the same key


def rollout_writer(e: Experiment) -> Writer:
    """The student as it writes what it is trained on: by its ``params``, at its
    ``step`` maybe with a teacher, and, where somebody may end rollouts, by what its
    ``memory`` says of when."""
    copies, watched = shared_reading(e, e.mix.fresh, e.mix.group_size), make_watch(e)
    filters, settings = train_filters(e.config), dict(copies=copies, watched=watched)
    alone, company = make_generate(e, filters, **settings), None
    rule, name = builders.build_behavior(e.config), e.config.rollout.behavior.teacher
    if rule:
        _check_one_prompt(e, "behavior", "draws with it")
        partner = Partner(writing(e, name), rule)
        theirs = placed(e, name, e.frozen[name])
        company = make_generate(e, filters, partner=partner, **settings)

    def generate(student, *asked):
        told, write = dict(memory=student.memory) if watched else {}, alone
        if company:
            budget = schedules.behavior_budget(e.config, int(student.step))
            if budget > 0:
                write = company
                told["company"] = Company(theirs, budget)
        return write(student.params, *asked, **told)

    return Writer(generate, e.widths.given, e.config.rollout.max_new_tokens)


def _check_one_prompt(e: Experiment, key: str, does: str) -> None:
    name = e.config.rollout[key].teacher
    if name in e.rows.own_prompts:
        raise ValueError(
            f"rollout.{key}.teacher={name!r} renders prompts in its own way "
            f"(data.teacher_template_kwargs), but who {does} reads the student's; "
            "switch one of them off"
        )


def train_filters(config) -> sampling.Filter:
    c = config.rollout
    return sampling.Filter(c.temperature, c.top_k, c.top_p, c.min_p)


def shared_reading(e: Experiment, rows: int, group: int) -> int:
    """How many of ``rows`` rollouts share the reading of their prompt: all ``group`` of
    one, which are side by side, where every device has whole groups; else 1."""
    return group if rows // e.mesh.devices.size % group == 0 else 1


def make_generate(
    e: Experiment,
    filters: sampling.Filter,
    *,
    name: str = "student",
    max_new_tokens: int | None = None,
    copies: int = 1,
    watched: watch.Watch | None = None,
    partner: Partner | None = None,
):
    """``(params, request, key) -> Rollout`` of a model on the run's devices."""
    settings = dict(
        model=writing(e, name),
        max_new_tokens=max_new_tokens or e.config.rollout.max_new_tokens,
        stop_ids=e.stop_ids,
        vocabulary=e.shape.vocabulary,
        filters=filters,
        copies=copies,
        partner=partner,
    )
    ends = None
    if e.rows.stop_strings:
        text_of = functools.partial(decoding.text_of, e.rows.tokenizer)
        ends = strings.Ends(e.rows.stop_strings, text_of)
    write = _on_devices(e, settings, watched, ends)
    write_placed = lambda params, *rest, **told: write(
        placed(e, name, params), *rest, **told
    )
    if ends is None:
        return write_placed
    return lambda *given, **told: strings.cut(ends, write_placed(*given, **told))


def writing(e: Experiment, name: str) -> Decoder:
    """A model as it writes, with parameters that are ``placed`` for it."""
    model = e.models[name]
    alone = e.generator == "pmap" and apart.faster(model.config)
    return model.clone(mesh=None, apart=alone)


def placed(e: Experiment, name: str, params):
    """A model's parameters as its rollouts read them: in its dtype, and whole on each
    device under pmap, or split as layers use them. Done already, it costs nothing: who
    writes several times with the same parameters does it first."""
    if "layers" not in params:  # apart
        return params
    places = sharding.replicated(e.mesh)
    if e.generator == "jit":
        places = sharding.of_params(params, e.mesh, resting=False)
    found = sharding.for_rollouts(params, e.models[name].config.dtype, places)
    return apart.parameters(found, places) if writing(e, name).apart else found


def _on_devices(e: Experiment, settings: dict, watched, ends: strings.Ends | None):
    """``generate`` under the settings, as the run's devices hold the models."""
    c, devices, copies = e.config.rollout, e.mesh.devices.size, settings["copies"]

    def bound(who, asked, key):
        return generate(who[0], asked, key, company=who[1], **settings)

    if e.generator == "jit":
        compiled, rows = jax.jit(bound), sharding.rows(e.mesh)
        return lambda params, asked, key, company=None: compiled(
            (params, company), jax.device_put(asked, rows), key
        )
    longest = settings["max_new_tokens"]
    if c.at_once or 0 < c.block_tokens < longest:
        mapped = blocks.in_blocks(
            block=min(c.block_tokens or longest, longest),
            devices=devices,
            at_once=-(-c.at_once // copies) * copies,
            watched=watched,
            ends=ends,
            **settings,
        )
    else:
        whole = sharding.data_parallel(bound, devices)
        mapped = lambda params, asked, key, company=None: whole(
            (params, company), asked, key
        )
    return mapped


def make_watch(e: Experiment) -> watch.Watch | None:
    """Who ends rollouts early, as ``config.rollout.early_stop`` says.

    Raises:
      ValueError: the teacher that reads along has its own rendering of the prompts.
    """
    c = e.config.rollout
    stop, name = builders.build_stop(e.config), c.early_stop.teacher
    if stop is None:
        return None
    looks = watch.Watch(
        stop.rule,
        stop.window,
        compares="reverse_kl_BW" in stop.reads,
        any_length="count_B" in stop.reads,
    )
    if not name:
        return looks
    _check_one_prompt(e, "early_stop", "reads along")
    return looks._replace(
        model=writing(e, name),
        params=placed(e, name, e.frozen[name]),
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
    lasts = dict(steps=c.prefix.steps or e.config.steps, end=c.prefix.end)
    share = optimizer.schedule(c.prefix.schedule, c.prefix.share, **lasts)
    nothing = np.zeros(0, np.int32)
    written = _make_written(e)

    def prefix(ids, step: int) -> list[np.ndarray]:
        part = float(share(step))
        if part <= 0:
            return [nothing] * len(ids)
        responses = [nothing if r is None else r for r in written(ids)]
        return asking.first_part(responses, part)

    return prefix


def _make_written(e: Experiment):
    """``ids -> responses`` of the data set, or of a teacher in the run."""
    name = e.config.rollout.prefix.source
    if name == "gold":
        return lambda ids: [e.rows.train.solutions[i] for i in ids]
    write = make_generate(e, train_filters(e.config), name=name)
    dataset = e.rows.read_by(name)
    longest = max(len(prompt) for prompt in dataset.prompts)
    params = placed(e, name, e.frozen[name])
    key = jax.random.fold_in(jax.random.key(e.config.seed), PREFIX_STREAM)
    limit = e.config.rollout.max_new_tokens

    def written(ids) -> list[np.ndarray]:
        asked = asking.ask(dataset, ids, copies=1, buckets=(longest,), limit=limit)
        asked = asked._replace(row_B=np.asarray(ids, np.int32))
        rolled = jax.device_get(write(params, asked, key))
        spans = zip(rolled.tokens_BT, rolled.prompt_length_B, rolled.length_B)
        return [row[start:end] for row, start, end in spans]

    return written
