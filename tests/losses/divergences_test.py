import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jopd.losses import divergences

pytestmark = pytest.mark.usefixtures("strict_promotion")

BETAS = (0.1, 0.5, 0.9)


# Float64 oracles on probabilities, one line of mathematics each.
def probabilities(logits):
    return special.softmax(np.asarray(logits, np.float64), axis=-1)


def kl(p, q):
    return special.rel_entr(p, q).sum(-1)


def jsd(s, t, beta):
    m = beta * t + (1 - beta) * s
    return beta * kl(t, m) + (1 - beta) * kl(s, m)


def top_k_rows(s, t, k, chosen_by):
    """Probabilities of the k likeliest by ``chosen_by`` and of the rest together."""
    index = np.argsort(-chosen_by, axis=-1, kind="stable")[..., :k]
    rows = []
    for p in (s, t):
        outside = p.copy()
        np.put_along_axis(outside, index, 0.0, axis=-1)
        chosen = np.take_along_axis(p, index, axis=-1)
        rows.append(np.concatenate([chosen, outside.sum(-1, keepdims=True)], axis=-1))
    return rows


# name -> (function of logits, oracle on probabilities S, T)
FULL = {
    "forward_kl": (divergences.forward_kl, lambda s, t: kl(t, s)),
    "reverse_kl": (divergences.reverse_kl, lambda s, t: kl(s, t)),
    "total_variation": (
        divergences.total_variation,
        lambda s, t: 0.5 * np.abs(s - t).sum(-1),
    ),
    "skew_forward_kl": (
        lambda s, t: divergences.skew_forward_kl(s, t, alpha=0.1),
        lambda s, t: kl(t, 0.1 * t + 0.9 * s),
    ),
    "skew_reverse_kl": (
        lambda s, t: divergences.skew_reverse_kl(s, t, alpha=0.1),
        lambda s, t: kl(s, 0.1 * s + 0.9 * t),
    ),
    **{
        f"jsd_{beta}": (
            lambda s, t, b=beta: divergences.jsd(s, t, beta=b),
            lambda s, t, b=beta: jsd(s, t, b),
        )
        for beta in BETAS
    },
}
BOUNDED = [name for name in FULL if name not in ("forward_kl", "reverse_kl")]


def top_k(direction, k, **options):
    function = getattr(divergences, f"top_k_{direction}_kl")
    return lambda s, t: function(s, t, k=k, **options)


def rows(seed, shape=(3, 7, 11), scale=3.0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(2, *shape)) * scale).astype(np.float32)


def cut(logits, columns):
    return jnp.asarray(logits).at[..., columns].set(-jnp.inf)


def total(function):
    return lambda s, t: jnp.sum(function(s, t))


def numeric_gradient(oracle, s, t, h=1e-5):
    """Central differences of the float64 oracle in the student's logits."""
    s = np.asarray(s, np.float64)
    columns = []
    for v in range(s.shape[-1]):
        step = h * np.eye(s.shape[-1])[v]
        up, down = (
            oracle(probabilities(s + d), probabilities(t)) for d in (step, -step)
        )
        columns.append((up - down) / (2 * h))
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("scale", [0.3, 3.0, 15.0])
def test_value_and_gradient_match_the_oracle(name, scale):
    function, oracle = FULL[name]
    s, t = rows(0, scale=scale)
    value = jax.jit(function)(s, t)
    assert value.shape == s.shape[:-1] and value.dtype == jnp.float32
    # A few float32 roundings of log-probabilities of the size of ``scale``.
    atol = 4e-7 * (1 + scale)
    expected = oracle(probabilities(s), probabilities(t))
    np.testing.assert_allclose(value, expected, rtol=2e-6, atol=atol)
    gradient = jax.grad(total(function))(s, t)
    expected = numeric_gradient(oracle, s, t)
    np.testing.assert_allclose(gradient, expected, rtol=2e-5, atol=atol)


