"""Panels against float64 sums, their limit cases, and rows that not everyone serves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import tiny
from jopd.batches import collect
from jopd.data import sources
from jopd.losses import measures, objective, panel, signals
from jopd.losses.objective import Term
from jopd.losses.panel import Panel
from jopd.reporting import diagnostics
from jopd.teachers import roles as teachers
from jopd.teachers.roles import Teacher
from jopd.types import Outputs

V = 11
SHARED = ("mixture", "product")
LOGITS = {
    name: jnp.asarray(np.random.default_rng(seed).normal(0, 2, (5, V)), jnp.float32)
    for seed, name in enumerate(("a", "b", "c"))
}


def plain(kind, weights, names=("a", "b", "c")):
    """f64[5, V] log-probabilities, weights as given."""
    logp = [special.log_softmax(np.asarray(LOGITS[n], float), -1) for n in names]
    weights = np.asarray(weights, float) / np.sum(weights)
    if kind == "mixture":
        return np.log(sum(w * np.exp(rows) for w, rows in zip(weights, logp)))
    return special.log_softmax(sum(w * rows for w, rows in zip(weights, logp)), -1)


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 5.0), (0.5, 0.0, 0.25)])
def test_a_panel_is_the_sum_in_float64(kind, weights):
    got = panel.combine(Panel("p", ("a", "b", "c"), weights, kind), LOGITS, {})
    np.testing.assert_allclose(got, plain(kind, weights or (1, 1, 1)), atol=2e-6)
    np.testing.assert_allclose(np.exp(got).sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", SHARED)
def test_one_member_or_equal_members_are_that_member(kind):
    want = jax.nn.log_softmax(LOGITS["a"])
    one = panel.combine(Panel("p", ("a",), (3.0,), kind), LOGITS, {})
    np.testing.assert_allclose(one, want, atol=1e-6)
    same = {"a": LOGITS["a"], "b": LOGITS["a"] + 3.0}
    two = panel.combine(Panel("p", ("a", "b"), (1.0, 4.0), kind), same, {})
    np.testing.assert_allclose(two, want, atol=2e-6)


@pytest.mark.parametrize("kind", SHARED)
def test_weights_are_shared_among_those_who_serve(kind):
    serves = {
        "a": jnp.array([True, True, False, False, True]),
        "b": jnp.array([True, False, True, False, False]),
    }
    made = Panel("p", ("a", "b", "c"), (1.0, 2.0, 5.0), kind)
    got = panel.combine(made, LOGITS, serves)
    for row, weights in enumerate(
        [(1, 2, 5), (1, 0, 5), (0, 2, 5), (0, 0, 5), (1, 0, 5)]
    ):
        np.testing.assert_allclose(got[row], plain(kind, weights)[row], atol=2e-6)


@pytest.mark.parametrize("kind", SHARED)
def test_where_nobody_serves_the_numbers_are_finite(kind):
    nobody = dict.fromkeys(("a", "b"), jnp.zeros(5, bool))
    made = Panel("p", ("a", "b"), (1.0, 3.0), kind)
    np.testing.assert_allclose(
        panel.combine(made, LOGITS, nobody), panel.combine(made, LOGITS, {}), atol=1e-6
    )


def test_ruled_out_tokens_keep_what_others_say():
    """-inf of a member: shared in a mixture, ruled out in a product, no NaN."""
    logits = LOGITS | {"b": LOGITS["b"].at[:, 2].set(-jnp.inf)}
    mixed = panel.combine(Panel("p", ("a", "b")), logits, {})
    np.testing.assert_allclose(
        np.exp(mixed[:, 2]), 0.5 * jax.nn.softmax(LOGITS["a"])[:, 2], rtol=1e-5
    )
    multiplied = panel.combine(Panel("p", ("a", "b"), kind="product"), logits, {})
    assert np.all(np.isneginf(multiplied[:, 2]))
    assert np.isfinite(np.delete(multiplied, 2, axis=1)).all()
    absent = {"b": jnp.zeros(5, bool)}
    alone = panel.combine(Panel("p", ("a", "b"), kind="product"), logits, absent)
    np.testing.assert_allclose(alone, jax.nn.log_softmax(LOGITS["a"]), atol=1e-6)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Panel("p", ("a", "d")), ("panels.p.members", "'d'", "known: a, b")),
        (Panel("p", ("a", "q")), ("'q'", "no panels in it")),
        (Panel("p", ()), ("panels.p.members is empty", "a, b")),
        (Panel("a", ("b",)), ("panels.a", "choose another")),
        (Panel("student", ("b",)), ("panels.student", "choose another")),
        (Panel("p", ("a", "a")), ("'a' more than once",)),
        (Panel("p", ("a", "b"), (1.0,)), ("1 entries for 2 members",)),
        (Panel("p", ("a", "b"), (1.0, -2.0)), ("-2.0 of 'b'", "at least 0")),
        (Panel("p", ("a",), (float("nan"),)), ("nan of 'a'",)),
        (Panel("p", ("a", "b"), (0.0, 0.0)), ("panels.p.weights are all 0",)),
        (Panel("p", ("a",), (), "sum"), ("panels.p.kind='sum'", "mixture, product")),
    ],
)
def test_panels_that_cannot_work_are_refused(made, words):
    with pytest.raises(ValueError) as error:
        panel.check(made, ("a", "b"), ("p", "q"))
    assert all(word in str(error.value) for word in words)
    panel.check(Panel("p", ("a", "b"), (0.0, 1.0)), ("a", "b"), ("p", "q"))


def test_members_of_weight_zero_are_not_needed():
    made = Panel("p", ("a", "b"), (0.0, 2.0))
    assert panel.with_members({"p", "c"}, (made,)) == {"b", "c"}
    assert panel.with_members((), (made,)) == set()


def test_every_panel_gets_its_own_name():
    panels = (Panel("p", ("a", "b")), Panel("q", ("b", "c"), (), "product"))
    got = panel.combine_all(panels, LOGITS, {})
    assert set(got) == {"p", "q"}
    np.testing.assert_allclose(
        got["p"], plain("mixture", (1, 1), ("a", "b")), atol=2e-6
    )
    np.testing.assert_allclose(
        got["q"], plain("product", (1, 1), ("b", "c")), atol=2e-6
    )


# In the loss.

DEPTH = 6


def inputs(batch, names=("student", "a", "b"), seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *size: jnp.asarray(rng.normal(size=size), jnp.float32)
    hidden = {name: draw(*batch.mask_BT.shape, DEPTH) for name in names}
    return hidden, {name: draw(V + 2, DEPTH) for name in names}


def term(name="t", other="p", **keys):
    signal = functools.partial(signals.forward_kl, other=other)
    return Term(name, signal, **({"source": "any", "models": (other,)} | keys))


@functools.partial(jax.jit, static_argnames=("terms", "panels", "chunk_tokens"))
def run(batch, hidden, heads, *, terms, panels=(), chunk_tokens=7):
    cut = dict(vocabulary=V, chunk_tokens=chunk_tokens, panels=panels)
    read = objective.scores(batch, objective.facts(hidden, heads, batch, **cut))
    weighed = objective.weigh(terms, read)
    others = {name: value for name, value in hidden.items() if name != "student"}
    loss = lambda h, w: objective.objective(
        h, w, others, {name: heads[name] for name in others}, batch, weighed,
        {term.name: 1.0 for term in terms}, terms=terms, **cut,
    )  # fmt: skip
    grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (value, parts), grads = grad(hidden["student"], heads["student"])
    return value, grads, parts, measures.term_metrics(terms, read, weighed)


def close(got, want, atol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), got, want)


@pytest.fixture
def case():
    batch = tiny.batch(3, rows=8, vocabulary=V)
    return batch, *inputs(batch)


@pytest.mark.parametrize("kind", SHARED)
def test_terms_name_a_panel_like_a_model(case, kind):
    """Loss and gradient are those of one model with the combined distribution."""
    batch = case[0]
    made = Panel("p", ("a", "b"), (1.0, 3.0), kind)
    value, grads, parts, _ = run(*case, terms=(term(),), panels=(made,))

    mask_BT = np.asarray(batch.mask_BT)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, float)), case[1:])
        logits = {
            name: objective.align(wide[0][name]) @ wide[1][name][:V].T
            for name in ("a", "b")
        }
        logp = [special.log_softmax(np.asarray(logits[n]), -1) for n in ("a", "b")]
        both = (
            np.log(0.25 * np.exp(logp[0]) + 0.75 * np.exp(logp[1]))
            if kind == "mixture"
            else special.log_softmax(0.25 * logp[0] + 0.75 * logp[1], -1)
        )

        def loss(hidden_BTD, head_VD):
            student = objective.align(hidden_BTD) @ head_VD[:V].T
            gap = np.exp(both) * (both - jax.nn.log_softmax(student))
            return jnp.sum(jnp.sum(gap, -1) * mask_BT) / mask_BT.sum()

        arguments = wide[0]["student"], wide[1]["student"]
        want = jax.value_and_grad(loss, argnums=(0, 1))(*arguments)
        want = jax.tree.map(np.asarray, want)
    close((value, grads), want)
    assert float(jnp.abs(grads[1]).max()) > 1e-3
    assert {"kl/forward_p", "entropy/p", "logp/p"} <= set(parts)


def test_the_expected_sampled_gradient_is_that_of_the_panels_kl(case):
    """sum_y p(y) of k2's gradient with y written is the gradient of the exact KL."""
    _, hidden, heads = case
    made = (Panel("p", ("a", "b"), (1.0, 2.0)),)
    names = ("student", "a", "b")
    rows = {name: hidden[name][0, :1] @ heads[name][:V].T for name in names}

    def sampled(student):
        logits = rows | {"student": student}
        logits |= panel.combine_all(made, logits, {})
        p = jax.lax.stop_gradient(jax.nn.softmax(student[0]))
        spread = {name: jnp.broadcast_to(x, (V, V)) for name, x in logits.items()}
        outputs = objective.Outputs(spread, jnp.arange(V), jnp.zeros(V))
        return jnp.sum(p * signals.k2(outputs, other="p"))

    def exact(student):
        logits = rows | {"student": student}
        logits |= panel.combine_all(made, logits, {})
        outputs = objective.Outputs(logits, jnp.zeros(1, int), jnp.zeros(1))
        return signals.reverse_kl(outputs, other="p")[0]

    got, want = jax.grad(sampled)(rows["student"]), jax.grad(exact)(rows["student"])
    assert float(jnp.abs(want).max()) > 1e-2
    close(got, want, atol=1e-5)


