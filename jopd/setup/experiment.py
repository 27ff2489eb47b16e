"""Everything a run needs, built from a config and checked before anything compiles."""

import copy
import functools
import inspect
import math
import os
from typing import Any, NamedTuple

import jax

from jopd.batches import collect
from jopd.data import decoding, pieces
from jopd.losses import panel, states
from jopd.losses.objective import Shape, Term
from jopd.models import decoder, lora, peft, sharding
from jopd.setup import (
    adapter,
    builders,
    doubts,
    inputs,
    lengths,
    memory,
    needs,
    pairing,
    validation,
)
from jopd.setup import rows as row_sets
from jopd.setup.cast import Cast, choose_cast, copies, load_models
from jopd.teachers import remote, roles, served, stored


class Experiment(NamedTuple):
    """Models, data and static facts of one run; functions are bound, arrays placed.

    ``params`` are those that are trained: the student's, or with LoRA its adapter's,
    and then ``base`` are the others. ``teachers`` are all models besides the student;
    ``frozen`` holds the parameters of those that have some of their own and keep them.
    ``panels`` are those that terms name. ``rewards_first``: an update reads rewards, so
    it waits for the verifier. ``generator``: what rollouts run under, "pmap" or "jit".
    ``server``: of the audit; ``served``: of the teachers that have one, by name;
    ``stored``: what others said once. ``looked``: checks of the pair, see ``pairing``;
    those that are not well are among ``notes``.
    """

    config: Any
    mesh: jax.sharding.Mesh
    shape: Shape
    terms: tuple[Term, ...]
    teachers: dict[str, roles.Teacher]
    panels: tuple[panel.Panel, ...]
    models: dict[str, decoder.Decoder]
    params: Any
    base: Any
    frozen: dict[str, Any]
    rows: row_sets.Rows
    widths: lengths.Widths
    mix: collect.Mix
    rewards_first: bool
    stop_ids: tuple[int, ...]
    generator: str
    server: remote.Client | None
    served: dict[str, served.Client]
    stored: dict[str, stored.Table]
    memory: memory.Plan
    looked: list[pairing.Finding]
    notes: list[str]

    @property
    def of_own_tokens(self) -> set[str]:
        """Teachers with another tokenizer than the student."""
        return roles.of_own_tokens(self.teachers)

    @property
    def without_logits(self) -> set[str]:
        """They, and the teachers behind servers."""
        return set(roles.without_logits(self.teachers))


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
    """Tokens of a chunk on each device, from the number itself or its memory.

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


def with_shared(terms, cast: Cast, columns: int):
    """``terms`` whose signals ask for the tokens that two vocabularies share know them.

    That is their argument ``shared``, of a teacher with tokens of its own.
    """
    others, found = roles.of_own_tokens(cast.teachers), []
    for term in terms:
        asked = inspect.signature(term.signal).parameters
        name = asked["other"].default if "other" in asked else ""
        if "shared" in asked and asked["shared"].default is None and name in others:
            known = [inputs.speech(cast.paths[n]).pieces for n in ("student", name)]
            both = pieces.in_both(*known, columns, cast.shapes[name].vocab_size)
            term = term._replace(signal=functools.partial(term.signal, shared=both))
        found.append(term)
    return tuple(found)


def build(config, *, train: bool = True) -> Experiment:
    """Checks the config, then loads data, tokenizers and models, in that order of cost.

    Args:
      config: a locked ``ConfigDict``.
      train: False for evaluation only, which needs no terms to be trainable.
    """
    validation.validate(config, train=train)
    config, server = adapter.continuing(config), None
    mesh, mix = sharding.make_mesh(**config.mesh), make_mix(config)
    if config.student.exact and mesh.size > 1:
        raise ValueError(
            f"student.exact=True is for one device, and the mesh has {mesh.size}: its "
            "sums have one order on each, not over several; use student.exact=False"
        )
    if train:
        check_rows(config, mesh, mix)
        if config.audit.chunks and config.audit.teacher == "http":
            server = inputs.connect(config)  # one that is down is said before any load
    generator = pick_generator(config, mesh)
    terms = builders.build_terms(config)
    cast = choose_cast(config, terms if train else ())
    if train and config.export.adapter:
        shape = lora.adapted(cast.shapes["student"], **config.student.lora)
        peft.modules(shape, cast.paths["student"])  # what cannot be written is said now
    tokenizer = inputs.load_tokenizer(cast.paths["student"])
    if others := roles.of_own_tokens(cast.teachers):  # whose words are not ours
        for name in ("student", *others):
            inputs.speech(cast.paths[name])
    stop_strings = tuple(config.rollout.stop_strings)
    decoding.check_strings(tokenizer, stop_strings, "rollout.stop_strings")
    shapes = cast.of_one_tokenizer(cast.shapes)
    heads = min(shape.vocab_size for shape in shapes.values())
    for term in states.of_states(terms if train else ()):
        of_all = lambda key: {n: getattr(s, key) for n, s in cast.shapes.items()}
        states.check(term, of_all("layers"), of_all("width"))
    alike = cast.of_one_tokenizer(cast.paths)
    notes, pairs, eos = inputs.check_tokenizers(tokenizer, alike, heads)
    cast = cast._replace(pairs=pairs, eos=eos)
    columns, heads = inputs.shared_vocabulary(shapes, tokenizer)
    panels = cast.panels if train else None
    terms = with_shared(terms, cast, columns)
    student, clients = cast.shapes["student"], {}
    for name, teacher in cast.teachers.items():
        if teacher.weights == "served":
            clients[name] = inputs.connect_served(config, name, teacher, tokenizer)
    positions = dict.fromkeys(cast.teachers, student.max_positions)
    positions |= {name: shape.max_positions for name, shape in cast.shapes.items()}
    rows = row_sets.read_rows(config, tokenizer, cast.teachers, panels, positions)
    notes += rows.left_out
    tables = {
        name: row_sets.read_stored(name, teacher, tokenizer, rows.train)
        for name, teacher in cast.teachers.items()
        if teacher.weights == "stored" and train
    }
    config = in_epochs(config, mix, len(rows.train.prompts))
    if train:
        notes += validation.check_projection(config, cast.shapes["student"])
        row_sets.check_gold(config, mix, rows.train)
        if rows.rewards is None:
            why = f"eval.verifier='auto' finds no answers in {config.data.path}"
            validation.check_no_rewards(config, terms, why)
    looked = pairing.look(config, cast, rows) if train else []
    stop_ids, doubt = find_ends(config, cast, rows)
    widths = lengths.pick_widths(config, rows)
    lengths.check_positions(config, cast.shapes, rows, widths)
    shape = cut_up(config, columns, mesh, cast.shapes)
    held = dict(generator=generator, held=len(rows.held.prompts), train=train)
    plan = memory.plan(config, cast, terms, mesh, mix, widths, shape, **held)
    tight = memory.check(plan, *where(mesh))
    models, params, base = load_models(config, cast, mesh)
    return Experiment(
        config=config,
        mesh=mesh,
        shape=shape,
        terms=terms,
        teachers=cast.teachers,
        panels=cast.panels,
        models=models,
        params=params["student"],
        base=base,
        frozen={name: params[name] for name in params if name != "student"},
        rows=rows,
        widths=widths,
        mix=mix,
        rewards_first=needs.waits_for_rewards(config, terms),
        stop_ids=stop_ids,
        generator=generator,
        server=server,
        served=clients,
        stored=tables,
        memory=plan,
        looked=looked,
        notes=[
            *notes,
            *(f.line for f in looked if f.state != pairing.OK),
            *heads,
            *rows.notes,
            *doubt,
            *tight,
            *adapter.other_base(config),
            *endless(rows, stop_ids),
            *decoding.escapes(stop_strings, "rollout.stop_strings"),
            *(
                f"{n}: {x}"
                for n, m in models.items()
                for x in sharding.uneven(m.config, mesh)
            ),
            *(doubts.doubts(config, mix) if train else []),
            *(copies(config, cast, rows.own_prompts, params, base) if train else []),
        ],
    )


def where(mesh) -> tuple[str, int, int | None]:
    """What ``memory.check`` asks of the devices and, where they share it, the host."""
    device = mesh.devices.flat[0]
    shares = device.platform == "cpu"
    free = memory.free_on_host() if shares else None
    return device.device_kind, mesh.devices.size * shares, free


def find_ends(config, cast: Cast, rows: row_sets.Rows):
    """(ids that end a response, a warning where student and others disagree on them).

    They are those of all models and tokenizers, and what the template ends turns with,
    but for ``ignore_eos``; and ``stop_ids``.
    """
    asked = set(config.rollout.stop_ids)
    if config.rollout.ignore_eos:
        return tuple(sorted(asked)), []
    own = set(inputs.ends(rows.tokenizer, [cast.paths["student"]]))
    paths = cast.of_one_tokenizer(cast.paths).values()
    found = {*inputs.ends(rows.tokenizer, paths, cast.pairs), *cast.eos}
    found |= {rows.train.turn_end} - {None}
    doubt = inputs.other_ends(rows.tokenizer, own, found - asked, rows.train.turn_end)
    return tuple(sorted(found | asked)), doubt


def in_epochs(config, mix: collect.Mix, prompts: int):
    """The config with the ``steps`` of its ``epochs``; itself where it has none."""
    if not config.epochs:
        return config
    config = copy.deepcopy(config)
    with config.unlocked():
        config.steps = max(math.ceil(config.epochs * prompts / collect.visited(mix)), 1)
    return config


def endless(rows: row_sets.Rows, stop_ids: tuple[int, ...]) -> list[str]:
    """A warning where no response can end, so that none earns its reward."""
    ends = stop_ids or rows.stop_strings
    if ends or rows.rewards is None or rows.reward_truncated:
        return []
    return [
        "nothing ends a response (rollout.ignore_eos), and one that is cut earns 0: "
        "name ends in rollout.stop_ids, or set eval.reward_truncated=True"
    ]


def cut_up(config, columns: int, mesh, shapes) -> Shape:
    """How the vocabulary-sized work of a run is cut up."""
    return Shape(
        vocabulary=columns,
        chunk_tokens=chunk_tokens(config, columns),
        strip_tokens=strip_tokens(config, columns),
        rows=sharding.rows(mesh) if mesh.size > 1 else None,
        temperature=config.objective.temperature,
        caps=tuple((name, shape.logit_cap) for name, shape in shapes.items()),
        exact=config.student.exact,
    )
