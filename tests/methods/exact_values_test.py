"""The mean gradient of every method's terms, as its config builds them.

Enumerated in float64 against closed forms in numpy: see ``exact``.
"""

import functools
import math
import runpy

import jax
import numpy as np
import pytest

import exact
import runs
from jopd.losses import weights
from jopd.methods import reopold, tropd
from jopd.setup import builders, schedules
from jopd.types import Outputs

STATES = [exact.logits(seed) for seed in range(4)] + [exact.logits(9, 8.0)]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=range(len(STATES)))
def pair(request):
    return STATES[request.param]


def load(method: str):
    path = runs.ROOT / "configs" / f"{method}.py"
    return runpy.run_path(str(path))["get_config"]()


def terms_of(method: str, **changes) -> dict:
    """Terms by name, with changes of the config's loss; dots in keys as ``__``."""
    built = load(method)
    built.loss.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    return {term.name: term for term in builders.build_terms(built)}


def total(terms: dict, student, teacher):
    return sum(exact.mean_gradient(term, student, teacher) for term in terms.values())


def close(got, want, atol=1e-9):
    """Far inside of the 1e-6 that float64 must reach, and not trivially."""
    np.testing.assert_allclose(got, want, atol=atol)


def probabilities(student, teacher):
    p, q = (np.exp(exact.log_softmax(x)) for x in (student, teacher))
    return p, q, np.log(q) - np.log(p)


def test_closed_forms_against_differences(pair):
    student, teacher = pair
    log_q = exact.log_softmax(teacher)

    def reverse(x):
        log_p = exact.log_softmax(x)
        return np.exp(log_p) @ (log_p - log_q)

    def forward(x):
        return np.exp(log_q) @ (log_q - exact.log_softmax(x))

    for function, gradient in (
        (reverse, exact.reverse_kl_gradient),
        (forward, exact.forward_kl_gradient),
    ):
        want = exact.numeric_gradient(function, student)
        np.testing.assert_allclose(gradient(student, teacher), want, atol=1e-7)
        assert np.abs(want).max() > 0.01


@pytest.mark.parametrize("method", ["opd", "direct"])
def test_opd_and_k2_follow_the_reverse_kl(method, pair):
    close(total(terms_of(method), *pair), exact.reverse_kl_gradient(*pair))


def test_k3_follows_the_forward_kl_and_k1_nothing(pair):
    k3 = total(terms_of("direct", direct__signal="k3"), *pair)
    close(k3, exact.forward_kl_gradient(*pair))
    k1 = total(terms_of("direct", direct__signal="k1"), *pair)
    close(k1, np.zeros(exact.V))


def test_the_two_kls_differ(pair):
    gap = exact.reverse_kl_gradient(*pair) - exact.forward_kl_gradient(*pair)
    assert np.abs(gap).max() > 0.01


# EOPD.


def test_eopd_adds_the_truncated_forward_kl_where_the_teacher_is_unsure(pair):
    student = pair[0]
    for k in (1, 3, 5):
        _, q, _ = probabilities(*pair)
        top = np.argsort(-q)[:k]

        def truncated(x, q=q, top=top):
            return q[top] @ (np.log(q[top]) - exact.log_softmax(x)[top])

        added = exact.numeric_gradient(truncated, student)
        entropy = -q @ np.log(q)
        for threshold in (entropy - 0.01, entropy + 0.01):
            changes = {
                "entropy__k": k,
                "entropy__weights__entropy_above__threshold": float(threshold),
            }
            want = exact.reverse_kl_gradient(*pair) + added * (entropy >= threshold)
            close(total(terms_of("eopd", **changes), *pair), want, atol=1e-7)


def test_eopd_with_no_unsure_state_is_opd(pair):
    never = {"entropy__weights__entropy_above__threshold": math.inf}
    terms = terms_of("eopd", **never)
    np.testing.assert_array_equal(
        total(terms, *pair), exact.mean_gradient(terms["opd"], *pair)
    )


def test_eopd_gates_by_the_teacher(pair):
    student, sure = pair[0], pair[1] * 50
    close(
        total(terms_of("eopd"), student, sure), exact.reverse_kl_gradient(student, sure)
    )


# REOPOLD.


# lam and form of a source, and its floor in nats.
FLOORS = {
    (0.3, "odds"): -0.8472979,
    (0.2, "odds"): -1.3862944,
    (0.1, "scaled"): -2.5584279,
    (0.0, "odds"): -math.inf,
    (0.0, "scaled"): -math.inf,
}


@pytest.mark.parametrize("lam, form", FLOORS)
def test_reopold_floors_the_log_ratio(lam, form, pair):
    _, _, ratio = probabilities(*pair)
    want = exact.policy_gradient(pair[0], np.maximum(ratio, FLOORS[lam, form]))
    changes = {"opd__advantage__lam": lam, "opd__advantage__form": form}
    close(total(terms_of("reopold", **changes), *pair), want, atol=1e-7)
    if lam == 0:
        close(want, exact.reverse_kl_gradient(*pair))


