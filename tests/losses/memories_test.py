"""What is remembered: read before it is stepped, kept whole, checked before a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.losses import memories, objective, signals
from jopd.setup import builders, doubts, needs, shipped, validation
from jopd.types import Memory


def counts(vocabulary: int, *, other: str = "teacher") -> Memory:
    """Updates, and the sum of the KL to another model over all tokens so far."""

    def step(held, scores):
        kl_BT = jnp.where(scores.mask, scores.reverse_kl[other], 0.0)
        return {"updates": held["updates"] + 1, "kl": held["kl"] + jnp.sum(kl_BT)}

    return Memory(lambda: {"updates": jnp.int32(0), "kl": jnp.zeros(())}, step)


def secret(vocabulary: int) -> Memory:
    step = lambda held, scores: held + jnp.sum(scores.reverse_kl["teacher"])
    return Memory(lambda: jnp.zeros(()), step)


def growing(vocabulary: int) -> Memory:
    return Memory(lambda: jnp.zeros(2), lambda held, scores: jnp.append(held, 1.0))


def so_far(scores, *, memory: str = "seen"):
    return jnp.full(scores.mask.shape, scores.memory[memory]["updates"] + 1.0)


def term(name, *, memory=(("seen", counts),)):
    return objective.Term(name, signals.nll, weights=(so_far,), memories=memory)


def test_a_memory_is_made_once_and_steps_from_what_was_read():
    terms = (term("a"), term("b"))
    assert memories.named(terms) == {"seen": counts}
    held = memories.start(terms, 7)
    mask_BT = np.array([[1, 1, 0], [1, 0, 0]], bool)
    for at in range(3):
        kl = {"teacher": np.full((2, 3), at + 1.0)}
        read = tiny.scores(mask_BT, reverse_kl=kl)._replace(memory=held)
        np.testing.assert_array_equal(so_far(read), at + 1.0)
        held = memories.step(terms, 7, read)
    assert held["seen"] == {"updates": 3, "kl": 3 * (1 + 2 + 3)}
    assert memories.step((), 7, read) == {}


def config(**memory):
    c = shipped.load("opd")
    c.memory.seen = {"function": counts} | memory
    c.loss.opd.weights = {"some": {"function": so_far, "memory": "seen"}}
    return c


def test_a_term_knows_what_it_remembers_and_of_whom():
    c = config(other="reference")
    validation.validate(c)
    (built,) = builders.build_terms(c)
    assert dict(built.memories)["seen"].keywords == {"other": "reference"}
    assert {"teacher", "reference"} >= set(built.models) >= {"reference"}
    assert {"memory", "reverse_kl"} <= needs.fields_read(built)
    assert doubts.unread_memories(c) == []
    jax.eval_shape(lambda: memories.start((built,), 5))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(function="no_dot"), "unknown memory.seen 'no_dot'"),
        (dict(decay=1.0), "memory.seen: .*counts takes no 'decay'"),
        (dict(function=secret), "memory.seen reads 'teacher' of the scores"),
        (dict(function=growing), r"memory.seen starts as float32\[2\] and is float32"),
    ],
)
def test_a_memory_that_cannot_work_is_refused_before_a_run(change, words):
    with pytest.raises(ValueError, match=words):
        validation.validate(config(**change))


def test_names_that_do_not_meet_are_said():
    c = config()
    c.loss.opd.weights.some.memory = "sen"
    (line,) = doubts.unread_memories(c)
    assert line.startswith("memory.seen is read by no term")
    with pytest.raises(ValueError, match="reads the memory 'sen'; known: seen"):
        validation.validate(c)
