"""Everything a run needs, built from a config and checked before anything compiles."""

import dataclasses
import math
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from jopd.batches import collect, packing
from jopd.data.dataset import Dataset
from jopd.losses import panel
from jopd.losses.objective import Shape, Term
from jopd.models import decoder, hf, quantize, sharding
from jopd.setup import compared, inputs, reads, validation
from jopd.setup import config as configs
from jopd.teachers import roles


class Experiment(NamedTuple):
    """Models, data and static facts of one run; functions are bound, arrays placed.

    ``teachers`` are all models besides the student; ``frozen`` holds the parameters of
    those that have some of their own and keep them. ``panels`` are those that terms
    name; ``served`` says of models and panels with a route which training rows are
    theirs. ``rewards_first``: an update reads rewards, so it waits for the verifier.
    """

    config: Any
    mesh: jax.sharding.Mesh
    shape: Shape
    models: dict[str, decoder.Decoder]
    params: Any
    frozen: dict[str, Any]
    teachers: dict[str, roles.Teacher]
    panels: tuple[panel.Panel, ...]
    served: dict[str, np.ndarray]
    tokenizer: Any
    train: Dataset
    held: Dataset
    own_prompts: dict[str, tuple[Dataset, Dataset]]
    peer_prompts: inputs.PeerPrompts | None
    terms: tuple[Term, ...]
    verifier: Any
    rewards_first: bool
    mix: collect.Mix
    prompt_buckets: tuple[int, ...]
    given_buckets: tuple[int, ...]
    length_buckets: tuple[int, ...]
    stop_ids: tuple[int, ...]
    generator: str
    notes: list[str]

    @property
    def packed(self) -> bool:
        """Whether updates read their rows side by side."""
        return self.config.objective.packing


def pick_generator(config, mesh) -> str:
    """pmap while one device holds the student, jit over the mesh where it is split.

    Raises:
      ValueError: ``at_once`` or ``early_stop`` under jit, where all rows are one loop.
    """
    asked, split = config.rollout.parallel, mesh.shape["tensor"] > 1
    picked = asked if asked != "auto" else "jit" if split else "pmap"
    if picked == "jit" and config.rollout.early_stop.function:
        raise ValueError(
            f"rollout.early_stop.function={config.rollout.early_stop.function!r} looks "
            "at rollouts between blocks, under pmap only; rollout.parallel="
            f"{asked!r} with tensor={mesh.shape['tensor']} runs one loop under jit: "
            "switch one of them off"
        )
    if picked == "jit" and config.rollout.at_once:
        raise ValueError(
            f"rollout.at_once={config.rollout.at_once} needs rollouts under pmap; "
            f"rollout.parallel={asked!r} with tensor={mesh.shape['tensor']} runs them "
            "under jit, all rows in one loop: use at_once=0, or parallel='pmap' where "
            "one device holds the student"
        )
    return picked


