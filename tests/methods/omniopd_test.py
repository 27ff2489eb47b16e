"""Chunks, their posterior and the two terms; the expected update by enumeration."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from jopd.losses import objective, signals
from jopd.losses.objective import Term
from jopd.methods import omniopd

V = tiny.VOCABULARY
D = 5


# Where chunks begin.


def greedy(entropy, mask, chunk, count, lead):
    """The scheduler as the card words it, in the plainest way."""
    inside = [t for t in range(len(mask)) if mask[t]]
    begins = lambda t: max(t - lead, inside[0])
    accepted = []
    while len(accepted) < count:
        free = [
            t
            for t in inside
            if all(begins(t) + i in inside for i in range(chunk))
            and all(abs(begins(t) - u) >= chunk for u in accepted)
        ]
        if not free:
            break
        accepted.append(begins(max(free, key=lambda t: (entropy[t], t))))
    return sorted(accepted)


@pytest.mark.parametrize("lead", [0, 1, 3])
@pytest.mark.parametrize("chunk, count", [(1, 3), (2, 2), (3, 4), (4, 1), (5, 9)])
def test_peaks_are_greedy_and_never_overlap(chunk, count, lead):
    rng = np.random.default_rng(chunk)
    # Few different values: ties matter.
    entropy_BT = rng.integers(0, 4, (40, 17)) / 4
    start_B, end_B = rng.integers(0, 4, 40), rng.integers(3, 18, 40)
    places = np.arange(17)
    mask_BT = (places >= start_B[:, None]) & (places < end_B[:, None])
    lead = min(lead, chunk - 1)
    found = omniopd.peaks(entropy_BT, mask_BT, chunk, count, lead)
    for row, anchors in enumerate(found):
        assert anchors == greedy(entropy_BT[row], mask_BT[row], chunk, count, lead)
        covered = [t + i for t in anchors for i in range(chunk)]
        assert len(covered) == len(set(covered))
        assert mask_BT[row][covered].all()
    assert len({len(anchors) for anchors in found}) > 1


def test_peaks_of_a_short_row_and_of_ties():
    mask_BT = np.ones((1, 4), bool)
    assert omniopd.peaks(np.zeros((1, 4)), mask_BT, 5, 3) == [[]]
    assert omniopd.peaks(np.zeros((1, 4)), mask_BT & False, 2, 3) == [[]]
    # The last chunk that fits, then the last that fits before it.
    assert omniopd.peaks(np.zeros((1, 6)), np.ones((1, 6), bool), 2, 2) == [[2, 4]]
    assert omniopd.peaks([[0, 3, 0, 9]], mask_BT, 2, 1) == [[1]], "9 has no room"
    assert omniopd.peaks([[0, 3, 0, 9]], mask_BT, 2, 1, 1) == [[2]], "but in a chunk"
    assert omniopd.peaks([[5, 3, 0, 1]], mask_BT, 2, 1, 1) == [[0]], "the row's begin"


def test_controls_of_the_scheduler():
    entropy_BT = np.array([[0.1, 0.9, 0.5]])
    rng = np.random.default_rng(0)
    mask_BT = np.ones((1, 3), bool)
    place = lambda order: omniopd.peaks(
        omniopd.priorities(entropy_BT, order, rng), mask_BT, 1, 1
    )
    assert place("entropy") == [[1]] and place("lowest") == [[0]]
    assert {str(place("random")) for _ in range(50)} == {"[[0]]", "[[1]]", "[[2]]"}


# The posterior.


def audited(seed: int = 0, *, samples: int = 4, chunk: int = 2):
    """A batch of tiny rows with up to two chunks each, and its scores."""
    rng = np.random.default_rng(seed)
    batch = tiny.batch(seed, rows=6, width=12)
    mask_BT = np.asarray(batch.mask_BT) & (np.asarray(batch.rollout.source_BT) == 0)
    anchors = omniopd.peaks(rng.random(mask_BT.shape), mask_BT, chunk, 2)
    chunk_BT = np.full(mask_BT.shape, -1, np.float32)
    similarity_BT = np.zeros(mask_BT.shape, np.float32)
    for b, row in enumerate(anchors):
        for number, t in enumerate(row):
            chunk_BT[b, t : t + chunk] = number
            similarity_BT[b, t : t + chunk] = rng.uniform(0, samples)
    extra = {"chunk": jnp.asarray(chunk_BT), "similarity": jnp.asarray(similarity_BT)}
    return batch._replace(extra=extra)


def scored(batch, seed: int = 0):
    hidden, heads = states(seed, batch)
    facts = objective.facts(hidden, heads, batch, vocabulary=V, chunk_tokens=16)
    return objective.scores(batch, facts)


def states(seed, batch):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    names = ("student", "reference")
    shape = batch.mask_BT.shape
    return {n: draw(*shape, D) for n in names}, {n: draw(V, D) for n in names}


def chunks_of(batch):
    """(row, tokens, similarity) of every chunk."""
    chunk_BT = np.asarray(batch.extra["chunk"])
    for b, row in enumerate(chunk_BT):
        for number in sorted({c for c in row if c >= 0}):
            where = np.flatnonzero(row == number)
            yield b, where, float(batch.extra["similarity"][b, where[0]])


@pytest.mark.parametrize("alpha", [0.0, 1.0, 4.0])
def test_rate_is_the_posterior_mean(alpha):
    batch = audited(samples=4)
    scores = scored(batch)
    got = np.asarray(omniopd.chunk_rate(scores, alpha=alpha, samples=4))
    want = np.zeros(got.shape)
    logp = np.asarray(scores.logp["student"], np.float64)
    for b, where, similar in chunks_of(batch):
        prior = np.exp(logp[b, where].mean())
        want[b, where] = (similar + alpha * prior) / (4 + alpha)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    assert (got >= 0).all() and (got <= 1).all() and (got > 0).any()
    outside = np.asarray(batch.extra["chunk"]) < 0
    assert (got[outside] == 0).all()
    np.testing.assert_array_equal(omniopd.unaudited(scores), outside)


def test_rate_at_its_ends():
    batch = audited(samples=4)
    inside = np.asarray(batch.extra["chunk"]) >= 0
    for similar, alpha, want in [(4.0, 0.0, 1.0), (0.0, 0.0, 0.0)]:
        extra = batch.extra | {"similarity": jnp.asarray(inside * similar, jnp.float32)}
        scores = scored(batch._replace(extra=extra))
        got = omniopd.chunk_rate(scores, alpha=alpha, samples=4)
        np.testing.assert_allclose(np.asarray(got)[inside], want)
    # A sure student and an agreeing teacher.
    full = batch.extra | {"similarity": jnp.asarray(inside * 4.0, jnp.float32)}
    scores = scored(batch._replace(extra=full))
    sure = scores._replace(logp={"student": jnp.zeros_like(scores.mask, jnp.float32)})
    got = omniopd.chunk_rate(sure, alpha=3.0, samples=4)
    np.testing.assert_allclose(np.asarray(got)[inside], 1.0)


def test_baselines_are_means_over_chunks():
    batch = audited(3)
    scores = scored(batch)
    plain = np.asarray(omniopd.chunk_rate(scores, samples=4))
    found = [(b, where, plain[b, where[0]]) for b, where, _ in chunks_of(batch)]
    assert len({b for b, _, _ in found}) < len(found), "a row with two chunks"
    mean = np.mean([rate for _, _, rate in found])
    for baseline in ("batch_mean", "leave_one_out"):
        got = np.asarray(omniopd.chunk_rate(scores, samples=4, baseline=baseline))
        for b, where, rate in found:
            others = [r for row, _, r in found if row != b]
            centre = mean if baseline == "batch_mean" else np.mean(others)
            np.testing.assert_allclose(got[b, where], rate - centre, atol=1e-6)
        assert (got < 0).any()
        assert (got[np.asarray(batch.extra["chunk"]) < 0] == 0).all()
    with pytest.raises(ValueError, match="'mean' is unknown; use one of none"):
        omniopd.chunk_rate(scores, baseline="mean")


def test_a_single_row_has_no_others():
    batch = jax.tree.map(lambda x: x[:1], audited())
    scores = scored(batch)
    got = omniopd.chunk_rate(scores, samples=4, baseline="leave_one_out")
    np.testing.assert_array_equal(got, omniopd.chunk_rate(scores, samples=4))
    assert np.any(got)


def test_a_batch_that_was_not_audited_says_so():
    scores = scored(tiny.batch()._replace(extra={}))
    for function in (omniopd.chunk_rate, omniopd.unaudited):
        with pytest.raises(ValueError, match=r"set audit\.chunks above 0"):
            function(scores)


# The loss.

TERMS = (
    Term(
        "chunks",
        signals.nll,
        (functools.partial(omniopd.chunk_rate, samples=4),),
        normalizer="rows",
    ),
    Term(
        "anchor",
        functools.partial(signals.forward_kl, other="reference"),
        (omniopd.unaudited,),
        normalizer="rows",
    ),
)
COEFS = {"chunks": 1.0, "anchor": 0.1}


def loss_of(student, batch, hidden, heads):
    """The loss of OmniOPD as the student's hidden states change."""
    hidden = hidden | {"student": student}
    facts = objective.facts(hidden, heads, batch, vocabulary=V, chunk_tokens=16)
    weighed = objective.weigh(TERMS, objective.scores(batch, facts))
    return objective.objective(
        *(student, heads["student"]),
        {"reference": hidden["reference"]},
        {"reference": heads["reference"]},
        *(batch, weighed, COEFS),
        terms=TERMS,
        vocabulary=V,
        chunk_tokens=16,
    )[0]


