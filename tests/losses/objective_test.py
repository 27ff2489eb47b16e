"""The one loss against a plain float64 sum over response tokens."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import tiny
from jopd.losses import divergences, objective, scoring, signals, weights
from jopd.losses.objective import Term
from jopd.types import SOURCES, Batch, Outputs, Rollout, Scores

V = 11
WIDTHS = {"student": 13, "teacher": 16, "reference": V}
DEPTHS = {"student": 8, "teacher": 6, "reference": 8}
TEMPERATURE = 1.3
SIGNALS = {
    "nll": signals.nll,
    "forward_kl": signals.forward_kl,
    "reverse_kl": functools.partial(signals.reverse_kl, other="reference"),
    "jsd": functools.partial(signals.jsd, beta=0.1),
    "skew_forward_kl": functools.partial(signals.skew_forward_kl, alpha=0.2),
    "skew_reverse_kl": functools.partial(signals.skew_reverse_kl, alpha=0.3),
    "total_variation": signals.total_variation,
    "top_k_forward_kl": functools.partial(signals.top_k_forward_kl, k=3),
    "top_k_reverse_kl": functools.partial(signals.top_k_reverse_kl, k=4, tail=False),
    "k2": signals.k2,
    "k3": signals.k3,
    "policy_gradient": functools.partial(signals.policy_gradient, clip_high=0.5),
}
TERMS = (
    *(
        Term(name, signal, source="any", normalizer=normalizer)
        for (name, signal), normalizer in zip(
            SIGNALS.items(), objective.NORMALIZERS[:4] * 3, strict=True
        )
    ),
    Term(
        "advantage",
        functools.partial(signals.policy_gradient, clip_low=1.0, clip_high=np.inf),
        weights=(
            functools.partial(weights.first_tokens, count=3),
            functools.partial(weights.staleness, decay=0.5),
        ),
        advantage=weights.log_ratio,
        normalizer="weights",
    ),
    Term("gold", signals.nll, source="gold", normalizer="sequences"),
)
NAMES = tuple(term.name for term in TERMS)
# One of each normaliser, source and kind of signal, where all would only take longer.
FEW = tuple(
    term
    for term in TERMS
    if term.name in ("reverse_kl", "nll", "jsd", "policy_gradient", "advantage", "gold")
)
CALL = {"vocabulary": V, "temperature": TEMPERATURE}


def inputs(batch: Batch, seed: int = 0):
    """Final hidden states and heads of three models."""
    rng = np.random.default_rng(seed)
    shape = batch.mask_BT.shape
    draw = lambda *size: jnp.asarray(rng.normal(size=size), jnp.float32)
    hidden = {name: draw(*shape, depth) for name, depth in DEPTHS.items()}
    heads = {name: draw(WIDTHS[name], depth) for name, depth in DEPTHS.items()}
    return hidden, heads


STATIC = ("terms", "chunk_tokens", "strip_tokens", "shards", "call")


@functools.partial(jax.jit, static_argnames=STATIC)
def run(
    batch, hidden, heads, coefs, *,
    terms=TERMS, chunk_tokens=7, strip_tokens=0, shards=1, call=(),
):  # fmt: skip
    """Facts, weights, loss, parts and the gradient in hidden states and head."""
    cut = {"chunk_tokens": chunk_tokens, "strip_tokens": strip_tokens}
    call = CALL | dict(call) | cut | {"rows": tiny.rows_over(shards)}
    scores = objective.scores(batch, objective.facts(hidden, heads, batch, **call))
    weighed = objective.weigh(terms, scores)
    return split_run(batch, hidden, heads, coefs, weighed, terms, call)


def split_run(batch, hidden, heads, coefs, weighed, terms, call):
    others = {name: value for name, value in hidden.items() if name != "student"}
    other_heads = {name: heads[name] for name in others}

    def loss(hidden_BTD, head_VD):
        return objective.objective(
            hidden_BTD, head_VD, others, other_heads, batch, weighed, coefs,
            terms=terms, **call,
        )  # fmt: skip

    grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (value, parts), grads = grad(hidden["student"], heads["student"])
    return {"loss": value, "parts": parts, "grads": grads, "weighed": weighed}


def one_hot(name: str, terms=TERMS) -> dict:
    return {term.name: jnp.float32(term.name == name) for term in terms}


def constants(value: float) -> dict:
    return {term.name: jnp.float32(value) for term in FEW}


def plain_weight(term: Term, batch: Batch, logp: dict) -> tuple[np.ndarray, np.ndarray]:
    """Normalised weight and advantage of a term, f64[B, T], token by token."""
    mask_BT = np.asarray(batch.mask_BT)
    rollout = jax.tree.map(np.asarray, batch.rollout)
    inside_BT = np.zeros(mask_BT.shape, bool)
    weight_BT, advantage_BT = np.zeros((2, *mask_BT.shape))
    for b, t in np.argwhere(mask_BT):
        named = None if term.source == "any" else SOURCES[term.source]
        inside_BT[b, t] = named in (None, rollout.source_BT[b, t])
        if inside_BT[b, t]:
            weight_BT[b, t] = 1
        if inside_BT[b, t] and term.name == "advantage":
            first = t - rollout.prompt_length_B[b] < 3
            weight_BT[b, t] = first * 0.5 ** rollout.age_B[b]
            advantage_BT[b, t] = logp["teacher"][b, t] - logp["student"][b, t]
    if term.normalizer == "tokens":
        weight_BT /= max(inside_BT.sum(), 1)
    elif term.normalizer == "weights":
        weight_BT /= weight_BT.sum() or 1
    else:
        rows = [b for b in range(len(mask_BT)) if inside_BT[b].any()]
        for b in rows:
            summed = term.normalizer == "rows"
            weight_BT[b] /= (1 if summed else inside_BT[b].sum()) * len(rows)
    return weight_BT, advantage_BT


def plain(batch: Batch, hidden, heads):
    """``coefs -> (loss, gradients)``: one sum over the response tokens, in float64."""
    at = np.nonzero(np.asarray(batch.mask_BT))
    tokens = np.asarray(batch.rollout.tokens_BT)[at]
    behavior = np.asarray(batch.rollout.behavior_logp_BT, np.float64)[at]
    wide = {k: jnp.asarray(np.asarray(v, np.float64)) for k, v in hidden.items()}
    matrices = {k: jnp.asarray(np.asarray(v, np.float64)) for k, v in heads.items()}

    def logits_of(name, hidden_BTD, head_VD):
        rows = hidden_BTD[at[0], at[1] - 1]
        return rows @ head_VD[:V].T / TEMPERATURE

    others = {k: logits_of(k, wide[k], matrices[k]) for k in wide if k != "student"}
    logp = {}
    student = logits_of("student", wide["student"], matrices["student"])
    for name, logits in (others | {"student": student}).items():
        logp[name] = np.zeros(batch.mask_BT.shape)
        logp[name][at] = divergences.log_prob(logits, tokens)
    weighed = {term.name: plain_weight(term, batch, logp) for term in TERMS}

    def loss(hidden_BTD, head_VD, coefs):
        logits = {"student": logits_of("student", hidden_BTD, head_VD)} | others
        total = 0.0
        for term in TERMS:
            weight_BT, advantage_BT = weighed[term.name]
            advantage = advantage_BT[at] if term.advantage else None
            value = term.signal(Outputs(logits, tokens, behavior, advantage))
            # Outside the weight a ratio may be anything.
            value = jnp.where(weight_BT[at] != 0, weight_BT[at] * value, 0.0)
            total += coefs[term.name] * jnp.sum(value)
        return total

    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return functools.partial(grad, wide["student"], matrices["student"])


@pytest.fixture(scope="module")
def case():
    batch = tiny.batch(3, vocabulary=V)
    return batch, *inputs(batch)


@pytest.fixture(scope="module")
def expected(case):
    """Coefficients -> loss and gradients, all in float64."""
    mixed = {name: 0.1 * index - 0.4 for index, name in enumerate(NAMES)}
    found = {}
    with jax.enable_x64(True):
        of = plain(*case)
        for name in NAMES:
            found[name] = jax.tree.map(
                np.asarray, of({key: float(key == name) for key in NAMES})
            )
        found["mixed"] = jax.tree.map(np.asarray, of(mixed))
    return found, {name: jnp.float32(value) for name, value in mixed.items()}


def close(got, want, tolerance=2e-6):
    got, want = np.asarray(got), np.asarray(want)
    np.testing.assert_allclose(got, want, atol=tolerance * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize(
    "chunk_tokens, strip_tokens, shards",
    [(1, 0, 2), (7, 0, 1), (5, 1, 2), (1000, 0, 1), (8, 4, 1), (12, 8, 2)],
)
def test_equals_the_plain_sum(case, expected, chunk_tokens, strip_tokens, shards):
    found, mixed = expected
    cut = {"chunk_tokens": chunk_tokens, "strip_tokens": strip_tokens}
    for name in (*NAMES, "mixed"):
        coefs = mixed if name == "mixed" else one_hot(name)
        got = run(*case, coefs, shards=shards, **cut)
        loss, grads = found[name]
        close(got["loss"], loss)
        close(got["grads"][0], grads[0])
        close(got["grads"][1], grads[1])
        assert np.abs(grads[1]).max() > 1e-3, f"{name} has no gradient to compare"


def test_strips_change_no_number_of_a_token(case):
    """Facts, weights and parts; all but sums are made token by token."""
    whole = run(*case, constants(0.3), terms=FEW, chunk_tokens=8)
    strips = run(*case, constants(0.3), terms=FEW, chunk_tokens=8, strip_tokens=2)
    for key in ("parts", "weighed"):
        jax.tree.map(lambda a, b: close(a, b, 1e-6), strips[key], whole[key])


def test_parts_sum_to_the_loss_and_are_zero_outside_the_scope(case):
    batch, *_ = case
    got = run(*case, constants(1.0), terms=FEW)
    parts = {term.name: np.asarray(got["parts"][f"loss/{term.name}"]) for term in FEW}
    total = sum(part.sum(dtype=np.float64) for part in parts.values())
    np.testing.assert_allclose(got["loss"], total, rtol=1e-6)
    source_BT = np.asarray(batch.rollout.source_BT)
    gold_BT = np.asarray(batch.mask_BT) & (source_BT == SOURCES["gold"])
    assert np.all((parts["gold"] != 0) == gold_BT)


def spoil(batch: Batch, hidden, value: float):
    """Garbage wherever nothing is supervised: tokens, log-probs and hidden states."""
    mask_BT = np.asarray(batch.mask_BT)
    junk_BT = np.where(np.arange(mask_BT.shape[1]) % 2, 2**30, -7)
    rollout = batch.rollout._replace(
        tokens_BT=jnp.where(mask_BT, batch.rollout.tokens_BT, junk_BT),
        behavior_logp_BT=jnp.where(mask_BT, batch.rollout.behavior_logp_BT, value),
    )
    # Row t is read for token t + 1; the last row for none.
    read_BT = np.pad(mask_BT[:, 1:], ((0, 0), (0, 1)))[..., None]
    spoiled = {name: jnp.where(read_BT, x, value) for name, x in hidden.items()}
    return batch._replace(rollout=rollout), spoiled


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_garbage_behind_the_mask_changes_nothing(case, value):
    batch, hidden, heads = case
    clean = run(batch, hidden, heads, constants(1.0), terms=FEW)
    got = run(*spoil(batch, hidden, value), heads, constants(1.0), terms=FEW)
    assert np.isfinite(got["loss"])
    for key in ("loss", "grads", "weighed"):
        jax.tree.map(np.testing.assert_array_equal, got[key], clean[key])
    for name in clean["parts"]:
        mask_BT = np.asarray(batch.mask_BT)
        np.testing.assert_array_equal(
            np.asarray(got["parts"][name])[mask_BT],
            np.asarray(clean["parts"][name])[mask_BT],
        )


def test_padding_changes_nothing(case):
    """Extra columns of garbage and extra rows without a response."""
    batch, hidden, heads = case
    rows, width = batch.mask_BT.shape

    def pad(array, fill):
        shape = [(0, 2)] + [(0, 3)] * (array.ndim > 1) + [(0, 0)] * (array.ndim - 2)
        return jnp.pad(array, shape, constant_values=fill)

    rollout = batch.rollout
    grown = batch._replace(
        rollout=rollout._replace(
            tokens_BT=pad(rollout.tokens_BT, 3),
            behavior_logp_BT=pad(rollout.behavior_logp_BT, -1.0),
            source_BT=pad(rollout.source_BT, 0),
            prompt_length_B=pad(rollout.prompt_length_B, 4),
            length_B=pad(rollout.length_B, 4),
            finished_B=pad(rollout.finished_B, True),
            group_B=pad(rollout.group_B, 0),
            age_B=pad(rollout.age_B, 0),
        ),
        reward_B=pad(batch.reward_B, 1.0),
        prompt_id_B=pad(batch.prompt_id_B, 0),
    )
    lengths = (grown.rollout.prompt_length_B, grown.rollout.length_B)
    mask_BT = objective.response_mask(grown.rollout.tokens_BT, *lengths)
    grown = grown._replace(mask_BT=mask_BT)
    wide = {name: pad(x, 5.0) for name, x in hidden.items()}
    for term in FEW:
        coefs = one_hot(term.name, FEW)
        base = run(batch, hidden, heads, coefs, terms=FEW)
        got = run(grown, wide, heads, coefs, terms=FEW)
        close(got["loss"], base["loss"], 1e-6)
        close(got["grads"][1], base["grads"][1], 1e-6)
        close(got["grads"][0][:rows, :width], base["grads"][0], 1e-6)
        assert not np.any(got["grads"][0][rows:]) and not np.any(
            got["grads"][0][:, width:]
        )


def test_row_t_predicts_token_t_plus_1():
    """Row t of either model is all but certain of token number t."""
    batch = tiny.batch(1, vocabulary=V)
    rows, width = batch.mask_BT.shape
    tokens_BT = jnp.broadcast_to(jnp.arange(width) - 1, (rows, width))
    batch = batch._replace(rollout=batch.rollout._replace(tokens_BT=tokens_BT))
    hidden_BTD = jnp.broadcast_to(jnp.eye(width), (rows, width, width))
    hidden = {name: hidden_BTD for name in ("student", "teacher")}
    heads = {name: 30 * jnp.eye(V, width) for name in hidden}
    terms = (Term("nll", signals.nll, source="any"),)
    got = run(batch, hidden, heads, {"nll": 1.0}, terms=terms)
    mask_BT = np.asarray(batch.mask_BT)
    assert np.all(np.asarray(got["parts"]["logp/teacher"])[mask_BT] > -1e-3)
    assert np.all(np.asarray(got["parts"]["logp/student"])[mask_BT] > -1e-3)
    assert got["loss"] < 1e-3


def test_first_response_token_counts_and_what_follows_eos_does_not():
    batch = tiny.batch(1, vocabulary=V)
    hidden, heads = inputs(batch)
    got = run(
        batch,
        hidden,
        heads,
        {"nll": 1.0},
        terms=(Term("nll", signals.nll, source="any"),),
    )
    counted_BT = np.asarray(got["parts"]["loss/nll"]) != 0
    grads_BT = np.abs(np.asarray(got["grads"][0])).sum(-1) > 0
    for b in range(len(counted_BT)):
        first, end = batch.rollout.prompt_length_B[b], batch.rollout.length_B[b]
        assert np.flatnonzero(counted_BT[b]).tolist() == list(range(first, end))
        assert np.flatnonzero(grads_BT[b]).tolist() == list(range(first - 1, end - 1))


def scores_of(batch: Batch, seed: int = 0) -> Scores:
    hidden, heads = inputs(batch, seed)
    facts = objective.facts(hidden, heads, batch, chunk_tokens=16, **CALL)
    return objective.scores(batch, facts)


def test_scores_hold_ids_and_which_rows_ended():
    batch = tiny.batch(5, vocabulary=V)
    scores = scores_of(batch)
    np.testing.assert_array_equal(scores.tokens, batch.rollout.tokens_BT)
    np.testing.assert_array_equal(scores.finished, batch.rollout.finished_B)
    assert 0 < scores.finished.mean() < 1


@pytest.mark.parametrize("normalizer", objective.NORMALIZERS)
def test_normalizers(normalizer):
    batch = tiny.batch(5, vocabulary=V)
    scores = scores_of(batch)
    count = functools.partial(weights.first_tokens, count=2)
    terms = [
        Term(source, signals.nll, (count,), source=source, normalizer=normalizer)
        for source in (*SOURCES, "any")
    ]
    weighed = objective.weigh(tuple(terms), scores)
    source_BT, position_BT = np.asarray(scores.source), np.asarray(scores.position)
    for term in terms:
        inside_BT = np.asarray(batch.mask_BT)
        if term.source != "any":
            inside_BT = inside_BT & (source_BT == SOURCES[term.source])
        raw_BT = inside_BT * (position_BT < 2) * 1.0
        tokens_B = inside_BT.sum(1)
        want_BT = {
            "tokens": raw_BT / inside_BT.sum(),
            "weights": raw_BT / raw_BT.sum(),
            "sequences": raw_BT
            / np.maximum(tokens_B, 1)[:, None]
            / (tokens_B > 0).sum(),
            "rows": raw_BT / (tokens_B > 0).sum(),
            "batch": raw_BT / np.asarray(batch.mask_BT).sum(),
        }[normalizer]
        got_BT, advantage_BT = weighed[term.name]
        np.testing.assert_allclose(got_BT, want_BT, rtol=1e-6)
        assert raw_BT.sum() > 0 and advantage_BT is None


@pytest.mark.parametrize("normalizer", objective.NORMALIZERS)
def test_a_term_without_tokens_is_zero(case, normalizer):
    batch, hidden, heads = case
    only_gold = batch.rollout._replace(
        source_BT=jnp.full_like(batch.rollout.source_BT, 2)
    )
    terms = (Term("opd", signals.policy_gradient, normalizer=normalizer),)
    for empty in (
        batch._replace(rollout=only_gold),
        batch._replace(mask_BT=jnp.zeros_like(batch.mask_BT)),
    ):
        got = run(empty, hidden, heads, {"opd": 1.0}, terms=terms)
        assert got["loss"] == 0
        jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), got["grads"])


def test_a_signal_may_be_infinite_outside_its_weight(case):
    """A gold token's signal is read, but nothing multiplies it."""

    def signal(outputs):
        # Gold tokens are those without a behavior log-prob.
        return signals.nll(outputs) + jnp.where(outputs.behavior_logp == 0, np.inf, 0)

    batch, hidden, heads = case
    gold_BT = batch.rollout.source_BT == SOURCES["gold"]
    behavior_BT = jnp.where(gold_BT, 0, batch.rollout.behavior_logp_BT)
    rollout = batch.rollout._replace(behavior_logp_BT=behavior_BT)
    batch = batch._replace(rollout=rollout)
    got = run(batch, hidden, heads, {"t": 1.0}, terms=(Term("t", signal),))
    want = run(batch, hidden, heads, {"t": 1.0}, terms=(Term("t", signals.nll),))
    assert np.isfinite(got["loss"])
    for key in ("loss", "grads"):
        jax.tree.map(np.testing.assert_array_equal, got[key], want[key])