@pytest.mark.parametrize("name", FULL)
def test_zero_with_zero_gradient_exactly_when_equal(name):
    function, _ = FULL[name]
    s, t = rows(1, scale=1.0)
    np.testing.assert_allclose(function(t, t), 0.0, atol=2e-7)
    np.testing.assert_allclose(jax.grad(total(function))(t, t), 0.0, atol=2e-7)
    steepest = jnp.abs(jax.grad(total(function))(s, t)).max(-1)
    assert (function(s, t) > 1e-3).all() and (steepest > 1e-3).all()


@pytest.mark.parametrize("name", FULL)
def test_shift_of_logits_changes_nothing(name):
    function, _ = FULL[name]
    s, t = rows(2)
    np.testing.assert_allclose(function(s + 40, t - 30), function(s, t), atol=2e-5)
    gradient = jax.grad(total(function))
    np.testing.assert_allclose(gradient(s + 40, t - 30), gradient(s, t), atol=2e-5)
    np.testing.assert_allclose(gradient(s, t).sum(-1), 0.0, atol=2e-6)


@pytest.mark.parametrize("name", [*FULL, "top_k_forward", "top_k_reverse"])
def test_columns_of_minus_inf_on_both_sides_equal_the_cut_vocabulary(name):
    pair = {d: top_k(d, 10) for d in ("forward", "reverse")}
    function = pair[name[6:]] if name.startswith("top_k") else FULL[name][0]
    s, t = rows(3)
    padded_s, padded_t = cut(s, slice(8, None)), cut(t, slice(8, None))
    cut_function = top_k(name[6:], 8) if name.startswith("top_k") else function
    np.testing.assert_allclose(
        function(padded_s, padded_t), cut_function(s[..., :8], t[..., :8]), rtol=1e-5
    )
    got = jax.grad(total(function), argnums=(0, 1))(padded_s, padded_t)
    want = jax.grad(total(cut_function), argnums=(0, 1))(s[..., :8], t[..., :8])
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g[..., :8], w, atol=1e-5)
        np.testing.assert_array_equal(g[..., 8:], 0.0)


@pytest.mark.parametrize("name", BOUNDED)
def test_disjoint_and_partial_supports_stay_finite(name):
    function, oracle = FULL[name]
    s, t = rows(4)
    for a, b in (
        (cut(s, slice(0, 4)), jnp.asarray(t)),
        (jnp.asarray(s), cut(t, slice(0, 4))),
        (cut(s, slice(0, 4)), cut(t, slice(4, None))),
    ):
        expected = oracle(probabilities(a), probabilities(b))
        np.testing.assert_allclose(function(a, b), expected, rtol=2e-6)
        assert np.isfinite(jax.grad(total(function))(a, b)).all()


def test_kls_where_only_one_side_has_minus_inf():
    s, t = rows(5)
    fewer_s, fewer_t = cut(s, 2), cut(t, 2)
    for function, oracle, a, b in (
        (divergences.forward_kl, lambda s, t: kl(t, s), s, fewer_t),
        (divergences.reverse_kl, lambda s, t: kl(s, t), fewer_s, t),
    ):
        expected = oracle(probabilities(a), probabilities(b))
        np.testing.assert_allclose(function(a, b), expected, rtol=2e-6)
        assert np.isfinite(jax.grad(total(function))(a, b)).all()
    assert np.isposinf(divergences.forward_kl(fewer_s, t)).all()
    assert np.isposinf(divergences.reverse_kl(s, fewer_t)).all()
    gradient = jax.grad(total(divergences.forward_kl))(fewer_s, t)
    expected = probabilities(fewer_s) - probabilities(t)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize("name", FULL)
