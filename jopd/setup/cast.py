"""Who plays in a run: which models, whose parameters, and how they are loaded."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopd.losses import panel
from jopd.models import decoder, hf, lora, quantize, sharding
from jopd.setup import adapter, inputs, needs
from jopd.teachers import roles


class Cast(NamedTuple):
    """Who plays in a run, by name: the student, and whom its terms or rollouts name.

    ``teachers`` and ``panels`` are as in ``Experiment``; every model that is here has a
    path.
    ``pairs``, by path, and ``eos`` are those of ``inputs.check_tokenizers``.
    """

    paths: dict[str, str]
    shapes: dict[str, decoder.DecoderConfig]
    teachers: dict[str, roles.Teacher]
    panels: tuple[panel.Panel, ...]
    pairs: dict[str, dict[int, int]] = {}  # never changed in place
    eos: set[int] = set()  # never changed in place

    def of_one_tokenizer(self, by_name: dict) -> dict:
        """Those of the models that have the student's tokens."""
        others = roles.of_own_tokens(self.teachers)
        return {name: by_name[name] for name in by_name if name not in others}


class Weights(NamedTuple):
    """Which weights a model has: from where, and how they are held."""

    path: str
    dtype: str
    int8: bool
    trained: bool


def choose_cast(config, terms) -> Cast:
    """The models of a run: where each lies and of which shape it is."""
    known, named = used_teachers(config, terms), needs.models_named(terms)
    paths = {"student": inputs.model_path(config.student.path)}
    for name, teacher in known.items():
        if teacher.weights in ("served", "stored"):
            continue
        own = inputs.model_path(teacher.path) if teacher.weights == "path" else None
        paths[name] = own or paths["student"]
    return Cast(
        paths=paths,
        shapes={name: model_shape(name, path) for name, path in paths.items()},
        teachers=known,
        panels=tuple(p for p in needs.panels_of(config) if p.name in named),
    )


def load_models(config, cast: Cast, mesh):
    """(models, parameters, base): the first two by name; those made of the student
    later have no parameters yet.

    With an adapter the student's parameters are the adapter's, and ``base`` is the
    rest of it; else that is None. What is frozen is loaded and held once, however many
    roles it plays.
    """
    models, loaded, held, base = {}, {}, {}, None
    several = mesh if mesh.size > 1 else None
    for name, (shape, weights) in wanted(config, cast).items():
        models[name] = decoder.Decoder(shape, several)
        if weights is None:
            continue
        if weights not in held:
            same = held.get(Weights(weights.path, "float32", False, True))
            if same is not None and not weights.int8:  # of the student, which moves on
                dtype = weights.dtype
                held[weights] = jax.tree.map(lambda x, d=dtype: jnp.array(x, d), same)
            else:
                held[weights] = _read(weights, cast.pairs.get(weights.path, {}), mesh)
        loaded[name] = held[weights]
    if models["student"].config.lora_rank:
        base = loaded["student"]
        params = lora.start(models["student"].config, jax.random.key(config.seed))
        if config.student.adapter:
            params = adapter.read(config).params
        at_rest = sharding.of_params(params, mesh)
        copied = lambda: jax.device_put(params, at_rest, may_alias=False)
        for name in loaded:  # frozen ones are as the student was at first
            if models[name].config.lora_rank:
                loaded[name] = lora.joined(copied(), base)
        loaded["student"] = copied()
    return models, loaded, base


def wanted(
    config, cast: Cast
) -> dict[str, tuple[decoder.DecoderConfig, Weights | None]]:
    """(shape, weights) of every model; those made of the student later have none yet.

    Equal weights are held once.
    """
    found = {}
    for name, path in cast.paths.items():
        itself = name == "student"
        role = config.student if itself else cast.teachers[name]
        remat = itself and config.student.remat
        dtype = hf.dtype_named(path, role.dtype)
        shape = dataclasses.replace(cast.shapes[name], dtype=dtype, remat=remat)
        own = itself or role.weights in ("path", "initial")
        # Whose weights are the student's, now or at the start, has them as it has.
        of_student = itself or role.weights != "path"
        if of_student and (itself or not own or config.student.adapter):
            shape = lora.adapted(shape, **config.student.lora)
        eight = (config.student if of_student else role).quantize == "int8"
        trained = itself and not shape.lora_rank
        kept = Weights(path, "float32" if trained else dtype, eight, trained)
        exact = itself and config.student.exact
        shape = dataclasses.replace(shape, int8=eight, exact=exact)
        found[name] = shape, kept if own else None
    return found


def _read(weights: Weights, pairs: dict[int, int], mesh) -> dict:
    """Parameters as a role has them, each on its devices before the next is read."""
    params, (path, dtype, eight, _) = {}, weights
    for place, leaf in hf.leaves(path, None if eight else dtype):
        tree = params.setdefault("layers", {}) if place[0] == "layers" else params
        if eight and place[-1] in (*quantize.MATRICES, *quantize.OF_EXPERTS):
            found = quantize.matrix(place[-1], leaf)
        else:
            found = {place[-1]: _in_student_ids(place, leaf, pairs).astype(dtype)}
        within = {"layers": found} if place[0] == "layers" else found
        placed = jax.device_put(within, sharding.of_params(within, mesh))
        tree |= placed.get("layers", placed)
    return params


def model_shape(name: str, path: str) -> decoder.DecoderConfig:
    """The shape of a model of the run; an error says whose directory it is."""
    try:
        return hf.load_config(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{name}: {error}") from error


def used_teachers(config, terms) -> dict[str, roles.Teacher]:
    """Models that the terms name, and the teacher wherever there is one to compare."""
    known = needs.teachers_of(config)
    names = needs.frozen_named(config, terms)
    names |= {config.rollout.prefix.source, config.rollout.early_stop.teacher}
    drawn_with = config.rollout.behavior
    names |= {drawn_with.teacher} if drawn_with.function else set()
    names |= {config.probes.teacher} if config.probes.samples else set()
    if config.teacher.path or config.teacher.weights != "path":
        names = names | {"teacher"}
    return {name: known[name] for name in known if name in names}


def _in_student_ids(place, leaf: np.ndarray, pairs: dict[int, int]) -> np.ndarray:
    """Rows of embedding and head where the student has their tokens.

    A permutation, so the model's distribution is what it was, under other ids.
    """
    if pairs and place[0] in ("embed", "head"):
        leaf[list(pairs)] = leaf[list(pairs.values())]
    return leaf


def copies(config, cast: Cast, own_prompts, params, base) -> list[str]:
    """A warning for each teacher that is what the student is before the first update.

    None where ``init_from`` or an adapter gives the student other weights than those
    it was loaded with.
    """
    return [
        f"{name} has the student's own weights and reads what it reads: every "
        "divergence begins at zero; name another model"
        for name, teacher in cast.teachers.items()
        if teacher.weights == "path" and name not in own_prompts
        if name in params and not (config.init_from.run or config.student.adapter)
        if same_weights(base or params["student"], params[name])
    ]


def same_weights(params, others) -> bool:
    """Whether two models are one, as far as the second's precision shows."""
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, others):
        return False
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(others))
    return all(bool(jnp.array_equal(a.astype(b.dtype), b)) for a, b in pairs)
