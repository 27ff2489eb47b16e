"""Dimension legend and the records that flow through one training step.

Legend (shape suffixes, here and in every file):

    B  sequences          T  tokens per row     V  vocabulary
    K  top-k entries      G  rollouts per prompt
    D  model width        N  layers             P  padded prompt length

A row is laid out as ``prompt | response | padding``. Everything indexed by ``_BT``
speaks of the token *at* that position: ``logp_BT[b, t]`` is the log-probability of
``tokens_BT[b, t]`` given all tokens before it. The one place where model rows are
shifted to that convention is ``objective.align``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

# Who wrote a response token (``Rollout.source_BT``).
STUDENT, TEACHER, GOLD = 0, 1, 2
SOURCES = {"student": STUDENT, "teacher": TEACHER, "gold": GOLD}


class Rollout(NamedTuple):
    """Sequences as the behaviour policy left them.

    Attributes:
      tokens_BT: i32, prompt, then response (its end-of-sequence token included), then
        padding of any value.
      prompt_length_B: i32, number of prompt tokens.
      length_B: i32, prompt and response tokens together.
      finished_B: bool, ended with a stop token; False means truncated.
      behavior_logp_BT: f32, log-probability of each response token under the
        distribution it was really drawn from, temperature and filters included.
        0 where nothing was drawn (prompt, padding, gold and prefix tokens).
      source_BT: i32, one of ``STUDENT``, ``TEACHER``, ``GOLD``.
      group_B: i32, rows with equal group answer the same prompt.
      age_B: i32, updates made since the row was sampled; 0 is on-policy.
    """

    tokens_BT: jax.Array
    prompt_length_B: jax.Array
    length_B: jax.Array
    finished_B: jax.Array
    behavior_logp_BT: jax.Array
    source_BT: jax.Array
    group_B: jax.Array
    age_B: jax.Array


class Packing(NamedTuple):
    """Where tokens of B rows lie in bins of W places, R on each of S devices.

    Flat indices are within a device: of its rows in ``source``, of its bins in
    ``place``. See ``packing``.

    Attributes:
      source_SRW: i32, the token at each place.
      position_SRW: i32, its position in its row.
      segment_SRW: i32, 1 + its row; 0 where there is no token.
      place_SBT: i32, the place of each token, [S, B / S, T].
    """

    source_SRW: jax.Array
    position_SRW: jax.Array
    segment_SRW: jax.Array
    place_SBT: jax.Array


class Batch(NamedTuple):
    """What one update sees: a rollout after replay, its mask and its rewards.

    Attributes:
      rollout: the sequences.
      mask_BT: bool, True on response tokens. Made once, from lengths, never from ids.
      reward_B: f32, verifier reward; 0 where no verifier ran.
      prompt_id_B: i32, row of the data set the prompt came from.
      prompts: name -> (i32[B, P], i32[B] lengths) for models that read another prompt
        than the student before the same response (another template, say).
      uniform_BT: f32 in [0, 1), one fresh draw per token and update for weights that
        toss a coin; None where nothing is trained.
      extra: name -> f32[B, T], facts that an annotation added (see ``collect``).
      serves: name -> bool[B], rows that a model or panel with a route may judge; one
        that is not here serves every row (see ``roles.served``).
      packing: how models read the rows side by side: those in ``prompts`` by name, all
        others by "". A missing one reads row by row.
    """

    rollout: Rollout
    mask_BT: jax.Array
    reward_B: jax.Array
    prompt_id_B: jax.Array
    prompts: dict[str, tuple[jax.Array, jax.Array]] = {}  # never changed in place
    uniform_BT: jax.Array | None = None
    extra: dict[str, jax.Array] = {}  # never changed in place
    serves: dict[str, jax.Array] = {}  # never changed in place
    packing: dict[str, Packing] = {}  # never changed in place


class Scores(NamedTuple):
    """Cheap per-token facts that weights read. Never differentiated.

    Attributes:
      mask: bool[B, T], response tokens.
      tokens: i32[B, T], whole rows, prompts included; behind a row's end of any value.
      source: i32[B, T], who wrote the token.
      position: i32[B, T], index within the response; 0 is its first token.
      logp: name -> f32[B, T], log-probability of the token under that model.
      entropy: name -> f32[B, T], entropy in nats of the distribution it came from.
      reverse_kl: name -> f32[B, T], full-vocabulary KL(student || name) in nats.
      forward_kl: name -> f32[B, T], full-vocabulary KL(name || student) in nats.
      behavior_logp: f32[B, T].
      finished: bool[B], ended with a stop token; False means truncated.
      reward: f32[B].
      group: i32[B].
      age: i32[B].
      uniform: f32[B, T] in [0, 1), a fresh draw per token, see ``Batch``.
      extra: name -> f32[B, T], see ``Batch``.
      serves: name -> bool[B], see ``Batch``.
      memory: name -> what updates before this one left, see ``Memory``.
      facts: name -> f32[B, T], those of ``config.facts`` that a term reads.
    """

    mask: jax.Array
    tokens: jax.Array
    source: jax.Array
    position: jax.Array
    logp: dict[str, jax.Array]
    entropy: dict[str, jax.Array]
    reverse_kl: dict[str, jax.Array]
    forward_kl: dict[str, jax.Array]
    behavior_logp: jax.Array
    finished: jax.Array
    reward: jax.Array
    group: jax.Array
    age: jax.Array
    uniform: jax.Array | None = None
    extra: dict[str, jax.Array] = {}  # never changed in place
    serves: dict[str, jax.Array] = {}  # never changed in place
    memory: dict[str, Any] = {}  # never changed in place
    facts: dict[str, jax.Array] = {}  # never changed in place


class Probe(NamedTuple):
    """What a memory learns of an update's gradient, see ``losses.segments``.

    Attributes:
      edges: positions in responses, ascending.
      due: ``pytree -> bool[]``, whether it asks at this update, whose ``step`` is made.
      learn: ``(pytree, cosines f32[n]) -> pytree`` of the same shapes and dtypes, for
        the n edges.
    """

    edges: tuple[int, ...]
    due: Callable[[Any], jax.Array]
    learn: Callable[[Any, jax.Array], Any]


class Memory(NamedTuple):
    """What is remembered from update to update; all functions are pure.

    Attributes:
      start: ``() -> pytree``, arrays before the first update.
      step: ``(pytree, Scores) -> pytree`` of the same shapes and dtypes, after the
        weights of an update have read it.
      probe: what it learns of the gradient besides, where it does.
    """

    start: Callable[[], Any]
    step: Callable[[Any, Scores], Any]
    probe: Probe | None = None


class Aligned(NamedTuple):
    """A model over tokens of its own, where it and the student go on from one text.

    Attributes:
      logits: f32[..., V'] over its own vocabulary, of its next token.
      known: bool[...], whether both begin a token at this byte; elsewhere the logits
        mean nothing.
    """

    logits: jax.Array
    known: jax.Array


class Outputs(NamedTuple):
    """What signals read, for a chunk of tokens of any leading shape ``[...]``.

    Attributes:
      logits: name -> f32[..., V]; ``"student"`` is the one that carries gradient.
      tokens: i32[...], the tokens that were written.
      behavior_logp: f32[...], see ``Rollout``.
      advantage: f32[...] of the term at scoring time, or None if the term names none.
      logp: f32[...] of the tokens under the student, where it has to have the sampler's
        bits; None: whoever wants it makes it of the logits, see ``scoring.log_prob``.
      scored: name -> f32[...], log-probability of the written token under a model whose
        logits are not here; above 0 where it is not known.
      aligned: name -> ``Aligned`` of a model with another tokenizer.
    """

    logits: dict[str, jax.Array]
    tokens: jax.Array
    behavior_logp: jax.Array
    advantage: jax.Array | None = None
    logp: jax.Array | None = None
    scored: dict[str, jax.Array] = {}  # never changed in place
    aligned: dict[str, Aligned] = {}  # never changed in place