def test_one_hot_and_underflowing_rows(name):
    function, oracle = FULL[name]
    # 200 nats below the top, a probability underflows to 0 in float32.
    s = jnp.asarray([[0.0, -200.0, -1.0, -300.0], [-jnp.inf, 0.0, -jnp.inf, -jnp.inf]])
    t = jnp.asarray([[0.0, -1.0, -200.0, -200.0], [-jnp.inf, 3.0, -jnp.inf, -jnp.inf]])
    expected = oracle(probabilities(s), probabilities(t))
    np.testing.assert_allclose(function(s, t), expected, rtol=2e-6, atol=1e-6)
    assert np.isfinite(jax.grad(total(function))(s, t)).all()


@pytest.mark.parametrize("name", FULL)
def test_vocabulary_of_one_is_zero(name):
    function, _ = FULL[name]
    s, t = rows(6, (4, 1))
    np.testing.assert_allclose(function(s, t), 0.0, atol=1e-7)
    np.testing.assert_array_equal(jax.grad(total(function))(s, t), 0.0)


@pytest.mark.parametrize("name", FULL)
def test_bfloat16_in_float32_inside(name):
    function, _ = FULL[name]
    s, t = (jnp.asarray(x, jnp.bfloat16) for x in rows(7))
    value = function(s, t)
    assert value.dtype == jnp.float32
    expected = function(s.astype(jnp.float32), t.astype(jnp.float32))
    np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("name", [*FULL, "top_k_forward_kl"])
def test_unequal_shapes_name_both(name):
    function = FULL[name][0] if name in FULL else getattr(divergences, name)
    extra = {"k": 2} if name.startswith("top_k") else {}
    with pytest.raises(ValueError, match=r"\(3, 8\).*\(3, 9\).*common vocabulary"):
        function(jnp.zeros((3, 8)), jnp.zeros((3, 9)), **extra)


def test_jsd_limits_are_forward_and_reverse_kl():
    s, t = rows(8, scale=1.0)
    low, high = 1e-3, 1 - 1e-3
    near_forward = divergences.jsd(s, t, beta=low)
    near_reverse = divergences.jsd(s, t, beta=high)
    forward, reverse = divergences.forward_kl(s, t), divergences.reverse_kl(s, t)
    np.testing.assert_allclose(near_forward / low, forward, rtol=2e-2)
    np.testing.assert_allclose(near_reverse / (1 - high), reverse, rtol=2e-2)
    scaled = divergences.jsd(s, t, beta=low, normalize=True)
    np.testing.assert_allclose(scaled, near_forward / (low * high), rtol=1e-6)


def test_jsd_swaps_with_its_arguments_and_is_bounded():
    s, t = rows(9, scale=10.0)
    for beta in BETAS:
        value = divergences.jsd(s, t, beta=beta)
        swapped = divergences.jsd(t, s, beta=1 - beta)
        np.testing.assert_allclose(value, swapped, rtol=1e-6, atol=1e-6)
        bound = special.entr([beta, 1 - beta]).sum()
        assert (value <= bound + 1e-6).all() and (value > 0).all()
    asymmetry = divergences.jsd(s, t, beta=0.1) - divergences.jsd(s, t, beta=0.9)
    assert np.abs(asymmetry).max() > 0.01


@pytest.mark.parametrize("beta", [-0.1, 0.0, 1.0, 1.5, float("nan")])
def test_jsd_refuses_the_ends(beta):
    with pytest.raises(ValueError, match=f"beta={beta}.*forward_kl.*reverse_kl"):
        divergences.jsd(jnp.zeros(3), jnp.zeros(3), beta=beta)


def test_skew_at_zero_is_the_plain_kl_and_alpha_bounds_it():
    s, t = rows(10, scale=8.0)
    for skew, plain in (
        (divergences.skew_forward_kl, divergences.forward_kl),
        (divergences.skew_reverse_kl, divergences.reverse_kl),
    ):
        np.testing.assert_allclose(skew(s, t, alpha=0.0), plain(s, t), rtol=1e-6)
        got = jax.grad(total(lambda s, t, f=skew: f(s, t, alpha=0.0)))(s, t)
        np.testing.assert_allclose(got, jax.grad(total(plain))(s, t), atol=1e-5)
        assert (skew(s, t, alpha=0.3) <= -np.log(0.3) + 1e-6).all()
        for alpha in (-0.1, 1.0):
            with pytest.raises(ValueError, match=f"alpha={alpha}"):
                skew(s, t, alpha=alpha)