def test_a_scaled_loss_has_a_scaled_gradient(case):
    batch, hidden, heads = case
    terms = (Term("nll", signals.nll, source="any"),)
    got = run(batch, hidden, heads, {"nll": 1.0}, terms=terms)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def scaled(hidden_BTD, head_VD):
        loss, _ = objective.objective(
            hidden_BTD, head_VD, {}, {}, batch, got["weighed"], {"nll": 1.0},
            terms=terms, chunk_tokens=7, **CALL,
        )  # fmt: skip
        return -3.0 * loss

    grads = scaled(hidden["student"], heads["student"])
    for a, b in zip(grads, got["grads"]):
        close(a, -3.0 * np.asarray(b))


def test_halves_add_up_to_the_whole(case):
    """Weights are normalised over the whole batch, so parts of it simply sum."""
    batch, hidden, heads = case
    whole = run(*case, constants(0.7), terms=FEW)
    call = CALL | {"chunk_tokens": 7}
    part = jax.jit(
        lambda *rows: split_run(*rows[:2], heads, constants(0.7), rows[2], FEW, call)
    )
    halves = []
    for half in (slice(0, 3), slice(3, 6)):
        rows = (batch, hidden, whole["weighed"])
        halves.append(part(*jax.tree.map(lambda x, half=half: x[half], rows)))
    close(sum(half["loss"] for half in halves), whole["loss"], 1e-6)
    close(sum(half["grads"][1] for half in halves), whole["grads"][1], 1e-6)
    both = np.concatenate([half["grads"][0] for half in halves])
    close(both, whole["grads"][0], 1e-6)


