"""The jitted stages of one training step: prepare (no gradient) and update.

Each ``make_*`` closes over what is static and returns one compiled function of arrays.
Parameters of frozen models travel as arguments: never donated, never in a checkpoint.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopd.batches import packing
from jopd.losses import elsewhere, memories, segments, states
from jopd.losses.chunks import in_chunks
from jopd.losses.heads import logits_of
from jopd.losses.measures import term_metrics
from jopd.losses.objective import (
    Shape,
    Term,
    Weighed,
    align,
    blank,
    facts,
    objective,
    scores,
    weigh,
)
from jopd.losses.panel import Panel
from jopd.losses.scoring import Fact, facts_of
from jopd.models import decoder, lora
from jopd.rollouts import sampling
from jopd.types import Batch


class TrainState(NamedTuple):
    """What is trained and what is checkpointed; ``memory`` is what weights remember."""

    step: jax.Array
    params: Any
    opt_state: Any
    memory: dict[str, Any] = {}  # never changed in place


class Prepared(NamedTuple):
    """Frozen models' hidden states and the terms' folded weights for one batch.

    ``memory`` is as it is after this update, ``states`` [B, T, L, D] are those between
    layers of the models that terms over states name.
    """

    hidden: dict[str, jax.Array]
    weighed: dict[str, Weighed]
    metrics: dict[str, jax.Array]
    memory: dict[str, Any] = {}  # never changed in place
    states: dict[str, jax.Array] = {}  # never changed in place


def hidden_states(
    model: decoder.Decoder,
    params,
    batch: Batch,
    name: str = "student",
    layers: tuple[int, ...] = (),
) -> jax.Array:
    """Final hidden states ``[B, T, D]`` of whole rows, nothing cached.

    A model with a prompt of its own in ``batch.prompts`` reads that one, and its states
    are moved to the places that the response has in the student's rows. With a packing
    in the batch rows are read side by side. What is behind ``layers`` comes along,
    [B, T, (1 + L) D], see ``taken_apart``.
    """
    rollout = batch.rollout
    tokens_BT, length_B, shift_B = rollout.tokens_BT, rollout.length_B, None
    own = name in batch.prompts
    if own:
        tokens_BT, length_B, shift_B = under_prompt(rollout, *batch.prompts[name])
    packed = batch.packing.get(name if own else "")
    if packed is not None:
        position_RW, segment_RW = packing.read(packed)
        words = packing.pack(tokens_BT, packed), position_RW, segment_RW > 0
        hidden_RWD = _read(model, params, layers, *words, segment_BT=segment_RW)
        back = packing.spread if own else packing.spread_own
        return back(hidden_RWD, packed)
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    valid_BT = positions_BT < length_B[:, None]
    hidden_BTD = _read(model, params, layers, tokens_BT, positions_BT, valid_BT)
    if shift_B is None:
        return hidden_BTD
    places_BT = jnp.arange(rollout.tokens_BT.shape[1])[None] + shift_B[:, None]
    places_BT = jnp.clip(places_BT, 0, tokens_BT.shape[1] - 1)
    return jnp.take_along_axis(hidden_BTD, places_BT[..., None], axis=1)


def _read(model: decoder.Decoder, params, layers, *words, **more) -> jax.Array:
    if not layers:
        return model.apply({"params": params}, *words, **more, return_kv=False)[0]
    hidden, kept = decoder.with_states(model, params, layers, *words, **more)
    return jnp.concatenate([hidden, kept.reshape(*hidden.shape[:2], -1)], axis=-1)


def taken_apart(read_BTF: jax.Array, layers: tuple[int, ...]):
    """(final hidden states [B, T, D], those behind layers [B, T, L, D] or None)."""
    if not layers:
        return read_BTF, None
    each = read_BTF.reshape(*read_BTF.shape[:2], 1 + len(layers), -1)
    return each[:, :, 0], each[:, :, 1:]


def under_prompt(rollout, prompt_BP: jax.Array, prompt_length_B: jax.Array):
    """The same responses behind other prompts.

    Returns:
      (tokens i32[B, P + T], length_B, shift_B): shift is by how much a response token
      moved to the right.
    """
    shift_B = prompt_length_B - rollout.prompt_length_B
    places = jnp.arange(prompt_BP.shape[1] + rollout.tokens_BT.shape[1])[None]
    before_BT = jnp.clip(places - shift_B[:, None], 0, rollout.tokens_BT.shape[1] - 1)
    moved_BT = jnp.take_along_axis(rollout.tokens_BT, before_BT, axis=1)
    prompt_BT = jnp.pad(prompt_BP, ((0, 0), (0, rollout.tokens_BT.shape[1])))
    tokens_BT = jnp.where(places < prompt_length_B[:, None], prompt_BT, moved_BT)
    return tokens_BT, rollout.length_B + shift_B, shift_B


def read_by_all(models, params, frozen, batch: Batch, forward):
    """Hidden states and heads by name; who has none in ``frozen`` is the student."""
    own = {name: frozen.get(name, params) for name in models}
    hidden = {name: forward(models[name], own[name], batch, name) for name in models}
    return hidden, {name: decoder.head(own[name]) for name in models}


def split_rows(batch, parts: int):
    """Leaves ``[B, ...]`` to ``[parts, B / parts, ...]``.

    Row i goes to group i % parts, so that rows split over devices stay where they are.
    """
    return jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), batch
    )


def join_rows(groups):
    """Inverse of ``split_rows``."""
    return jax.tree.map(
        lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), groups
    )


def make_prepare(
    models: dict[str, decoder.Decoder],
    terms: tuple[Term, ...],
    shape: Shape,
    *,
    panels: tuple[Panel, ...] = (),
    accumulate: int = 1,
    replicated: jax.sharding.Sharding | None = None,
):
    """``(params, frozen, batch, memory) -> Prepared``: score, weigh, then remember.

    ``models`` holds "student" and every model that a term or one of ``panels`` names;
    those without parameters in ``frozen`` are the student itself in another context.
    Each is run once, however many name it. ``replicated`` is where a memory lies.
    """
    cut = shape._asdict() | {"panels": panels, "named": facts_of(terms)}
    kept = states.read_of(terms, layers_in(models))
    kept.pop("student", None)  # whose states are read with gradient, by ``update``

    def forward(model, params, batch, name):
        part = functools.partial(
            hidden_states, model, params, name=name, layers=kept.get(name, ())
        )
        if accumulate == 1:
            return part(batch)
        return join_rows(jax.lax.map(part, split_rows(batch, accumulate)))

    @jax.jit
    def prepare(params, frozen, batch: Batch, memory=None) -> Prepared:
        if memory is None:  # as before the first update
            memory = memories.start(terms, shape.vocabulary)
        hidden, heads = read_by_all(models, params, frozen, batch, forward)
        between = {}
        for name, layers in kept.items():
            hidden[name], between[name] = taken_apart(hidden[name], layers)
        read = scores(batch, facts(hidden, heads, batch, **cut), memory)
        hidden.pop("student")
        hidden |= elsewhere.states_in(batch)
        weighed = weigh(terms, read)
        logged = term_metrics(terms, read, weighed)
        after = memories.step(terms, shape.vocabulary, read)
        if replicated is not None:
            after = jax.lax.with_sharding_constraint(after, replicated)
        return Prepared(hidden, weighed, logged, after, between)

    return prepare


def layers_in(models: Mapping[str, decoder.Decoder]) -> dict[str, int]:
    """How many layers each model has."""
    return {name: model.config.layers for name, model in models.items()}


def make_gradient(
    student: decoder.Decoder,
    terms: tuple[Term, ...],
    shape: Shape,
    *,
    panels: tuple[Panel, ...] = (),
    accumulate: int = 1,
    with_facts: bool = True,
    layers: Mapping[str, int] = {},  # never changed in place
):
    """``(params, frozen, batch, prepared, coefs) -> ((loss, parts), gradient)``.

    Where ``params`` are an adapter's, ``frozen["student"]`` is its base.

    ``accumulate`` splits the rows into that many micro-batches; weights are normalised
    already, so their gradients simply add up. ``parts`` are per-token numbers ``[B,
    T]``. ``layers`` of all models are needed by terms over states. Not compiled: a part
    of what is.
    """
    own = states.read_of(terms, layers).get("student", ())

    def loss_of(params, frozen, coefs, rows):
        batch, prepared = rows
        params = lora.joined(params, frozen.get("student"))
        itself = jax.lax.stop_gradient(params)
        heads = {
            name: decoder.head(frozen.get(name, itself)) for name in prepared.hidden
        }
        read = hidden_states(student, params, batch, layers=own)
        hidden, between = taken_apart(read, own)
        loss, parts = objective(
            hidden,
            decoder.head(params),
            prepared.hidden,
            heads,
            batch,
            prepared.weighed,
            coefs,
            terms=states.of_logits(terms),
            panels=panels,
            with_facts=with_facts,
            **shape._asdict(),
        )
        if own:
            all_states = prepared.states | {"student": between}
            rest = batch.mask_BT, prepared.weighed, coefs, layers
            more, others = states.loss(terms, all_states, *rest)
            loss, parts = loss + more, parts | others
        return loss, parts

    def gradient(params, frozen, batch: Batch, prepared: Prepared, coefs):
        grad = jax.value_and_grad(loss_of, has_aux=True)
        rows = (batch, prepared._replace(metrics={}, memory={}))
        if accumulate == 1:
            return grad(params, frozen, coefs, rows)

        def micro(total, rows):
            value, grads = grad(params, frozen, coefs, rows)
            return jax.tree.map(jnp.add, total, grads), value

        zeros = jax.tree.map(jnp.zeros_like, params)
        split = split_rows(rows, accumulate)
        grads, (losses, parts) = jax.lax.scan(micro, zeros, split)
        return (jnp.sum(losses), join_rows(parts)), grads

    return gradient


def make_update(
    student: decoder.Decoder,
    terms: tuple[Term, ...],
    optimizer: optax.GradientTransformation,
    shape: Shape,
    **options,
):
    """``(state, frozen, batch, prepared, coefs) -> (state, metrics, parts)``.

    Loss, gradient and parts are those of ``make_gradient``, which takes ``options``.
    """
    gradient = make_gradient(student, terms, shape, **options)

    @functools.partial(jax.jit, donate_argnums=0)
    def compiled(state: TrainState, frozen, batch: Batch, prepared: Prepared, coefs):
        (loss, parts), grads = gradient(state.params, frozen, batch, prepared, coefs)

        def of_segment(low, high):
            some = segments.within(prepared.weighed, batch.rollout, low, high)
            rest = batch, prepared._replace(weighed=some), coefs
            return gradient(state.params, frozen, *rest)[1]

        held = prepared.memory
        memory = memories.learn(terms, shape.vocabulary, held, of_segment, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "optim/grad_norm": optax.tree.norm(grads)}
        for term in terms:
            metrics[f"loss/{term.name}"] = jnp.sum(parts[f"loss/{term.name}"])
        metrics |= prepared.metrics
        after = TrainState(state.step + 1, params, opt_state, memory)
        return after, metrics, parts

    def update(state: TrainState, frozen, batch: Batch, prepared: Prepared, coefs):
        return compiled(state, frozen, for_student(batch), prepared, coefs)

    return update


def for_student(batch: Batch) -> Batch:
    """Without the prompts of others, whose packings would ask for more programs, and
    without states that are among those prepared."""
    own = {name: plan for name, plan in batch.packing.items() if not name}
    batch = elsewhere.without_states(batch)
    return batch._replace(prompts={}, packing=own)


def make_term_norms(
    student: decoder.Decoder, terms: tuple[Term, ...], shape: Shape, **options
):
    """``(params, frozen, batch, prepared, coefs) -> metrics``: whose gradient it is.

        grad_norm/<k>  = |coef_k grad term_k|, over all parameters of the student
        grad_share/<k> = grad_norm/<k> / sum_j grad_norm/<j>; 0 where all norms are 0

    Norms are of the raw gradient, before clipping and the optimizer, and larger in sum
    than that of the whole wherever terms pull in different directions. One forward and
    backward pass per term, one compiled program for all of them; no ``parts``.
    """
    gradient = make_gradient(student, terms, shape, with_facts=False, **options)

    @jax.jit
    def norm(params, frozen, batch, prepared, coefs):
        return optax.tree.norm(gradient(params, frozen, batch, prepared, coefs)[1])

    def term_norms(params, frozen, batch: Batch, prepared: Prepared, coefs):
        norms, batch = {}, for_student(batch)
        for term in terms:
            alone = {name: coefs[name] * (name == term.name) for name in coefs}
            norms[term.name] = float(norm(params, frozen, batch, prepared, alone))
        total = sum(norms.values())
        return {f"grad_norm/{name}": value for name, value in norms.items()} | {
            f"grad_share/{name}": value / total if total else 0.0
            for name, value in norms.items()
        }

    return term_norms


def make_facts(
    models: dict[str, decoder.Decoder],
    shape: Shape,
    named: Mapping[str, Fact] | None = None,
):
    """``(params, frozen, batch) -> token facts``, f32[B, T] each, for evaluation.

    ``named``: more of them, ``name -> Outputs -> f32[...]``.
    """

    @jax.jit
    def of_batch(params, frozen, batch: Batch) -> dict[str, jax.Array]:
        hidden, heads = read_by_all(models, params, frozen, batch, hidden_states)
        return facts(hidden, heads, batch, **shape._asdict(), named=named or {})

    return of_batch


def make_replay_logp(student: decoder.Decoder, filters: sampling.Filter, shape: Shape):
    """``(params, batch) -> f32[B, T]``: log-probs as sampling would have recorded them.

    The trainer's side of the sampler check: same filters, full forward instead of
    cache.
    """

    @jax.jit
    def replay_logp(params, batch: Batch) -> jax.Array:
        head, c = decoder.head(params)[: shape.vocabulary], student.config

        def logp(chunk):
            hidden, tokens, mask = chunk
            logits = logits_of(blank(hidden, mask), head, c.logit_cap, exactly=c.exact)
            return sampling.log_prob(logits, tokens, filters, exactly=c.exact)

        hidden_BTD = align(hidden_states(student, params, batch))
        return in_chunks(
            logp,
            (hidden_BTD, batch.rollout.tokens_BT, batch.mask_BT),
            batch.mask_BT,
            chunk_tokens=shape.chunk_tokens,
            rows=shape.rows,
        )

    return replay_logp