def test_a_floor_that_cannot_be_says_so():
    for given, told in (({"lam": 1.0}, "0 <= lam < 1"), ({"form": "of"}, "odds, sca")):
        with pytest.raises(ValueError, match=told):
            reopold.floor(**({"lam": 0.3} | given))


def test_reopold_trusted_tokens(pair):
    _, _, ratio = probabilities(*pair)
    for lam, form in ((0.3, "odds"), (0.1, "scaled")):
        # Terms share the keys: one is set, all follow.
        changes = {"unsure__advantage__lam": lam, "unsure__advantage__form": form}
        trusted = terms_of("reopold_two_stage", **changes)["trusted"]
        kept = ratio >= FLOORS[lam, form]
        want = exact.policy_gradient(pair[0], np.where(kept, ratio, 0.0))
        close(exact.mean_gradient(trusted, *pair), want)
        assert trusted.normalizer == "weights"


def test_some_state_has_tokens_under_the_floor():
    found = [probabilities(*pair)[2].min() < math.log(0.3 / 0.7) for pair in STATES]
    assert any(found)


@pytest.mark.parametrize("steps", [10, 400])
def test_reopold_switches_in_the_middle_of_the_run(steps):
    built = load("reopold_two_stage")
    built.steps = steps
    stages = [schedules.coefficients(built, at) for at in range(steps)]
    want = [(1.0, 0.0)] * (steps // 2) + [(0.0, 1.0)] * (steps - steps // 2)
    assert [(s["trusted"], s["unsure"]) for s in stages] == want


# TrOPD.


def test_acceptance_is_one_minus_total_variation(pair):
    p, q, _ = probabilities(*pair)
    draws, shares = exact.coins(*pair)
    scores = exact.scores_of(*pair, draws)
    trust = terms_of("tropd")["trust"].weights[0]
    mean = shares @ np.asarray(trust(scores)) @ p
    assert mean == pytest.approx(1 - 0.5 * np.abs(p - q).sum(), abs=1e-12)


def test_tropd_in_the_mean_over_its_coin(pair):
    p, q, ratio = probabilities(*pair)
    trusted = exact.policy_gradient(pair[0], np.minimum(q, p) / p * ratio)
    variation = 0.5 * np.abs(p - q).sum()
    want = trusted + variation * exact.forward_kl_gradient(*pair)
    close(total(terms_of("tropd"), *pair), want)


def test_tropd_that_trusts_every_token_is_opd(pair):
    trust = terms_of("tropd")["trust"]._replace(weights=())
    close(exact.mean_gradient(trust, *pair), exact.reverse_kl_gradient(*pair))


def test_a_trusted_negative_log_ratio_is_bounded_in_the_mean():
    far = np.asarray([0.0, 0.0, 0.0, 0.0, 60.0]), np.asarray([60.0, 0.0, 0.0, 0.0, 0.0])
    trust = terms_of("tropd")["trust"]
    assert np.abs(exact.mean_gradient(trust, *far)).max() < 1e-6
    assert np.abs(exact.reverse_kl_gradient(*exact.logits(9, 8.0))).max() > 0.1


def test_tropd_with_the_scalar_form_of_its_outliers(pair):
    outlier = terms_of("tropd", outlier__coef=0.0, scalar__coef=1.0)["scalar"]
    p, q, ratio = probabilities(*pair)
    forward = q @ ratio
    want = exact.policy_gradient(pair[0], -forward * np.maximum(p - q, 0) / p)
    close(exact.mean_gradient(outlier, *pair), want)
    # On every token it teaches nothing: a state's number has no mean gradient.
    close(exact.mean_gradient(outlier._replace(weights=()), *pair), np.zeros(exact.V))


def test_the_scalar_form_on_the_likeliest_tokens(pair):
    """The fact of both sides renormalised on three tokens, and the advantage of it."""
    p, q, _ = probabilities(*pair)
    top = np.argsort(-q)[:3]
    kept_p, kept_q = p[top] / p[top].sum(), q[top] / q[top].sum()
    want = kept_q @ np.log(kept_q / kept_p)
    logits = dict(zip(("student", "teacher"), pair))
    got = tropd.top_forward_kl(Outputs(logits, None, None, None), k=3)
    np.testing.assert_allclose(got, want, rtol=1e-9)
    scores = exact.scores_of(*pair)._replace(facts={"top": want})
    assert tropd.state_forward_kl(scores, fact="top") == -want


def test_static_regions(pair):
    """The Mask and Clip rows of TrOPD's tables, and their complement."""
    _, _, ratio = probabilities(*pair)
    tau = -0.5
    plain = dict(signal="policy_gradient", clip_low=1.0, clip_high=math.inf)
    built = load("tropd")
    built.loss = {
        "mask": plain | dict(weights=dict(log_ratio_above=dict(threshold=tau))),
        "rest": plain | dict(weights=dict(log_ratio_below=dict(threshold=tau))),
        "clip": plain | dict(advantage=dict(function="log_ratio", floor=tau)),
    }
    terms = {term.name: term for term in builders.build_terms(built)}
    of = lambda name: exact.mean_gradient(terms[name], *pair)
    close(of("mask"), exact.policy_gradient(pair[0], ratio * (ratio >= tau)))
    close(of("clip"), exact.policy_gradient(pair[0], np.maximum(ratio, tau)))
    close(of("mask") + of("rest"), exact.reverse_kl_gradient(*pair))


# PowerOPD.


def power_opd(alpha: float) -> dict:
    """Its term on tokens that are no end: an end has no reward."""
    term = terms_of("power_opd", opd__advantage__alpha=alpha)["opd"]
    assert term.weights == (weights.before_end,)
    return {"opd": term._replace(weights=())}


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0, 5.0])
def test_power_opd(alpha, pair):
    p, q, _ = probabilities(*pair)
    terms = power_opd(alpha)
    want = exact.policy_gradient(pair[0], q**alpha - p**alpha)
    close(total(terms, *pair), want)


