"""A teacher continues the student's responses at a few places; how alike it wrote.

``make_annotate`` is an annotation for ``collect.make_collect``: it chooses chunks of
the finished responses, has a teacher write continuations of what stands before each,
and leaves in ``Batch.extra``

    chunk       f32[B, T], number of the chunk within its row, -1 outside of all
    similarity  f32[B, T], sum over the continuations of their similarity, 0 outside

The teacher sees the prompt and the response before the chunk, never the chunk.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jopd.batches import collect
from jopd.data.dataset import Dataset, pad_prompts
from jopd.data.decoding import text_of
from jopd.methods import omniopd
from jopd.rollouts.records import Request
from jopd.teachers import remote, verdict
from jopd.teachers.remote import Prefix
from jopd.teachers.similarity import Similarity
from jopd.types import STUDENT, Batch

FACTS = ("chunk", "similarity")


class Plan(NamedTuple):
    """What is audited.

    Attributes:
      chunks: most chunks per response.
      chunk_tokens: tokens of a chunk, and most tokens of a continuation.
      samples: continuations of each prefix.
      temperature: of the continuations.
      anchors: one of ``omniopd.ORDERS``.
      lead: tokens of a chunk before its anchor.
    """

    chunks: int
    chunk_tokens: int
    samples: int
    temperature: float = 1.0
    anchors: str = "entropy"
    lead: int = 0


def make_annotate(
    plan: Plan,
    teacher: remote.Client,
    prompts: Dataset,
    *,
    entropy: Callable,
    similarity: Similarity,
    tokenizer,
    seed: int,
    say: Callable[[str], None] | None = None,
) -> collect.Annotate:
    """``(params, batch, step) -> (batch, facts)``, the audit of one update.

    Args:
      teacher: a server, or a ``local_teacher``. A chunk for which it has None is
        dropped: it counts as not audited.
      prompts: those of the data set as the teacher reads them, tokens and texts.
      entropy: ``(params, batch) -> f32[B, T]``, full-vocabulary entropies of the
        student in nats.
      say: the first audit that got texts is judged, and said with it; None: none is.
    """
    waiting = [say] if say else []

    def annotate(params, batch: Batch, step: int):
        started, before = time.perf_counter(), teacher.counts()
        rollout = jax.tree.map(np.asarray, batch.rollout)
        own_BT = np.asarray(batch.mask_BT) & (rollout.source_BT == STUDENT)
        entropy_BT = np.asarray(entropy(params, batch))
        order = omniopd.priorities(
            entropy_BT, plan.anchors, np.random.default_rng([seed, step, 3])
        )
        shape = plan.chunk_tokens, plan.chunks, plan.lead
        rows = omniopd.peaks(order, own_BT, *shape)
        places = [(b, t) for b, starts in enumerate(rows) for t in starts]
        ids = np.asarray(batch.prompt_id_B)
        prefixes = [
            prefix_of(
                tokenizer,
                rollout.tokens_BT[b, rollout.prompt_length_B[b] : t],
                prompts.prompts[ids[b]],
                prompts.texts[ids[b]],
            )
            for b, t in places
        ]
        texts = teacher.continue_texts(
            prefixes,
            plan.samples,
            plan.chunk_tokens,
            plan.temperature,
            [seed_of(seed, step, b, t) for b, t in places],
        )
        spent = {name: value - before[name] for name, value in teacher.counts().items()}
        pairs = _pairs(plan, places, texts, rollout, tokenizer)
        alike = _alike(similarity, pairs, plan.samples)
        if waiting and spent["texts"]:
            waiting.pop()(verdict.of_audit(spent, pairs, alike, similarity))
        extra, kept = _extra(plan, places, texts, alike, rollout.tokens_BT.shape)
        facts = _facts(plan, extra, kept, own_BT, entropy_BT, len(places))
        facts["speed/seconds_audit"] = time.perf_counter() - started
        facts |= {f"teacher/{name}": value for name, value in spent.items()}
        return batch._replace(extra=batch.extra | extra), facts

    return annotate


def seed_of(seed: int, step: int, row: int, anchor: int) -> int:
    """Where the random stream of a chunk's continuations begins; 30 bits."""
    drawn = np.random.SeedSequence([seed, step, row, anchor]).generate_state(1)
    return int(drawn[0]) >> 2


def prefix_of(tokenizer, response, prompt, text: str) -> Prefix:
    """Prompt and response before a chunk, as ids and as text."""
    # Half a character at the end is left to the teacher, who would see a wrong one.
    written = text_of(tokenizer, prompt, response).rstrip("\ufffd")
    return Prefix(text, written, np.concatenate([prompt, response]).astype(np.int32))


def cut_to(tokenizer, text: str, tokens: int) -> str:
    """The beginning of ``text`` that takes ``tokens`` of the student's tokens.

    A teacher's tokens may be longer than the student's; both sides are compared over
    the same length. Text that the student's tokenizer cannot read, such as characters
    that are not in its vocabulary, is compared as it is.
    """
    try:
        ids = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    except Exception:  # the tokenizers' own, which has no narrower class
        return text
    if len(ids["input_ids"]) <= tokens:
        return text
    return text[: ids["offset_mapping"][tokens - 1][1]]


