"""Named facts against numbers worked out by hand, and on their way into scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.losses import binding, facts, objective
from jopd.types import Outputs

S = (0.5, 0.3, 0.1, 0.06, 0.03, 0.01)
T = (0.1, 0.5, 0.05, 0.3, 0.04, 0.01)
LOGITS = {"student": jnp.log(jnp.asarray([S])), "mentor": jnp.log(jnp.asarray([T]))}
ODD = {"student": LOGITS["student"] + 3, "mentor": LOGITS["mentor"] - 2}
WRITTEN = Outputs(ODD, jnp.asarray([3]), jnp.zeros(1))
# TA-OPD's six tokens, k = 2: the union is {0, 1, 3}.
UNION_S, UNION_T = np.asarray(S)[[0, 1, 3]], np.asarray(T)[[0, 1, 3]]
TAIL_S, TAIL_T = [0.5, 0.3, 0.2], [0.1, 0.5, 0.4]


def kl(p, q):
    p, q = np.asarray(p) / np.sum(p), np.asarray(q) / np.sum(q)
    return np.sum(p * np.log(p / q))


CASES = {
    "peak": (dict(of="mentor"), 0.5),
    "peak student": (dict(of="student"), 0.5),
    "mass": (dict(of="mentor", ids=(0, 3, 900)), 0.4),
    "sampled_rank": (dict(of="student", k=6), 3),
    "sampled_rank cut": (dict(of="student", k=2), 2),
    "sampled_rank mentor": (dict(of="mentor", k=6), 1),
    "overlap": (dict(k=2, other="mentor"), 0.5),
    "overlap all": (dict(k=6, other="mentor"), 1.0),
    "compatibility": (dict(k=2, other="mentor"), 0.6),
    "compatibility all": (dict(k=6, other="mentor"), 1.0),
    "local_forward_kl": (dict(k=2, other="mentor"), 0.595983),
    "local_forward_kl all": (dict(k=9, other="mentor"), kl(T, S)),
    "squared_log_ratio": (
        dict(other="mentor"),
        np.sum(np.asarray(S) * np.log(np.asarray(S) / np.asarray(T)) ** 2),
    ),
    "top_k_reverse_kl": (dict(k=2, other="mentor"), kl(TAIL_S, TAIL_T)),
    "top_k_reverse_kl theirs": (
        dict(k=2, other="mentor", of="mentor"),
        kl([0.3, 0.06, 0.64], [0.5, 0.3, 0.2]),
    ),
    "top_k_reverse_kl cut": (
        dict(k=2, other="mentor", tail=False),
        0.5 * np.log(5) + 0.3 * np.log(0.6),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_against_numbers(name):
    arguments, want = CASES[name]
    got = getattr(facts, name.split()[0])(WRITTEN, **arguments)
    assert got.shape == (1,) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, [want], rtol=1e-5)


def test_models_that_agree_are_not_apart_anywhere():
    logits = WRITTEN.logits | {"mentor": WRITTEN.logits["student"]}
    same = WRITTEN._replace(logits=logits)
    np.testing.assert_allclose(
        facts.local_forward_kl(same, k=2, other="mentor"), 0, atol=1e-7
    )


def test_every_fact_has_a_case():
    assert {name.split()[0] for name in CASES} >= set(binding.names(facts))


def test_the_oracle_of_the_union_is_its_kl():
    assert kl(UNION_T, UNION_S) == pytest.approx(0.595983, abs=1e-6)


@pytest.mark.parametrize("ids", [(), (1, 1), (-1,), (0.5,), "ab"])
def test_ids_that_are_none_are_named(ids):
    with pytest.raises(ValueError, match="must be distinct ids of tokens"):
        facts.mass(WRITTEN, ids=ids, of="mentor")


def test_only_the_pair_has_likeliest_tokens():
    with pytest.raises(ValueError, match="of='third' must be 'student' or 'mentor'"):
        facts.top_k_reverse_kl(WRITTEN, k=2, of="third", other="mentor")


def test_named_facts_reach_the_scores_of_their_tokens():
    """At the temperature of the loss, and aligned."""
    batch = tiny.batch(5)
    rng = np.random.default_rng(1)
    shape = (*batch.mask_BT.shape, 4)
    hidden = {name: jnp.asarray(rng.normal(size=shape)) for name in ("student", "t")}
    head = jnp.asarray(rng.normal(size=(tiny.VOCABULARY, 4)))
    named = {
        "sure": lambda outputs: facts.peak(outputs, of="t"),
        "drawn": lambda outputs: outputs.behavior_logp,
    }
    cut = dict(vocabulary=tiny.VOCABULARY, chunk_tokens=7, temperature=1.5)
    heads = dict.fromkeys(hidden, head)
    per_token = objective.facts(hidden, heads, batch, named=named, **cut)
    scores = objective.scores(batch, per_token)
    logits = objective.align(hidden["t"]) @ head.T / 1.5
    want_BT, inside_BT = jax.nn.softmax(logits).max(-1), np.asarray(batch.mask_BT)
    assert set(scores.facts) == {"sure", "drawn"}
    for name, want in (("sure", want_BT), ("drawn", batch.rollout.behavior_logp_BT)):
        got = np.asarray(scores.facts[name])[inside_BT]
        np.testing.assert_allclose(got, np.asarray(want)[inside_BT], rtol=1e-5)
