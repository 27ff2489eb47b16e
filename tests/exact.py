"""Expectations by enumeration: one state, a vocabulary of five, float64.

Every token of the vocabulary is one token of a row, so a sum over the row weighted with
the student's probabilities is the mean over its samples. Needs ``jax.enable_x64``.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jopd.losses import divergences
from jopd.types import Outputs, Scores

V = 5
TOKENS = np.arange(V)


def logits(seed: int = 0, spread: float = 2.0):
    """Those of a student and of a teacher that is ``spread`` times as sure."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=V), rng.normal(size=V) * spread


def log_softmax(x) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum())


def scores_of(student, teacher, uniform=None, **changes) -> Scores:
    """Scores of the five tokens, once per row of ``uniform`` [rows, V]."""
    uniform = np.zeros((1, V)) if uniform is None else uniform
    rows, shape = len(uniform), np.shape(uniform)
    log_p, log_q = log_softmax(student), log_softmax(teacher)
    p, q = np.exp(log_p), np.exp(log_q)
    whole = lambda x: jnp.asarray(np.broadcast_to(x, shape))
    return Scores(
        mask=jnp.ones(shape, bool),
        tokens=whole(TOKENS),
        source=jnp.zeros(shape, jnp.int32),
        position=whole(TOKENS),
        logp={"student": whole(log_p), "teacher": whole(log_q)},
        entropy={"student": whole(-p @ log_p), "teacher": whole(-q @ log_q)},
        reverse_kl={"teacher": whole(p @ (log_p - log_q))},
        forward_kl={"teacher": whole(q @ (log_q - log_p))},
        behavior_logp=whole(log_p),
        finished=jnp.ones(rows, bool),
        reward=jnp.zeros(rows),
        group=jnp.arange(rows),
        age=jnp.zeros(rows, jnp.int32),
        uniform=jnp.asarray(uniform),
    )._replace(**changes)


def coins(student, teacher) -> tuple[np.ndarray, np.ndarray]:
    """Draws [N, V] and their shares [N]: every outcome of uniform < teacher / student.

    Between two neighbouring ratios nothing changes, so one draw in the middle stands
    for the whole interval and a mean over coins is exact.
    """
    ratios = np.exp(log_softmax(teacher) - log_softmax(student))
    edges = np.unique(np.concatenate([[0.0, 1.0], np.minimum(ratios, 1.0)]))
    middles = (edges[1:] + edges[:-1]) / 2
    return np.repeat(middles[:, None], V, axis=1), np.diff(edges)


def mean_gradient(term, student, teacher) -> np.ndarray:
    """Mean over y ~ student, and over coins, of the gradient of w * signal."""
    draws, shares = coins(student, teacher)
    scores = scores_of(student, teacher, draws)
    weight = np.ones_like(draws)
    for function in term.weights:
        weight = weight * np.asarray(function(scores))
    weight_V = np.exp(log_softmax(student)) * (shares @ weight)
    advantage = None if term.advantage is None else term.advantage(scores)[0]

    def loss(student):
        rows = jnp.broadcast_to(student, (V, V))
        others = jnp.broadcast_to(jnp.asarray(teacher), (V, V))
        written = jax.lax.stop_gradient(divergences.log_prob(rows, TOKENS))
        outputs = Outputs(
            {"student": rows, "teacher": others},
            jnp.asarray(TOKENS),
            written,
            advantage,
        )
        return jnp.sum(weight_V * term.signal(outputs))

    return np.asarray(jax.grad(loss)(jnp.asarray(student)))


def reverse_kl_gradient(student, teacher) -> np.ndarray:
    log_p, log_q = log_softmax(student), log_softmax(teacher)
    p, gap = np.exp(log_p), log_p - log_q
    return p * (gap - p @ gap)


def forward_kl_gradient(student, teacher) -> np.ndarray:
    return np.exp(log_softmax(student)) - np.exp(log_softmax(teacher))


def policy_gradient(student, advantage) -> np.ndarray:
    """Gradient of the loss: -sum_v p_v A_v grad log p_v."""
    p = np.exp(log_softmax(student))
    return -(p * advantage - p * (p @ advantage))


def numeric_gradient(function, at, step: float = 1e-5) -> np.ndarray:
    """Central differences of a numpy function of logits."""
    return np.asarray(
        [
            (function(at + step * e) - function(at - step * e)) / (2 * step)
            for e in np.eye(len(at))
        ]
    )
