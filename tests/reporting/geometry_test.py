"""Measures of updates against the sheet's numbers, inequalities and known matrices."""

import numpy as np
import pytest

from jopd.reporting import geometry

W0 = np.diag([3.0, 2.0, 1.0])
D = np.zeros((3, 3))
D[0, 1] = 0.3


def normal(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def turned(w, degrees: float) -> np.ndarray:
    """``w`` with its first two left directions turned out of its column space."""
    u, sizes, v = np.linalg.svd(w)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    new = u[:, : len(sizes)].copy()
    new[:, :2] = cos * u[:, :2] + sin * u[:, -2:]
    return (new * sizes) @ v


def test_the_spectrum_moves_less_than_the_matrix():
    assert geometry.spectral_shift(W0, W0 + D) == pytest.approx(0.0084928, abs=1e-7)
    moved = geometry.spectral_shift(W0, W0 + D) * np.linalg.norm([3, 2, 1])
    assert moved == pytest.approx(0.031777, abs=1e-6)
    for seed in range(5):  # Mirsky
        w, d = normal(6, 9, seed=seed), 0.1 * normal(6, 9, seed=seed + 50)
        size = np.linalg.norm(np.linalg.svd(w)[1])
        assert geometry.spectral_shift(w, w + d) * size <= np.linalg.norm(d)
    assert geometry.spectral_shift(0 * W0, W0) == np.inf


def test_directions_turn_no_more_than_the_gap_allows():
    w, d = np.diag([5.0, 4.0, 1.0, 0.5]), 0.05 * normal(4, 4)
    found = geometry.principal_angles(w, w + d, k=2)
    assert found.shape == (2, 2)
    after = np.linalg.svd(w + d)[1]  # Wedin: gap between sigma_k and the rest after
    assert np.sin(np.radians(found.max())) <= np.linalg.norm(d, 2) / (4 - after[2])


@pytest.mark.parametrize("degrees", [1e-7, 3.0, 40.0, 70.0])
def test_a_known_turn_is_found_on_its_side(degrees):
    w = normal(8, 6)
    left, right = geometry.principal_angles(w, turned(w, degrees), k=2)
    np.testing.assert_allclose(left, degrees, rtol=1e-6)
    np.testing.assert_allclose(right, 0, atol=1e-10)
    back = geometry.principal_angles(w.T, turned(w, degrees).T, k=2)
    np.testing.assert_allclose(back, [right, left], atol=1e-8)


def test_new_sizes_along_old_directions_turn_nothing():
    u, sizes, v = np.linalg.svd(normal(5, 7), full_matrices=False)
    w0, w1 = (u * sizes) @ v, (u * sizes * [1.3, 1.2, 1.1, 1, 1]) @ v
    np.testing.assert_allclose(geometry.principal_angles(w0, w1), 0, atol=1e-9)
    assert geometry.spectral_shift(w0, w1) > 0.1
    assert geometry.principal_angles(w0, w1, k=512).shape == (2, 2)  # half of five


def test_rank_and_tail_of_an_update():
    one = np.outer(normal(4), normal(6))
    assert geometry.stable_rank(one) == pytest.approx(1)
    assert geometry.stable_rank(np.eye(5)) == pytest.approx(5)
    assert geometry.stable_rank(np.diag([2.0, 1.0])) == pytest.approx(1.25)
    # sigma_i = i^-s: k = 3 has 1 / mean(log 3^s, log (3/2)^s).
    want = 2 / (0.5 * np.log(3) + 0.5 * np.log(1.5))
    assert geometry.hill(np.diag([1, 2**-0.5, 3**-0.5]), k=3) == pytest.approx(want)
    assert geometry.hill(one) is None and geometry.hill(np.eye(3)) is None
    assert geometry.hill(np.diag([4.0, 2.0]), k=16) == pytest.approx(1 / np.log(2))


def test_subspaces_of_updates():
    one = np.outer(normal(4), normal(6))
    assert geometry.subspace_similarity(one, 3 * one) == pytest.approx(1)
    e = np.eye(6)
    first, second = e[:4], np.stack([e[0], e[1], 0.5 * e[4], 0.4 * e[5]])
    assert geometry.subspace_similarity(first, second, k=4) == pytest.approx(0.5)
    assert geometry.subspace_similarity(e[2:3].T @ e[:1], e[2:3].T @ e[1:2]) == 0
    # Right singular vectors: what comes in, not what goes out.
    assert geometry.subspace_similarity(e[1:2].T @ e[:1], e[2:3].T @ e[:1]) == 1
    many = [geometry.subspace_similarity(*normal(2, 40, 40, seed=s), 8) for s in (1, 2)]
    np.testing.assert_allclose(many, 8 / 40, atol=0.08)


def test_bfloat16_hides_small_changes():
    w = np.asarray(normal(30, 30), geometry.jnp.bfloat16).astype(np.float32)
    assert geometry.bf16_unchanged(w, w * np.float32(1 + 2**-10)).all()
    assert not geometry.bf16_unchanged(w, w * np.float32(1 + 2**-6)).any()
    assert geometry.bf16_unchanged(w, w * np.float32(1 + 2**-6), eta=0.05).all()
    # Below 2^-8 the tolerance decides nothing.
    moved = w + np.float32(0.004) * np.asarray(normal(30, 30, seed=1), np.float32)
    strict, loose = (geometry.bf16_unchanged(w, moved, eta) for eta in (0, 2**-8.5))
    np.testing.assert_array_equal(strict, loose)
    assert 0.02 < strict.mean() < 0.9


def test_where_changed_weights_lie():
    w = np.array([[1.0, -4.0], [3.0, 0.5]])
    np.testing.assert_array_equal(geometry.low_magnitude(w, 0.5), [[1, 0], [0, 1]])
    assert geometry.low_magnitude(w, 0.25).sum() == 1
    w = np.zeros((8, 8))
    w[:4, :4], w[7, 7] = 2, 5  # the spike is a direction of its own, the second
    found = geometry.principal(w, rank=1, share=0.25)
    np.testing.assert_array_equal(found, w == 2)
    assert geometry.principal(w, rank=2, share=0.25)[7, 7]
    flat = np.ones((4, 4))
    assert geometry.principal(flat, share=0.25).sum() == 4
    mask = np.random.default_rng(0).uniform(size=(200, 200)) < 0.1
    expected = geometry.overlap(geometry.low_magnitude(normal(200, 200), 0.3), mask)
    assert expected == pytest.approx(0.3, abs=3 * (0.21 / mask.sum()) ** 0.5)
    here, there = np.array([1, 1, 0, 0]) > 0, np.array([1, 0, 0, 0]) > 0
    assert geometry.overlap(here, there) == 1 and geometry.overlap(there, here) == 0.5
    assert geometry.overlap(mask, np.zeros_like(mask)) is None


def test_nothing_moved():
    (found,) = geometry.of_matrix(normal(6, 8), [normal(6, 8)])
    assert found["unchanged"] == 1 and found["angle"] < 1e-12
    assert found["spectral_shift"] == found["norm"] == 0
    missing = ("stable_rank", "hill", "low_overlap", "principal_overlap", "similarity")
    assert all(found[key] is None for key in missing)


def test_matrices_together_and_in_a_table():
    w, wide = normal(6, 8), normal(6, 16, seed=1)
    first = geometry.of_matrix(w, [w + 0.1, w + np.outer(normal(6), np.ones(8))])
    second = geometry.of_matrix(wide, [wide, wide])
    assert first[1]["similarity"] == pytest.approx(1)
    assert first[0]["similarity"] == pytest.approx(1)  # ones come in, in both
    whole = geometry.together({"a": first[0], "b": second[0]})
    assert whole["unchanged"] == pytest.approx((48 * first[0]["unchanged"] + 96) / 144)
    assert whole["norm"] == pytest.approx(first[0]["norm"] / 2)
    assert whole["stable_rank"] == pytest.approx(1)  # of those that have one
    head, _, row, still = geometry.table({"x": whole, "y": second[0]}).splitlines()
    assert head.count("|") == row.count("|") == still.count("|")
    assert row.startswith(f"| x | {100 * whole['unchanged']:.1f} |")
    assert "| 0 | - | - | 0 | - | - | - |" in still
