"""How good a student is: accuracy, avg@k, pass@k, rollout health, KL to the teacher."""

import functools
import hashlib
import operator
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np

from jopd.batches import asking
from jopd.batches.asking import RowSet, Writer
from jopd.data import decoding
from jopd.reporting import console, leaks, statistics
from jopd.types import Batch

# Token facts that are averaged, and what the summary calls them.
FACTS = {
    "kl/reverse": "reverse_kl",
    "kl/forward": "forward_kl",
    "entropy/student": "student_entropy",
    "entropy/teacher": "teacher_entropy",
}
# Far from the keys that updates fold in, which are step numbers.
EVALUATION_STREAM = 2**30
SAID_EVERY = 10.0  # seconds
RIGHT = 1.0  # reward from which pass@k takes a response for right


class Rolled(NamedTuple):
    """Some rollouts on the host; only the first ``count`` rows count, the rest fill up.

    ``per_token`` holds token facts f32[B, T], empty if nobody asked for them.
    """

    batch: Batch
    texts: list[str]
    per_token: dict[str, np.ndarray]
    count: int


class Asked(NamedTuple):
    """What is measured: ``k`` rollouts of each of the first ``prompts``, of which
    ``save_samples`` are kept whole, or with ``save_all`` every one, the greedy ones,
    too. ``temperature`` and ``top_p`` are told beside the numbers: who writes draws
    with them. ``repetition`` says of a text whether it repeats itself; an empty
    ``leak_pattern`` looks for nothing.
    """

    prompts: int
    k: int
    batch_rows: int
    seed: int
    repetition: Callable[[str], bool]
    temperature: float = 1.0
    top_p: float = 1.0
    leak_pattern: str = ""
    save_samples: int = 0
    save_all: bool = False


def roll(params, ids, *, rows: RowSet, writer: Writer, facts, asked: Asked):
    """Yields ``Rolled`` with one rollout per id, ``asked.batch_rows`` at a time.

    Where that takes long it is said how far it is, now and then.
    """
    told = time.monotonic()
    key = jax.random.fold_in(jax.random.key(asked.seed), EVALUATION_STREAM)
    for start in range(0, len(ids), asked.batch_rows):
        part = ids[start : start + asked.batch_rows]
        filled = np.resize(part, asked.batch_rows)
        request = asking.ask(
            rows.dataset, filled, copies=1, buckets=writer.buckets, limit=writer.limit
        )
        request = request._replace(row_B=request.row_B + start)
        rolled = jax.device_get(writer.generate(params, request, key))
        batch = asking.batch_of(rolled._replace(group_B=filled))
        per_token = {name: np.asarray(value) for name, value in facts(batch).items()}
        batch = jax.tree.map(np.asarray, batch)
        texts = rows.texts(batch.rollout)
        if rows.verifier is not None:
            # Rows that only fill up are nobody's to judge.
            counted = jax.tree.map(operator.itemgetter(slice(len(part))), batch)
            judged, _ = asking.rewarded(counted, texts[: len(part)], rows)
            batch = batch._replace(reward_B=np.resize(judged.reward_B, len(texts)))
        yield Rolled(batch, texts, per_token, len(part))
        done = start + len(part)
        if time.monotonic() - told > SAID_EVERY and done < len(ids):
            console.say(f"evaluated {done:,} of {len(ids):,} rollouts")
            told = time.monotonic()


