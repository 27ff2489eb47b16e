"""Prepare and update: one result however the work is cut up."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from jopd.batches import layout
from jopd.losses import objective, signals, weights
from jopd.losses.objective import Term
from jopd.models import decoder, sharding
from jopd.rollouts import sampling
from jopd.setup import optimizer
from jopd.training import step

STUDENT = tiny.config()
TEACHER = tiny.config(vocab_size=28, width=8, layers=1)
TERMS = (
    Term(
        "opd",
        signals.policy_gradient,
        (functools.partial(weights.staleness, decay=0.9),),
    ),
    Term("gold", signals.nll, source="gold", normalizer="sequences"),
    Term(
        "kl",
        signals.reverse_kl,
        (functools.partial(weights.entropy_above, threshold=2.6),),
        source="any",
        normalizer="weights",
    ),
)
COEFS = {"opd": 1.0, "gold": 0.5, "kl": 0.2}
SHAPE = step.Shape(tiny.VOCABULARY, chunk_tokens=10)
# A large eps: with a small one Adam's first update is the sign of the gradient, which
# rounding decides where the gradient is all but zero.
OPTIMIZER = optimizer.build(
    "adamw", optimizer.schedule("constant", 1e-2, steps=10), eps=1e-2
)


def models(**changes) -> dict:
    return {
        "student": decoder.Decoder(tiny.config(**changes)),
        "teacher": decoder.Decoder(TEACHER),
    }


def fresh(seed: int = 0):
    """A train state, frozen parameters and a batch of 8 rows."""
    params = tiny.params(STUDENT, seed)
    state = step.TrainState(jnp.int32(0), params, OPTIMIZER.init(params))
    return state, {"teacher": tiny.params(TEACHER, 7)}, tiny.batch(seed, rows=8)


@functools.cache
def stages(accumulate: int = 1, shape: step.Shape = SHAPE, **changes):
    both = models(**changes)
    return (
        step.make_prepare(both, TERMS, shape, accumulate=accumulate),
        step.make_update(
            both["student"], TERMS, OPTIMIZER, shape, accumulate=accumulate
        ),
    )


def one_step(held, *cut, **changes):
    """(state, metrics, parts) of one update, in numpy."""
    state, frozen, batch = held
    prepare, update = stages(*cut, **changes)
    prepared = prepare(state.params, frozen, batch)
    return jax.tree.map(np.asarray, update(state, frozen, batch, prepared, COEFS))


@pytest.fixture(scope="module")
def whole():
    return one_step(fresh())


def same(got, want, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance),
        got,
        want,
    )


def test_micro_batches_give_the_same_update(whole):
    """4 here; 2 below, on a mesh."""
    state, metrics, parts = one_step(fresh(), 4)
    same(metrics, whole[1], 1e-6)
    same(state.params, whole[0].params, 1e-6)
    mask_BT = np.asarray(fresh()[2].mask_BT)
    for name, part_BT in parts.items():
        same(part_BT[mask_BT], whole[2][name][mask_BT], 1e-5)


@pytest.mark.parametrize("shards", [1, 2])
def test_packed_rows_give_the_same_update(whole, shards):
    state, frozen, batch = fresh()
    columns = batch.rollout.tokens_BT.shape[1]
    batch = layout.with_packing(jax.device_get(batch), (columns,), shards)
    assert batch.packing, "side by side there is less to read"
    held = (state, frozen, batch)
    if shards > 1:
        held, shape = on_mesh(held, sharding.make_mesh(1, shards, 1))
    else:
        shape = SHAPE
    got = one_step(held, 1, shape)
    same(got[1], whole[1], 1e-5)
    same(got[0].params, whole[0].params, 1e-5)


@pytest.mark.parametrize(
    "accumulate, sizes", [(1, (2, 1, 1)), (2, (1, 2, 1)), (1, (1, 1, 2))]
)
def test_a_mesh_gives_the_same_update(whole, accumulate, sizes):
    held, shape = on_mesh(fresh(), sharding.make_mesh(*sizes))
    got = one_step(held, accumulate, shape)
    same(got[1], whole[1], 1e-5)
    same(got[0].params, whole[0].params, 1e-5)


def on_mesh(held, mesh):
    """What ``fresh`` gave, split over devices, and the shape to go with it."""
    state, frozen, batch = held
    put = lambda tree, places: jax.device_put(tree, places)
    held = (
        step.TrainState(
            put(state.step, sharding.replicated(mesh)),
            put(state.params, sharding.of_params(state.params, mesh)),
            put(
                state.opt_state,
                sharding.of_optimizer(state.opt_state, state.params, mesh),
            ),
        ),
        put(frozen, {"teacher": sharding.of_params(frozen["teacher"], mesh)}),
        put(batch, sharding.rows(mesh)),
    )
    return held, SHAPE._replace(chunk_tokens=5, rows=sharding.rows(mesh))


def test_golden(whole):
    """Numbers of one update, written down on jax 0.10 on a CPU.

    They may change when the loss, its normalisers, the initialisation of the model or
    the optimizer change on purpose: print the metrics, say in the commit what moved
    them and why the new ones are right, and paste them here. A change that is meant to
    keep the numbers (speed, memory, sharding, structure) must not touch this table.
    """
    state, metrics, parts = whole
    mask_BT = np.asarray(fresh()[2].mask_BT)
    got = {name: float(value) for name, value in metrics.items()}
    for name in ("logp/student", "logp/teacher", "entropy/student", "kl/reverse"):
        got[name] = float(parts[name][mask_BT].mean())
    got["params"] = float(optax.tree.norm(state.params))
    assert got == pytest.approx(GOLDEN, rel=2e-5)
    assert set(got) == set(GOLDEN)


GOLDEN = {
    "loss": 3.558287,
    "loss/gold": 4.894248,
    "loss/kl": 0.8994631,
    "loss/opd": 0.9312699,
    "optim/grad_norm": 10.71562,
    "tokens/gold": 4,
    "tokens/kl": 31,
    "tokens/opd": 26,
    "weight/kl": 0.8387097,
    "weight/opd": 0.8385769,
    "logp/student": -3.500755,
    "logp/teacher": -3.215846,
    "entropy/student": 2.453688,
    "kl/reverse": 0.9241406,
    "params": 22.28092,
}


def direct(coefs):
    """(loss, gradient) by autodiff through the models, unchunked and unsplit."""
    state, frozen, batch = fresh()
    prepare, _ = stages()
    prepared = prepare(state.params, frozen, batch)
    student = models()["student"]

    def loss(params, coefs):
        hidden_BTD = step.hidden_states(student, params, batch)
        logits = {
            "student": hidden_BTD @ params["head"][: tiny.VOCABULARY].T,
            "teacher": prepared.hidden["teacher"]
            @ frozen["teacher"]["head"][: tiny.VOCABULARY].T,
        }
        logits = {name: objective.align(rows) for name, rows in logits.items()}
        outputs = objective.Outputs(
            logits, batch.rollout.tokens_BT, batch.rollout.behavior_logp_BT
        )
        total = 0.0
        for term in TERMS:
            weight_BT = prepared.weighed[term.name].weight_BT
            value_BT = jnp.where(weight_BT > 0, weight_BT * term.signal(outputs), 0)
            total += coefs[term.name] * jnp.sum(value_BT)
        return total

    gradient = jax.jit(jax.value_and_grad(loss))
    return jax.tree.map(np.asarray, gradient(state.params, coefs))


def test_update_follows_the_gradient_of_the_whole_loss(whole):
    state, _, _ = fresh()
    value, grads = direct(COEFS)
    updates, _ = OPTIMIZER.update(grads, state.opt_state, state.params)
    same(whole[0].params, optax.apply_updates(state.params, updates), 1e-5)
    np.testing.assert_allclose(whole[1]["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(
        whole[1]["optim/grad_norm"], optax.tree.norm(grads), rtol=1e-5
    )


def alone(name: str) -> dict:
    return {other: coef * (other == name) for other, coef in COEFS.items()}


@pytest.fixture(scope="module")
def norms() -> dict:
    """Norm of every term's part of the gradient, summed in float64."""
    found = {}
    for name in COEFS:
        leaves = [x.astype(np.float64) for x in jax.tree.leaves(direct(alone(name))[1])]
        found[name] = np.sqrt(sum((x**2).sum() for x in leaves))
    return found