def test_weights_and_advantages_carry_no_gradient():
    batch = tiny.batch(2, vocabulary=V)
    hidden, heads = inputs(batch)
    term = Term(
        "term",
        signals.policy_gradient,
        weights=(weights.importance,),
        advantage=weights.log_ratio,
        normalizer="weights",
    )

    def total(hidden_BTD):
        everyone = hidden | {"student": hidden_BTD}
        facts = objective.facts(everyone, heads, batch, chunk_tokens=64, **CALL)
        weighed = objective.weigh((term,), objective.scores(batch, facts))["term"]
        return jnp.sum(weighed.weight_BT**2) + jnp.sum(weighed.advantage_BT**2)

    value, grad = jax.value_and_grad(total)(hidden["student"])
    assert value > 0
    np.testing.assert_array_equal(grad, 0)


def test_advantage_is_that_of_scoring_time(case):
    """With an advantage of its own the term does not read the other model's logits."""
    batch = case[0]
    got = run(*case, one_hot("advantage", FEW), terms=FEW)
    logp = {key: got["parts"][f"logp/{key}"] for key in ("student", "teacher")}
    weight_BT, advantage_BT = got["weighed"]["advantage"]
    ratio_BT = jnp.exp(logp["student"] - batch.rollout.behavior_logp_BT)
    want_BT = -weight_BT * ratio_BT * (logp["teacher"] - logp["student"])
    used_BT = np.asarray(weight_BT) > 0
    got_BT = np.asarray(got["parts"]["loss/advantage"])
    np.testing.assert_allclose(got_BT[used_BT], np.asarray(want_BT)[used_BT], rtol=1e-5)
    assert not np.any(got_BT[~used_BT])
    other_BT = np.asarray(batch.rollout.source_BT) != SOURCES["student"]
    assert not np.any(np.asarray(advantage_BT)[other_BT])


