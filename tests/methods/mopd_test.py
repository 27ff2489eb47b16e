"""MOPD: what its self-teacher reads, and that this is SDPO where there is one peer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exact
import runs
from jopd.batches import asking
from jopd.data.sources import Example
from jopd.setup import builders
from jopd.teachers import peers
from jopd.types import STUDENT, Outputs, Rollout


@functools.cache
def config(name):
    return runs.runpy.run_path(str(runs.ROOT / "configs" / f"{name}.py"))[
        "get_config"
    ]()


def read(method, rewards):
    """(texts that the teacher reads, which rows are taught): row b says ``says b``."""
    size, texts = len(rewards), []
    tokens_BT = np.repeat(np.arange(size, dtype=np.int32)[:, None], 2, axis=1)
    rollout = Rollout(
        tokens_BT=tokens_BT,
        prompt_length_B=np.ones(size, np.int32),
        length_B=np.full(size, 2, np.int32),
        finished_B=np.ones(size, bool),
        behavior_logp_BT=np.zeros((size, 2), np.float32),
        source_BT=np.full((size, 2), STUDENT),
        group_B=np.zeros(size, np.int32),
        age_B=np.zeros(size, np.int32),
    )
    batch = asking.batch_of(rollout, reward_B=np.array(rewards, np.float32))
    batch = batch._replace(prompt_id_B=np.zeros(size, np.int32))

    def encode(rows):
        texts.extend(row.prompt for row in rows)
        return [np.zeros(1, np.int32)] * len(rows)

    shown = peers.PeerPrompts(
        {"self": config(method).teachers.self.context},
        [Example("q", None, "1", "0")],
        encode,
        (1,),
        success=config(method).peer.success,
    )
    says = lambda rollout: [f"says {b}" for b in range(size)]
    made, facts = peers.make_annotate(shown, [np.zeros(1)], says)(None, batch, 0)
    return texts, made.extra["has_context/self"][:, 0].tolist(), facts


def test_two_successes_and_a_failure_of_others():
    texts, has, _ = read("mopd", [1, 1, 0, 1])
    right, wrong = "Right: says {}\n".format, "Wrong: says 2\nq"
    assert texts == [
        right(1) + right(3) + wrong,
        right(0) + right(3) + wrong,
        right(0) + right(1) + "q",
        right(0) + right(1) + wrong,
    ]
    assert has == [1, 1, 1, 1]


def test_a_group_without_a_success_teaches_nothing():
    assert read("mopd", [0, 0, 0, 0])[:2] == ([], [0, 0, 0, 0])
    texts, has, facts = read("mopd", [1, 0])
    assert (texts, has) == (["Right: says 0\nq"], [0, 1])
    assert facts["peer/partial"] == 1


def test_with_one_success_and_no_failure_it_reads_what_sdpo_reads():
    assert read("mopd", [1, 1])[:2] == read("sdpo", [1, 1])[:2]
    ours, theirs = (builders.build_terms(config(n))[0] for n in ("mopd", "sdpo"))
    named = lambda f: (f.func, f.keywords)
    assert named(ours.signal) == named(theirs.signal)
    assert [*map(named, ours.weights)] == [*map(named, theirs.weights)]
    assert ours.normalizer == theirs.normalizer


def outputs(student, teacher):
    row = lambda x: jnp.asarray(x)[None]
    behavior = jax.nn.log_softmax(jnp.asarray(student))[:1]
    logits = {"student": row(student), "self": row(teacher)}
    return Outputs(logits, jnp.asarray([0]), behavior)


@pytest.mark.parametrize("seed", range(3))
def test_its_jsd_is_symmetric_bounded_and_0_at_the_teacher(seed):
    with jax.enable_x64(True):
        (term,) = builders.build_terms(config("mopd"))
        student, teacher = map(jnp.asarray, exact.logits(seed, 3.0))
        value = lambda a, b: float(term.signal(outputs(a, b))[0])
        assert value(student, teacher) == pytest.approx(value(teacher, student))
        assert 0 < value(student, teacher) <= 0.693147
        far = jnp.array([40.0, 0, 0, 0, 0])
        assert value(far, far[::-1]) == pytest.approx(np.log(2), abs=1e-9)
        of = lambda x: jnp.sum(term.signal(outputs(x, student)))
        same, gradient = jax.value_and_grad(of)(student)
        assert same == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(gradient, 0, atol=1e-12)