def test_chunks_do_not_change_a_panel(case):
    batch = case[0]
    batch = batch._replace(serves={"a": jnp.arange(8) % 3 > 0})
    made = (Panel("p", ("a", "b")), Panel("q", ("b", "a"), (1.0, 2.0), "product"))
    both = (term(), term("u", "q"))
    one, two = (
        run(batch, *case[1:], terms=both, panels=made, chunk_tokens=size)
        for size in (3, 1000)
    )
    close(one[:2], two[:2])


def rows_of(tree, kept):
    return jax.tree.map(lambda x: x[kept], tree)


def test_complementary_routes_are_two_separate_batches(case):
    """Two terms over one batch; each against a batch of its own rows alone."""
    batch, hidden, heads = case
    math_B = np.array([1, 0, 0, 1, 1, 0, 1, 0], bool)
    routed = batch._replace(serves={"a": jnp.asarray(math_B), "b": ~math_B})
    value, grads, parts, metrics = run(
        routed, hidden, heads, terms=(term("math", "a"), term("code", "b"))
    )
    total, d_hidden, d_head = 0.0, np.zeros(hidden["student"].shape), 0.0
    for name, kept in (("a", math_B), ("b", ~math_B)):
        alone = run(
            rows_of(batch, kept), rows_of(hidden, kept), heads, terms=(term("t", name),)
        )
        total += alone[0]
        d_hidden[kept] += alone[1][0]
        d_head += alone[1][1]
    close(value, total)
    close(grads, (d_hidden, d_head))
    has_tokens_B = np.asarray(batch.mask_BT).any(axis=1)
    assert metrics["unserved/math"] == (has_tokens_B & ~math_B).sum() == 3
    assert metrics["tokens/math"] == np.asarray(batch.mask_BT)[math_B].sum()
    assert not np.asarray(parts["loss/math"])[~math_B].any()


