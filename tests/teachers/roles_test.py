"""Teachers made of the student: how their weights move and what they read."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from jopd.data.sources import Example
from jopd.losses.objective import Term
from jopd.losses.signals import forward_kl, reverse_kl
from jopd.models import decoder
from jopd.teachers import moving
from jopd.teachers import roles as teachers
from jopd.teachers.roles import Teacher
from jopd.training import step

SHAPE = step.Shape(vocabulary=tiny.VOCABULARY, chunk_tokens=16)


def tree(value: float):
    return {"a": jnp.full((2, 3), value), "b": {"c": jnp.full(4, 2 * value)}}


def run(teacher: Teacher, students: list[float]) -> list[float]:
    """Entry of the teacher after each update that leaves the student at a value."""
    known = {"self": teacher, "fixed": Teacher(weights="initial")}
    held = moving.start(known, tree(1.0))
    assert set(held) == {"self"}
    seen = []
    for number, value in enumerate(students, start=1):
        held = moving.move(known, held, tree(value), number)
        np.testing.assert_allclose(held["self"]["b"]["c"], 2 * held["self"]["a"][0, 0])
        seen.append(float(held["self"]["a"][0, 0]))
    return seen


def test_ema_is_the_geometric_mean_of_the_past():
    students = [3.0, -1.0, 5.0]
    want, value = [], 1.0
    for student in students:
        value = 0.75 * value + 0.25 * student
        want.append(value)
    got = run(Teacher(weights="ema", rate=0.25), students)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert run(Teacher(weights="ema", rate=1.0), students) == students


def test_snapshot_is_the_student_at_multiples_of_its_steps():
    got = run(Teacher(weights="snapshot", every_steps=3), [2, 3, 4, 5, 6, 7, 8])
    assert got == [1, 1, 4, 4, 4, 7, 7]


def test_a_moving_teacher_outlives_the_students_buffers():
    """The student's parameters are donated to its next update."""
    known = {"self": Teacher(weights="snapshot", every_steps=1)}
    params = tree(1.0)
    held = moving.start(known, params)
    jax.tree.map(lambda x: x.delete(), params)
    assert float(held["self"]["a"][0, 0]) == 1.0
    params = tree(2.0)
    held = moving.move(known, held, params, 1)
    jax.tree.map(lambda x: x.delete(), params)
    assert float(held["self"]["a"][0, 0]) == 2.0


def test_contexts_fill_in_the_fields_of_each_row():
    examples = [
        Example("1+1=", "1+1=2;#2", "2", "0"),
        Example([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
                "w", "7", "1"),
    ]  # fmt: skip
    text = "{question} [{answer}] {solution}"
    first, chat = teachers.in_context("self", text, examples)
    assert first.prompt == "1+1= [2] 1+1=2;#2"
    assert chat.prompt[0] == {"role": "system", "content": "s"}
    assert chat.prompt[1] == {"role": "user", "content": "q [7] w"}
    assert (first.answer, first.solution, first.id) == ("2", "1+1=2;#2", "0")


def test_columns_and_other_rollouts_are_fields_of_a_context():
    row = Example("q", None, None, "0", {"hint": "first +", "level": None})
    text = "Hint: {hint}\nRight: {peer}\nRight: {peer2}\nWrong: {failure}\n{question}"
    (shown,) = teachers.in_context(
        "self", text, [row], [{"peer2": "{b}", "failure": ""}]
    )
    assert shown.prompt == "Hint: first +\nRight: {b}\nWrong: \nq"
    (alone,) = teachers.in_context("self", text, [row])
    assert alone.prompt == "Hint: first +\nq"
    # A line that says more than the rollout stays.
    (inline,) = teachers.in_context("self", "{{{peer}}} {question}", [row])
    assert inline.prompt == "{} q"
    assert teachers.rollouts_of("{hint}" + text + text) == ("peer", "peer2", "failure")
    assert teachers.rollout_meant("peer") == ("success", 1)
    assert teachers.rollout_meant("failure12") == ("failure", 12)
    teachers.check("self", Teacher(weights="live", context=text), ("hint",))
    with pytest.raises(ValueError, match=r"\{level\}, and row 0 has none; fill it in"):
        teachers.in_context("self", "{level}", [row])


@pytest.mark.parametrize("field", ["peer1", "peer0", "peer02", "failures", "peer_2"])
def test_other_names_are_no_rollouts(field):
    with pytest.raises(ValueError, match=f"no field '{field}'; .*peer, peer2"):
        teachers.check("self", Teacher(weights="live", context=f"{{{field}}}"))


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (Teacher(weights="moving"), ("'moving'", "snapshot")),
        (Teacher(weights="path"), ("'self'", "self.path is empty")),
        (Teacher(weights="ema", rate=0.0), ("self.rate=0.0", "(0, 1]")),
        (Teacher(weights="snapshot", every_steps=0), ("self.every_steps=0",)),
        (Teacher(weights="live"), ("live", "every divergence is zero", "self.context")),
        (Teacher(weights="live", context="{hint}"), ("no field 'hint'", "solution")),
        (Teacher(weights="live", context="{answer"), ("self.context='{answer'",)),
    ],
)
def test_teachers_that_cannot_work_are_refused(teacher, words):
    with pytest.raises(ValueError) as error:
        teachers.check("self", teacher)
    assert all(word in str(error.value) for word in words)


def test_a_row_without_the_field_of_the_context_is_named():
    rows = [Example("q", None, "2", "0"), Example("q", None, None, "17")]
    with pytest.raises(ValueError, match=r"\{answer\}.*row 17.*data.answer_column"):
        teachers.in_context("self", "{question}{answer}", rows)


def with_contexts(batch):
    """The same batch, its teacher reading longer prompts."""
    rng = np.random.default_rng(3)
    rows = len(batch.reward_B)
    prompt_BP = jnp.asarray(rng.integers(0, tiny.VOCABULARY, (rows, 7)), jnp.int32)
    length_B = jnp.asarray(rng.integers(4, 8, rows), jnp.int32)
    return batch._replace(prompts={"self": (prompt_BP, length_B)})


@pytest.mark.parametrize("signal", [forward_kl, reverse_kl])
def test_a_live_teacher_is_a_copy_without_gradient(signal):
    """Its update is that of a frozen teacher with the student's own weights."""
    shape = tiny.config()
    models = {name: decoder.Decoder(shape) for name in ("student", "self")}
    terms = (Term("kl", functools.partial(signal, other="self"), source="any"),)
    batch = with_contexts(tiny.batch(0, rows=8))
    prepare = step.make_prepare(models, terms, SHAPE)
    update = step.make_update(models["student"], terms, optax.sgd(0.1), SHAPE)

    def one(frozen):
        params = tiny.params(shape, 0)
        state = step.TrainState(jnp.int32(0), params, optax.sgd(0.1).init(params))
        prepared = prepare(params, frozen, batch)
        return update(state, frozen, batch, prepared, {"kl": 1.0})

    (live, metrics, _), (copied, want, _) = (
        one({}),
        one({"self": tiny.params(shape, 0)}),
    )
    assert metrics["loss"] > 0.01
    np.testing.assert_allclose(metrics["loss"], want["loss"], rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7),
        live.params,
        copied.params,
    )