@pytest.mark.parametrize("support", ["teacher", "student"])
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("k", [1, 3, 11])
def test_top_k_matches_the_oracle(k, tail, support):
    s, t = rows(11)
    end = None if tail else k

    def coarse(a, b):
        chosen_by = b if support == "teacher" else a
        return (row[..., :end] for row in top_k_rows(a, b, k, chosen_by))

    def forward(a, b):
        a, b = coarse(a, b)
        return (b * np.log(np.where(b > 0, b, 1) / np.where(b > 0, a, 1))).sum(-1)

    def reverse(a, b):
        a, b = coarse(a, b)
        return (a * np.log(np.where(a > 0, a, 1) / np.where(a > 0, b, 1))).sum(-1)

    for direction, oracle in (("forward", forward), ("reverse", reverse)):
        function = top_k(direction, k, tail=tail, support=support)
        expected = oracle(probabilities(s), probabilities(t))
        np.testing.assert_allclose(
            jax.jit(function)(s, t), expected, rtol=3e-6, atol=2e-6
        )
        expected = numeric_gradient(oracle, s, t)
        gradient = jax.grad(total(function))(s, t)
        np.testing.assert_allclose(gradient, expected, rtol=2e-5, atol=3e-6)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("support", ["teacher", "student"])
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("k", [1, 3, 11])
def test_top_k_jsd_matches_the_oracle(k, tail, support, beta):
    s, t = rows(14)
    options = dict(beta=beta, k=k, tail=tail, support=support)
    function = lambda s, t: divergences.top_k_jsd(s, t, **options)

    def oracle(a, b):
        chosen_by = b if support == "teacher" else a
        a, b = (
            row[..., : None if tail else k] for row in top_k_rows(a, b, k, chosen_by)
        )
        m = beta * b + (1 - beta) * a
        log = lambda x: np.log(np.where(x > 0, x, 1))
        forward, reverse = b * (log(b) - log(m)), a * (log(a) - log(m))
        return (beta * forward + (1 - beta) * reverse).sum(-1)

    expected = oracle(probabilities(s), probabilities(t))
    np.testing.assert_allclose(jax.jit(function)(s, t), expected, rtol=3e-6, atol=2e-6)
    gradient = jax.grad(total(function))(s, t)
    expected = numeric_gradient(oracle, s, t)
    np.testing.assert_allclose(gradient, expected, rtol=2e-5, atol=3e-6)
    assert np.abs(expected).max() > 1e-3


def test_top_k_jsd_of_all_tokens_is_the_jsd():
    s, t = rows(12)
    whole = divergences.jsd(s, t, beta=0.3)
    values = [divergences.top_k_jsd(s, t, beta=0.3, k=k) for k in range(1, 12)]
    assert (np.diff(np.stack(values), axis=0) >= -2e-6).all()
    np.testing.assert_allclose(values[-1], whole, rtol=2e-6)
    for beta in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"beta={beta}"):
            divergences.top_k_jsd(s, t, beta=beta, k=3)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_top_k_with_tail_rises_to_the_full_kl(direction):
    s, t = rows(12)
    full = getattr(divergences, f"{direction}_kl")
    values = np.stack([top_k(direction, k)(s, t) for k in range(1, 12)])
    assert (values >= -1e-6).all() and (np.diff(values, axis=0) >= -2e-6).all()
    assert (values[0] < full(s, t) - 1e-3).all()
    np.testing.assert_allclose(values[-1], full(s, t), rtol=2e-6)
    got = jax.grad(total(top_k(direction, 11)))(s, t)
    np.testing.assert_allclose(got, jax.grad(total(full))(s, t), atol=3e-6)