@pytest.mark.parametrize("normalizer", objective.NORMALIZERS)
def test_a_panel_of_routed_members_is_each_where_it_serves(case, normalizer):
    """Rows of nobody are gone, whatever the normaliser."""
    batch, hidden, heads = case
    serves = {
        "a": np.array([1, 0, 0, 1, 1, 0, 0, 0], bool),
        "b": np.array([0, 0, 1, 0, 0, 1, 0, 0], bool),
    }
    serves["p"] = serves["a"] | serves["b"]
    routed = batch._replace(serves=jax.tree.map(jnp.asarray, serves))
    made = (Panel("p", ("a", "b"), (1.0, 5.0)),)
    spoken = (term(normalizer=normalizer),)
    got = run(routed, hidden, heads, terms=spoken, panels=made)
    # The same as one model whose states are the member's, with rows of nobody left out.
    kept = serves["p"]
    big = jnp.zeros((2 * DEPTH,)).at[:DEPTH].set(1.0)
    chosen = jnp.where(jnp.asarray(serves["a"])[:, None, None], big, big[::-1])
    joined = jnp.concatenate([hidden["a"], hidden["b"]], -1) * chosen
    head = jnp.concatenate([heads["a"], heads["b"]], -1)
    want = run(
        rows_of(batch, kept),
        rows_of({"student": hidden["student"], "p": joined}, kept),
        {"student": heads["student"], "p": head},
        terms=spoken,
    )
    close(got[0], want[0])
    close(got[1][0][kept], want[1][0])
    assert not np.asarray(got[1][0])[~kept].any()
    close(got[1][1], want[1][1])


