"""What every term of every method config must do, whatever it computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import runs
import tiny
from jopd.losses import memories, objective, scoring
from jopd.losses.states import of_logits
from jopd.setup import builders
from jopd.types import SOURCES

D, V = 5, tiny.VOCABULARY
MODELS = ("student", "teacher", "reference", "self")
PANELS = ("steered",)
METHODS = sorted(path.stem for path in (runs.ROOT / "configs").glob("*.py"))


@functools.cache
def terms_of(method: str):
    """Those over logits; ``losses/states_test.py`` has the others."""
    loaded = runs.runpy.run_path(str(runs.ROOT / "configs" / f"{method}.py"))
    return of_logits(builders.build_terms(loaded["get_config"]()))


CASES = [(method, term.name) for method in METHODS for term in terms_of(method)]
# Maximum likelihood goes on as long as the student is unsure.
NO_FIXED_POINT = {"nll"}
# A verifier does not ask who agrees with whom.
NO_REST = {"group_reward"}


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    method, name = request.param
    return terms_of(method), name


def signal_name(term) -> str:
    return getattr(term.signal, "func", term.signal).__name__


def advantage_name(term) -> str:
    return getattr(getattr(term.advantage, "func", term.advantage), "__name__", "")


def baselines(term) -> set[str]:
    """What its weights subtract a mean as: they may be negative then."""
    return {w.keywords.get("baseline") for w in term.weights if hasattr(w, "keywords")}


def moves_at_the_teacher(term) -> bool:
    """Whether a batch still moves a student that is equal to its teacher."""
    name = signal_name(term)
    if name == "top_k_forward_kl":
        # A truncated sum falls as long as the student has mass outside of it.
        return term.signal.keywords["k"] < V and not term.signal.keywords["tail"]
    return name in NO_FIXED_POINT or advantage_name(term) in NO_REST


def states(seed: int = 0, *, same: bool = False):
    """Random hidden states ``[B, T, D]`` and heads ``[V, D]`` of all models."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    hidden = {name: draw(6, 9, D) for name in MODELS}
    heads = {name: draw(V, D) for name in MODELS}
    # Behind them: what models have does not depend on how many panels there are.
    hidden |= {name: draw(6, 9, D) for name in PANELS}
    heads |= {name: draw(V, D) for name in PANELS}
    if same:
        hidden = dict.fromkeys(hidden, hidden["student"])
        heads = dict.fromkeys(heads, heads["student"])
    return hidden, heads


@functools.partial(jax.jit, static_argnames=("terms", "chunk_tokens"))
def weighed_of(terms, hidden, heads, batch, chunk_tokens: int = 30):
    cut = dict(vocabulary=V, chunk_tokens=chunk_tokens)
    named = scoring.facts_of(terms)
    facts = objective.facts(hidden, heads, batch, named=named, **cut)
    read = objective.scores(batch, facts, memories.start(terms, V))
    return objective.weigh(terms, read)


def loss_of(student, coefs, batch, hidden, heads, *, terms, chunk_tokens):
    states, head = student
    hidden, heads = hidden | {"student": states}, heads | {"student": head}
    # Weights must not be differentiated although they are computed inside.
    weighed = weighed_of(terms, hidden, heads, batch, chunk_tokens)
    frozen = [name for name in hidden if name != "student"]
    loss, _ = objective.objective(
        hidden["student"],
        heads["student"],
        {key: hidden[key] for key in frozen},
        {key: heads[key] for key in frozen},
        batch,
        weighed,
        coefs,
        terms=terms,
        vocabulary=V,
        chunk_tokens=chunk_tokens,
    )
    return loss


# One program for all terms of a method and for all tests of them.
compiled = jax.jit(
    jax.value_and_grad(loss_of), static_argnames=("terms", "chunk_tokens")
)


def value_and_grad(terms, name, batch, hidden, heads, *, jit: bool = True):
    """The loss of one term of a method, the others at coefficient 0.

    And its gradient by the student's hidden states and head.
    """
    coefs = {term.name: jnp.float32(term.name == name) for term in terms}
    student = (hidden["student"], heads["student"])
    arguments = (student, coefs, batch, hidden, heads)
    if jit:
        return compiled(*arguments, terms=terms, chunk_tokens=30)
    with jax.disable_jit():
        return compiled(*arguments, terms=terms, chunk_tokens=batch.mask_BT.size)


def scope_of(term, batch) -> np.ndarray:
    mask_BT = np.asarray(batch.mask_BT)
    if term.source == "any":
        return mask_BT
    return mask_BT & (np.asarray(batch.rollout.source_BT) == SOURCES[term.source])


def term_named(terms, name):
    return next(term for term in terms if term.name == name)


