"""Numbers that are logged: of rollouts, and of the per-token parts of an update.

Host side, numpy. The names are those of ``metrics.jsonl``.
"""

import numpy as np

from jopd.reporting import statistics
from jopd.teachers import gate
from jopd.types import GOLD, STUDENT, TEACHER, Batch


def rollout_metrics(batch: Batch, texts: list[str], repetition) -> dict[str, float]:
    """Length, truncation and repetition of fresh rollouts.

    Lengths are of responses; ``length/prefix`` is what of them a teacher had written.

    ``repetition`` is a bound ``statistics.repetition``: text -> bool.
    """
    rollout = batch.rollout
    lengths = np.asarray(rollout.length_B) - np.asarray(rollout.prompt_length_B)
    given_BT = np.asarray(batch.mask_BT) & (np.asarray(rollout.source_BT) == TEACHER)
    return {
        "length/prefix": float(given_BT.sum(axis=1).mean()),
        "length/mean": float(lengths.mean()),
        "length/max": float(lengths.max()),
        "length/truncation_rate": float(1.0 - np.asarray(rollout.finished_B).mean()),
        "length/repetition_rate": float(np.mean([repetition(t) for t in texts])),
    }


def reward_metrics(batch: Batch) -> dict[str, float | None]:
    """Mean reward of judged rollouts, of all and of those that have an end (or None).

    Where the second is far above the first, truncation takes rewards away.
    """
    finished_B = np.asarray(batch.rollout.finished_B)
    return {
        "reward/mean": float(np.asarray(batch.reward_B).mean()),
        "reward/finished": mean(batch.reward_B, finished_B),
    }


def stopped_rate(batch: Batch, limit: int) -> float:
    """Share of rollouts that a rule ended before ``limit`` tokens (``jopd.stops``).

    A prefix, which others wrote, does not count.
    """
    rollout = batch.rollout
    own_BT = np.asarray(batch.mask_BT) & (np.asarray(rollout.source_BT) == STUDENT)
    short_B = own_BT.sum(axis=1) < limit
    return float((~np.asarray(rollout.finished_B) & short_B).mean())


def outcome(batch: Batch) -> gate.Outcome:
    """What gated teachers go by, of fresh rollouts."""
    rollout = batch.rollout
    lengths = np.asarray(rollout.length_B) - np.asarray(rollout.prompt_length_B)
    return gate.Outcome(
        reward=float(np.asarray(batch.reward_B, np.float64).mean()),
        longest=float(lengths.max()),
        mean_length=float(lengths.mean()),
    )


def mean(values_BT, mask_BT) -> float | None:
    """Mean over True; None where nothing is."""
    mask_BT = np.asarray(mask_BT)
    if not mask_BT.any():
        return None
    return float(np.asarray(values_BT, np.float64)[mask_BT].mean())


def token_metrics(parts: dict, batch: Batch, *, ngram: int) -> dict[str, float | None]:
    """Means of token facts over student tokens (gold tokens if there are none).

    Those of a model or panel with a route are over the rows that it serves.

    ``log_ratio/*`` is log teacher(y) - log student(y), which is the advantage of
    StableOPD and of plain on-policy distillation, split by whether the token ends an
    n-gram that already occurred in its response (arXiv:2604.08527, figure 4; the paper
    does not say how it classes a single token, this rule is ours). ``log_ratio/p1`` is
    its first percentile, in between two tokens linearly: one token cannot move it far,
    as it can ``log_ratio/min``.
    """
    parts = {name: np.asarray(value) for name, value in parts.items()}
    mask_BT = np.asarray(batch.mask_BT)
    source_BT = np.asarray(batch.rollout.source_BT)
    student_BT = mask_BT & (source_BT == STUDENT)
    counted_BT = student_BT if student_BT.any() else mask_BT
    found = {
        name: mean(value, counted_BT & serves_BT(batch, compared(name)))
        for name, value in parts.items()
        if not name.startswith("loss/")
    }
    gold_BT = mask_BT & (source_BT == GOLD)
    if "logp/student" in parts and gold_BT.any():
        found["gold/nll"] = -mean(parts["logp/student"], gold_BT)
    counted_BT = counted_BT & serves_BT(batch, "teacher")
    if "logp/teacher" in parts and counted_BT.any():
        log_ratio_BT = parts["logp/teacher"] - parts["logp/student"]
        repeated_BT = np.asarray(
            statistics.repeated_tokens(
                np.asarray(batch.rollout.tokens_BT), counted_BT, n=ngram
            )
        )
        found |= {
            "log_ratio/mean": mean(log_ratio_BT, counted_BT),
            "log_ratio/repeated": mean(log_ratio_BT, counted_BT & repeated_BT),
            "log_ratio/other": mean(log_ratio_BT, counted_BT & ~repeated_BT),
            "length/repeated_token_share": mean(repeated_BT, counted_BT),
            "log_ratio/min": float(log_ratio_BT[counted_BT].min()),
            "log_ratio/p1": float(np.percentile(log_ratio_BT[counted_BT], 1)),
        }
    behavior_BT = np.asarray(batch.rollout.behavior_logp_BT)
    if "logp/student" in parts and student_BT.any():
        ratio = np.exp((parts["logp/student"] - behavior_BT)[student_BT])
        found["ratio/mean"] = float(ratio.mean())
        found["ratio/max"] = float(ratio.max())
        found["age/mean"] = float(
            np.asarray(batch.rollout.age_B)[student_BT.any(axis=1)].mean()
        )
    return found


def compared(name: str) -> str:
    """The model that a token fact is about; ``kl/reverse`` is to the teacher."""
    kind, _, rest = name.partition("/")
    if kind != "kl":
        return rest
    return rest.partition("_")[2] or "teacher"


def serves_BT(batch: Batch, name: str) -> np.ndarray:
    """bool[B, T]: rows that a model serves; every row without a route."""
    mask_BT = np.asarray(batch.mask_BT)
    if name not in batch.serves:
        return np.ones_like(mask_BT)
    return np.broadcast_to(np.asarray(batch.serves[name])[:, None], mask_BT.shape)


def unfinite(metrics: dict) -> str | None:
    """Name of the first loss or gradient number that is NaN or infinite, else None.

    Terms come before their sum, which is bad whenever one of them is.
    """
    for name in sorted(metrics, key=lambda name: not name.startswith("loss/")):
        value = metrics[name]
        watched = name.startswith("loss") or name == "optim/grad_norm"
        if watched and not np.isfinite(value):
            return name
    return None
