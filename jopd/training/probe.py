"""What a teacher's context is worth before anything is trained: the gap at update 0.

    gap = accuracy of the teacher as it reads the prompts - accuracy of the student

on the same training prompts, drawn as rollouts are ("Predictive law", arXiv:2605.30070,
which finds what self-distillation gains to be linear in it, with another slope for each
family of models). What the student gains when it is merely asked again is the control:
where a context is only there for rows whose group has a success, it is not 0.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from jopd.batches import asking, collect
from jopd.losses import memories
from jopd.models import lora
from jopd.reporting import statistics
from jopd.rollouts import generate
from jopd.setup import builders
from jopd.setup.experiment import Experiment
from jopd.teachers import moving, peers
from jopd.training import stages
from jopd.training.step import TrainState
from jopd.training.writers import make_generate, placed, train_filters
from jopd.types import STUDENT, Batch, Rollout

STREAM = 2**31 - 3  # apart from the steps, which are folded into the same key


class Gap(NamedTuple):
    """Accuracies, f64 in 0..1, means over prompts; their differences with 95 %
    intervals over prompts, paired.

    Attributes:
      prompts: of which some rollout has the teacher's context; ``asked`` were tried.
      served: share of the rollouts of these that have it; the teacher answers those.
      student, teacher, again: accuracy of the three; ``again`` is the student's second
        answers.
      gap: teacher - student; ``control``: again - student; ``net``: teacher - again.
    """

    prompts: int
    asked: int
    served: float
    student: float
    teacher: float
    again: float
    gap: tuple[float, statistics.Interval]
    control: tuple[float, statistics.Interval]
    net: tuple[float, statistics.Interval]


def between(student_N, teacher_N, again_N, *, seed: int = 0) -> dict[str, Any]:
    """The last six fields of ``Gap`` from the accuracy on each prompt, f64[N] each.

    Raises:
      ValueError: no prompt is there.
    """
    student_N, teacher_N, again_N = (
        np.asarray(x, np.float64) for x in (student_N, teacher_N, again_N)
    )
    mean = lambda values_N: (
        float(values_N.mean()),
        statistics.bootstrap(values_N, seed=seed),
    )
    return {
        "gap": mean(teacher_N - student_N),
        "control": mean(again_N - student_N),
        "net": mean(teacher_N - again_N),
        "student": float(student_N.mean()),
        "teacher": float(teacher_N.mean()),
        "again": float(again_N.mean()),
    }


def said(found: Gap, name: str) -> str:
    """The numbers in lines, and what they mean."""

    def points(difference) -> str:
        mean, (low, high) = difference
        return f"{100 * mean:+6.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"

    verdict = (
        "its context is worth something"
        if found.net[1][0] > 0
        else "no gain over asking again is seen: another context, or another teacher"
    )
    rows = [
        ("student", f"{found.student:6.1%}"),
        ("asked again", f"{found.again:6.1%}   {points(found.control)}"),
        (name, f"{found.teacher:6.1%}   {points(found.gap)}"),
        (f"{name} - again", f"{'':6}   {points(found.net)}"),
    ]
    head = (
        f"{found.prompts} of {found.asked} prompts, {found.served:.0%} of their "
        f"rollouts in the context of {name}"
    )
    lines = [f"  {what:<16}{number}" for what, number in rows]
    return "\n".join([head, *lines, verdict])


def measure(e: Experiment, name: str, *, updates: int) -> Gap:
    """Rollouts of the first ``updates`` updates, and a teacher's answers beside them.

    A teacher with a context of other rollouts is shown those of the student. One that
    is the student in some way (live, ema, snapshot, gated, initial) is what it is
    before the first update.

    Raises:
      ValueError: nothing says what is right; rollouts are not the student's alone; the
        teacher writes no text of its own with the student's tokens; no row has its
        context.
    """
    _check(e, name)
    built = stages.build_stages(e, builders.build_optimizer(e.config)[1])
    remembered = memories.start(e.terms, e.shape.vocabulary)
    student = TrainState(0, e.params, None, remembered)
    buffer = collect.empty_buffer(e.mix, e.widths.rows[-1])
    answers = {who: _answering(e, who) for who in {"student", name}}
    stream = jax.random.fold_in(jax.random.key(e.config.seed), STREAM)
    found, tried = [], 0
    for number in range(updates):
        buffer, got = built.collect(student, buffer, number)
        batch, key = jax.device_get(got.batch), jax.random.fold_in(stream, number)
        first_B = _rewards(e, batch.rollout, batch)
        again_B = answers["student"](batch, jax.random.fold_in(key, 0))
        taught_B = answers[name](batch, jax.random.fold_in(key, 1))
        own_B = (batch.mask_BT & (batch.rollout.source_BT == STUDENT)).any(axis=1)
        own_B &= batch.rollout.age_B == 0  # an old rollout is no new question
        served_B = own_B & _in_context(batch, name)
        for prompt in np.unique(batch.prompt_id_B[own_B]):
            ours_B = own_B & (batch.prompt_id_B == prompt)
            theirs_B = served_B & ours_B
            tried += 1
            if theirs_B.any():
                means = first_B[ours_B].mean(), again_B[ours_B].mean()
                share = theirs_B.sum() / ours_B.sum()
                found.append((*means, taught_B[theirs_B].mean(), share))
    if not found:
        raise ValueError(
            f"none of {tried} prompts has a rollout that {name!r} reads in its "
            "context; ask for more updates, or give a context that rows have"
        )
    student_N, again_N, teacher_N, served_N = np.asarray(found, np.float64).T
    return Gap(
        prompts=len(found),
        asked=tried,
        served=float(served_N.mean()),
        **between(student_N, teacher_N, again_N, seed=e.config.seed),
    )


def _check(e: Experiment, name: str) -> None:
    if e.rows.training.verifier is None:
        raise ValueError(
            "nothing says which answers are right: a gap is one of accuracy; set "
            "eval.verifier"
        )
    if not e.mix.fresh:
        raise ValueError(f"mix.student={e.config.mix.student}: nobody writes rollouts")
    for key in ("behavior.function", "prefix.source", "early_stop.function"):
        section, field = key.split(".")
        if value := e.config.rollout[section][field]:
            raise ValueError(
                f"rollout.{key}={value!r}: rollouts are not what the student alone "
                f"writes, which a gap is to; leave it out with --config.rollout.{key}="
            )
    able = sorted(e.teachers.keys() - e.without_logits)
    if name not in able:
        raise ValueError(
            f"--teacher={name}: no teacher of the run that writes with the student's "
            f"tokens; those are {', '.join(able) or 'none'}"
        )


def _answering(e: Experiment, who: str):
    """``(batch, key) -> f32[B]`` rewards of a model's own answers to what it reads."""
    frozen = e.frozen | moving.start(e.teachers, e.params)
    params = placed(e, who, lora.joined(frozen.get(who, e.params), e.base))
    write = make_generate(e, train_filters(e.config), name=who)

    def answer(batch: Batch, key: jax.Array) -> np.ndarray:
        rollout = batch.rollout
        own = rollout.tokens_BT[:, : rollout.prompt_length_B.max()]
        tokens, length_B = batch.prompts.get(who, (own, rollout.prompt_length_B))
        behind = np.arange(tokens.shape[1]) >= length_B[:, None]
        limit = e.config.rollout.max_new_tokens
        asked = generate.request(np.where(behind, 0, tokens), length_B, limit=limit)
        return _rewards(e, jax.device_get(write(params, asked, key)), batch)

    return answer


def _rewards(e: Experiment, rollout: Rollout, batch: Batch) -> np.ndarray:
    """f32[B] of responses to the prompts of a batch."""
    rows = e.rows.training
    judged = asking.batch_of(rollout._replace(group_B=batch.prompt_id_B))
    return asking.rewarded(judged, rows.texts(rollout), rows)[0].reward_B


def _in_context(batch: Batch, name: str) -> np.ndarray:
    """bool[B]: rows that a teacher serves, and reads in its context."""
    served_B = batch.serves.get(name, np.ones(len(batch.reward_B), bool))
    has_BT = batch.extra.get(f"{peers.FACT}{name}", np.ones_like(batch.mask_BT))
    return served_B & (has_BT > 0).any(axis=1)