def every_token_once(student_V, teacher_V):
    """One row per token of the vocabulary: the whole distribution after one prompt."""
    size = len(student_V)
    zeros_B = jnp.zeros(size, jnp.int32)
    tokens_BT = jnp.stack([zeros_B, jnp.arange(size)], axis=1)
    logp_V = jax.nn.log_softmax(student_V)
    rollout = Rollout(
        tokens_BT=tokens_BT,
        prompt_length_B=zeros_B + 1,
        length_B=zeros_B + 2,
        finished_B=zeros_B == 0,
        behavior_logp_BT=jnp.stack([jnp.zeros(size), logp_V], axis=1),
        source_BT=jnp.zeros_like(tokens_BT),
        group_B=zeros_B,
        age_B=zeros_B,
    )
    mask_BT = objective.response_mask(tokens_BT, zeros_B + 1, zeros_B + 2)
    batch = Batch(rollout, mask_BT, jnp.zeros(size), zeros_B)
    hidden = {
        "student": jnp.broadcast_to(student_V, (size, 2, size)),
        "teacher": jnp.broadcast_to(teacher_V, (size, 2, size)),
    }
    return batch, hidden, {name: jnp.eye(size) for name in hidden}


def test_policy_gradient_per_sample_and_in_expectation():
    student_V, teacher_V = jnp.asarray(
        np.random.default_rng(0).normal(size=(2, 5)), "float32"
    )
    batch, hidden, heads = every_token_once(student_V, teacher_V)
    call = (("vocabulary", 5), ("temperature", 1.0))
    terms = (
        Term("drawn", signals.policy_gradient),
        Term("all", signals.policy_gradient, (lambda s: jnp.exp(s.behavior_logp),)),
    )
    call = (("vocabulary", 5), ("temperature", 1.0))
    # The normaliser divides by the 5 rows.
    coefs = {
        name: {t.name: 5.0 * (t.name == name) for t in terms}
        for name in ("drawn", "all")
    }
    got = run(batch, hidden, heads, coefs["drawn"], terms=terms, call=call)
    log_p, log_q = jax.nn.log_softmax(student_V), jax.nn.log_softmax(teacher_V)
    score_VV = np.eye(5) - np.exp(log_p)[None]
    advantage_V = np.asarray(log_q - log_p)
    close(got["grads"][0][:, 0], -advantage_V[:, None] * score_VV, 1e-6)

    got = run(batch, hidden, heads, coefs["all"], terms=terms, call=call)
    exact_V = jax.grad(divergences.reverse_kl)(student_V, teacher_V)
    close(np.sum(got["grads"][0][:, 0], axis=0), exact_V, 1e-6)


