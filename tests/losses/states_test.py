"""Terms over states: which layers, how weighed, and that nothing else notices them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import tiny
from jopd.batches import layout
from jopd.losses import objective, signals, states, weights
from jopd.losses.objective import Term
from jopd.methods import oprd
from jopd.models import decoder, lora, sharding
from jopd.setup import builders
from jopd.training import step

STUDENT = tiny.config(remat=False)  # untied
TEACHER = tiny.config(layers=3)
SHAPE = step.Shape(tiny.VOCABULARY, chunk_tokens=10)
KL = Term("kl", signals.reverse_kl, source="any", models=("teacher",))
OPRD = Term(
    "mse", oprd.mse, normalizer="sequences", models=("teacher",), reads="states"
)
COEFS = {"kl": jnp.float32(0.5), "mse": jnp.float32(2.0)}


@pytest.mark.parametrize(
    "own, others, found",
    [
        (2, 5, (1, 5)),
        (4, 6, (1, 3, 4, 6)),
        (3, 3, (1, 2, 3)),
        (1, 4, (4,)),
        (5, 2, (1, 1, 1, 2, 2)),
    ],
)
def test_layers_from_the_first_to_the_last(own, others, found):
    assert states.layer_map(tuple(range(1, own + 1)), own, others) == found
    big = states.layer_map(tuple(range(1, 29)), 28, 36)
    assert big[0] == 1 and big[-1] == 36 and list(big) == sorted(set(big))


def test_whose_layers_are_kept():
    count = {"student": 4, "teacher": 6, "reference": 4}
    last = OPRD._replace(name="last", layers=(4,), models=("reference",))
    assert states.layers_of(OPRD, count)["teacher"] == (1, 3, 4, 6)
    assert states.read_of((KL,), count) == {}
    assert states.read_of((KL, OPRD._replace(layers=(2,)), last), count) == {
        "student": (2, 4), "teacher": (3,), "reference": (4,)
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"layers=\(3, 5\) names layer 5.* has 4"):
        states.layers_of(OPRD._replace(layers=(3, 5)), count)


def models(student=STUDENT, teacher=TEACHER, mesh=None):
    return {
        "student": decoder.Decoder(student, mesh),
        "teacher": decoder.Decoder(teacher, mesh),
    }


def held(student=STUDENT, teacher=TEACHER):
    frozen = {"teacher": tiny.params(teacher, 7)}
    return tiny.params(student, 0), frozen, tiny.batch(0, rows=8)


def gradient_of(
    terms, both=None, accumulate=1, with_facts=False, coefs=COEFS, shape=SHAPE
):
    """``(params, frozen, batch) -> ((loss, parts), gradient)``, compiled."""
    both = both or models()
    prepare = step.make_prepare(both, terms, shape, accumulate=accumulate)
    gradient = step.make_gradient(
        both["student"], terms, shape, accumulate=accumulate, with_facts=with_facts,
        layers=step.layers_in(both),
    )  # fmt: skip

    def found(params, frozen, batch):
        prepared = prepare(params, frozen, batch)
        return gradient(params, frozen, step.for_student(batch), prepared, coefs)

    return jax.jit(found)


@functools.cache
def plain():
    return jax.tree.map(np.asarray, gradient_of((KL, OPRD))(*held()))


def close(got, want, tolerance=2e-5):
    same = functools.partial(np.testing.assert_allclose, atol=tolerance, rtol=tolerance)
    jax.tree.map(same, got, want)


def behind(config, params, batch, n):
    """The state behind layer n, the final norm over it: that of a model of n layers."""
    cut = jax.tree.map(lambda x: x[:n], params["layers"])
    shorter = decoder.Decoder(tiny.config(**{**vars(config), "layers": n}))
    own = params | {"layers": cut}
    return step.hidden_states(shorter, own, batch)


def test_states_are_those_behind_the_layers():
    params, frozen, batch = held()
    params = frozen["teacher"]
    read = step.hidden_states(models()["teacher"], params, batch, layers=(1, 3))
    hidden, kept = step.taken_apart(read, (1, 3))
    np.testing.assert_array_equal(kept[:, :, 1], hidden)
    close(hidden, step.hidden_states(models()["teacher"], params, batch))
    first = np.asarray(kept[:, :, 0])
    normed = first / np.sqrt((first**2).mean(-1, keepdims=True) + TEACHER.norm_eps)
    mask_BT = np.asarray(batch.mask_BT)
    want = np.asarray(behind(TEACHER, params, batch, 1))
    close((normed * np.asarray(params["norm"]))[mask_BT], want[mask_BT])


def test_the_last_state_is_not_divided_as_logits_are():
    _, frozen, batch = held()
    divided = decoder.Decoder(dataclasses.replace(TEACHER, logit_divisor=8.0))
    whole, eighth = (
        step.taken_apart(
            step.hidden_states(model, frozen["teacher"], batch, layers=(1, 3)), (1, 3)
        )
        for model in (models()["teacher"], divided)
    )
    close(8 * eighth[0], whole[0])
    close(eighth[1], whole[1])


def test_the_loss_is_the_weighed_sum_of_its_signal():
    params, frozen, batch = held()
    (loss, parts), _ = plain()
    each = {}
    for name, model, own, layers in (
        ("student", models()["student"], params, (1, 2)),
        ("teacher", models()["teacher"], frozen["teacher"], (1, 3)),
    ):
        read = step.hidden_states(model, own, batch, layers=layers)
        each[name] = np.asarray(step.taken_apart(read, layers)[1], np.float64)
    square_BT = ((each["student"] - each["teacher"]) ** 2).mean((-1, -2))
    inside_BT = np.asarray(batch.mask_BT & (batch.rollout.source_BT == 0))
    # Token t is predicted by the state before it.
    square_BT = np.roll(square_BT, 1, axis=1) * inside_BT
    rows = inside_BT.any(1)
    means = square_BT.sum(1)[rows] / inside_BT.sum(1)[rows]
    assert parts["loss/mse"].sum() == pytest.approx(means.mean(), rel=1e-5)
    total = 0.5 * parts["loss/kl"].sum() + 2 * parts["loss/mse"].sum()
    assert loss == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_however_it_is_cut_the_update_is_the_same(accumulate, packed):
    params, frozen, batch = held()
    if packed:
        columns = batch.rollout.tokens_BT.shape[1]
        batch, _ = layout.dealt(jax.device_get(batch), 1, accumulate)
        batch = layout.with_packing(batch, (columns,), 1, accumulate)
        assert batch.packing
    both = models(tiny.config(remat=True))
    (loss, _), grads = gradient_of((KL, OPRD), both, accumulate)(params, frozen, batch)
    (want, _), expected = plain()
    assert loss == pytest.approx(want, rel=1e-5)
    close(grads, expected)


@pytest.mark.parametrize("axes", [(1, 2, 1), (1, 1, 2)])
def test_on_a_mesh_the_update_is_the_same(axes):
    mesh = sharding.make_mesh(*axes)
    params, frozen, batch = held()
    put = lambda tree: jax.device_put(tree, sharding.of_params(tree, mesh))
    shape = SHAPE._replace(chunk_tokens=5, rows=sharding.rows(mesh))
    found = gradient_of((KL, OPRD), models(mesh=mesh), shape=shape)
    here = put(params), {"teacher": put(frozen["teacher"])}
    (loss, _), grads = found(*here, jax.device_put(batch, sharding.rows(mesh)))
    (want, _), expected = plain()
    assert loss == pytest.approx(want, rel=1e-5)
    close(grads, expected)


def test_alone_it_leaves_the_head_where_it_is():
    """With the facts that a run logs, too; an embedding of its own learns."""
    for with_facts in (False, True):
        found = gradient_of((OPRD,), with_facts=with_facts)
        (loss, parts), grads = found(*held())
        assert not np.any(grads["head"]) and np.any(grads["embed"])
        assert np.any(grads["layers"]["q"][0]) and np.any(grads["layers"]["q"][1])
        assert loss == pytest.approx(2 * plain()[0][1]["loss/mse"].sum(), rel=1e-5)
        assert ("kl/reverse" in parts) == with_facts


def test_at_the_teacher_the_gradient_is_zero():
    params, _, batch = held()
    both = models(teacher=STUDENT)
    (loss, _), grads = gradient_of((OPRD,), both)(params, {"teacher": params}, batch)
    assert loss == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_with_coefficient_zero_the_other_terms_are_left():
    coefs = COEFS | {"mse": jnp.float32(0)}
    (loss, _), grads = gradient_of((KL, OPRD), coefs=coefs)(*held())
    (want, _), expected = gradient_of((KL,), coefs=coefs)(*held())
    assert loss == want
    close(grads, expected, 1e-6)


def test_what_is_outside_of_the_mask_changes_nothing():
    """Garbage in states, NaN too, and in their gradient."""
    rng = np.random.default_rng(0)
    batch = tiny.batch(0, rows=8)
    draw = lambda: jnp.asarray(rng.normal(size=(8, 9, 2, 5)), jnp.float32)
    seen = {"student": draw(), "teacher": draw()}
    before_BT = np.roll(np.asarray(batch.mask_BT), -1, axis=1)
    count = {"student": 2, "teacher": 2}
    weighed = {"mse": objective.Weighed(jnp.asarray(batch.mask_BT, jnp.float32), None)}

    def loss(own, others):
        both = {"student": own, "teacher": others}
        return states.loss((OPRD,), both, batch.mask_BT, weighed, COEFS, count)[0]

    value, grad = jax.value_and_grad(loss)(*seen.values())
    spoilt = [jnp.where(before_BT[..., None, None], x, jnp.nan) for x in seen.values()]
    again, clean = jax.value_and_grad(loss)(*spoilt)
    assert again == value
    np.testing.assert_array_equal(clean, grad)
    assert not np.any(np.asarray(grad)[~before_BT])


def test_two_terms_share_what_is_kept():
    last = OPRD._replace(name="last", layers=(2,))
    coefs = COEFS | {"last": jnp.float32(1.0)}
    (_, parts), _ = gradient_of((OPRD, last), coefs=coefs)(*held())
    first = OPRD._replace(name="first", layers=(1,))
    coefs = COEFS | {"first": jnp.float32(1.0)}
    (_, others), _ = gradient_of((first,), coefs=coefs)(*held())
    half = 0.5 * (parts["loss/last"] + others["loss/first"])
    np.testing.assert_allclose(parts["loss/mse"], half, rtol=1e-5)


def test_each_term_sees_its_own_of_what_is_kept():
    """Layers 2 and 4 of four are kept; their values say which they are."""
    two, four = (OPRD._replace(name=f"l{n}", layers=(n,)) for n in (2, 4))
    count, mask_BT = {"student": 4, "teacher": 4}, jnp.ones((1, 2), bool)
    own = jnp.broadcast_to(jnp.array([2.0, 4.0])[:, None], (1, 2, 2, 5))
    weighed = objective.Weighed(jnp.ones((1, 2)), None)
    seen = {"student": own, "teacher": 0 * own}
    by_name = lambda value: {"l2": value, "l4": value}
    rest = mask_BT, by_name(weighed), by_name(1.0), count
    _, parts = states.loss((four, two), seen, *rest)
    np.testing.assert_array_equal(parts["loss/l2"], [[4, 4]])
    np.testing.assert_array_equal(parts["loss/l4"], [[16, 16]])


def test_an_adapter_is_trained_through_its_base():
    shape = lora.adapted(STUDENT, rank=2, alpha=4.0, rank_stabilized=False, targets=".")
    base, frozen, batch = held()
    own = lora.start(shape, jax.random.key(0))
    both = models(shape)
    prepare = step.make_prepare(both, (OPRD,), SHAPE)
    prepared = prepare(lora.joined(own, base), frozen, batch)
    gradient = step.make_gradient(
        both["student"], (OPRD,), SHAPE, with_facts=False, layers=step.layers_in(both)
    )
    (loss, _), grads = jax.jit(gradient)(
        own, frozen | {"student": base}, batch, prepared, COEFS
    )
    assert loss == pytest.approx(2 * plain()[0][1]["loss/mse"].sum(), rel=1e-5)
    assert np.any(jax.tree.leaves(grads["layers"])[1])


# Nothing reads them: nothing is kept.


def program(terms) -> str:
    both, (params, frozen, batch) = models(), held()
    prepare = step.make_prepare(both, terms, SHAPE)
    prepared = jax.eval_shape(prepare, params, frozen, batch)
    gradient = step.make_gradient(
        both["student"], terms, SHAPE, with_facts=False, layers=step.layers_in(both)
    )
    whole = str(jax.make_jaxpr(prepare)(params, frozen, batch))
    return whole + str(jax.make_jaxpr(gradient)(params, frozen, batch, prepared, COEFS))


def test_where_nothing_reads_states_none_leave_the_layers():
    """Scans over layers give back one array, the last state; with a term the stack."""
    stacks = lambda text, layers: text.count(f"f32[{layers},8,9,16]")
    bare = program((KL,))
    assert stacks(bare, 3) == 0  # the teacher's, three layers
    assert stacks(program((KL, OPRD)), 3) > 0


def test_a_weight_on_the_last_tokens():
    mask_BT = np.arange(8) < np.array([[2], [5], [8]])
    mask_BT &= np.arange(8) >= 1
    found = weights.last_tokens(tiny.scores(mask_BT), count=3, rescale=False)
    want = [
        [0, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 1],
    ]
    np.testing.assert_array_equal(np.where(mask_BT, found, 0), want)
    scaled = weights.last_tokens(tiny.scores(mask_BT), count=3)
    # A mean over a row is that over the tokens that are left.
    np.testing.assert_allclose(np.where(mask_BT, scaled, 0).sum(1), mask_BT.sum(1))


# Configs.


def built(**spec):
    return builders.build_term("one", ConfigDict(spec), "tokens")


def test_a_term_of_a_config():
    term = built(signal="oprd.mse", reads="states", layers=(1, 2))
    assert (term.reads, term.layers, term.models) == ("states", (1, 2), ("teacher",))
    assert built(signal="oprd.mse", reads="states").layers == ()
    assert built(signal="reverse_kl").reads == "logits"


_OPRD = dict(signal="oprd.mse", reads="states")


@pytest.mark.parametrize(
    "spec, said",
    [
        (dict(signal="oprd.mse"), "reads='logits', but .*oprd.mse reads states; add"),
        (dict(signal="reverse_kl", reads="states"), "reverse_kl reads logits; add"),
        (dict(signal="reverse_kl", reads="all"), "reads='all' is unknown; use one of"),
        (dict(signal="reverse_kl", layers=(1,)), r"layers=\(1,\) is of terms with"),
        (_OPRD | dict(layers=(2, 1)), "in ascending order"),
        (_OPRD | dict(layers=(0,)), "layers, counted from 1"),
        (_OPRD | dict(layers="all"), "must be a tuple of layers"),
        (_OPRD | dict(advantage="log_ratio"), "has weights only"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec, said):
    with pytest.raises(ValueError, match=said):
        built(**spec)


def test_a_signal_knows_which_layers_it_reads():
    """While it is checked, and in the loss."""
    seen, count = [], {"student": 2, "teacher": 3}

    def signal(states):
        numbers = [states[f"{n}/layers"].tolist() for n in ("student", "teacher")]
        seen.append(numbers)
        return states["student"].mean((-1, -2))

    term = OPRD._replace(signal=signal)
    states.check(term, count, {"student": 16, "teacher": 16})
    params, frozen, batch = held()
    gradient_of((term,), models(), 1)(params, frozen, batch)
    assert seen and all(numbers == [[1, 2], [1, 3]] for numbers in seen)


def test_shapes_are_checked_before_anything_runs():
    count, widths = {"student": 2, "teacher": 3}, {"student": 16, "teacher": 16}
    states.check(OPRD, count, widths)
    with pytest.raises(ValueError, match=r"loss.mse: oprd.mse compares .* one width"):
        states.check(OPRD, count, widths | {"teacher": 8})
    short = OPRD._replace(signal=lambda states: states["student"][..., 0])
    with pytest.raises(
        ValueError, match=r"gives \[2, 3, 2\].* a number for each token"
    ):
        states.check(short, count, widths)
    unknown = OPRD._replace(signal=lambda states: states["nobody"])
    with pytest.raises(ValueError, match="reads the states of 'nobody'"):
        states.check(unknown, count, widths)