def test_a_term_without_a_row_that_is_served_is_zero(case):
    batch, hidden, heads = case
    routed = batch._replace(serves={"a": jnp.zeros(8, bool)})
    value, grads, _, metrics = run(routed, hidden, heads, terms=(term("t", "a"),))
    assert value == 0 and not np.asarray(grads[0]).any()
    assert metrics["tokens/t"] == 0 and metrics["unserved/t"] == 7


def test_padding_and_garbage_change_no_panel(case):
    batch, hidden, heads = case
    serves = {"a": jnp.arange(8) % 2 > 0, "p": jnp.arange(8) < 6}
    batch = batch._replace(serves=serves)
    made = (Panel("p", ("a", "b")),)
    want = run(batch, hidden, heads, terms=(term(),), panels=made)
    wide = lambda x: jnp.pad(x, ((0, 0), (0, 3))) if x.ndim == 2 else x
    grown = jax.tree.map(wide, batch)
    states = {
        name: jnp.pad(x, ((0, 0), (0, 3), (0, 0)), constant_values=np.nan)
        for name, x in hidden.items()
    }
    got = run(grown, states, heads, terms=(term(),), panels=made)
    close(got[0], want[0])
    close(got[1][1], want[1][1])
    close(got[1][0][:, :-3], want[1][0])


# Who serves which row.


def test_routes_compare_as_text():
    rows = [{"level": "2"}, {"level": "3"}, {"level": None}, {"level": "22"}]
    led = lambda equals: [
        teachers.follows({"field": "level", "equals": equals}, row) for row in rows
    ]
    assert led("2") == led(2) == [True, False, False, False]
    assert led((2, "3")) == [True, True, False, False]
    assert led("None") == [False] * 4


def test_who_serves_is_looked_up_by_prompt():
    rows = [{"domain": d} for d in ("math", "code", "law")]
    known = {
        "a": Teacher(path="x", route={"field": "domain", "equals": "math"}),
        "b": Teacher(path="x", route={"field": "domain", "equals": ["code"]}),
        "c": Teacher(path="x"),
    }
    panels = (Panel("ab", ("a", "b")), Panel("ac", ("a", "c")),
              Panel("a0", ("a", "c"), (1.0, 0.0)))  # fmt: skip
    got = teachers.served(known, panels, rows)
    assert {name: value.tolist() for name, value in got.items()} == {
        "a": [True, False, False],
        "b": [False, True, False],
        "ab": [True, True, False],
        "a0": [True, False, False],
    }
    batch = tiny.batch(0)._replace(prompt_id_B=np.array([2, 0, 0, 1, 2, 1]))
    seen = collect.with_serves(batch, got).serves
    assert seen["a"].tolist() == [False, True, True, False, False, False]
    known["a"] = Teacher(path="x", route={"field": "domain", "equals": "maths"})
    with pytest.raises(ValueError, match=r"a\.route=.*none of the 3.*'math'.*equals"):
        teachers.served(known, panels, rows)