def evaluate(
    params,
    rows: RowSet,
    *,
    sampled: Writer,
    greedy: Writer,
    facts: Callable[[Batch], dict],
    asked: Asked,
) -> tuple[dict, list[dict]]:
    """Numbers of the summary, and rollouts with their per-token log-probs.

    ``accuracy`` is greedy; everything else is over ``k`` sampled rollouts of each
    prompt, the KLs included, which are full-vocabulary means over response tokens in
    nats. Numbers that need a verifier, or a teacher, are None without one; so is
    ``leak_rate``, the share of rollouts that match ``leak_pattern``. Intervals
    are 95 %. A truncated response is judged by the rule of training (see ``RowSet``).
    A teacher that has only log-probabilities of what was written gives ``sampled_kl``,
    the mean of log student - log teacher over these tokens.
    With a verifier ``per_prompt`` has what each prompt earned, see ``_per_prompt``.

    Args:
      facts: token facts of sampled rollouts, f32[B, T] each, see ``FACTS``.
    """
    ids, k = np.arange(min(asked.prompts, len(rows.dataset.prompts))), asked.k
    rolled = functools.partial(roll, params, rows=rows, asked=asked)
    groups = list(rolled(np.repeat(ids, k), writer=sampled, facts=facts))
    found = _health(groups, asked.repetition)
    texts = [text for group in groups for text in group.texts[: group.count]]
    pattern = asked.leak_pattern
    found["leak_rate"] = leaks.rate(pattern, texts) if pattern else None
    intervals, greedily = {}, []
    found |= {"accuracy": None, "avg_at_k": None, "pass_at_k": None}
    if rows.verifier is not None:
        greedily = list(rolled(ids, writer=greedy, facts=lambda batch: {}))
        correct_N = _correct(greedily)
        correct_NK = _correct(groups).reshape(len(ids), k)
        found["accuracy"], intervals["accuracy"] = statistics.mean_interval(correct_N)
        found["avg_at_k"], intervals["avg_at_k"] = statistics.avg_at_k(correct_NK)
        found["pass_at_k"], intervals["pass_at_k"] = statistics.pass_at_k(
            correct_NK >= RIGHT, k
        )
        texts = rows.dataset.texts[: len(ids)]
        found["per_prompt"] = _per_prompt(texts, correct_N, correct_NK)
    told = {name: getattr(asked, name) for name in ("k", "temperature", "top_p")}
    told["max_new_tokens"] = sampled.limit
    if pattern:
        told["leak_pattern"] = pattern
    if asked.save_all:
        samples = [row | {"greedy": False} for row in _samples(groups, rows)]
        samples += [row | {"greedy": True} for row in _samples(greedily, rows)]
    else:  # the first rollout of each of the first prompts
        samples = _samples(groups, rows, slice(0, k * asked.save_samples, k))
    return found | told | {"prompts": len(ids), "intervals": intervals}, samples


def _correct(groups: Iterable[Rolled]) -> np.ndarray:
    """f32[rows] rewards."""
    return np.concatenate([group.batch.reward_B[: group.count] for group in groups])


def _per_prompt(texts: list[str], correct_N, correct_NK) -> dict:
    """Rewards by prompt, for comparisons of two runs over the same ones.

    ``prompts`` is a hash of the texts: two evaluations are of the same prompts, in the
    same order, where it is the same.
    """
    rounded = lambda rewards: np.round(rewards.astype(np.float64), 6).tolist()
    return {
        "prompts": hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16],
        "greedy": rounded(correct_N),
        "sampled": rounded(correct_NK),
    }


def _health(groups: list[Rolled], repetition) -> dict[str, float | None]:
    """Means over rollouts, and over response tokens of the token facts."""
    finished = np.concatenate([g.batch.rollout.finished_B[: g.count] for g in groups])
    lengths = np.concatenate([g.batch.mask_BT[: g.count].sum(axis=1) for g in groups])
    repeats = [repetition(text) for g in groups for text in g.texts[: g.count]]
    found = {
        "truncation_rate": float(1 - finished.mean()),
        "repetition_rate": float(np.mean(repeats)),
        "mean_length": float(lengths.mean()),
    }
    mask_of = lambda g: g.batch.mask_BT[: g.count]
    of_all = lambda name: np.concatenate(
        [g.per_token[name][: g.count][mask_of(g)] for g in groups]
    )
    there = groups[0].per_token
    for name, short in FACTS.items():
        mean = of_all(name).mean(dtype=np.float64) if name in there else None
        found[short] = None if mean is None else float(mean)
    if "logp/teacher" in there and "kl/reverse" not in there:
        ratio_N = of_all("logp/student") - of_all("logp/teacher")
        found["sampled_kl"] = float(ratio_N.mean(dtype=np.float64))
    return found


def _samples(groups: list[Rolled], rows: RowSet, chosen=slice(None)) -> list[dict]:
    places = [(group, row) for group in groups for row in range(group.count)]
    return [sample_row(group, row, rows) for group, row in places[chosen]]


def sample_row(group: Rolled, row: int, rows: RowSet) -> dict:
    """One rollout for ``samples.jsonl``: text, tokens, log-probs, reward."""
    rollout = group.batch.rollout
    start, end = int(rollout.prompt_length_B[row]), int(rollout.length_B[row])
    index, tokens = int(rollout.group_B[row]), rollout.tokens_BT[row]
    judged = rows.verifier is not None

    def rounded(name: str) -> list[float]:
        known = group.per_token.get(f"logp/{name}", rollout.tokens_BT[:, :0])
        return [round(float(logp), 4) for logp in known[row, start:end]]

    return {
        "prompt": rows.dataset.texts[index],
        "response": group.texts[row],
        "tokens": decoding.pieces(rows.tokenizer, tokens[:start], tokens[start:end]),
        "student_logp": rounded("student"),
        "teacher_logp": rounded("teacher"),
        "finished": bool(rollout.finished_B[row]),
        "reward": float(group.batch.reward_B[row]) if judged else None,
        "answer": rows.dataset.answers[index],
    }
