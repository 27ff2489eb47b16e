"""Teachers with another tokenizer read responses, and say what of them is likely."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopd.batches import collect
from jopd.data import pieces
from jopd.data.dataset import pad_prompts
from jopd.losses import prefixes
from jopd.losses.chunks import in_chunks
from jopd.losses.heads import logits_of
from jopd.losses.objective import blank
from jopd.models import decoder, sharding
from jopd.setup import experiment, inputs, needs
from jopd.setup.experiment import Experiment
from jopd.teachers import spans
from jopd.types import Batch

KINDS = {"one": spans.ONE, "several": spans.SEVERAL, "inside": spans.INSIDE}
KINDS |= {"unknown": 0}


def make_annotate(e: Experiment, name: str) -> collect.Annotate:
    """Adds ``logp/<name>`` and the rest of ``spans.Scored`` to every batch."""
    whole = any(needs.reads_aligned(term, name) for term in e.terms)
    read = make_read(e, name, whole=whole)

    def annotate(params, batch: Batch, step: int):
        del params, step
        scored, more = read(batch)
        own = {f"{key}/{name}": value for key, value in scored._asdict().items()}
        kind_N = scored.kind[np.asarray(batch.mask_BT)]
        share = lambda code: float((kind_N == code).mean()) if kind_N.size else None
        shares = {f"spans/{name}_{kind}": share(code) for kind, code in KINDS.items()}
        return batch._replace(extra=batch.extra | own | more), shares

    return annotate


def make_scored(e: Experiment, name: str):
    """``Batch -> Batch`` of held-out rows, with the log-probabilities in it."""
    read = make_read(e, name, held=True)
    return lambda batch: batch._replace(
        extra=batch.extra | {f"logp/{name}": read(batch)[0].logp}
    )


def make_read(e: Experiment, name: str, *, held: bool = False, whole: bool = False):
    """``Batch -> (spans.Scored, more)`` of responses behind the teacher's own prompts.

    ``held``: those of the rows that are held out; ``more`` is what ``losses.elsewhere``
    knows as ``begins`` and, if ``whole``, as ``states``.
    """
    parts = e.rows.own_prompts[name]
    dataset, model = parts[held], e.models[name]
    pair, answer = make_pair(e, name), make_answer(e, name, whole)
    prompts = max(len(prompt) for part in parts for prompt in part.prompts)
    most = model.config.max_positions - prompts
    place = functools.partial(jax.device_put, device=sharding.rows(e.mesh))
    order_N = jnp.asarray(pair.begins.order_N)

    def read(batch: Batch) -> spans.Scored:
        rollout, mask_BT = batch.rollout, np.asarray(batch.mask_BT)
        starts, ends = np.asarray(rollout.prompt_length_B), np.asarray(rollout.length_B)
        live_B = mask_BT.any(axis=1)
        written = [
            row[start:end].tolist() if live else []
            for row, start, end, live in zip(
                np.asarray(rollout.tokens_BT), starts, ends, live_B
            )
        ]
        rows = [spans.cut(row, most) for row in spans.translate(pair, written)]
        longest = max(len(row.tokens) for row in rows)
        width = min(_rounded(longest), most)
        own = [dataset.prompts[i] for i in np.asarray(batch.prompt_id_B)]
        prompt_BP, first_B = pad_prompts(own, buckets=(prompts,))
        asked = spans.ask(rows, width)
        tokens_BW = np.zeros((len(rows), prompts + width), np.int32)
        tokens_BW[:, :prompts] = prompt_BP
        for b, row in enumerate(rows):
            end = first_B[b] + len(row.tokens)
            tokens_BW[b, first_B[b] : end] = row.tokens
        given = (tokens_BW, first_B, *asked)
        found, several = [], e.config.optimizer.accumulate
        if len(rows) % (several * e.mesh.devices.size):  # of an evaluation
            several = 1
        for part in np.array_split(np.arange(len(rows)), several):
            some = place(tuple(leaf[part] for leaf in given))
            found.append(answer(e.frozen[name], order_N, *some))
        parts = zip(*(jax.device_get(answers[:2]) for answers in found))
        own_BR, mass_BRK = (np.concatenate(leaves) for leaves in parts)
        scored = spans.score(rows, own_BR, mass_BRK, starts, mask_BT.shape[1])
        hidden = [states for *_, states in found] if whole else []
        return scored, _more(name, rows, starts, mask_BT.shape[1], hidden)

    return read


def _more(name: str, rows, first_B, width: int, parts: list) -> dict[str, Any]:
    """Where tokens begin together, and the hidden states of those that are there.

    ``parts``: [rows, R, D], state r of which predicts token r of the teacher; they stay
    on their devices. As with the student's own, the state before a token predicts it.
    """
    begins_BT = np.zeros((len(rows), width), np.float32)
    source_BT = np.zeros((len(rows), width), np.int32)
    for b, (row, first) in enumerate(zip(rows, np.asarray(first_B), strict=True)):
        ours, theirs = spans.begun_together(row)
        begins_BT[b, first + ours] = 1.0
        source_BT[b, first + ours - 1] = theirs
    found = {f"begins/{name}": begins_BT}
    if parts:
        hidden_BRD, at_BT1 = jnp.concatenate(parts), jnp.asarray(source_BT)[..., None]
        states = jnp.take_along_axis(hidden_BRD, at_BT1, axis=1)
        found[f"states/{name}"] = states
    return found


def _rounded(length: int) -> int:
    """The next power of two, or three quarters of it: few shapes, little padding."""
    whole = 1 << max(length - 1, 31).bit_length()
    return whole * 3 // 4 if 4 * length <= 3 * whole else whole


def make_pair(e: Experiment, name: str) -> spans.Pair:
    """Both tokenizers, and which special tokens mean the same."""
    student = inputs.speech(e.config.student.path)
    teacher = inputs.speech(e.teachers[name].path)
    dataset = e.rows.own_prompts[name][0]
    end = dataset.turn_end
    if end is None:
        end = teacher.tokenizer.eos_token_id
    bare = lambda speech, i: i < len(speech.pieces) and speech.pieces[i] is None
    theirs = teacher.tokenizer.get_vocab()
    found = {
        index: theirs[token]
        for token, index in student.tokenizer.get_vocab().items()
        if bare(student, index) and token in theirs and bare(teacher, theirs[token])
    }
    if end is not None:
        found |= {index: end for index in e.stop_ids if bare(student, index)}
    rows = e.models[name].config.vocab_size
    found = {index: there for index, there in found.items() if there < rows}
    special = sorted(set(found.values()))
    return spans.Pair(
        student, teacher, found, pieces.Begins(teacher.pieces, rows, special)
    )


def make_answer(e: Experiment, name: str, whole: bool = False):
    """The compiled side: ``prefixes.masses`` at every token of a teacher's responses.

    ``(params, order_N, tokens_BW, first_B, *spans.Asked)`` to f32[B, R] and
    f32[B, R, K]; ``tokens_BW`` are prompts and responses, which begin at ``first_B``.
    ``whole``: and the hidden states [B, R, D] that they are of.
    """
    model = e.models[name]
    columns = model.config.vocab_size
    size = experiment.chunk_tokens(e.config, columns)

    @jax.jit
    def answer(params, order_N, tokens_BW, first_B, tokens_BR, mask_BR, lo, hi):
        places_W = jnp.arange(tokens_BW.shape[1])
        positions_BW = jnp.broadcast_to(places_W, tokens_BW.shape)
        length_B = first_B + jnp.sum(mask_BR, axis=1)
        valid_BW = positions_BW < length_B[:, None]
        hidden_BWD, _ = model.apply(
            {"params": params}, tokens_BW, positions_BW, valid_BW, return_kv=False
        )
        # The state before a token is what predicts it.
        before_BR = first_B[:, None] - 1 + jnp.arange(tokens_BR.shape[1])
        before_BR = jnp.clip(before_BR, 0, tokens_BW.shape[1] - 1)
        hidden_BRD = jnp.take_along_axis(hidden_BWD, before_BR[..., None], axis=1)
        head = decoder.head(params)

        def of_chunk(chunk):
            hidden, tokens, mask, lo, hi = chunk
            logits = logits_of(blank(hidden, mask), head, model.config.logit_cap)
            return prefixes.masses(logits, tokens, order_N, lo, hi)

        asked = (hidden_BRD, tokens_BR, mask_BR, lo, hi)
        cut = dict(chunk_tokens=size, rows=e.shape.rows)
        found = in_chunks(of_chunk, asked, mask_BR, **cut)
        return (*found, hidden_BRD) if whole else found

    return answer