def _pairs(plan: Plan, places, texts, rollout, tokenizer) -> verdict.Pairs:
    """The student's chunks and the continuations that came back, sample by sample."""
    written, others = [], []
    for (b, t), found in zip(places, texts, strict=True):
        if found is not None:
            row = rollout.tokens_BT[b]
            own = text_of(tokenizer, row[:t], row[t : t + plan.chunk_tokens])
            written += [own] * plan.samples
            others += [cut_to(tokenizer, text, plan.chunk_tokens) for text in found]
    return verdict.Pairs(written, others)


def _alike(similarity: Similarity, pairs: verdict.Pairs, samples: int) -> np.ndarray:
    """f64[chunks, samples]."""
    alike = similarity(*pairs) if pairs.written else np.zeros(0, np.float32)
    return np.reshape(alike, (-1, samples)).astype(np.float64)


def _extra(plan: Plan, places, texts, alike, shape):
    """(``Batch.extra``, mean similarity of each chunk that the teacher completed)."""
    chunk_BT, similarity_BT = (
        np.full(shape, -1, np.float32),
        np.zeros(shape, np.float32),
    )
    done = [place for place, found in zip(places, texts) if found is not None]
    numbers = np.zeros(shape[0], int)
    for (b, t), values in zip(done, alike, strict=True):
        chunk_BT[b, t : t + plan.chunk_tokens] = numbers[b]
        similarity_BT[b, t : t + plan.chunk_tokens] = values.sum()
        numbers[b] += 1
    return dict(zip(FACTS, (chunk_BT, similarity_BT))), alike.mean(axis=1)


def _facts(plan: Plan, extra, kept, own_BT, entropy_BT, asked: int) -> dict:
    """Numbers of one audit; entropies in nats, similarities in [0, 1]."""
    inside_BT = extra["chunk"] >= 0
    mean = lambda values: float(np.mean(values)) if len(values) else None
    return {
        "audit/chunks": len(kept),
        "audit/dropped": asked - len(kept),
        "audit/rows_without": int(np.sum(own_BT.any(1) & ~inside_BT.any(1))),
        "audit/tokens_share": float(inside_BT.sum() / max(own_BT.sum(), 1)),
        "audit/similarity": mean(kept),
        "audit/similarity_min": float(kept.min()) if len(kept) else None,
        "audit/similarity_max": float(kept.max()) if len(kept) else None,
        "audit/entropy_inside": mean(entropy_BT[inside_BT]),
        "audit/entropy_outside": mean(entropy_BT[own_BT & ~inside_BT]),
    }


def local_teacher(
    generate: Callable,
    tokenizer,
    *,
    widths: tuple[int, ...],
    batch_rows: int,
    copies: int = 1,
) -> remote.Client:
    """A model of this process as a teacher that only writes text.

    Args:
      generate: ``(request, key) -> Rollout``, at the temperature of the plan.
      widths: padded prefix lengths, ascending; with ``batch_rows`` they fix the shapes,
        so there are as many programs as widths.
      copies: as ``generate`` is bound to, a divisor of ``batch_rows``; best the number
        of samples, whose prefix is then read once for all.
    """
    totals = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0, "seconds": 0.0}

    def continue_texts(prefixes, n, max_tokens, temperature, seeds):
        del temperature  # bound in ``generate``
        started = time.perf_counter()
        asked = [
            (i, range(n)[first : first + copies])
            for i in range(len(prefixes))
            for first in range(0, n, copies)
        ]
        # Rows of like length side by side: most batches then take a narrow program.
        asked.sort(key=lambda run: len(prefixes[run[0]].tokens))
        texts: list[list] = [[None] * n for _ in prefixes]
        for first in range(0, len(asked), batch_rows // copies):
            runs = asked[first : first + batch_rows // copies]
            rows = [
                (prefixes[i].tokens, seeds[i] + numbers[min(j, len(numbers) - 1)])
                for i, numbers in runs
                for j in range(copies)
            ]
            filled = _request(rows, widths, batch_rows, max_tokens)
            rolled = jax.device_get(generate(filled, jax.random.key(0)))
            for begin, (i, numbers) in zip(range(0, len(rows), copies), runs):
                given = prefixes[i].tokens
                for row, number in enumerate(numbers, begin):
                    new = rolled.tokens_BT[row, len(given) : rolled.length_B[row]]
                    texts[i][number] = text_of(tokenizer, given, new)
                    totals["completion_tokens"] += len(new)
                    totals["prompt_tokens"] += len(given)
        totals["requests"] += len(prefixes)
        totals["seconds"] += time.perf_counter() - started
        return texts

    return remote.Client(continue_texts, lambda: dict(totals))


def _request(asked, widths, rows: int, limit: int) -> Request:
    """(tokens, seed) pairs in a batch of fixed size; fillers of it write nothing."""
    tokens, seeds = zip(*asked, strict=True)
    missing = rows - len(tokens)
    padded = [*tokens, *[tokens[0]] * missing]
    tokens_BP, length_B = pad_prompts(padded, buckets=widths)
    return Request(
        tokens_BP=tokens_BP,
        length_B=length_B,
        prompt_length_B=length_B,
        limit_B=np.array([limit] * len(tokens) + [0] * missing, np.int32),
        row_B=np.array([*seeds, *[0] * missing], np.int32),
        prefix_source_BP=np.full(tokens_BP.shape, STUDENT, np.int32),
    )