def test_terms_of_coefficient_zero_leave_plain_opd(case):
    opd = Term("opd", signals.policy_gradient)
    reference = Term(
        "reference", functools.partial(signals.reverse_kl, other="reference")
    )
    gold = Term("gold", signals.nll, source="gold")
    coefs = {"opd": 1.0, "reference": 0.0, "gold": 0.0}
    stable = run(*case, coefs, terms=(opd, reference, gold))
    alone = run(*case, {"opd": 1.0}, terms=(opd,))
    for key in ("loss", "grads"):
        jax.tree.map(np.testing.assert_array_equal, stable[key], alone[key])


def compiled(width: int, chunk_tokens: int, strip_tokens: int = 0):
    """The gradient of a two-term objective, compiled for shapes only."""
    vocabulary, rows = 4096, 4
    shape = (rows, width)
    spec = lambda size, dtype="float32": jax.ShapeDtypeStruct(size, dtype)
    batch = tiny.batch(0, rows=rows, width=width)
    hidden = {name: spec((*shape, 8)) for name in ("student", "teacher")}
    heads = {name: spec((vocabulary, 8)) for name in hidden}
    terms = (
        Term("kl", signals.reverse_kl),
        Term("opd", signals.policy_gradient, advantage=weights.log_ratio),
    )
    call = (("vocabulary", vocabulary),)
    coefs = {term.name: spec(()) for term in terms}
    lowered = run.lower(
        batch, hidden, heads, coefs, terms=terms, call=call,
        chunk_tokens=chunk_tokens, strip_tokens=strip_tokens,
    )  # fmt: skip
    return lowered.compile()