def chunk_tokens(config, columns: int) -> int:
    """Tokens of a chunk over all devices, from the number itself or its memory.

    On a CPU products with a wide head want 256 tokens or more, and a chunk that stays
    in the cache is a tenth faster (docs/performance.md).
    """
    c = config.objective
    if c.chunk_tokens:
        return c.chunk_tokens
    on_cpu = jax.default_backend() == "cpu"
    mib = c.chunk_mib or (4 if on_cpu else 256)
    return max((mib << 20) // (4 * columns), 256 if on_cpu else 128)


def strip_tokens(config, columns: int) -> int:
    """Most tokens of a strip: on a CPU what stays in cache, 2 MiB for each core.

    Elsewhere 0, all of a chunk: a loop would leave an accelerator idle. At least 4 MiB,
    so that a chunk of that size, as narrow vocabularies have by default, stays whole.
    """
    asked = config.objective.strip_tokens
    if asked or jax.default_backend() != "cpu":
        return asked
    mib = max(2 * (os.cpu_count() or 1), 4)
    return max((mib << 20) // (4 * columns), 1)


def check_rows(config, mesh, mix: collect.Mix) -> None:
    """Rows must split evenly over devices and micro-batches.

    Raises:
      ValueError: names both numbers and the nearest that works.
    """
    shards = sharding.row_shards(mesh)
    devices = mesh.devices.size
    parts = shards * config.optimizer.accumulate
    if mix.rows % parts:
        raise ValueError(
            f"an update has {mix.rows} rows ({mix.fresh} fresh, {mix.replayed} "
            f"replayed, {mix.gold} gold), which is not divisible by {parts} = "
            f"{shards} data devices x "
            f"optimizer.accumulate={config.optimizer.accumulate}; change "
            "rollout.prompts_per_step, rollout.group_size or the shares in mix to "
            f"give {mix.rows + -mix.rows % parts} rows"
        )
    if mix.buffered and 0 < mix.capacity < mix.least_capacity:
        raise ValueError(
            f"mix.capacity={mix.capacity} rows is too small for {mix.fresh} fresh and "
            f"{mix.replayed} replayed rows per update; use at least "
            f"{mix.least_capacity}, or 0 to have it chosen"
        )
    written = config.rollout.prefix.source not in ("", "gold")
    if written and config.rollout.prompts_per_step % devices:
        raise ValueError(
            f"rollout.prompts_per_step={config.rollout.prompts_per_step} prefixes are "
            f"not divisible by {devices} devices"
        )
    if mix.fresh % devices:
        raise ValueError(
            f"{mix.fresh} rollouts per update are not divisible by {devices} "
            "devices; use rollout.prompts_per_step * rollout.group_size = "
            f"{mix.fresh + -mix.fresh % devices}"
        )


def make_mix(config) -> collect.Mix:
    c = config.mix
    fresh, replayed, gold = collect.rows_of_mix(
        student=c.student,
        gold=c.gold,
        replay=c.replay,
        prompts=config.rollout.prompts_per_step,
        group_size=config.rollout.group_size,
    )
    return collect.Mix(
        fresh=fresh,
        replayed=replayed,
        gold=gold,
        group_size=config.rollout.group_size,
        on_policy_probability=c.on_policy_probability,
        capacity=c.capacity,
        max_age_steps=c.max_age_steps,
        updates_per_rollout=c.updates_per_rollout,
    )


def build(config, *, train: bool = True) -> Experiment:
    """Checks the config, then loads data, tokenizers and models, in that order of cost.

    Args:
      config: a locked ``ConfigDict``.
      train: False for evaluation only, which needs no terms to be trainable.
    """
    validation.validate(config, train=train)
    mesh = sharding.make_mesh(**config.mesh)
    mix = make_mix(config)
    if train:
        check_rows(config, mesh, mix)
        if config.audit.chunks and config.audit.teacher == "http":
            inputs.connect(config)  # a server that is down is said before any load
    terms = configs.build_terms(config)
    known = used_teachers(config, terms)
    named = compared.models_named(terms)
    panels = tuple(p for p in compared.panels_of(config) if p.name in named)
    paths = {"student": inputs.model_path(config.student.path)}
    for name, teacher in known.items():
        own = inputs.model_path(teacher.path) if teacher.weights == "path" else None
        paths[name] = own or paths["student"]
    shapes = {name: model_shape(name, path) for name, path in paths.items()}
    tokenizer = inputs.load_tokenizer(paths["student"])
    notes = inputs.check_tokenizers(tokenizer, paths)
    columns, note = inputs.shared_vocabulary(shapes, tokenizer)
    examples = inputs.read_examples(config)
    train_data, held = inputs.student_data(config, tokenizer, examples)
    own_prompts = inputs.own_prompts(
        config, tokenizer, known, examples, (train_data, held)
    )
    served = {}
    if train:
        inputs.check_gold(config, mix, train_data)
        served = roles.served(known, panels, train_data.fields)
    verifier = inputs.pick_verifier(config, train_data, held)
    if train and verifier is None:
        validation.check_no_rewards(
            config,
            terms,
            f"eval.verifier='auto' finds no answers in {config.data.path}",
        )
    longest = max(len(p) for p in (*train_data.prompts, *held.prompts))
    prompt_buckets = inputs.pick_prompt_buckets(config, longest)
    total = prompt_buckets[-1] + config.rollout.max_new_tokens
    shown = inputs.peer_prompts(config, tokenizer, known, examples[0], train_data)
    inputs.check_positions(
        shapes, total, own_prompts, config.rollout.max_new_tokens, shown
    )
    models, loaded = {}, {}
    for name, path in paths.items():
        itself = name == "student"
        dtype = config.student.dtype if itself else known[name].dtype
        shape = dataclasses.replace(
            shapes[name], dtype=dtype, remat=itself and config.student.remat
        )
        models[name] = decoder.Decoder(shape)
        if itself or known[name].weights in ("path", "initial"):
            _, params = hf.load(path, dtype="float32")
            if not itself and known[name].quantize:
                models[name], params = _in_int8(models[name], params)
            params = _cast(params, "float32" if itself else dtype)
            loaded[name] = jax.device_put(params, sharding.of_params(params, mesh))
    return Experiment(
        config=config,
        mesh=mesh,
        shape=Shape(
            vocabulary=columns,
            chunk_tokens=max(
                chunk_tokens(config, columns) // sharding.row_shards(mesh), 1
            ),
            strip_tokens=strip_tokens(config, columns),
            shards=sharding.row_shards(mesh),
            temperature=config.objective.temperature,
        ),
        models=models,
        params=loaded.pop("student"),
        frozen=loaded,
        teachers=known,
        panels=panels,
        served=served,
        tokenizer=tokenizer,
        train=train_data,
        held=held,
        own_prompts=own_prompts,
        peer_prompts=shown,
        terms=terms,
        verifier=verifier,
        rewards_first=reads.waits_for_rewards(config, terms),
        mix=mix,
        prompt_buckets=prompt_buckets,
        given_buckets=(
            inputs.auto_buckets(total, 8)
            if config.rollout.prefix.source
            else prompt_buckets
        ),
        length_buckets=inputs.auto_buckets(total, 8),
        stop_ids=inputs.stop_ids(config, tokenizer),
        generator=pick_generator(config, mesh),
        notes=notes + note + (validation.short_warmup(config) if train else []),
    )


def model_shape(name: str, path: str) -> decoder.DecoderConfig:
    """The shape of a model of the run; an error says whose directory it is."""
    try:
        return hf.load_config(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{name}: {error}") from error


def used_teachers(config, terms) -> dict[str, roles.Teacher]:
    """Models that the terms name, and the teacher wherever there is one to compare."""
    known = compared.teachers_of(config)
    names = compared.frozen_named(config, terms)
    names |= {config.rollout.prefix.source, config.rollout.early_stop.teacher}
    if config.teacher.path or config.teacher.weights != "path":
        names = names | {"teacher"}
    return {name: known[name] for name in known if name in names}


def _in_int8(model: decoder.Decoder, params):
    shape, params = quantize.int8(model.config, params)
    return decoder.Decoder(shape), params


def _cast(params, dtype: str):
    """Integers stay what they are, and so do their scales."""
    keeps = lambda path, x: (
        x.dtype == np.int8 or jax.tree_util.keystr(path).endswith("_scale']")
    )
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x if keeps(path, x) else x.astype(dtype), params
    )


def summary_rows(experiment: Experiment) -> list[tuple[str, str]]:
    """What the start-up table shows."""
    e = experiment
    rows = [("student", f"{_size(e.params)}, {_describe(e.models['student'].config)}")]
    for name, teacher in e.teachers.items():
        params = e.frozen.get(name, e.params)
        about = f"{_size(params)}, {_describe(e.models[name].config)}"
        if teacher.weights != "path":
            about += f", weights: {teacher.weights} student"
        about += ", own context" if teacher.context else ""
        rows.append((name, about + _share(e, name)))
    for combined in e.panels:
        shares = combined.shares
        parts = " + ".join(f"{share:g} {name}" for name, share in shares.items())
        rows.append(
            (combined.name, f"{combined.kind} of {parts}{_share(e, combined.name)}")
        )
    solutions = sum(solution is not None for solution in e.train.solutions)
    return [
        *rows,
        ("vocabulary", f"{e.shape.vocabulary:,}"),
        (
            "data",
            f"{len(e.train.prompts):,} prompts ({solutions:,} with solutions), "
            f"{len(e.held.prompts):,} held out",
        ),
        (
            "devices",
            f"{e.mesh.devices.size} x {e.mesh.devices.flat[0].device_kind}, mesh "
            + " ".join(f"{k}={v}" for k, v in e.mesh.shape.items())
            + f", rollouts under {e.generator}",
        ),
        (
            "update",
            f"{e.mix.fresh} rollouts + {e.mix.replayed} replayed + {e.mix.gold} gold "
            "rows",
        ),
        ("terms", ", ".join(term.name for term in e.terms)),
        (
            "compiles",
            f"generate (sampled{', greedy' if e.verifier else ''}) x "
            f"{len(e.prompt_buckets)} prompt widths; {_row_shapes(e)}",
        ),
    ]


def _row_shapes(e: Experiment) -> str:
    """How many programs the rows of updates may ask for."""
    if not e.packed:
        return f"score, prepare, update x {len(e.length_buckets)} row widths"
    student = packing.shapes(len(e.length_buckets))
    peers = e.peer_prompts.contexts if e.peer_prompts else {}
    others = math.prod(
        packing.shapes(1) * (len(e.peer_prompts.widths) if name in peers else 1)
        for name in {*e.own_prompts, *peers}
    )
    if others == 1:
        return f"score, prepare, update x at most {student} packings"
    return (
        f"score, prepare x at most {student * others} packings (few occur), update x "
        f"at most {student}"
    )


def _share(e: Experiment, name: str) -> str:
    if name not in e.served:
        return ""
    return f", serves {e.served[name].sum():,} of {len(e.served[name]):,} prompts"


def _size(params) -> str:
    return f"{decoder.count(params):,} parameters"


def _describe(shape: decoder.DecoderConfig) -> str:
    eight = ", matrices int8" if shape.int8 else ""
    return f"{shape.layers} layers x {shape.width}, {shape.dtype}{eight}"
