"""ESR: short rollouts teach what the first tokens of whole ones do."""

import functools

import jax
import numpy as np
import optax
import pytest

import tiny
from jopd.batches import asking
from jopd.losses import signals, weights
from jopd.losses.objective import Term
from jopd.models import decoder
from jopd.rollouts import generate
from jopd.training import step

N, WHOLE = 3, 7
SHAPES = {"student": tiny.config(), "teacher": tiny.config(width=8, layers=1)}
MODELS = {name: decoder.Decoder(shape) for name, shape in SHAPES.items()}
STUDENT, TEACHER = tiny.params(SHAPES["student"], 0), tiny.params(SHAPES["teacher"], 7)
SGD = optax.sgd(1.0)


@functools.cache
def rollout(limit: int):
    tokens_BP = np.random.default_rng(0).integers(4, 20, (6, 3)).astype(np.int32)
    asked = generate.request(tokens_BP, np.asarray([3, 2, 1, 3, 2, 3]), limit=limit)
    return generate.generate(
        STUDENT,
        asked,
        jax.random.key(4),
        model=MODELS["student"],
        max_new_tokens=limit,
        stop_ids=(1, 2, 3),
        vocabulary=tiny.VOCABULARY,
    )


def one_update(limit: int, **spec):
    """Loss, and the student moved by its gradient."""
    terms = (Term("esr", signals.reverse_kl, **spec),)
    shape = step.Shape(tiny.VOCABULARY, chunk_tokens=16)
    batch = jax.device_get(asking.batch_of(rollout(limit)))
    state = step.TrainState(np.int32(0), STUDENT, SGD.init(STUDENT))
    prepared = step.make_prepare(MODELS, terms, shape)(
        STUDENT, {"teacher": TEACHER}, batch
    )
    update = step.make_update(MODELS["student"], terms, SGD, shape)
    state = jax.tree.map(lambda x: x.copy(), state)  # donated
    state, metrics, _ = update(
        state, {"teacher": TEACHER}, batch, prepared, {"esr": 1.0}
    )
    return float(metrics["loss"]), state.params


def test_the_first_tokens_do_not_depend_on_the_limit():
    short, whole = rollout(N), rollout(WHOLE)
    assert int(np.max(whole.length_B - whole.prompt_length_B)) == WHOLE
    count_B = np.minimum(np.asarray(whole.length_B - whole.prompt_length_B), N)
    np.testing.assert_array_equal(short.length_B - short.prompt_length_B, count_B)
    for row in range(6):
        end = int(short.length_B[row])
        np.testing.assert_array_equal(
            short.tokens_BT[row, :end], whole.tokens_BT[row, :end]
        )


def test_a_short_rollout_is_a_whole_one_that_learns_from_its_start():
    short_loss, short = one_update(N)
    first = (functools.partial(weights.first_tokens, count=N),)
    loss, whole = one_update(WHOLE, weights=first, normalizer="weights")
    assert short_loss == pytest.approx(loss, rel=1e-5)
    moved = max(
        float(np.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(short), jax.tree.leaves(STUDENT))
    )
    assert moved > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), short, whole)
