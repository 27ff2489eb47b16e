"""What student and teachers say of held-out rows, measured before a run.

    measure(e) -> Measured: numbers per token of gold solutions and of rollouts

Gold solutions and the student's own rollouts are read by the student and by every
teacher that can read them, and numbers per token are kept by the kind of the token:
the header that the chat template puts before a response, the first token, the body,
the end of the turn.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from jopd.batches import asking
from jopd.batches.asking import Writer
from jopd.data import dataset
from jopd.losses import facts
from jopd.losses.scoring import kl_name
from jopd.models import lora
from jopd.reporting import evaluation
from jopd.setup import pairing
from jopd.setup.experiment import Experiment
from jopd.teachers import roles
from jopd.training import stages
from jopd.training.writers import make_generate, placed, train_filters

PROMPTS = 32
KINDS = ("header", "first", "body", "end")
SUPPORT, LIKELY = 16, 20  # tokens of the overlap, and of a divergence on a support


class Text(NamedTuple):
    """Numbers per token of some rows, flat, and of which kind each token is."""

    kind_N: np.ndarray
    facts: dict[str, np.ndarray]

    def of(self, name: str, kind: str = "") -> np.ndarray:
        """A fact over the response, or one kind of tokens, in rows that it is of."""
        if name not in self.facts:
            return np.zeros(0)
        chosen_N = self.kind_N == kind if kind else self.kind_N != "header"
        value_N = self.facts[name][chosen_N]
        return value_N[~np.isnan(value_N)]

    def mean(self, name: str, kind: str = "") -> float | None:
        """The mean of ``of``; None of nothing."""
        value_N = self.of(name, kind)
        return float(value_N.mean(dtype=np.float64)) if len(value_N) else None


class Measured(NamedTuple):
    """``gold``: None without gold solutions; the others of the student's rollouts."""

    prompts: int
    gold: Text | None
    own: Text
    truncated: float
    reward: float | None


def measure(e: Experiment, prompts: int = PROMPTS) -> Measured:
    """Reads gold solutions and writes rollouts of the first ``prompts`` held out.

    What a teacher with a route says is NaN on rows that it does not serve.
    """
    read = reading(e)
    params = lora.joined(e.params, e.base)
    frozen = {name: lora.joined(theirs, e.base) for name, theirs in e.frozen.items()}
    told = lambda batch: served_only(e, batch, read(params, frozen, batch))
    data, c = e.rows.held, e.config
    ids = np.arange(min(prompts, len(data.prompts)))
    rows = min(stages.evaluation_rows(e), len(ids))
    rows += -rows % e.mesh.devices.size
    limit = c.rollout.max_new_tokens
    writer = Writer(
        make_generate(e, train_filters(c)),
        buckets=e.widths.prompts[-1:],
        limit=limit,
    )
    repeated = stages.repetition_test(e, limit)
    asked = evaluation.Asked(len(ids), 1, rows, c.seed, repeated)
    how = dict(rows=e.rows.held_out, writer=writer, facts=told, asked=asked)
    parts = list(evaluation.roll(placed(e, "student", params), ids, **how))
    own = [_flat(part.batch, part.per_token, part.count) for part in parts]
    finished = [part.batch.rollout.finished_B[: part.count] for part in parts]
    rewards = [part.batch.reward_B[: part.count] for part in parts]
    judged = e.rows.verifier is not None
    return Measured(
        prompts=len(ids),
        gold=_gold(e, told, ids, rows),
        own=_joined(own),
        truncated=1 - float(np.concatenate(finished).mean()),
        reward=float(np.concatenate(rewards).mean()) if judged else None,
    )


def compared(e: Experiment) -> list[str]:
    """Teachers that can read a held-out row and are not the student itself."""
    peers = e.rows.peers.contexts if e.rows.peers else {}
    return [
        name
        for name, teacher in e.teachers.items()
        if name not in peers and teacher.weights != "stored"
        if teacher.weights in ("path", "served") or teacher.context
    ]


def reading(e: Experiment):
    """``(params, frozen, batch) -> token facts``, those that only this asks for too."""
    names, named = compared(e), {}
    for name in names:
        if name in e.without_logits:
            continue
        of = dict(other=name)
        k = min(LIKELY, e.shape.vocabulary)
        few = min(SUPPORT, e.shape.vocabulary)
        named |= {
            f"overlap/{name}": functools.partial(facts.overlap, k=few, **of),
            f"likely/{name}": functools.partial(facts.top_k_reverse_kl, k=k, **of),
            f"square/{name}": functools.partial(facts.squared_log_ratio, **of),
        }
    return stages.make_reading(e, names, named)


def served_only(e: Experiment, batch, per_token) -> dict[str, np.ndarray]:
    """Facts on the host, of every teacher on the held-out rows that it serves."""
    found = {name: np.asarray(value) for name, value in per_token.items()}
    fields = [e.rows.held.fields[i] for i in np.asarray(batch.prompt_id_B)]
    for name, teacher in e.teachers.items():
        if not teacher.route:
            continue
        served_B = np.array([roles.follows(teacher.route, row) for row in fields])
        kls = {kl_name(direction, name) for direction in ("reverse", "forward")}
        for key in found:
            if key in kls or key.endswith(f"/{name}"):
                found[key] = np.where(served_B[:, None], found[key], np.nan)
    return found


def _gold(e: Experiment, told, ids, rows: int) -> Text | None:
    """Gold solutions of the held-out rows; None where none fits."""
    data = e.rows.held
    whole = [i for i in ids if data.solutions[i] is not None]
    if not whole:
        return None
    header = 0 if e.rows.own_prompts else pairing.header(e.config, e.rows)
    parts = []
    for start in range(0, len(whole), rows):
        part = whole[start : start + rows]
        rollout = dataset.gold_rows(
            data, np.resize(part, rows), width=e.widths.rows[-1]
        )
        first_B = rollout.prompt_length_B
        shown = rollout._replace(prompt_length_B=np.maximum(first_B - header, 1))
        batch = asking.batch_of(shown)
        per_token = told(batch)
        batch = jax.tree.map(np.asarray, batch)
        parts.append(_flat(batch, per_token, len(part), first_B))
    return _joined(parts)


def _flat(batch, per_token, count: int, first_B=None) -> Text:
    """The response tokens of the first ``count`` rows, and of headers before them."""
    rollout, mask_BT = batch.rollout, np.asarray(batch.mask_BT)[:count]
    first_B = rollout.prompt_length_B if first_B is None else first_B
    first_B, length_B = (
        np.asarray(x)[:count, None] for x in (first_B, rollout.length_B)
    )
    place_BT = np.arange(mask_BT.shape[1])[None]
    ends_BT = (place_BT == length_B - 1) & np.asarray(rollout.finished_B)[:count, None]
    kind_BT = np.select(
        [place_BT < first_B, ends_BT, place_BT == first_B],
        ["header", "end", "first"],
        "body",
    )
    flat = {name: value[:count][mask_BT] for name, value in per_token.items()}
    return Text(kind_BT[mask_BT], flat)


def _joined(parts: list[Text]) -> Text:
    names = parts[0].facts
    return Text(
        np.concatenate([part.kind_N for part in parts]),
        {name: np.concatenate([part.facts[name] for part in parts]) for name in names},
    )
