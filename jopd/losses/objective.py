"""The one loss: sum_k coef_k * sum_bt w_k[b,t] * signal_k[b,t](theta) / n_k.

Two stages. ``weigh`` runs without gradient on a whole batch and folds mask, source,
weights and normaliser of every term into one array per term, so that everything after
it is a plain sum: splitting the rows into micro-batches or devices cannot change the
result. ``objective`` then does the vocabulary-sized work in chunks of tokens. Its
gradient with respect to the student's hidden states and head is made *in the forward
pass*, chunk by chunk, so ``[B, T, V]`` never exists and the head is never multiplied
twice.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jopd.losses import elsewhere, groups, panel
from jopd.losses.chunks import in_chunks, in_strips, sum_over_chunks, sum_over_strips
from jopd.losses.elsewhere import Likely, likely_in, scored_in, spread
from jopd.losses.heads import exact_logp, logits_of, tempered
from jopd.losses.panel import Panel
from jopd.losses.scoring import (
    Fact,
    facts_among,
    kl_name,
    named_facts,
    token_facts,
)
from jopd.types import Batch, Memory, Outputs, Scores

NORMALIZERS = ("tokens", "sequences", "rows", "weights", "batch")


class Term(NamedTuple):
    """One summand of the loss. Static: closed over by the jitted stages.

    Attributes:
      name: key of the term in the config and in the metrics.
      signal: ``Outputs -> f32[...]``.
      weights: functions ``Scores -> f32[B, T]``; their product is w.
      advantage: optional ``Scores -> f32[B, T]``, handed to the signal.
      source: whose tokens the term speaks of, a key of ``SOURCES`` or "any".
      normalizer: "tokens" divides by the valid tokens of that source in the batch,
        "sequences" averages per row first and then over rows that have such tokens,
        "rows" sums per row and averages over rows that have such tokens,
        "weights" divides by the sum of w,
        "batch" by all response tokens of rows that its models serve, whoever wrote
        them: terms of several sources then add up to one mean.
      models: frozen models and panels that its functions read. A row that one of them
        does not serve (``Scores.serves``) is outside the term's scope.
      report: optional ``Scores -> name -> f32``, more numbers to log, see ``reports``.
      memories: name and maker of what its functions remember, see ``memories``.
      facts: name and function of the named facts that its functions read.
      reads, layers: of terms over states, see ``losses.states``; () are all layers.
    """

    name: str
    signal: Callable[[Outputs], jax.Array]
    weights: tuple[Callable[[Scores], jax.Array], ...] = ()
    advantage: Callable[[Scores], jax.Array] | None = None
    source: str = "student"
    normalizer: str = "tokens"
    models: tuple[str, ...] = ()
    report: Callable[[Scores], dict[str, jax.Array]] | None = None
    memories: tuple[tuple[str, Callable[[int], Memory]], ...] = ()
    facts: tuple[tuple[str, Fact], ...] = ()
    reads: str = "logits"
    layers: tuple[int, ...] = ()


class Shape(NamedTuple):
    """How the vocabulary-sized work is cut up; static.

    ``chunk_tokens`` is how many tokens have ``[*, V]`` logits at one time on each
    device, ``strip_tokens`` the most of them in elementwise work (0: all), ``rows`` on
    which devices rows lie, None: on one. ``temperature`` divides all models' logits,
    behind a cap that some models have.
    """

    vocabulary: int
    chunk_tokens: int
    strip_tokens: int = 0
    rows: NamedSharding | None = None
    temperature: float = 1.0
    caps: tuple[tuple[str, float], ...] = ()  # (name, ``logit_cap``) of models
    exact: bool = False  # whether the student is, see ``DecoderConfig``


class Weighed(NamedTuple):
    """``weight_BT`` is mask * w / n of a term; ``advantage_BT`` may be None."""

    weight_BT: jax.Array
    advantage_BT: jax.Array | None


class Chunked(NamedTuple):
    """Frozen side of the vocabulary-sized work, aligned to tokens (see ``align``)."""

    tokens: jax.Array
    mask: jax.Array
    behavior_logp: jax.Array
    hidden: dict[str, jax.Array]
    serves: dict[str, jax.Array]
    scored: dict[str, jax.Array]
    likely: dict[str, Likely]
    begins: dict[str, jax.Array]
    weighed: dict[str, Weighed]


def response_mask(tokens_BT, prompt_length_B, length_B) -> jax.Array:
    """bool[B, T], True on response tokens; the only place where a mask is made."""
    position_T = jnp.arange(tokens_BT.shape[1])[None]
    return (position_T >= prompt_length_B[:, None]) & (position_T < length_B[:, None])


def align(hidden_BTD: jax.Array) -> jax.Array:
    """Moves row t, which predicts token t + 1, to the place of the token it predicts.

    Position 0 has no predictor; it keeps a copy of the first row and is always masked.
    """
    return jnp.concatenate([hidden_BTD[:, :1], hidden_BTD[:, :-1]], axis=1)


def scope(term: Term, scores: Scores) -> jax.Array:
    """bool[B, T]: tokens that ``term.source`` names, in rows that its models serve."""
    inside_BT = groups.written_by(scores, term.source)
    for name in term.models:
        if name in scores.serves:
            inside_BT = inside_BT & scores.serves[name][:, None]
    return inside_BT


def weigh(terms: tuple[Term, ...], scores: Scores) -> dict[str, Weighed]:
    """Folds mask, source, weights and global normaliser into one array per term.

    Must see the whole batch of an update: the denominators are sums over it. A term
    without a single token in its scope gets weight 0 everywhere, never 0 / 0.
    """
    return jax.lax.stop_gradient(
        {term.name: _weigh_one(term, scores) for term in terms}
    )


def product_of_weights(term: Term, scores: Scores) -> jax.Array:
    """f32[B, T]: w of a term before its normaliser; 0 outside its scope."""
    weight_BT = jnp.ones(scores.mask.shape, jnp.float32)
    for function in term.weights:
        weight_BT = weight_BT * function(scores)
    return jnp.where(scope(term, scores), weight_BT, 0.0)


def _weigh_one(term: Term, scores: Scores) -> Weighed:
    inside_BT = scope(term, scores)
    weight_BT = product_of_weights(term, scores)
    if term.normalizer == "sequences":
        tokens_B = jnp.sum(inside_BT, axis=1, keepdims=True)
        rows = jnp.sum(tokens_B > 0)
        weight_BT = weight_BT / jnp.maximum(tokens_B, 1) / jnp.maximum(rows, 1)
    elif term.normalizer == "rows":
        weight_BT = weight_BT / jnp.maximum(jnp.sum(jnp.any(inside_BT, axis=1)), 1)
    elif term.normalizer == "weights":
        total = jnp.sum(weight_BT)
        weight_BT = weight_BT / jnp.where(total == 0, 1.0, total)
    elif term.normalizer == "batch":
        of_all_BT = scope(term._replace(source="any"), scores)
        weight_BT = weight_BT / jnp.maximum(jnp.sum(of_all_BT), 1)
    else:
        weight_BT = weight_BT / jnp.maximum(jnp.sum(inside_BT), 1)
    advantage_BT = None
    if term.advantage is not None:
        advantage_BT = jnp.where(inside_BT, term.advantage(scores), 0.0)
    return Weighed(weight_BT, advantage_BT)


def _read(heads, hidden, vocabulary: int, whole=()) -> dict[str, jax.Array]:
    """Heads as logits are made with them, cast before devices ask for parts of them.

    Those that are ``whole`` have a vocabulary of their own.
    """
    return {
        name: head[: None if name in whole else vocabulary].astype(hidden[name].dtype)
        for name, head in heads.items()
    }


def facts(
    hidden: dict[str, jax.Array],
    heads: dict[str, jax.Array],
    batch: Batch,
    *,
    panels: tuple[Panel, ...] = (),
    named: Mapping[str, Fact] = {},  # never changed in place
    **shape,
) -> dict[str, jax.Array]:
    """``token_facts`` of every response token, f32[B, T] each; not differentiated.

    Args:
      hidden: name -> [B, T, D], as the models return them (unaligned).
      heads: name -> [V_name, D]; rows past ``vocabulary`` are ignored.
      panels: further names, each a combination of models in ``hidden``.
      named: facts of a config, made beside those that every run has.
      shape: fields of ``Shape``.
    """
    cut = Shape(**shape)
    heads = _read(heads, hidden, cut.vocabulary)
    caps = dict(cut.caps)

    def of_chunk(chunk):
        hidden_chunk, tokens, behavior_logp, mask, serves, scored = chunk
        logits = {
            name: logits_of(
                blank(hidden_chunk[name], mask),
                head,
                caps.get(name, 0.0),
                exactly=cut.exact and name == "student",
            )
            for name, head in heads.items()
        }
        behavior_logp = jnp.where(mask, behavior_logp, 0.0)
        rest = logits, serves, jnp.where(mask, tokens, 0), behavior_logp, scored
        return in_strips(of_strip, cut.strip_tokens, rest)

    def of_strip(rows):
        logits, serves, tokens, behavior_logp, scored = rows
        logits = tempered(logits, cut.temperature)
        logits |= panel.combine_all(panels, logits, serves)
        logp = exact_logp(logits, tokens) if cut.exact else None
        outputs = Outputs(logits, tokens, behavior_logp, logp=logp, scored=scored)
        return token_facts(outputs) | named_facts(named, outputs)

    aligned = {name: align(hidden[name]) for name in heads}
    written = batch.rollout.tokens_BT, batch.rollout.behavior_logp_BT
    return in_chunks(
        of_chunk,
        (aligned, *written, batch.mask_BT, panel.rows_in(batch), scored_in(batch)),
        batch.mask_BT,
        chunk_tokens=cut.chunk_tokens,
        rows=cut.rows,
    )


def scores(batch: Batch, per_token: dict[str, jax.Array], memory=None) -> Scores:
    """The record that weights read, from a batch, its ``facts`` and what was before it.

    Under one ``jit`` with ``facts``, what no weight reads is dead code that the
    compiler drops: an unused entropy costs nothing, an unused student forward is not
    run.
    """
    rollout = batch.rollout
    named = lambda kind: {
        key.removeprefix(kind): value
        for key, value in per_token.items()
        if key.startswith(kind)
    }
    entropy = named("entropy/")  # of those whose logits are here
    others = [name for name in entropy if name != "student"]
    return Scores(
        mask=batch.mask_BT,
        tokens=rollout.tokens_BT,
        source=rollout.source_BT,
        position=jnp.arange(rollout.tokens_BT.shape[1])[None]
        - rollout.prompt_length_B[:, None],
        logp=named("logp/"),
        entropy=entropy,
        reverse_kl={name: per_token[kl_name("reverse", name)] for name in others},
        forward_kl={name: per_token[kl_name("forward", name)] for name in others},
        behavior_logp=rollout.behavior_logp_BT,
        finished=rollout.finished_B,
        reward=batch.reward_B,
        group=rollout.group_B,
        age=rollout.age_B,
        uniform=batch.uniform_BT,
        extra=batch.extra,
        serves=batch.serves,
        memory=memory or {},
        facts=facts_among(per_token),
    )


def blank(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """Zeros the hidden states of masked tokens.

    Done before the logits exist: zeroing a loss afterwards would still multiply garbage
    (NaN, inf) by zero in the backward pass, which is NaN.
    """
    return jnp.where(mask[..., None], hidden, 0)


def objective(
    hidden_BTD: jax.Array,
    head_VD: jax.Array,
    frozen_hidden: dict[str, jax.Array],
    frozen_heads: dict[str, jax.Array],
    batch: Batch,
    weighed: dict[str, Weighed],
    coefs: dict[str, jax.Array],
    *,
    terms: tuple[Term, ...],
    panels: tuple[Panel, ...] = (),
    with_facts: bool = True,
    **shape,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss and its per-token parts; differentiable in ``hidden_BTD``, ``head_VD``.

    Args:
      hidden_BTD: student's final hidden states, unaligned.
      head_VD: student's output embedding; rows past ``vocabulary`` are cut from every
        model, so heads of different padded widths work together.
      frozen_hidden, frozen_heads: the same of every other model that a term or a panel
        names.
      weighed: from ``weigh``, on the whole batch that this one is a part of.
      coefs: term name -> f32 scalar, this step's coefficient.
      panels: what terms may name besides models; combined chunk by chunk.
      with_facts: also return ``token_facts``; costs elementwise work, no matmul.
      shape: fields of ``Shape``.

    Returns:
      (loss, parts): ``parts["loss/<term>"]`` f32[B, T] is weight * signal, to be
      summed; with ``with_facts`` also f32[B, T] for every name in ``token_facts``.
    """
    rollout, cut = batch.rollout, Shape(**shape)
    of_others = elsewhere.begins_in(batch, frozen_hidden)
    rows = Chunked(
        # A masked id may lie outside the vocabulary; its log-prob would be NaN, and so
        # would be the head's gradient (0 times NaN).
        tokens=jnp.where(batch.mask_BT, rollout.tokens_BT, 0),
        mask=batch.mask_BT,
        behavior_logp=jnp.where(batch.mask_BT, rollout.behavior_logp_BT, 0.0),
        hidden={name: align(value) for name, value in frozen_hidden.items()},
        serves=panel.rows_in(batch),
        scored=scored_in(batch),
        likely=likely_in(batch),
        begins=of_others,
        weighed=weighed,
    )
    heads = _read(frozen_heads, frozen_hidden, cut.vocabulary, of_others)
    caps = dict.fromkeys(("student", *heads), 0.0) | dict(cut.caps)
    wanted = {name for term in terms for name in term.models}
    strip_loss = functools.partial(
        _strip_loss,
        terms=terms,
        panels=panels,
        temperature=cut.temperature,
        exactly=cut.exact,
        with_facts=with_facts,
    )

    def chunk_loss(hidden, head, rows: Chunked, heads, coefs):
        own = blank(hidden, rows.mask)
        own = logits_of(own, head, caps["student"], exactly=cut.exact)
        read = lambda name: logits_of(
            blank(rows.hidden[name], rows.mask), heads[name], caps[name]
        )
        others = panel.read_all(panels, read, heads, wanted, rows.serves)
        rest = others, rows._replace(hidden={})
        return sum_over_strips(strip_loss, cut.strip_tokens, own, rest, coefs)

    return sum_over_chunks(
        chunk_loss,
        cut.chunk_tokens,
        cut.rows,
        align(hidden_BTD),
        head_VD[: cut.vocabulary],
        rows,
        batch.mask_BT,
        heads,
        coefs,
    )


