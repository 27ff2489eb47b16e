"""What is asked of a writer of rollouts, and the batch that its answers make."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jopd.data import decoding, judging, rewards
from jopd.data.dataset import Dataset, pad_prompts
from jopd.losses.objective import response_mask
from jopd.rollouts.records import Request
from jopd.types import STUDENT, TEACHER, Batch, Rollout


class RowSet(NamedTuple):
    """What rows are made of, and who judges the responses to them.

    Without a ``verifier`` (see ``data.judging``) rewards stay 0; so does that
    of a response without an end, unless ``reward_truncated``. The text of a response
    ends before the first of ``stop_strings``.
    """

    dataset: Dataset
    tokenizer: Any
    verifier: judging.Judge | rewards.Verifier | None = None
    reward_truncated: bool = False
    stop_strings: tuple[str, ...] = ()

    def texts(self, rollout: Rollout) -> list[str]:
        return responses(self.tokenizer, rollout, self.stop_strings)


class Writer(NamedTuple):
    """Who writes rollouts, and in which shapes it is asked.

    Attributes:
      generate: ``(student, request, key) -> Rollout``; what a student is, it says.
      buckets: padded lengths of the given tokens, ascending.
      limit: most response tokens of a row, behind those of a prefix.
    """

    generate: Callable[[Any, Request, jax.Array], Rollout]
    buckets: tuple[int, ...]
    limit: int


def ask(
    dataset: Dataset,
    ids: np.ndarray,
    *,
    copies: int,
    buckets,
    limit: int,
    prefixes: Sequence[np.ndarray] | None = None,
) -> Request:
    """A request for ``copies`` rows of each prompt, those of a prompt side by side.

    ``prefixes`` are response tokens, one array for each of ``ids``, from which its rows
    go on; ``limit`` does not count them.
    """
    prompts = [dataset.prompts[i] for i in ids for _ in range(copies)]
    given = prompts
    if prefixes is not None:
        heads = [prefix for prefix in prefixes for _ in range(copies)]
        given = [np.concatenate(pair) for pair in zip(prompts, heads, strict=True)]
    tokens_BP, length_B = pad_prompts(given, buckets=buckets)
    prompt_length_B = np.asarray([len(prompt) for prompt in prompts], np.int32)
    rows = len(prompts)
    behind_BP = np.arange(tokens_BP.shape[1]) >= prompt_length_B[:, None]
    return Request(
        tokens_BP=tokens_BP,
        length_B=length_B,
        prompt_length_B=prompt_length_B,
        limit_B=np.full(rows, limit, np.int32),
        row_B=np.arange(rows, dtype=np.int32),
        prefix_source_BP=np.where(behind_BP, TEACHER, STUDENT).astype(np.int32),
    )


def first_part(responses: Sequence[np.ndarray], share: float) -> list[np.ndarray]:
    """The first ``floor(share * length)`` tokens of each response (TrOPD's prefix)."""
    return [response[: math.floor(share * len(response))] for response in responses]


def batch_of(rollout: Rollout, reward_B=None, prompt_id_B=None) -> Batch:
    """A ``Batch`` with its mask; rewards default to 0 and prompt ids to the groups."""
    mask_BT = response_mask(
        rollout.tokens_BT, rollout.prompt_length_B, rollout.length_B
    )
    zeros = np.zeros(len(rollout.length_B), np.float32)
    return Batch(
        rollout=rollout,
        mask_BT=mask_BT,
        reward_B=zeros if reward_B is None else reward_B,
        prompt_id_B=rollout.group_B if prompt_id_B is None else prompt_id_B,
    )


def responses(tokenizer, rollout: Rollout, stop_strings=()) -> list[str]:
    """What responses add to their prompts, up to the first of ``stop_strings``.

    Special tokens are left out. Host side.
    """
    tokens_BT = np.asarray(rollout.tokens_BT)
    starts, ends = np.asarray(rollout.prompt_length_B), np.asarray(rollout.length_B)
    spans = list(zip(tokens_BT, starts, ends))
    prompts, rows = [row[:s] for row, s, _ in spans], [row[s:e] for row, s, e in spans]
    texts = decoding.texts_of(tokenizer, prompts, rows)
    return [decoding.before_end(text, stop_strings) for text in texts]


def rewarded(batch: Batch, texts, rows: RowSet) -> tuple[Batch, dict[str, float]]:
    """``batch`` with the rewards of its responses; its groups are data set ids.

    And where several verifiers make up a reward, what each gives in the mean.
    """
    asked = judging.of_rows(rows.dataset, np.asarray(batch.rollout.group_B), texts)
    reward_B, parts = judging.judge(rows.verifier, asked)
    counts_B = np.asarray(batch.rollout.finished_B) | rows.reward_truncated
    batch = batch._replace(reward_B=np.where(counts_B, reward_B, np.float32(0)))
    mean = lambda given_B: float((given_B * counts_B).mean())
    means = {f"reward/{name}": mean(given_B) for name, given_B in parts.items()}
    return batch, means if len(parts) > 1 else {}


def fresh_rows(
    rows: RowSet, writer: Writer, student, ids, key, copies: int, prefixes=None
) -> tuple[Batch, dict[str, float]]:
    """``copies`` rollouts of each prompt, ``rewarded``."""
    asked = ask(
        rows.dataset,
        ids,
        copies=copies,
        buckets=writer.buckets,
        limit=writer.limit,
        prefixes=prefixes,
    )
    rolled = jax.device_get(writer.generate(student, asked, key))
    batch = batch_of(rolled._replace(group_B=np.repeat(ids, copies).astype(np.int32)))
    if rows.verifier is None:
        return batch, {}
    return rewarded(batch, rows.texts(rolled), rows)