def plain_loss(student, batch, hidden, heads, rate=None):
    """The same as written in the card; ``rate`` of each chunk is a constant."""
    logits = objective.align(student) @ heads["student"].T
    reference = objective.align(hidden["reference"]) @ heads["reference"].T
    logp = jax.nn.log_softmax(logits)
    at = jnp.take_along_axis(logp, batch.rollout.tokens_BT[..., None], 2)[..., 0]
    q = jax.nn.log_softmax(reference)
    kl = jnp.sum(jnp.exp(q) * (q - logp), axis=-1)
    own = np.asarray(batch.mask_BT) & (np.asarray(batch.rollout.source_BT) == 0)
    audited_BT, total = np.zeros(own.shape, bool), 0.0
    for b, where, similar in chunks_of(batch):
        prior = jnp.exp(jnp.mean(at[b, where]))
        pihat = jax.lax.stop_gradient((similar + prior) / 5)
        total -= pihat * jnp.sum(at[b, where])
        audited_BT[b, where] = True
    total += 0.1 * jnp.sum(jnp.where(own & ~audited_BT, kl, 0.0))
    return total / own.any(1).sum()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_and_its_gradient_are_those_of_the_card(seed):
    """Also: no gradient flows through pihat."""
    batch = audited(seed)
    hidden, heads = states(seed, batch)
    got, d_got = jax.value_and_grad(loss_of)(hidden["student"], batch, hidden, heads)
    want, d_want = jax.value_and_grad(plain_loss)(
        hidden["student"], batch, hidden, heads
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(d_got, d_want, atol=1e-5, rtol=1e-4)


def test_an_empty_audit_leaves_the_anchor_on_every_token():
    batch = audited()
    none = {
        "chunk": jnp.full_like(batch.extra["chunk"], -1),
        "similarity": jnp.zeros_like(batch.extra["similarity"]),
    }
    batch = batch._replace(extra=none)
    hidden, heads = states(0, batch)
    got = loss_of(hidden["student"], batch, hidden, heads)
    scores = scored(batch)
    own = np.asarray(batch.mask_BT) & (np.asarray(batch.rollout.source_BT) == 0)
    kl = np.asarray(scores.forward_kl["reference"])[own].sum() / own.any(1).sum()
    np.testing.assert_allclose(got, 0.1 * kl, rtol=1e-5)
    assert got > 0


# The expected update: one chunk of one token, a bandit of six arms.

STUDENT = np.array([0.3, 0.25, 0.2, 0.12, 0.08, 0.05])
TEACHER = np.array([0.4, 0.15, 0.15, 0.15, 0.1, 0.05])


def updates(rate_of, rows: int, baseline: str):
    """(probability, gradient of the chunk term by the logits) of every outcome.

    ``rate_of[arm]`` is the similarity count of one sample, alpha is 0.
    """
    arms = len(STUDENT)
    scores_of = jax.vmap(
        lambda drawn: omniopd.chunk_rate(
            tiny_scores(drawn, rate_of), alpha=0.0, samples=1, baseline=baseline
        )[:, 0]
    )
    outcomes = np.array(list(itertools.product(range(arms), repeat=rows)))
    weight_OB = np.asarray(scores_of(jnp.asarray(outcomes)), np.float64)
    grad_OBA = np.eye(arms)[outcomes] - STUDENT  # of log student(arm) by the logits
    update_OA = (weight_OB[..., None] * grad_OBA).mean(axis=1)
    return STUDENT[outcomes].prod(axis=1), update_OA


def tiny_scores(drawn_B, rate_of):
    """Scores of rows that are one audited token each."""
    like = scored(audited())
    shape = (len(drawn_B), 1)
    logp = jnp.log(jnp.asarray(STUDENT, jnp.float32))[drawn_B][:, None]
    extra = {
        "chunk": jnp.zeros(shape),
        "similarity": jnp.asarray(rate_of, jnp.float32)[drawn_B][:, None],
    }
    return like._replace(
        mask=jnp.ones(shape, bool), logp={"student": logp}, extra=extra
    )


def moments(*arguments):
    """Mean and summed variance of the update."""
    chance_O, update_OA = updates(*arguments)
    mean_A = chance_O @ update_OA
    return mean_A, float(chance_O @ ((update_OA - mean_A) ** 2).sum(axis=1))


def test_a_constant_rate_teaches_nothing_in_expectation():
    mean_A, variance = moments(np.full(6, 0.7), 3, "none")
    np.testing.assert_allclose(mean_A, 0.0, atol=1e-7)
    assert variance > 0.01


def test_baselines_keep_the_mean_and_lower_the_variance():
    rng = np.random.default_rng(0)
    similar = rng.uniform(0.4, 0.9, (6, 6))
    similar = (similar + similar.T) / 2
    np.fill_diagonal(similar, 1.0)
    rate = similar @ TEACHER
    mean_A, variance = moments(rate, 3, "none")
    # E[w * grad log p] is a covariance.
    want = STUDENT * (rate - STUDENT @ rate)
    np.testing.assert_allclose(mean_A, want, atol=1e-6)
    loo_A, loo_variance = moments(rate, 3, "leave_one_out")
    np.testing.assert_allclose(loo_A, want, atol=1e-6)
    batch_A, batch_variance = moments(rate, 3, "batch_mean")
    np.testing.assert_allclose(batch_A, want * 2 / 3, atol=1e-6)
    assert max(loo_variance, batch_variance) < variance / 3


def test_the_fixed_point_is_the_medoid():
    """Not the teacher's favourite arm: the one most like its writings on average."""
    similar = np.full((6, 6), 0.1)
    similar[1:4, 1:4] = 0.9  # three wordings of one thing
    np.fill_diagonal(similar, 1.0)
    rate = similar @ TEACHER
    student = STUDENT.copy()
    for _ in range(4000):
        student = student * np.exp(0.1 * (rate - student @ rate))
        student /= student.sum()
    assert np.argmax(TEACHER) == 0
    assert student[0] < 0.01 and student[1:4].sum() > 0.99
    mean_A, _ = moments(rate, 1, "none")
    growth_A = mean_A / STUDENT
    assert growth_A[0] < min(growth_A[1:4])