def _strip_loss(
    logits, rest, coefs, *, terms, panels, temperature, exactly, with_facts
):
    """Loss of some tokens of a chunk, from all models' logits, and its parts."""
    others, rows = rest
    logits = tempered({"student": logits} | jax.lax.stop_gradient(others), temperature)
    logits, apart = elsewhere.aligned(logits, rows.begins)
    for name, likely in rows.likely.items():
        logits[name] = spread(likely, rows.scored[name], logits["student"])
    logits |= panel.combine_all(panels, logits, rows.serves)
    logp = exact_logp(logits, rows.tokens) if exactly else None
    written = rows.tokens, rows.behavior_logp
    scored = dict(scored=rows.scored, aligned=apart)
    outputs = Outputs(logits, *written, logp=logp, **scored)
    loss, parts = 0.0, {}
    for term in terms:
        weight, advantage = rows.weighed[term.name]
        # A term's weight is exactly 0 outside its scope, where its signal may be
        # infinite (a KL against a zero of the other model): 0 times inf is NaN.
        value = term.signal(outputs._replace(advantage=advantage))
        value = jnp.where(weight != 0, weight * value, 0.0)
        parts[f"loss/{term.name}"] = value
        loss = loss + coefs[term.name] * jnp.sum(value)
    if with_facts:
        parts |= token_facts(jax.lax.stop_gradient(outputs))
    return loss, parts