def largest_array(program) -> int:
    """Elements of the largest array that the compiled program names."""
    shapes = re.findall(r"\b(?:f32|f64|bf16|s32|pred)\[([\d,]+)\]", program.as_text())
    return max(int(np.prod([int(size) for size in s.split(",")])) for s in shapes)


def test_logits_of_all_tokens_never_exist():
    vocabulary, chunk = 4096, 32
    short, long = compiled(16, chunk), compiled(64, chunk)
    memory = [p.memory_analysis().temp_size_in_bytes for p in (short, long)]
    logits_bytes = 4 * vocabulary * 4 * np.asarray([16, 64])
    assert memory[1] - memory[0] < 0.1 * (logits_bytes[1] - logits_bytes[0])
    assert largest_array(long) <= chunk * vocabulary
    wider = compiled(64, 4 * chunk).memory_analysis().temp_size_in_bytes
    assert 2.5 < wider / memory[1] < 4.5


def test_a_gradient_made_in_strips_takes_the_place_of_the_logits():
    """Two models' logits of a chunk exist, and nothing else that is as large."""

    def arrays(strip_tokens):
        """Logits-sized arrays of a chunk, from what one twice as long needs more."""
        memory = [
            compiled(16, chunk, strip_tokens).memory_analysis().temp_size_in_bytes
            for chunk in (32, 64)
        ]
        return (memory[1] - memory[0]) / (4 * 4096 * 32)

    assert arrays(2) < 2.1 < 3 < arrays(0)


