"""DPCA (arXiv:2606.09456): a teacher's span, shared by the student's tokens of it.

A span ends where tokens of both end (``teachers.spans.align``). Its m tokens of the
student have log p_i, in sum L_S, and the teacher's own tokens of it L_T in sum. What
the teacher "would have given" each token sums to L_T and is

    ratio  log q_i = (L_T / L_S) log p_i        A_i = (L_T / L_S - 1) log p_i
    shift  log q_i = log p_i + (L_T - L_S) / m  A_i = (L_T - L_S) / m

The ratio is the paper's and its code's. With m = 1 on both sides either is
log T - log S, plain on-policy distillation. ``least``: below it L_S says nothing of how
to share, and q_i = L_T / m (the code has 1e-8; a port finds that too small, 1e-6).
Tokens outside of any span have no advantage and count in the mean, as in the code.

The other way, what the teacher thinks of the student's token itself, is
``Scores.logp`` of a teacher with ``tokenizer="own"``: any method reads it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jopd.types import Aligned, Outputs, Scores

SHARES = ("ratio", "shift")


def proportional(
    scores: Scores,
    *,
    other: str = "teacher",
    share: str = "ratio",
    bound: float = 10.0,
    least: float = 1e-6,
) -> jax.Array:
    """A_i, f32[B, T] in nats, cut to +-``bound`` (the paper's launch script has 10).

    Raises ValueError for another ``share`` than ``SHARES``.
    """
    if share not in SHARES:
        raise ValueError(f"share={share!r} is unknown; use one of {', '.join(SHARES)}")
    span_BT = scores.extra[f"span/{other}"].astype(jnp.int32)
    total_BT = scores.extra[f"span_logp/{other}"]
    inside_BT = (span_BT > 0) & scores.mask
    logp_BT = jnp.where(inside_BT, scores.logp["student"], 0.0)
    own_BT, count_BT = (
        _per_span(values_BT, jnp.where(inside_BT, span_BT, 0))
        for values_BT in (logp_BT, inside_BT.astype(logp_BT.dtype))
    )
    equally_BT = (total_BT - own_BT) / jnp.maximum(count_BT, 1.0)
    given = own_BT < -least
    scaled_BT = (total_BT / jnp.where(given, own_BT, -1.0) - 1.0) * logp_BT
    alone_BT = total_BT / jnp.maximum(count_BT, 1.0) - logp_BT
    ratio_BT = jnp.where(given, scaled_BT, alone_BT)
    shared_BT = equally_BT if share == "shift" else ratio_BT
    return jnp.where(inside_BT, jnp.clip(shared_BT, -bound, bound), 0.0)


def sorted_l1(outputs: Outputs, *, other: str = "teacher", k: int = 0) -> jax.Array:
    """ULD (arXiv:2402.12030): sum_i |S_(i) - T_(i)|, both sorted from the likeliest on.

    f32[...] in [0, 2], differentiated in the student. The shorter vocabulary has zeros
    behind its end. What a token says plays no part, only how sure the two are: it is 0
    for any relabelling of tokens. With ``k`` only the k likeliest of each are compared,
    and what is left of each as one more.

    Only where student and teacher go on from the same bytes (``begins``), and 0
    elsewhere; the paper pairs token t with token t, TRL's GOLD spans, of whose several
    tokens it multiplies probabilities. Take ``begins`` as a weight and the normaliser
    "weights" for a mean over what is compared. Of a teacher with the student's own
    tokens it is everywhere. Raises ValueError for a ``k`` below 0.
    """
    there = _there(outputs, other)
    pair = [jax.nn.softmax(outputs.logits["student"], -1), jax.nn.softmax(there[0], -1)]
    return jnp.where(there.known, _sorted_distance(*pair, k), 0.0)


def hybrid(
    outputs: Outputs,
    *,
    other: str = "teacher",
    beta: float = 0.5,
    matched: float | None = None,
    rest: float | None = None,
    k: int = 0,
    shared: np.ndarray | None = None,
) -> jax.Array:
    """GOLD's two parts: a divergence on tokens of both vocabularies, ULD on the others.

        matched sum_{v in M} b T_v log(T_v / m_v) + (1 - b) S_v log(S_v / m_v)
        + rest sum_i |S_(i) - T_(i)| over what is not in M,   m = b T + (1 - b) S

    f32[...], differentiated in the student; places as in ``sorted_l1``, whose ``k`` it
    has. M are tokens of equal bytes, special ones apart, and nothing is renormalised on
    it, so the first sum may be negative. ``matched`` and ``rest`` are |M| / V_T and
    1 - |M| / V_T unless given. As TRL's trainer (1.16), which also compares spans.

    Args:
      shared: i32[2, M], the ids of M, student's and teacher's; a run fills it in. Of a
        teacher with the student's tokens all are shared.

    Raises:
      ValueError: ``beta`` outside of (0, 1), or a ``k`` below 0.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta={beta} must be a number in (0, 1)")
    there = _there(outputs, other)
    own, theirs = (jax.nn.log_softmax(x) for x in (outputs.logits["student"], there[0]))
    if shared is None:
        shared = np.tile(np.arange(min(own.shape[-1], theirs.shape[-1])), (2, 1))
    part = shared.shape[1] / theirs.shape[-1]
    matched = part if matched is None else matched
    rest = 1 - part if rest is None else rest
    s, t = own[..., shared[0]], theirs[..., shared[1]]
    middle = jnp.logaddexp(t + jnp.log(beta), s + jnp.log(1 - beta))
    total = beta * jnp.exp(t) * (t - middle) + (1 - beta) * jnp.exp(s) * (s - middle)
    others = [jnp.exp(x).at[..., ids].set(0.0) for x, ids in zip((own, theirs), shared)]
    loss = matched * jnp.sum(total, axis=-1)
    loss = loss + rest * _sorted_distance(*others, k)
    return jnp.where(there.known, loss, 0.0)


def _there(outputs: Outputs, other: str) -> Aligned:
    """The other's logits where they count, and 0 elsewhere."""
    there = outputs.aligned.get(other)
    if there is None:
        rows = outputs.logits[other]
        return Aligned(rows, jnp.ones(rows.shape[:-1], bool))
    return there._replace(logits=jnp.where(there.known[..., None], there.logits, 0.0))


def _sorted_distance(p: jax.Array, q: jax.Array, k: int) -> jax.Array:
    """sum_i |p_(i) - q_(i)|, of the k largest and one for the rest, or of all."""
    if k < 0:
        raise ValueError(f"k={k} must be at least 1, or 0 for all tokens")
    sizes = p.shape[-1], q.shape[-1]
    count = min(k, *sizes) if k else max(sizes)
    pair = [_sorted(x, count, bool(k)) for x in (p, q)]
    return jnp.sum(jnp.abs(pair[0] - pair[1]), axis=-1)


def _sorted(p: jax.Array, count: int, rest: bool) -> jax.Array:
    """f32[..., count]: probabilities from the largest on; with ``rest`` one for those
    that are left out behind them."""
    found = jax.lax.top_k(p, min(count, p.shape[-1]))[0]
    lack = [(0, 0)] * (found.ndim - 1) + [(0, count - found.shape[-1])]
    found = jnp.pad(found, lack)
    if not rest:
        return found
    left = jnp.sum(p, -1, keepdims=True) - jnp.sum(found, -1, keepdims=True)
    return jnp.concatenate([found, left], axis=-1)


def begins(scores: Scores, *, other: str = "teacher") -> jax.Array:
    """1 on tokens that begin where one of the teacher's begins, in the same text.

    Of a teacher with ``tokenizer="own"``; where ``sorted_l1`` compares.
    """
    return scores.extra[f"begins/{other}"]


def _per_span(values_BT: jax.Array, span_BT: jax.Array) -> jax.Array:
    """Sums over the spans of each row, at every token of them."""
    size = span_BT.shape[1] + 1
    total = lambda values, span: jnp.zeros(size).at[span].add(values)[span]
    return jax.vmap(total)(values_BT, span_BT)


def by_kind(
    scores: Scores,
    *,
    one: float = 1.0,
    several: float = 1.0,
    inside: float = 1.0,
    other: str = "teacher",
) -> jax.Array:
    """A weight by how a token lies on the teacher's (``spans.Scored.kind``).

    As one of its tokens, as several, or begins or ends inside of one; 0 where the
    teacher has no log-probability of it. inside=0 keeps what both tokenizers cut alike.
    """
    weight_K = jnp.asarray([0.0, one, several, inside], jnp.float32)
    return weight_K[scores.extra[f"kind/{other}"].astype(jnp.int32)]