def term_norms(held, accumulate: int = 1, shape: step.Shape = SHAPE, coefs=COEFS):
    state, frozen, batch = held
    prepared = stages(accumulate, shape)[0](state.params, frozen, batch)
    found = step.make_term_norms(
        models()["student"], TERMS, shape, accumulate=accumulate
    )
    return found(state.params, frozen, batch, prepared, coefs)


@pytest.mark.parametrize(
    "accumulate, sizes", [(1, None), (4, None), (1, (2, 1, 1)), (2, (1, 2, 1))]
)
def test_norms_of_terms_are_those_of_each_alone(norms, accumulate, sizes):
    held, shape = fresh(), SHAPE
    if sizes:
        held, shape = on_mesh(held, sharding.make_mesh(*sizes))
    got = term_norms(held, accumulate, shape)
    total = sum(norms.values())
    want = {f"grad_norm/{name}": norm for name, norm in norms.items()}
    want |= {f"grad_share/{name}": norm / total for name, norm in norms.items()}
    assert got == pytest.approx(want, rel=3e-6)
    assert sum(got[f"grad_share/{name}"] for name in COEFS) == pytest.approx(1)
    assert min(norms.values()) > 0.01 * total, "no term is lost among the others"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_of_terms_sum_to_the_whole(whole, accumulate):
    state, frozen, batch = fresh()
    prepared = stages()[0](state.params, frozen, batch)
    gradient = jax.jit(
        step.make_gradient(models()["student"], TERMS, SHAPE, accumulate=accumulate)
    )
    parts = [
        gradient(state.params, frozen, batch, prepared, alone(name))[1]
        for name in COEFS
    ]
    summed = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    (loss, _), together = gradient(state.params, frozen, batch, prepared, COEFS)
    same(summed, together, 2e-6)
    same(together, direct(COEFS)[1], 1e-5)
    np.testing.assert_allclose(loss, whole[1]["loss"], rtol=1e-6)


