"""OPRD: the sheet's numbers, what a head hides, and bridges between unlike models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopd.losses import divergences
from jopd.methods import oprd


def pair(own, others, layers=1):
    """States of one token, the same behind every layer."""
    shaped = lambda x: jnp.broadcast_to(
        jnp.asarray(x, jnp.float32), (1, 1, layers, len(x))
    )
    return {"student": shaped(own), "teacher": shaped(others)}


def random_states(seed=0, layers=3, own=6, others=6):
    rng = np.random.default_rng(seed)
    draw = lambda width: jnp.asarray(
        rng.normal(size=(2, 5, layers, width)), jnp.float32
    )
    return {"student": draw(own), "teacher": draw(others)}


def test_numbers_of_the_card():
    seen = pair([1.0, 2.0], [2.0, 0.0])
    np.testing.assert_allclose(oprd.mse(seen), [[2.5]])
    np.testing.assert_allclose(oprd.mse(seen, normalize=True), [[0.552786]], atol=1e-6)
    cosine = 1 / np.sqrt(5)
    np.testing.assert_allclose(
        oprd.mse(pair([1, 2], [2, 0], layers=4), normalize=True),
        [[(2 - 2 * cosine) / 2]],
    )


def test_a_mean_over_layers_of_means_over_dimensions():
    seen = random_states()
    own, others = (
        np.asarray(seen[name], np.float64) for name in ("student", "teacher")
    )
    want = sum(((own - others)[:, :, n] ** 2).mean(-1) for n in range(3)) / 3
    np.testing.assert_allclose(oprd.mse(seen), want, rtol=1e-5)


def test_at_the_teacher_there_is_nothing_to_learn():
    seen = random_states()
    for normalize in (False, True):
        signal = functools.partial(oprd.mse, normalize=normalize)
        loss = lambda own, signal=signal: jnp.sum(signal(seen | {"student": own}))
        value, grad = jax.value_and_grad(loss)(seen["teacher"])
        assert value == 0 and not np.any(grad)
    zero = jax.grad(
        lambda own: jnp.sum(oprd.mse(seen | {"student": own}, normalize=True))
    )(0 * seen["student"])
    assert np.isfinite(zero).all()


def test_what_the_head_hides_is_seen():
    """A vector that the head maps to zero: KL as before, loss up by its mean square."""
    rng = np.random.default_rng(0)
    head = rng.normal(size=(7, 6))
    head[:, 5] = head[:, 0] + head[:, 1]  # so that (1, 1, 0, 0, 0, -1) is lost
    lost = np.array([1.0, 1, 0, 0, 0, -1])
    own, others = rng.normal(size=6), rng.normal(size=6)
    logits = lambda h: jnp.asarray(head @ h, jnp.float32)
    before, after = (
        divergences.reverse_kl(logits(h), logits(others)) for h in (own, own + lost)
    )
    assert before > 0.01
    np.testing.assert_allclose(after, before, atol=1e-6)
    # From the teacher itself, so that the squares add up without a cross term.
    hidden = oprd.mse(pair(others + lost, others))
    np.testing.assert_allclose(hidden, [[np.mean(lost**2)]], rtol=1e-5)


def test_widths_must_agree():
    with pytest.raises(ValueError, match=r"student's are 6 wide.*'teacher' 4.*bridged"):
        oprd.mse(random_states(others=4))


# Bridges.


@pytest.fixture
def bridge(tmp_path):
    """(file, bridge, states) of a student 6 and a teacher 9 wide."""
    seen = random_states(1, own=6, others=9)
    rows = {name: np.asarray(x).reshape(-1, 3, x.shape[-1]) for name, x in seen.items()}
    found = oprd.fit(rows["student"], rows["teacher"], 4, [(1, 2, 3), (2, 4, 6)])
    np.savez(tmp_path / "bridge.npz", **found._asdict())
    return str(tmp_path / "bridge.npz"), found, seen | numbers((1, 2, 3), (2, 4, 6))


def numbers(own, others) -> dict:
    """Which layers the states are behind."""
    return {"student/layers": np.asarray(own), "teacher/layers": np.asarray(others)}


def test_a_bridge_is_its_formula(bridge):
    file, known, seen = bridge
    for normalize in (False, True):
        want = np.zeros((2, 5))
        for n in range(3):
            own = np.asarray(seen["student"][:, :, n]) @ known.student[n].T
            others = (
                np.asarray(seen["teacher"][:, :, n]) - known.mean[n]
            ) @ known.teacher[n].T
            if normalize:
                own, others = (
                    x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (own, others)
                )
            want += ((own - others) ** 2).sum(-1) / 3
        found = oprd.bridged(seen, bridge=file, normalize=normalize)
        np.testing.assert_allclose(found, want, rtol=1e-4)


def test_a_fit_finds_the_directions_and_the_map():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(8, 2)))[0].T  # two directions of the teacher
    code = rng.normal(size=(300, 2)) * [3.0, 1.0]
    others = (code @ basis + 0.7)[:, None]
    own = np.concatenate([code @ rng.normal(size=(2, 2)), rng.normal(size=(300, 3))], 1)
    found = oprd.fit(own[:, None], others, 2, [(1,), (1,)])
    np.testing.assert_allclose(
        found.teacher[0] @ found.teacher[0].T, np.eye(2), atol=1e-6
    )
    np.testing.assert_allclose(found.mean[0], others.mean(0)[0], atol=1e-5)
    onto = lambda p: p.T @ p
    np.testing.assert_allclose(onto(found.teacher[0]), onto(basis), atol=1e-5)
    left = (
        own @ found.student[0].T - (others[:, 0] - found.mean[0]) @ found.teacher[0].T
    )
    # The student has no constant to add: what is left is the mean that was taken off.
    assert np.mean(left**2) < 0.05
    spread = (others[:, 0] - found.mean[0]) @ found.teacher[0].T
    assert spread.var(0)[0] > spread.var(0)[1]  # the first explains most


@pytest.mark.parametrize(
    "rank, tokens, said",
    [(0, 20, "rank=0 must be from 1 to the smaller width, 6"), (7, 20, "rank=7 must"),
     (2, 5, "5 tokens do not tell 6 dimensions")],
)  # fmt: skip
def test_what_cannot_be_fitted_is_said(rank, tokens, said):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=said):
        own, others = (rng.normal(size=(tokens, 1, width)) for width in (6, 9))
        oprd.fit(own, others, rank, [(1,), (1,)])


def test_a_bridge_of_another_pair_is_refused(bridge, tmp_path):
    file, _, seen = bridge
    fewer = {name: seen[name][:, :, :2] for name in ("student", "teacher")}
    for own, others in [((2, 3, 4), (2, 4, 6)), ((1, 2, 3), (1, 2, 3))]:
        with pytest.raises(ValueError, match=r"between the layers .*, and the term"):
            oprd.bridged(seen | numbers(own, others), bridge=file)
    turned = {"student": seen["teacher"], "teacher": seen["student"]}
    for other in (fewer, turned):
        with pytest.raises(
            ValueError, match="is for 3 layers, a student 6 and a teach"
        ):
            oprd.bridged(other, bridge=file)
    with pytest.raises(ValueError, match=r"nope.npz' cannot be read \(FileNotFound"):
        oprd.bridged(seen, bridge=str(tmp_path / "nope.npz"))
    np.savez(tmp_path / "half.npz", student=np.ones((3, 4, 6)))
    with pytest.raises(ValueError, match=r"cannot be read \(KeyError"):
        oprd.bridged(seen, bridge=str(tmp_path / "half.npz"))
    flat = dict.fromkeys(oprd.Bridge._fields, np.ones((3, 4)))
    np.savez(tmp_path / "flat.npz", **flat)
    with pytest.raises(ValueError, match="no bridge"):
        oprd.bridged(seen, bridge=str(tmp_path / "flat.npz"))