def test_align_moves_rows_to_the_token_they_predict():
    hidden_BTD = jnp.arange(24.0).reshape(2, 4, 3)
    moved = objective.align(hidden_BTD)
    np.testing.assert_array_equal(moved[:, 1:], hidden_BTD[:, :-1])
    np.testing.assert_array_equal(moved[:, 0], hidden_BTD[:, 0])


def row(hidden, heads, name: str, b: int, t: int) -> np.ndarray:
    """f64[V]: log-probabilities of the token at ``t`` under a model."""
    states, head = (np.asarray(x, np.float64) for x in (hidden[name], heads[name]))
    return special.log_softmax(states[b, t - 1] @ head[:V].T / TEMPERATURE)


def test_scores_are_those_of_the_batch(case):
    batch, hidden, heads = case
    scores = scores_of(batch, 0)
    assert set(scores.logp) == set(scores.entropy) == set(WIDTHS)
    position_BT = np.asarray(scores.position)
    for b, t in np.argwhere(np.asarray(batch.mask_BT)):
        assert position_BT[b, t] == t - batch.rollout.prompt_length_B[b]
        log_p = row(hidden, heads, "teacher", b, t)
        # Absolute: a log-prob near 0 is the small difference of large logits.
        np.testing.assert_allclose(
            scores.logp["teacher"][b, t],
            log_p[batch.rollout.tokens_BT[b, t]],
            rtol=1e-5,
            atol=1e-6,
        )
        np.testing.assert_allclose(
            scores.entropy["teacher"][b, t], -(np.exp(log_p) * log_p).sum(), rtol=1e-5
        )
        gap = log_p - row(hidden, heads, "student", b, t)
        np.testing.assert_allclose(
            scores.forward_kl["teacher"][b, t], (np.exp(log_p) * gap).sum(), rtol=1e-4
        )
        assert scores.uniform[b, t] == batch.uniform_BT[b, t]