def test_a_term_without_gradient_has_no_share(norms):
    got = term_norms(fresh(), coefs=COEFS | {"opd": 0.0, "kl": 0.0})
    assert got["grad_norm/opd"] == got["grad_share/kl"] == 0
    assert got["grad_share/gold"] == 1
    assert got["grad_norm/gold"] == pytest.approx(norms["gold"], rel=3e-6)
    nothing = term_norms(fresh(), coefs=dict.fromkeys(COEFS, 0.0))
    assert set(nothing.values()) == {0.0}


def test_one_program_for_the_norms_of_all_terms():
    state, frozen, batch = fresh()
    prepared = stages()[0](state.params, frozen, batch)
    found = step.make_term_norms(models()["student"], TERMS, SHAPE)
    jax.block_until_ready(prepared)
    with Compilations() as compiled:
        found(state.params, frozen, batch, prepared, COEFS)
        found(state.params, frozen, batch, prepared, COEFS | {"gold": 0.1})
    assert len(compiled) == 1


def test_metrics_add_up(whole):
    _, metrics, parts = whole
    total = sum(coef * metrics[f"loss/{name}"] for name, coef in COEFS.items())
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
    batch = fresh()[2]
    source_BT = np.where(batch.mask_BT, batch.rollout.source_BT, -1)
    assert metrics["tokens/opd"] == (source_BT == 0).sum()
    assert metrics["tokens/gold"] == (source_BT == 2).sum()
    assert metrics["tokens/kl"] == (source_BT >= 0).sum()
    for name in COEFS:
        np.testing.assert_allclose(
            parts[f"loss/{name}"].sum(), metrics[f"loss/{name}"], rtol=1e-5
        )


