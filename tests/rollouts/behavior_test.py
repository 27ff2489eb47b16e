"""Two models that draw one token: the rules, and the rollouts that they make."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from drawing import DRAW, MODEL, NEW, RING, asked, one_loop
from jopd.models import decoder
from jopd.rollouts import behavior, blocks, sampling
from jopd.rollouts.behavior import Company, Partner

S, T = np.asarray([0.7, 0.2, 0.06, 0.04]), np.asarray([0.1, 0.3, 0.4, 0.2])
OTHER = decoder.Decoder(tiny.config(width=24, layers=3, kv_heads=2, logit_cap=6.0))


def blended(budget, student=S, teacher=T):
    logits = (jnp.log(jnp.asarray(p, jnp.float32))[None] for p in (student, teacher))
    return np.asarray(jax.nn.softmax(behavior.blend(*logits, budget))[0], np.float64)


def apart(p, q) -> float:
    return float(np.sum(p * (np.log(p) - np.log(q))))


def share(mu) -> float:
    """b, from the odds of two tokens."""
    odds = lambda p: np.log(p[0] / p[2])
    return (odds(mu) - odds(S)) / (odds(T) - odds(S))


@pytest.mark.parametrize(
    ("budget", "b", "want"),
    [
        (0.001, 0.032921, (0.680169, 0.209975, 0.066163, 0.043693)),
        (0.02, 0.140465, None),
        (0.1, 0.298510, (0.497129, 0.286574, 0.134195, 0.082101)),
        (2.0, 1.0, T),  # KL(T || S) = 1.007784
    ],
)
def test_the_blends_of_the_card(budget, b, want):
    mu = blended(budget)
    assert share(mu) == pytest.approx(b, abs=2e-5)
    if want is not None:
        np.testing.assert_allclose(mu, want, atol=2e-6)
    if b < 1:
        assert apart(mu, S) == pytest.approx(budget, abs=1e-6)


def test_it_is_the_nearest_to_the_teacher_within_the_budget():
    """Of many others at most as far from the student none is nearer."""
    mu, rng = blended(0.1), np.random.default_rng(0)
    others = rng.dirichlet(50 * S, 4000) * 0.999 + 0.00025
    allowed = [p for p in others if apart(p, S) <= 0.1]
    assert len(allowed) > 1000
    assert apart(mu, T) <= min(apart(p, T) for p in allowed) + 1e-6


def test_no_budget_is_the_student_in_its_own_bits():
    student_BV = jnp.asarray(np.random.default_rng(1).normal(size=(5, 30)), jnp.float32)
    teacher_BV = jnp.flip(student_BV, axis=1)
    np.testing.assert_array_equal(
        behavior.blend(student_BV, teacher_BV, 0.0), student_BV
    )
    np.testing.assert_allclose(
        jax.nn.softmax(behavior.blend(student_BV, student_BV, 0.01)),
        jax.nn.softmax(student_BV),
        atol=1e-7,
    )


def test_what_a_filter_cuts_stays_out():
    student = jnp.log(jnp.asarray([[0.7, 0.3, 0.0, 0.0]], jnp.float32))
    teacher = jnp.log(jnp.asarray(T, jnp.float32))[None]
    for budget, within in ((0.01, True), (9.0, False)):
        mu = np.asarray(jax.nn.softmax(behavior.blend(student, teacher, budget))[0])
        assert (mu[2:] == 0).all() and mu.sum() == pytest.approx(1)
        if within:
            assert apart(mu[:2], [0.7, 0.3]) == pytest.approx(0.01, abs=1e-6)
        else:  # the teacher's own, among what is left
            np.testing.assert_allclose(mu[:2], [0.25, 0.75], atol=1e-6)


def test_replacing_by_its_definition():
    logits = (jnp.log(jnp.asarray(p, jnp.float32))[None] for p in (S, T))
    made = behavior.replace(*logits, 1.0, k=2, temperature=0.5)
    sharp = T**2 / np.sum(T**2)
    want = S * [0, 1, 1, 0] + (0.7 + 0.04) * sharp
    np.testing.assert_allclose(np.exp(made[0]), want, rtol=1e-5)
    assert want.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="k=0 and temperature=1"):
        behavior.replace(made, made, 1.0, k=0)


# Rollouts.


@pytest.fixture(scope="module")
def params():
    return tiny.params(MODEL.config, 5)


@pytest.fixture(scope="module")
def teacher():
    return tiny.params(OTHER.config, 11)


BLEND = Partner(OTHER, behavior.blend)


def together(params, request, company, partner=BLEND, copies: int = 1):
    write = one_loop(copies=copies, partner=partner, **DRAW)
    return jax.device_get(write(params, request, jax.random.key(3), company=company))


@functools.cache
def states(model):
    apply = functools.partial(model.apply, return_kv=False)
    return jax.jit(lambda params, *rest: apply({"params": params}, *rest)[0])


def logits_of(model, params, tokens_BT):
    position_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    hidden = states(model)(params, tokens_BT, position_BT, position_BT >= 0)
    logits = hidden @ decoder.head(params)[: tiny.VOCABULARY].T
    cap = model.config.logit_cap
    return cap * jnp.tanh(logits / cap) if cap else logits


def test_what_is_recorded_is_what_both_drew_from(params, teacher):
    rolled = together(params, asked(), Company(teacher, 0.05))
    heat = DRAW["filters"].temperature
    ours, theirs = (
        logits_of(model, weights, rolled.tokens_BT).reshape(-1, tiny.VOCABULARY) / heat
        for model, weights in ((MODEL, params), (OTHER, teacher))
    )
    mu = jax.nn.log_softmax(behavior.blend(ours, theirs, 0.05))
    mu = np.asarray(mu).reshape(*rolled.tokens_BT.shape, -1)[:, :-1]
    logp_BT = np.take_along_axis(mu, rolled.tokens_BT[:, 1:, None], axis=2)[..., 0]
    recorded_BT = rolled.behavior_logp_BT[:, 1:]
    drawn_BT = recorded_BT != 0
    assert drawn_BT.sum() > 100
    np.testing.assert_allclose(recorded_BT[drawn_BT], logp_BT[drawn_BT], atol=1e-4)


def test_without_a_budget_or_with_the_student_itself_it_draws_as_ever(params, teacher):
    plain = jax.device_get(
        one_loop(copies=1, **DRAW)(params, asked(), jax.random.key(3))
    )
    alone = together(params, asked(), Company(teacher, 0.0))
    jax.tree.map(np.testing.assert_array_equal, plain, alone)
    itself = Partner(MODEL, behavior.blend)
    same = together(params, asked(), Company(params, 0.05), itself)
    np.testing.assert_array_equal(plain.tokens_BT, same.tokens_BT)
    np.testing.assert_allclose(plain.behavior_logp_BT, same.behavior_logp_BT, atol=1e-5)


@pytest.mark.parametrize("devices, copies, at_once", [(2, 4, 8)])
def test_blocks_draw_what_one_loop_does(params, teacher, devices, copies, at_once):
    request, company = asked(copies=copies), Company(teacher, 0.05)
    whole = together(params, request, company, copies=copies)
    write = blocks.in_blocks(
        model=MODEL,
        max_new_tokens=NEW,
        block=6,
        devices=devices,
        copies=copies,
        at_once=at_once,
        partner=BLEND,
        **DRAW,
    )
    got = write(params, request, jax.random.key(3), company=company)
    np.testing.assert_array_equal(got.tokens_BT, whole.tokens_BT)
    np.testing.assert_allclose(
        got.behavior_logp_BT, whole.behavior_logp_BT, atol=10 * RING
    )


def test_a_greedy_sampler_takes_the_likeliest_of_the_two(params, teacher, monkeypatch):
    monkeypatch.setitem(DRAW, "filters", sampling.Filter(temperature=0.0))
    plain = jax.device_get(
        one_loop(copies=1, **DRAW)(params, asked(), jax.random.key(3))
    )
    greedy = together(params, asked(), Company(teacher, 0.05))
    np.testing.assert_array_equal(plain.tokens_BT, greedy.tokens_BT)