def test_top_k_tail_keeps_the_student_from_leaving_the_set():
    t = jnp.asarray([3.0, 2.0, 0.0, -1.0])
    left = jnp.asarray([-4.0, -5.0, 6.0, 6.0])
    assert top_k("reverse", 2, tail=False)(left, t) < 0
    assert top_k("reverse", 2)(left, t) > 1
    # A tail of 1e-12 beside the top two, far below the resolution of 1 - mass.
    s = jnp.asarray([1.0, 1.0, -28.0, -28.0])
    t = jnp.asarray([1.0, 1.0, -22.0, -22.0])
    gradient = jax.grad(top_k("forward", 2))(s, t)
    expected = probabilities(s) - probabilities(t)
    np.testing.assert_allclose(gradient[2:], expected[2:], rtol=1e-4)


def test_top_k_refuses_bad_k_and_support():
    s, t = rows(13)
    for k in (0, 12):
        with pytest.raises(ValueError, match=f"k={k} and V=11"):
            divergences.top_k_forward_kl(s, t, k=k)
    with pytest.raises(ValueError, match="support='both'"):
        divergences.top_k_reverse_kl(s, t, k=3, support="both")


FORMS = ("naive", "stopped", "tail", "renormalised", "teacher_renormalised")
SUPPORTS = ("student", "teacher", "intersection", "union", (4, 0, 7, 2))
DIRECTIONS = {
    "forward_kl": lambda s, t: kl_sum(t, s),
    "reverse_kl": lambda s, t: kl_sum(s, t),
    "jsd": lambda s, t: (
        0.3 * kl_sum(t, 0.3 * t + 0.7 * s) + 0.7 * kl_sum(s, 0.3 * t + 0.7 * s)
    ),
}
CELLS = [
    (form, direction)
    for form in FORMS
    for direction in DIRECTIONS
    if form != "stopped" or direction == "reverse_kl"
]


def kl_sum(p, q):
    """Over what is there, whatever it sums to."""
    p, q = (np.asarray(x)[p > 0] for x in (p, q))
    return np.sum(p * (np.log(p) - np.log(q)))


def members(s, t, support, k):
    if not isinstance(support, str):
        return sorted(support)
    mine, others = (set(np.argsort(-x)[:k]) for x in (s, t))
    sets = dict(student=mine, teacher=others)
    sets |= dict(intersection=mine & others, union=mine | others)
    return sorted(sets[support])


def on_support_oracle(p, q, chosen, form, direction):
    """One state, from probabilities; the value of ``stopped`` is that of ``naive``."""
    rest = [np.append(x[chosen], x.sum() - x[chosen].sum()) for x in (p, q)]
    p, q = rest if form == "tail" else (p[chosen], q[chosen])
    if form == "renormalised":
        p = p / p.sum()
    if form in ("renormalised", "teacher_renormalised"):
        q = q / q.sum()
    return DIRECTIONS[direction](p, q)


def on_support(form, direction, support, k):
    k = k if isinstance(support, str) else None
    alpha = 0.3 if direction == "jsd" else None
    given = dict(support=support, k=k, form=form, direction=direction, jsd_alpha=alpha)
    return lambda s, t: divergences.on_support(s, t, **given)


@pytest.mark.parametrize("support", SUPPORTS, ids=str)
@pytest.mark.parametrize("form, direction", CELLS)
def test_on_support_matches_the_oracle(form, direction, support):
    s, t = rows(20, (5, 9), scale=2.0)
    function = on_support(form, direction, support, 4)
    value, gradient = jax.value_and_grad(total(function))(s, t)
    want = 0.0
    for row, (a, b) in enumerate(zip(s, t, strict=True)):
        chosen = members(a, b, support, 4)
        of = lambda p, q, c=chosen: on_support_oracle(p, q, c, form, direction)
        want += of(probabilities(a), probabilities(b))
        slope = numeric_gradient(of, a, b)
        if form == "stopped":
            mass = numeric_gradient(lambda p, q, c=chosen: p[c].sum(), a, b)
            slope = slope - mass
        np.testing.assert_allclose(gradient[row], slope, rtol=2e-5, atol=3e-6)
    assert value == pytest.approx(want, rel=3e-6, abs=2e-6)