class Compilations(list):
    """Names of the compile events between ``with`` and its end."""

    def __call__(self, name: str, seconds: float, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            self.append(name)

    def __enter__(self):
        jax.monitoring.register_event_duration_secs_listener(self)
        return self

    def __exit__(self, *_):
        jax.monitoring.unregister_event_duration_listener(self)


def test_one_compilation_per_shape(whole):
    prepare, update = stages()
    state, frozen, batch = fresh()
    _, _, other = fresh(1)
    jax.block_until_ready((state, other))
    with Compilations() as compiled:
        for rows in (batch, other, batch):
            prepared = prepare(state.params, frozen, rows)
            state, *_ = update(state, frozen, rows, prepared, COEFS)
    assert not compiled
    narrow = jax.tree.map(lambda x: x[:4], batch)
    with Compilations() as compiled:
        prepare(state.params, frozen, narrow)
    assert len(compiled) == 1
    assert int(state.step) == 3


def test_the_state_is_donated_and_frozen_models_are_not():
    """A teacher of the student's shape, whose memory the new parameters would fit."""
    state, _, batch = fresh()
    frozen = {"teacher": tiny.params(STUDENT, 7)}
    both = {name: decoder.Decoder(STUDENT) for name in ("student", "teacher")}
    prepare = step.make_prepare(both, TERMS, SHAPE)
    update = step.make_update(both["student"], TERMS, OPTIMIZER, SHAPE)
    before = jax.tree.map(np.array, frozen)
    prepared = prepare(state.params, frozen, batch)
    with warnings.catch_warnings():
        # Donating more than an update gives back is no error, only a warning.
        warnings.filterwarnings("error", message="Some donated buffers")
        update(state, frozen, batch, prepared, COEFS)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    kept = (frozen, batch, prepared)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(kept))
    jax.tree.map(np.testing.assert_array_equal, frozen, before)


def test_bfloat16_compute_keeps_float32_parameters(whole):
    state, metrics, _ = one_step(fresh(), dtype="bfloat16")
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state.params))
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["loss"] == pytest.approx(whole[1]["loss"], rel=0.1)


def test_garbage_in_padding_changes_no_update(whole):
    state, frozen, batch = fresh()
    junk_BT = jnp.where(batch.mask_BT, batch.rollout.tokens_BT, 2**30)
    prompt_BT = jnp.arange(junk_BT.shape[1]) < batch.rollout.prompt_length_B[:, None]
    rollout = batch.rollout._replace(
        tokens_BT=jnp.where(prompt_BT, batch.rollout.tokens_BT, junk_BT),
        behavior_logp_BT=jnp.where(
            batch.mask_BT, batch.rollout.behavior_logp_BT, jnp.nan
        ),
    )
    got = one_step((state, frozen, batch._replace(rollout=rollout)))
    same(got[:2], whole[:2], 0)


def test_a_batch_of_nothing_but_masked_rows_is_finite():
    state, frozen, batch = fresh()
    nothing = jax.tree.map(jnp.zeros_like, batch)
    _, metrics, _ = one_step((state, frozen, nothing))
    assert metrics["loss"] == 0 and metrics["optim/grad_norm"] == 0


@pytest.mark.parametrize("strip_tokens", [0, 4])
def test_prepare_computes_what_weights_read_and_no_more(strip_tokens):
    """Unread facts are dead code: no head, and without need no student forward."""
    shape = SHAPE._replace(chunk_tokens=100, strip_tokens=strip_tokens)
    both = models()
    state, frozen, batch = fresh()

    def cost(*functions):
        term = Term("kl", signals.reverse_kl, functions)
        prepare = step.make_prepare(both, (term,), shape)
        compiled = prepare.lower(state.params, frozen, batch).compile()
        return compiled.cost_analysis()["flops"]

    teacher = both["teacher"]
    forward = jax.jit(functools.partial(step.hidden_states, teacher))
    alone = forward.lower(frozen["teacher"], batch).compile().cost_analysis()["flops"]
    none = cost()
    assert none < 1.2 * alone
    entropy = cost(functools.partial(weights.entropy_above, threshold=1.0))
    ratio = cost(weights.log_ratio)
    assert none < entropy < ratio
    # Reading only the teacher, the wider student never runs.
    assert entropy - none < 0.5 * (ratio - none)