def test_facts_name_the_kls_by_direction():
    rng = np.random.default_rng(0)
    names = ("student", "teacher", "reference")
    logits = {name: jnp.asarray(rng.normal(size=(4, V)), jnp.float32) for name in names}
    facts = scoring.token_facts(Outputs(logits, jnp.arange(4), jnp.zeros(4)))
    log_p = {
        name: np.asarray(jax.nn.log_softmax(rows)) for name, rows in logits.items()
    }
    kl = lambda a, b: (np.exp(log_p[a]) * (log_p[a] - log_p[b])).sum(-1)
    want = {
        "kl/reverse": kl("student", "teacher"),
        "kl/forward": kl("teacher", "student"),
        "kl/reverse_reference": kl("student", "reference"),
        "kl/forward_reference": kl("reference", "student"),
    }
    for name, value in want.items():
        np.testing.assert_allclose(facts[name], value, rtol=1e-5)
    assert len(facts) == 2 * 3 + len(want)


def test_bfloat16_hidden_states_give_float32_losses(case):
    batch, hidden, heads = case
    halved = {name: x.astype("bfloat16") for name, x in hidden.items()}
    got = run(batch, halved, heads, constants(1.0), terms=FEW)
    full = run(*case, constants(1.0), terms=FEW)
    assert got["loss"].dtype == jnp.float32
    assert got["grads"][0].dtype == jnp.bfloat16
    assert got["grads"][1].dtype == jnp.float32
    np.testing.assert_allclose(got["loss"], full["loss"], rtol=0.1)
    assert np.all(np.isfinite(np.asarray(got["grads"][1])))