def test_fields_are_kept_as_text():
    rows = [{"prompt": "p", "meta": {"domain": "law"}, "level": n} for n in (2, None)]
    first, second = sources.examples(rows, fields=("meta.domain", "level"))
    assert first.fields == {"meta.domain": "law", "level": "2"}
    assert second.fields == {"meta.domain": "law", "level": None}
    with pytest.raises(ValueError, match=r"row 0: no column 'topic'; .* 'level'"):
        sources.examples(rows, fields=("topic",))
    (task,) = sources.read("task:arithmetic", count=1, levels=(3,), fields=("level",))
    assert task.fields == {"level": "3"}


def test_means_of_token_facts_are_over_the_rows_served():
    batch = tiny.batch(3, rows=8)
    serves_B = np.arange(8) % 2 > 0
    batch = batch._replace(serves={"a": serves_B})
    row_BT = np.broadcast_to(np.arange(8.0)[:, None], batch.mask_BT.shape)
    names = ("kl/forward_a", "logp/a", "entropy/student", "kl/reverse")
    got = diagnostics.token_metrics(dict.fromkeys(names, row_BT), batch, ngram=8)
    student_BT = np.asarray(batch.mask_BT & (batch.rollout.source_BT == 0))
    served = row_BT[student_BT & serves_B[:, None]].mean()
    everyone = row_BT[student_BT].mean()
    assert served != everyone
    assert [got[name] for name in names] == [served, served, everyone, everyone]


# Guided: one model steered by the difference of two sides.

ROW = {
    "base": (1, 0, -1),
    "plus": (2, 0, -1),
    "also": (1, 1, -1),
    "minus": (2, -1, 0),
}
ROW = {name: jnp.asarray([values], jnp.float32) for name, values in ROW.items()}


def steered(plus=("plus", "also"), minus=("minus",), strength=3.0):
    return Panel("p", ("base",), (), "guided", plus, minus, strength)


def test_the_steered_logits_of_the_card():
    got = panel.guided(steered(), ROW.__getitem__, {})
    np.testing.assert_allclose(got, [[-0.5, 4.5, -4.0]], atol=1e-6)
    logp = panel.combine(steered(), ROW, {})
    np.testing.assert_allclose(
        np.exp(logp), [[0.006691, 0.993106, 0.000202]], atol=1e-6
    )
    kl = signals.reverse_kl(outputs_of({"student": ROW["base"], "p": logp}), other="p")
    assert float(kl[0]) == pytest.approx(3.265987, abs=1e-5)


def outputs_of(logits):
    return Outputs(logits, jnp.zeros(1, jnp.int32), jnp.zeros(1))


@pytest.mark.parametrize(
    "limit",
    [steered(strength=0.0), steered(plus=("plus",), minus=("same",))],
    ids=["no strength", "equal sides"],
)
def test_without_a_difference_it_is_the_member_bit_for_bit(limit):
    logits = ROW | {"same": ROW["plus"]}
    got = panel.guided(limit, logits.__getitem__, {})
    np.testing.assert_array_equal(got, ROW["base"])


def test_who_does_not_serve_a_row_is_left_out_of_its_mean():
    yes, no = jnp.array([True]), jnp.array([False])
    with_nan = ROW | {"also": jnp.full((1, 3), jnp.nan)}  # never read of such a row
    got = panel.guided(steered(), with_nan.__getitem__, {"also": no, "plus": yes})
    want = panel.guided(steered(plus=("plus",)), ROW.__getitem__, {})
    np.testing.assert_array_equal(got, want)
    for nobody in ({"plus": no, "also": no}, {"minus": no}):
        got = panel.guided(steered(), ROW.__getitem__, nobody)
        np.testing.assert_array_equal(got, ROW["base"])