def test_on_support_of_the_many_faces_card():
    s, t = jnp.asarray([2.0, 1.0, 0.0, -1.0]), jnp.asarray([1.0, 2.0, 0.0, 0.0])
    slope = {}
    for form, value, want in (
        ("naive", 0.454262, (0.462693, -0.303550, -0.116343, -0.042800)),
        ("stopped", 0.454262, (0.385937, -0.331787, -0.039586, -0.014563)),
        ("renormalised", 0.462117, None),
    ):
        function = on_support(form, "reverse_kl", (0, 1), None)
        got, slope[form] = jax.value_and_grad(function)(s, t)
        assert got == pytest.approx(value, abs=1e-5)
        if want:
            np.testing.assert_allclose(slope[form], want, atol=1e-5)
    np.testing.assert_array_equal(slope["renormalised"][2:], 0.0)
    assert divergences.reverse_kl(s, t) == pytest.approx(0.428595, abs=1e-5)
    mass = lambda s: jax.nn.softmax(s)[:2].sum()
    assert mass(s) == pytest.approx(0.880797, abs=1e-5)
    difference = slope["naive"] - slope["stopped"]
    want = (0.076756, 0.028237, -0.076756, -0.028237)
    np.testing.assert_allclose(difference, want, atol=1e-5)
    np.testing.assert_allclose(difference, jax.grad(mass)(s), atol=1e-6)


@pytest.mark.parametrize("form, direction", CELLS)
def test_on_support_of_the_whole_vocabulary_is_the_divergence(form, direction):
    s, t = rows(21, (5, 9))
    full = {
        "jsd": lambda s, t: divergences.jsd(s, t, beta=0.3),
        "forward_kl": divergences.forward_kl,
        "reverse_kl": divergences.reverse_kl,
    }[direction]
    for support in ("intersection", tuple(range(9))):
        function = on_support(form, direction, support, 50)
        np.testing.assert_allclose(function(s, t), full(s, t), rtol=3e-6, atol=1e-6)
        got, want = (jax.grad(total(f))(s, t) for f in (function, full))
        np.testing.assert_allclose(got, want, atol=3e-6)


@pytest.mark.parametrize("form, direction", CELLS)
def test_on_an_empty_support_nothing_is_asked(form, direction):
    s, t = jnp.asarray([3.0, 2.0, 0.0, 0.0]), jnp.asarray([0.0, 0.0, 1.0, 2.0])
    function = on_support(form, direction, "intersection", 2)
    value, gradient = jax.value_and_grad(function)(s, t)
    assert value == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_a_token_between_s_and_e_s_is_paid_for_by_naive_only():
    s = jnp.log(jnp.asarray([0.2, 0.3, 0.5]))
    t = jnp.log(jnp.asarray([0.4, 0.3, 0.3]))  # s < t < e s at token 0
    naive, stopped = (
        jax.grad(on_support(form, "reverse_kl", (0,), None))(s, t)[0]
        for form in ("naive", "stopped")
    )
    assert naive > 0 > stopped  # descent lowers it, raises it


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_renormalize_takes_the_place_of_the_tail(direction):
    s, t = rows(22, (6, 9))
    for renormalize, form in (
        ("teacher", "teacher_renormalised"),
        ("both", "renormalised"),
    ):
        got = top_k(direction, 3, tail=False, renormalize=renormalize)(s, t)
        want = on_support(form, f"{direction}_kl", "teacher", 3)(s, t)
        np.testing.assert_array_equal(got, want)
    got = divergences.top_k_jsd(s, t, beta=0.3, k=3, tail=False, renormalize="both")
    want = on_support("renormalised", "jsd", "teacher", 3)(s, t)
    np.testing.assert_array_equal(got, want)