def test_finite_and_the_same_under_jit(case):
    terms, name = case
    batch, (hidden, heads) = tiny.batch(), states()
    loss, grads = value_and_grad(terms, name, batch, hidden, heads)
    eager, eager_grads = value_and_grad(terms, name, batch, hidden, heads, jit=False)
    assert np.isfinite(loss)
    np.testing.assert_allclose(loss, eager, rtol=1e-5, atol=1e-6)
    for one, two in zip(grads, eager_grads, strict=True):
        assert np.isfinite(one).all() and np.abs(one).max() > 0
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_garbage_outside_of_the_scope_changes_nothing(case):
    """Also no gradient: NaN in hidden states, ids outside of the vocabulary."""
    terms, name = case
    batch, (hidden, heads) = tiny.batch(), states()
    loss, grads = value_and_grad(terms, name, batch, hidden, heads)
    inside_BT = scope_of(term_named(terms, name), batch)
    # Row t of the hidden states predicts token t + 1.
    predicts_BT = np.pad(inside_BT[:, 1:], ((0, 0), (0, 1)))
    assert (np.asarray(grads[0])[~predicts_BT] == 0).all()
    assert (np.abs(np.asarray(grads[0])[predicts_BT]).max(axis=-1) > 0).any()

    masked_BT = np.asarray(batch.mask_BT)
    rows_BT = np.pad(masked_BT[:, 1:], ((0, 0), (0, 1)))
    dirty = {
        key: jnp.where(rows_BT[..., None], value, jnp.nan)
        for key, value in hidden.items()
    }
    tokens_BT = jnp.where(masked_BT, batch.rollout.tokens_BT, V + 1000)
    logp_BT = jnp.where(masked_BT, batch.rollout.behavior_logp_BT, jnp.nan)
    dirty_batch = batch._replace(
        rollout=batch.rollout._replace(tokens_BT=tokens_BT, behavior_logp_BT=logp_BT)
    )
    dirty_loss, dirty_grads = value_and_grad(terms, name, dirty_batch, dirty, heads)
    np.testing.assert_array_equal(loss, dirty_loss)
    for one, two in zip(grads, dirty_grads, strict=True):
        np.testing.assert_array_equal(one, two)


def test_padding_columns_change_nothing(case):
    terms, name = case
    batch, (hidden, heads) = tiny.batch(), states()
    loss, (d_hidden, d_head) = value_and_grad(terms, name, batch, hidden, heads)
    wide = lambda x: jnp.pad(x, ((0, 0), (0, 4)), constant_values=1)
    rollout = batch.rollout
    padded = batch._replace(
        mask_BT=jnp.pad(batch.mask_BT, ((0, 0), (0, 4))),
        uniform_BT=jnp.pad(batch.uniform_BT, ((0, 0), (0, 4))),
        rollout=rollout._replace(
            tokens_BT=wide(rollout.tokens_BT),
            behavior_logp_BT=wide(rollout.behavior_logp_BT),
            source_BT=wide(rollout.source_BT),
        ),
        extra=jax.tree.map(wide, batch.extra),
    )
    wider = {
        key: jnp.pad(value, ((0, 0), (0, 4), (0, 0)), constant_values=7.0)
        for key, value in hidden.items()
    }
    again, (d_wider, d_head_again) = value_and_grad(terms, name, padded, wider, heads)
    np.testing.assert_allclose(loss, again, rtol=1e-5)
    np.testing.assert_allclose(d_wider[:, :9], d_hidden, rtol=1e-4, atol=1e-7)
    assert (np.asarray(d_wider)[:, 9:] == 0).all()
    np.testing.assert_allclose(d_head, d_head_again, rtol=1e-4, atol=1e-6)


def test_order_of_rows_does_not_matter(case):
    terms, name = case
    batch, (hidden, heads) = tiny.batch(), states()
    order = np.array([4, 0, 5, 2, 1, 3])
    loss, (_, d_head) = value_and_grad(terms, name, batch, hidden, heads)
    mixed = jax.tree.map(lambda x: x[order], (batch, hidden))
    again, (_, d_head_again) = value_and_grad(terms, name, *mixed, heads)
    # Centred rewards nearly cancel: what rounds are summands of size 1.
    np.testing.assert_allclose(loss, again, rtol=1e-5, atol=3e-7)
    np.testing.assert_allclose(d_head, d_head_again, rtol=1e-4, atol=1e-6)


def test_a_student_equal_to_the_teacher_stays(case):
    terms, name = case
    term = term_named(terms, name)
    batch, (hidden, heads) = tiny.batch(), states(same=True)
    loss, grads = value_and_grad(terms, name, batch, hidden, heads)
    largest = max(np.abs(grad).max() for grad in grads)
    if moves_at_the_teacher(term):
        assert largest > 1e-3
    else:
        # Whitening divides the rounding of a batch of zeros by sqrt(eps) = 1e-4.
        limit = 1e-3 if advantage_name(term) == "reward_to_go" else 1e-6
        assert largest < limit
        np.testing.assert_allclose(loss, 0.0, atol=limit)


def test_weights_lie_in_scope_and_never_carry_gradient(case):
    terms, name = case
    term = term_named(terms, name)
    batch, (hidden, heads) = tiny.batch(), states()
    weighed = weighed_of(terms, hidden, heads, batch)
    weight_BT = np.asarray(weighed[name].weight_BT)
    inside_BT = scope_of(term, batch)
    assert (weight_BT[~inside_BT] == 0).all()
    centred = {"leave_one_out"} & baselines(term)
    assert (weight_BT >= 0).all() or centred
    assert weight_BT.sum() > 0 or (centred and (weight_BT != 0).any())
    if not term.weights:
        tokens = np.sum(batch.mask_BT if term.normalizer == "batch" else inside_BT)
        np.testing.assert_allclose(weight_BT.sum(), inside_BT.sum() / tokens, rtol=1e-6)

    def total(student):
        found = weighed_of(terms, hidden | {"student": student}, heads, batch)
        return sum(jnp.sum(x) for x in jax.tree.leaves(found[name]))

    assert (np.asarray(jax.grad(total)(hidden["student"])) == 0).all()


def test_a_batch_without_a_token_in_scope_gives_zero(case):
    terms, name = case
    batch, (hidden, heads) = tiny.batch(), states()
    batch = batch._replace(mask_BT=jnp.zeros_like(batch.mask_BT))
    loss, grads = value_and_grad(terms, name, batch, hidden, heads)
    assert loss == 0
    assert all((np.asarray(grad) == 0).all() for grad in grads)


def test_methods_have_terms_of_different_names():
    over_states = {method for method in METHODS if not terms_of(method)}
    assert over_states == {"oprd"}
    assert {method for method, _ in CASES} == set(METHODS) - over_states
    assert len(set(CASES)) == len(CASES)
