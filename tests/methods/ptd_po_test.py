"""PTD-PO: whom its tutor teaches, and how."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exact
import runs
import tiny
from jopd.losses import divergences, objective
from jopd.methods import ptd_po
from jopd.setup import builders
from jopd.types import GOLD, Outputs

STUDENT, TUTOR = np.array([2.0, 1, 0, -1, -2]), np.array([0.0, 2, 1, -1, -2])


def terms(**changes):
    path = runs.ROOT / "configs" / "ptd_po.py"
    built = runs.runpy.run_path(str(path))["get_config"]()
    built.loss.tutor.update(changes)
    return {term.name: term for term in builders.build_terms(built)}


def value_of(signal, student, tutor=TUTOR):
    row = lambda x: jnp.asarray(x)[None]
    logits = {"student": row(student), "self": row(tutor)}
    return signal(Outputs(logits, jnp.asarray([0]), jnp.zeros(1)))[0]


def jsd(student, tutor, members):
    """float64, tokens outside of ``members`` as one event."""
    coarse = lambda p: np.append(p[members], 1 - p[members].sum())
    p, q = (coarse(np.exp(exact.log_softmax(x))) for x in (student, tutor))
    m, kl = (p + q) / 2, lambda a, b: (a * np.log(a / b)).sum()
    return (kl(p, m) + kl(q, m)) / 2


def test_the_numbers_of_the_card():
    with jax.enable_x64(True):
        near, whole = (terms(k=k)["tutor"].signal for k in (1, 5))
        assert value_of(near, STUDENT) == pytest.approx(0.180488, abs=1e-6)
        full = divergences.jsd(jnp.asarray(STUDENT), jnp.asarray(TUTOR), beta=0.5)
        assert full == pytest.approx(0.184484, abs=1e-6)
        assert value_of(whole, STUDENT) == pytest.approx(float(full), abs=1e-12)


@pytest.mark.parametrize("k, members", [(1, [0, 1]), (2, [0, 1, 2]), (5, [0, 1, 2, 3])])
def test_value_and_gradient_in_float64(k, members):
    """The student's side carries gradient: with it held fixed that would be 0."""
    with jax.enable_x64(True):
        signal = terms(k=k)["tutor"].signal
        of = lambda x: jsd(x, TUTOR, members)
        got, gradient = jax.value_and_grad(functools.partial(value_of, signal))(
            jnp.asarray(STUDENT)
        )
        assert got == pytest.approx(of(STUDENT), abs=1e-12)
        want = exact.numeric_gradient(of, STUDENT)
        np.testing.assert_allclose(gradient, want, atol=1e-8)
        assert np.abs(want).max() > 0.01


#              a mean of 2/3      | all wrong  | all right | alone | gold
GROUP = [0, 0, 0, 1, 1, 2, 2, 3, 4]
REWARD = [1.0, 0, 1, 0, 0.4, 1, 1, 0.5, 0]


def scores():
    mask_BT = np.arange(4) < np.array([4, 2, 3, 1, 4, 2, 2, 3, 4])[:, None]
    source_BT = np.zeros((9, 4), int)
    source_BT[8] = GOLD
    return tiny.scores(
        mask_BT, group=np.array(GROUP), reward=np.array(REWARD), source=source_BT
    )


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        ({}, [1, 3, 4]),
        ({"below": 2 / 3 - 1e-6}, [3, 4]),
        ({"below": 0.2}, []),  # strict: the mean of the second group is 0.2
        ({"success": 0.51}, [1, 3, 4, 7]),
        ({"success": 0.4}, [1, 3]),
    ],
)
def test_wrong_rows_of_groups_that_are_not_all_right(rule, rows):
    weight_BT = ptd_po.failed(scores(), **rule)
    assert weight_BT.shape == (9, 4) and weight_BT.dtype == jnp.float32
    want_B = np.isin(np.arange(9), rows)
    np.testing.assert_array_equal(weight_BT, np.repeat(want_B[:, None], 4, axis=1))


def test_the_mean_is_over_the_tokens_of_failed_rows():
    read = scores()
    tutor = terms()["tutor"]
    weight_BT = objective.weigh((tutor,), read)["tutor"].weight_BT
    inside_BT = np.asarray(read.mask) & np.isin(np.arange(9), [1, 3, 4])[:, None]
    np.testing.assert_allclose(weight_BT, inside_BT / inside_BT.sum(), rtol=1e-6)


def test_without_a_failure_or_a_coefficient_it_is_grpo():
    right = scores()._replace(reward=jnp.ones(9))
    tutor = terms()["tutor"]
    assert not np.asarray(objective.weigh((tutor,), right)["tutor"].weight_BT).any()
    assert set(terms(coef=0)) == {"grpo", "reference"}