def test_a_renormalised_teacher_only_scales_the_truncated_gradient():
    s, t = rows(23, (6, 9))
    plain = jax.grad(total(top_k("forward", 3, tail=False)))(s, t)
    scaled = jax.grad(total(top_k("forward", 3, tail=False, renormalize="teacher")))(
        s, t
    )
    mass = np.sort(probabilities(t), axis=-1)[:, -3:].sum(-1, keepdims=True)
    np.testing.assert_allclose(scaled, plain / mass, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(form="mean"), "form='mean' is unknown; use one of naive, stopped, tail"),
        (dict(direction="kl"), "'kl' is unknown; use forward_kl, reverse_kl or jsd"),
        (dict(direction="jsd"), "direction='jsd' with jsd_alpha=None"),
        (dict(jsd_alpha=0.5), "'reverse_kl' with jsd_alpha=0.5"),
        (
            dict(direction="forward_kl", form="stopped"),
            "of the reverse KL, not of 'for",
        ),
    ],
)
def test_on_support_refuses_what_does_not_fit(given, message):
    fits = dict(support="student", k=2, direction="reverse_kl", form="naive")
    with pytest.raises(ValueError, match=message):
        divergences.on_support(jnp.zeros(4), jnp.zeros(4), **fits | given)


def test_renormalize_refuses_a_tail_and_other_words():
    s = jnp.zeros(4)
    with pytest.raises(
        ValueError, match="'both' leaves no mass for a tail; set tail=F"
    ):
        divergences.top_k_forward_kl(s, s, k=2, renormalize="both")
    with pytest.raises(ValueError, match="'student' is unknown; use one of none, teac"):
        divergences.top_k_jsd(s, s, beta=0.5, k=2, tail=False, renormalize="student")
    with pytest.raises(ValueError, match="renormalize='both' needs k"):
        divergences.entry_clipped(s, s, direction="jsd", clip=None, renormalize="both")


# direction -> the summands of its divergence, from probabilities S, T.
SUMMANDS = {
    "forward_kl": lambda s, t, beta: special.rel_entr(t, s),
    "reverse_kl": lambda s, t, beta: special.rel_entr(s, t),
    "jsd": lambda s, t, beta: (
        beta * special.rel_entr(t, beta * t + (1 - beta) * s)
        + (1 - beta) * special.rel_entr(s, beta * t + (1 - beta) * s)
    ),
}


def entry_clipped(direction, clip, beta=0.3):
    return lambda s, t: divergences.entry_clipped(
        s, t, direction=direction, clip=clip, beta=beta
    )


@pytest.mark.parametrize("clip", [0.02, 0.05])
@pytest.mark.parametrize("direction", SUMMANDS)
def test_entry_clipped_cuts_each_summand(direction, clip):
    s, t = rows(4, shape=(5, 11))

    def oracle(s, t):
        return np.minimum(SUMMANDS[direction](s, t, 0.3), clip).sum(-1)

    function = entry_clipped(direction, clip)
    expected = oracle(probabilities(s), probabilities(t))
    np.testing.assert_allclose(function(s, t), expected, rtol=2e-5, atol=2e-6)
    gradient = jax.grad(total(function))(s, t)
    expected = numeric_gradient(oracle, s, t)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=3e-6)


@pytest.mark.parametrize("renormalize", ["none", "teacher", "both"])
@pytest.mark.parametrize("direction", SUMMANDS)
def test_entry_clipped_on_the_teachers_top_k(direction, renormalize):
    s, t = rows(4, shape=(5, 11))

    def oracle(s, t):
        s, t = top_k_rows(s, t, 3, t)
        if renormalize != "none":
            s, t = s[..., :3], t[..., :3] / t[..., :3].sum(-1, keepdims=True)
        if renormalize == "both":
            s = s / s.sum(-1, keepdims=True)
        return np.minimum(SUMMANDS[direction](s, t, 0.3), 0.05).sum(-1)

    function = lambda s, t: divergences.entry_clipped(
        s, t, direction=direction, clip=0.05, beta=0.3, k=3, renormalize=renormalize
    )
    expected = oracle(probabilities(s), probabilities(t))
    np.testing.assert_allclose(function(s, t), expected, rtol=2e-5, atol=2e-6)
    gradient = jax.grad(total(function))(s, t)
    expected = numeric_gradient(oracle, s, t)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=3e-6)


