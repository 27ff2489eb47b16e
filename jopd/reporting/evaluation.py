"""How good a student is: accuracy, avg@k, pass@k, rollout health, KL to the teacher."""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from jopd.batches import collect
from jopd.reporting import leaks, statistics
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


class Rolled(NamedTuple):
    """Some rollouts on the host; only the first ``count`` rows count, the rest fill up.

    ``per_token`` holds token facts f32[B, T], empty if nobody asked for them.
    """

    batch: Batch
    texts: list[str]
    per_token: dict[str, np.ndarray]
    count: int


def roll(
    params, ids, *, generate, dataset, tokenizer, rows, buckets, limit, key, facts
):
    """Yields ``Rolled`` with one rollout per id, ``rows`` at a time."""
    for start in range(0, len(ids), rows):
        part = ids[start : start + rows]
        asked = collect.ask(
            dataset, np.resize(part, rows), copies=1, buckets=buckets, limit=limit
        )
        asked = asked._replace(row_B=asked.row_B + start)
        rolled = jax.device_get(generate(params, asked, key))
        batch = collect.batch_of(rolled._replace(group_B=np.resize(part, rows)))
        per_token = {name: np.asarray(value) for name, value in facts(batch).items()}
        batch = jax.tree.map(np.asarray, batch)
        texts = collect.responses(tokenizer, batch.rollout)
        yield Rolled(batch, texts, per_token, len(part))


def evaluate(
    params,
    frozen: dict,
    *,
    dataset,
    tokenizer,
    generate,
    generate_greedy,
    facts,
    verifier,
    repetition,
    prompts: int,
    k: int,
    batch_rows: int,
    buckets: tuple[int, ...],
    limit: int,
    seed: int,
    place,
    save_samples: int = 0,
    leak_pattern: str = "",
) -> tuple[dict, list[dict]]:
    """Numbers of the summary, and a few rollouts with their per-token log-probs.

    ``accuracy`` is greedy; everything else is over ``k`` sampled rollouts of each
    prompt, the KLs included, which are full-vocabulary means over response tokens in
    nats. Numbers that need a verifier, or a teacher, are None without one; so is
    ``leak_rate``, the share of rollouts that match ``leak_pattern``. Intervals
    are 95 %. A truncated response never counts as correct, whatever its text says so
    far.
    """
    ids = np.arange(min(prompts, len(dataset.prompts)))
    rolled = functools.partial(
        roll,
        params,
        dataset=dataset,
        tokenizer=tokenizer,
        rows=batch_rows,
        buckets=buckets,
        limit=limit,
        key=jax.random.fold_in(jax.random.key(seed), EVALUATION_STREAM),
    )
    sampled = list(
        rolled(
            np.repeat(ids, k),
            generate=generate,
            facts=lambda batch: facts(params, frozen, place(batch)),
        )
    )
    found = _health(sampled, repetition)
    texts = [text for group in sampled for text in group.texts[: group.count]]
    found["leak_rate"] = leaks.rate(leak_pattern, texts) if leak_pattern else None
    samples = _samples(sampled, save_samples, k, dataset, tokenizer, verifier)
    intervals = {}
    found |= {"accuracy": None, "avg_at_k": None, "pass_at_k": None}
    if verifier is not None:
        greedy = rolled(ids, generate=generate_greedy, facts=lambda batch: {})
        correct_N = _correct(greedy, dataset, verifier)
        correct_NK = _correct(sampled, dataset, verifier).reshape(len(ids), k)
        found["accuracy"] = float(correct_N.mean())
        intervals["accuracy"] = statistics.bootstrap(correct_N)
        found["avg_at_k"], intervals["avg_at_k"] = statistics.avg_at_k(correct_NK)
        found["pass_at_k"], intervals["pass_at_k"] = statistics.pass_at_k(correct_NK, k)
    return found | {"k": k, "prompts": len(ids), "intervals": intervals}, samples


def _correct(groups: Iterable[Rolled], dataset, verifier) -> np.ndarray:
    """f32[rows] rewards; the group of a rollout is its data set id."""
    found = []
    for batch, texts, _, count in groups:
        reward_B = collect.rewarded(batch, texts, dataset, verifier).reward_B
        found.append((reward_B * batch.rollout.finished_B)[:count])
    return np.concatenate(found)


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
    for name, short in FACTS.items():
        found[short] = None
        if name in groups[0].per_token:
            values = [
                g.per_token[name][: g.count][g.batch.mask_BT[: g.count]] for g in groups
            ]
            found[short] = float(np.concatenate(values).mean(dtype=np.float64))
    return found


def _samples(groups, wanted: int, k: int, dataset, tokenizer, verifier) -> list[dict]:
    """The first rollout of each of the first ``wanted`` prompts."""
    places = [(group, row) for group in groups for row in range(group.count)]
    return [
        sample_row(group, row, dataset, tokenizer, verifier)
        for group, row in places[::k][:wanted]
    ]


def sample_row(group: Rolled, row: int, dataset, tokenizer, verifier) -> dict:
    """One rollout for ``samples.jsonl``: text, tokens, log-probs, reward."""
    rollout = group.batch.rollout
    start, end = int(rollout.prompt_length_B[row]), int(rollout.length_B[row])
    index = int(rollout.group_B[row])
    answer, text = dataset.answers[index], group.texts[row]
    finished = bool(rollout.finished_B[row])
    right = None if verifier is None else float(verifier(text, answer)) * finished
    logps = {
        f"{name}_logp": [
            round(float(value), 4)
            for value in group.per_token.get(f"logp/{name}", rollout.tokens_BT[:, :0])[
                row, start:end
            ]
        ]
        for name in ("student", "teacher")
    }
    return {
        "prompt": dataset.texts[index],
        "response": text,
        "tokens": [
            tokenizer.decode([int(token)])
            for token in rollout.tokens_BT[row, start:end]
        ],
        **logps,
        "finished": finished,
        "reward": right,
        "answer": answer,
    }