def test_split_rows_keeps_each_devices_rows_on_it():
    rows = jnp.arange(8)
    groups = step.split_rows(rows, 2)
    np.testing.assert_array_equal(step.join_rows(groups), rows)
    # The first half of every micro-batch comes from the first half of the rows.
    assert np.all(np.asarray(groups)[:, :2] < 4) and np.all(
        np.asarray(groups)[:, 2:] >= 4
    )


def test_a_model_may_read_a_prompt_of_its_own():
    """Its hidden states are those of its prompt and the student's response."""
    _, frozen, batch = fresh()
    rollout, rng = batch.rollout, np.random.default_rng(0)
    rows, width = batch.mask_BT.shape
    own_B = np.asarray([1, 5, 3, 2, 4, 1, 2, 3])
    own_BP = rng.integers(0, tiny.VOCABULARY, (rows, 5))
    tokens_BT = np.zeros((rows, 5 + width), np.int32)
    lengths = zip(np.asarray(rollout.prompt_length_B), np.asarray(rollout.length_B))
    spans = [(b, own_B[b], start, end) for b, (start, end) in enumerate(lengths)]
    for b, own, start, end in spans:
        response = rollout.tokens_BT[b, start:end]
        tokens_BT[b, : own + end - start] = [*own_BP[b, :own], *response]
    shift_B = jnp.asarray(own_B) - rollout.prompt_length_B
    direct = batch._replace(
        rollout=rollout._replace(
            tokens_BT=jnp.asarray(tokens_BT), length_B=rollout.length_B + shift_B
        )
    )
    prompts = {"teacher": (jnp.asarray(own_BP), jnp.asarray(own_B))}
    forward = jax.jit(
        functools.partial(step.hidden_states, decoder.Decoder(TEACHER)),
        static_argnames="name",
    )
    params = frozen["teacher"]
    got = forward(params, batch._replace(prompts=prompts), name="teacher")
    want = forward(params, direct)
    assert got.shape == (rows, width, TEACHER.width)
    assert {int(np.sign(shift)) for shift in shift_B} == {-1, 0, 1}
    for b, own, start, end in spans:
        # From the row that predicts the first response token to the last one.
        mine = got[b, start - 1 : end]
        same(mine, want[b, own - 1 : own - 1 + len(mine)], 1e-5)
    plain = forward(params, batch._replace(prompts=prompts))
    same(plain, forward(params, batch), 0)


def test_facts_for_evaluation_are_those_of_the_update(whole):
    state, frozen, batch = fresh()
    found = step.make_facts(models(), SHAPE)(state.params, frozen, batch)
    mask_BT = np.asarray(batch.mask_BT)
    for name, value_BT in found.items():
        same(np.asarray(value_BT)[mask_BT], whole[2][name][mask_BT], 1e-5)


def test_replay_logp_applies_the_filters_of_sampling():
    state, _, batch = fresh()
    student = models()["student"]
    filters = sampling.Filter(temperature=0.7, top_k=5)
    logp_BT = step.make_replay_logp(student, filters, SHAPE)(state.params, batch)
    hidden_BTD = step.hidden_states(student, state.params, batch)
    logits = np.asarray(hidden_BTD @ state.params["head"][: tiny.VOCABULARY].T) / 0.7
    for b, t in np.argwhere(np.asarray(batch.mask_BT)):
        row = logits[b, t - 1].astype(np.float64)
        row = np.where(row >= np.sort(row)[-5], row, -np.inf)
        want = row - np.log(np.exp(row).sum())
        token = batch.rollout.tokens_BT[b, t]
        np.testing.assert_allclose(logp_BT[b, t], want[token], atol=1e-5)