def test_power_opd_tends_to_opd(pair):
    alpha = 1e-7
    terms = power_opd(alpha)
    close(total(terms, *pair) / alpha, exact.reverse_kl_gradient(*pair), atol=1e-5)


# OPD+.

F = {
    "forward_kl": lambda u: u * np.log(u),
    "reverse_kl": lambda u: -np.log(u),
    "jsd": lambda u: (u * np.log(u) - (1 + u) * np.log((1 + u) / 2)) / 2,
}


def f_gradient(f, student, teacher):
    q = np.exp(exact.log_softmax(teacher))

    def objective(x):
        p = np.exp(exact.log_softmax(x))
        return p @ f(q / p)

    return exact.numeric_gradient(objective, student)


def opd_plus(divergence: str, form: str, pair):
    changes = {
        "opd__advantage__divergence": divergence,
        "opd__advantage__function": f"opd_plus.{form}",
    }
    return total(terms_of("opd_plus", **changes), *pair)


@pytest.mark.parametrize("divergence", F)
def test_opd_plus_is_the_gradient_of_its_divergence(divergence, pair):
    want = f_gradient(F[divergence], *pair)
    close(opd_plus(divergence, "corrected", pair), want, atol=1e-7)


def test_opd_plus_of_the_kls_is_their_gradient(pair):
    close(opd_plus("forward_kl", "corrected", pair), exact.forward_kl_gradient(*pair))
    close(opd_plus("reverse_kl", "corrected", pair), exact.reverse_kl_gradient(*pair))


@pytest.mark.parametrize("divergence", ["forward_kl", "jsd"])
def test_a_stopped_reward_misses_the_gradient(divergence, pair):
    want = f_gradient(F[divergence], *pair)
    got = opd_plus(divergence, "stopped", pair)
    assert np.abs(got - want).max() > 1e-3


def test_a_stopped_forward_kl_may_point_the_other_way():
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    found = [
        cosine(
            opd_plus("forward_kl", "stopped", pair), exact.forward_kl_gradient(*pair)
        )
        for pair in STATES
    ]
    assert min(found) < -0.5


def test_a_stopped_reverse_kl_is_the_gradient(pair):
    close(opd_plus("reverse_kl", "stopped", pair), exact.reverse_kl_gradient(*pair))


# The whole-distribution signals of DistiLLM.


def skew_objective(alpha, direction, q):
    def of(x):
        p = np.exp(exact.log_softmax(x))
        if direction == "forward":
            return q @ np.log(q / (alpha * q + (1 - alpha) * p))
        return p @ np.log(p / (alpha * p + (1 - alpha) * q))

    return of


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_distillm(alpha, direction, pair):
    changes = {"skew__alpha": alpha, "skew__signal": f"skew_{direction}_kl"}
    _, q, _ = probabilities(*pair)
    want = exact.numeric_gradient(skew_objective(alpha, direction, q), pair[0])
    close(total(terms_of("distillm", **changes), *pair), want, atol=1e-7)
    if alpha == 0:
        plain = {
            "forward": exact.forward_kl_gradient,
            "reverse": exact.reverse_kl_gradient,
        }
        close(total(terms_of("distillm", **changes), *pair), plain[direction](*pair))


def test_minillm_of_one_token_is_twice_the_reverse_kl(pair):
    """Discount 0 without whitening: the sampled and the exact single step."""
    terms = terms_of("minillm", sequence__advantage__discount=0.0)
    function = functools.partial(terms["sequence"].advantage, whiten=False)
    terms["sequence"] = terms["sequence"]._replace(advantage=function)
    close(total(terms, *pair), 2 * exact.reverse_kl_gradient(*pair))


def test_a_policy_gradient_without_anything_to_compare_with_says_so():
    term = terms_of("opd", opd__other=None)["opd"]
    with pytest.raises(ValueError, match="name an advantage or a model in other"):
        exact.mean_gradient(term, *STATES[0])