@pytest.mark.parametrize("direction", SUMMANDS)
def test_entry_clipped_without_a_clip_is_the_divergence(direction):
    s, t = rows(5)
    full = {
        "forward_kl": divergences.forward_kl,
        "reverse_kl": divergences.reverse_kl,
        "jsd": lambda s, t: divergences.jsd(s, t, beta=0.3),
    }[direction]
    # One sum in place of the two of a JSD: a rounding apart.
    unclipped = entry_clipped(direction, None)(s, t)
    np.testing.assert_allclose(unclipped, full(s, t), rtol=1e-6)
    cut_s, cut_t = cut(s, [0, 3]), cut(t, [0, 3])
    gradient = jax.grad(total(entry_clipped(direction, 0.05)))(cut_s, cut_t)
    assert np.isfinite(gradient).all()


def test_entry_clipped_refuses_other_arguments():
    s, t = rows(6)
    with pytest.raises(ValueError, match=r"'kl' is unknown; use forward_kl, reverse"):
        entry_clipped("kl", 0.05)(s, t)
    with pytest.raises(ValueError, match=r"clip=0.0 must be above 0; use None"):
        entry_clipped("jsd", 0.0)(s, t)


def test_entropy():
    s, t = rows(15)
    ps = probabilities(s)
    np.testing.assert_allclose(
        divergences.entropy(jnp.asarray(s)), special.entr(ps).sum(-1), atol=2e-6
    )

    def entropy_of_student(p, _):
        return special.entr(p).sum(-1)

    got = jax.grad(lambda x: divergences.entropy(x).sum())(s)
    np.testing.assert_allclose(
        got, numeric_gradient(entropy_of_student, s, t), atol=3e-6
    )
    uniform = jnp.zeros(16)
    np.testing.assert_allclose(divergences.entropy(uniform), np.log(16), rtol=1e-6)
    one_hot = cut(jnp.zeros(5), slice(1, None))
    assert divergences.entropy(one_hot) == 0.0
    assert np.isfinite(jax.grad(divergences.entropy)(one_hot)).all()


def test_log_prob_and_nll():
    s, _ = rows(16)
    tokens = np.random.default_rng(0).integers(0, 11, (3, 7))
    log_p = special.log_softmax(s.astype(np.float64), axis=-1)
    expected = np.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
    got = divergences.log_prob(jnp.asarray(s), jnp.asarray(tokens))
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6)
    nll = divergences.nll(jnp.asarray(s), jnp.asarray(tokens))
    np.testing.assert_array_equal(nll, -got)
    gradient = jax.grad(lambda x: divergences.nll(x, jnp.asarray(tokens)).sum())(s)
    np.testing.assert_allclose(gradient, np.exp(log_p) - np.eye(11)[tokens], atol=1e-6)
    half = jnp.asarray(s, jnp.bfloat16)
    assert divergences.log_prob(half, jnp.asarray(tokens)).dtype == jnp.float32
    row = cut(jnp.zeros(4), 3)
    assert np.isneginf(divergences.log_prob(row, jnp.asarray(3)))
    np.testing.assert_allclose(
        divergences.nll(row, jnp.asarray(0)), np.log(3), rtol=1e-6
    )


def test_float64_stays_float64():
    with jax.enable_x64(True):
        s, t = (jnp.asarray(x, jnp.float64) for x in rows(17))
        for function, oracle in FULL.values():
            value = function(s, t)
            assert value.dtype == jnp.float64
            expected = oracle(probabilities(s), probabilities(t))
            np.testing.assert_allclose(value, expected, rtol=1e-11, atol=1e-13)
