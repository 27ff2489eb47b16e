"""Named facts of a config: whose models run, which rows count, what slips say."""

import jax
import jax.numpy as jnp
import pytest

from jopd.setup import builders, doubts, needs, shipped, validation
from jopd.types import Memory


def config(**facts):
    c = shipped.load("ta_opd")
    c.teachers.mentor = dict(weights="path", path="demo:teacher")
    c.facts.update(facts)
    return c


def near(scores, *, fact: str):
    """A weight of one's own."""
    return scores.facts[fact]


def weighed_by(name: str, **facts):
    c = config(**facts)
    c.loss = dict(
        sft=dict(signal="nll", weights=dict(w=dict(function=near, fact=name)))
    )
    return c


def test_a_model_that_only_a_fact_names_is_run_and_scopes_the_term():
    c = weighed_by("sure", sure=dict(function="peak", of="mentor"))
    (term,) = builders.build_terms(c)
    assert [name for name, _ in term.facts] == ["sure"]
    assert term.models == ("mentor",)
    assert needs.frozen_named(c, (term,)) == {"mentor"}
    validation.validate(c)


def test_a_panel_may_be_named_by_a_fact():
    c = weighed_by("sure", sure=dict(function="peak", of="both"))
    c.panels.both = dict(members=("teacher", "mentor"))
    (term,) = builders.build_terms(c)
    assert needs.frozen_named(c, (term,)) == {"teacher", "mentor"}
    validation.validate(c)


def smallest(vocabulary, *, fact: str):
    """A memory of one's own."""
    step = lambda held, scores: jnp.minimum(held, jnp.min(scores.facts[fact]))
    return Memory(lambda: jnp.float32(jnp.inf), step)


def below(scores, *, memory: str):
    return jnp.full(scores.mask.shape, scores.memory[memory])


def test_what_a_memory_reads_is_read_by_the_term_that_names_it():
    c = config(sure=dict(function="peak", of="mentor"))
    c.memory.least = dict(function=smallest, fact="sure")
    weights = dict(w=dict(function=below, memory="least"))
    c.loss = dict(sft=dict(signal="nll", weights=weights))
    (term,) = builders.build_terms(c)
    assert term.models == ("mentor",) and [name for name, _ in term.facts] == ["sure"]
    validation.validate(c)
    c.memory.least.fact = "shure"
    with pytest.raises(ValueError, match="reads the fact 'shure'; did you mean 'sure'"):
        validation.validate(c)


def test_arguments_that_end_in_fact_name_one():
    (term,) = builders.build_terms(config())
    assert [name for name, _ in term.facts] == ["apart", "reachable"]
    assert needs.fields_read(term) >= {"facts", "mask", "source"}


def test_what_is_unread_is_said_and_its_model_not_run():
    c = config(sure=dict(function="peak", of="mentor"))
    terms = builders.build_terms(c)
    assert "mentor" not in needs.frozen_named(c, terms)
    (line,) = doubts.unread_facts(c)
    assert line.startswith("facts.sure is read by no term")


def wide(outputs):
    return jax.nn.softmax(outputs.logits["student"])


@pytest.mark.parametrize(
    "made, said",
    [
        (
            lambda: weighed_by("aprt"),
            r"loss.sft reads the fact 'aprt'; did you mean 'apart'\? known: apart, "
            r"reachable; add facts.aprt=dict\(function=...\)",
        ),
        (
            lambda: config(x=dict(function="peek")),
            "unknown facts.x 'peek'; known: compatibility, local_forward_kl, mass",
        ),
        (lambda: config(x=dict(of="teacher")), "facts.x has no function"),
        (lambda: config(x=3), "facts.x=3 must be keys with values"),
        (
            lambda: config(x=dict(function="peak", k=3)),
            "facts.x: jopd.losses.facts.peak takes no 'k'; it takes of",
        ),
        (
            lambda: config(x=dict(function="overlap", k=0)),
            "facts.x.k=0 must be a whole number, at least 1",
        ),
        (
            lambda: config(x=dict(function="top_k_reverse_kl", k=2, of="mentor")),
            "facts.x: of='mentor' must be 'student' or 'teacher'",
        ),
        (
            lambda: config(x=dict(function=wide)),
            r"facts.x gives \[2, 1024\] for 2 token",
        ),
        (
            lambda: weighed_by("sure", sure=dict(function="peak", of="nobody")),
            "names the model 'nobody'",
        ),
    ],
)
def test_slips_are_named(made, said):
    with pytest.raises(ValueError, match=said):
        validation.validate(made())