def test_the_strength_of_an_update_is_in_its_rows():
    spec = steered(strength={"schedule": "linear"})
    got = panel.guided(spec, ROW.__getitem__, {"strength/p": jnp.array([3.0])})
    np.testing.assert_allclose(got, [[-0.5, 4.5, -4.0]], atol=1e-6)
    batch = tiny.batch()
    strength_BT = jnp.full(batch.mask_BT.shape, 0.5)
    extra = batch.extra | {"strength/p": strength_BT}
    rows = panel.rows_in(batch._replace(extra=extra))
    assert set(rows) == {"strength/p"}


def test_models_of_the_sides_are_summed_up_one_by_one():
    read, plain = [], Panel("both", ("base", "minus"))

    def logits_of(name):
        read.append(name)
        return ROW[name]

    panels = (steered(), plain)
    found = panel.read_all(panels, logits_of, ROW, ("p",), {})
    assert set(found) == {"base", "p"}
    assert read == ["base", "base", "plus", "also", "minus"]
    named = panel.read_all(panels, logits_of, ROW, ("p", "both", "also"), {})
    assert set(named) == {"base", "p", "minus", "also"}
    names = panel.with_members(("p", "other"), panels)
    assert names == {"base", "plus", "also", "minus", "other"}


def test_a_term_on_a_guided_panel_is_the_term_on_its_logits():
    """Through the objective, with rows that one side lacks: values and gradients."""
    batch = tiny.batch(0, rows=8)
    rng = np.random.default_rng(1)
    names = ("student", "base", "plus", "minus")
    hidden = {n: jnp.asarray(rng.normal(size=(8, 9, 5)), jnp.float32) for n in names}
    heads = {n: jnp.asarray(rng.normal(size=(12, 5)), jnp.float32) for n in names}
    served = jnp.array([True] * 5 + [False] * 3)
    batch = batch._replace(serves={"plus": served, "p": served})
    spec = steered(plus=("plus",), strength=2.0)
    one = functools.partial(signals.reverse_kl, other="p")
    term = Term("t", one, models=("p",), source="any")
    cut = dict(vocabulary=12, chunk_tokens=16, temperature=1.1)
    facts = objective.facts(hidden, heads, batch, panels=(spec,), **cut)
    weighed = objective.weigh((term,), objective.scores(batch, facts))
    own, others = hidden.pop("student"), {n: heads[n] for n in names[1:]}

    def loss(own):
        return objective.objective(
            own, heads["student"], hidden, others, batch, weighed, {"t": 1.0},
            terms=(term,), panels=(spec,), with_facts=False, **cut,
        )[0]  # fmt: skip

    def plain(own):
        z = {n: x @ heads[n].T / 1.1 for n, x in (hidden | {"student": own}).items()}
        z = {n: objective.align(x) for n, x in z.items()}
        q = jax.nn.log_softmax(z["base"] + 2.0 * (z["plus"] - z["minus"]))
        p = jax.nn.log_softmax(z["student"])
        kl = jnp.sum(jnp.exp(p) * (p - q), axis=-1)
        return jnp.sum(jnp.where(weighed["t"].weight_BT > 0, kl, 0)) / count

    inside_BT = np.asarray(batch.mask_BT) & np.asarray(served)[:, None]
    count = inside_BT.sum()
    np.testing.assert_allclose(weighed["t"].weight_BT, inside_BT / count, rtol=1e-6)
    got, want = (jax.value_and_grad(f)(own) for f in (loss, plain))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    np.testing.assert_allclose(got[1], want[1], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plus": ()}, ("panels.p.plus is empty", "name a model in plus")),
        ({"members": ("a", "b")}, ("steers one member", "('a', 'b')")),
        ({"weights": (1.0,)}, ("weights=(1.0,)",)),
        ({"kind": "product"}, ("are for kind='guided'", "'product'")),
        ({"minus": ("b",)}, ("names 'b' more than once",)),
        ({"minus": ("d",)}, ("names the model 'd'",)),
    ],
)
def test_guided_panels_that_cannot_work_are_refused(changes, words):
    spec = Panel("p", ("a",), (), "guided", ("b",), ("c",))._replace(**changes)
    with pytest.raises(ValueError) as error:
        panel.check(spec, ("a", "b", "c"), ("p",))
    assert all(word in str(error.value) for word in words)
