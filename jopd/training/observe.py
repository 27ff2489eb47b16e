"""What is looked at while a run goes on, and kept of it; nothing here changes it."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jopd.batches import asking, collect
from jopd.reporting import console, diagnostics, evaluation
from jopd.setup import schedules
from jopd.setup.experiment import Experiment
from jopd.setup.needs import frozen_named
from jopd.training import workdir
from jopd.training.placing import place_rows
from jopd.training.stages import Stages, repetition_test
from jopd.training.state import Run
from jopd.types import STUDENT, Batch

# Times the tolerance, up to which a gap may be rounding. Slips of position, mask,
# temperature or weights lie further above (docs/tests.md).
BUG = 10
# Mean gap, in nats, of a model of up to 4 layers and 1,024 tokens.
ROUNDING = {"float32": 1e-5, "bfloat16": 2e-2}


def tolerance_of(layers: int, vocabulary: int, dtype: str = "float32") -> float:
    """Mean gap, in nats, that rounding in ``dtype`` explains; our rule, no source's:

    ``ROUNDING`` * max(1, sqrt(layers / 4)) * max(1, log2(vocabulary) / 10), as errors
    of layers add up like a random walk, those of a log-sum-exp with its levels.
    """
    deep = max(1.0, math.sqrt(layers / 4))
    return ROUNDING[dtype] * deep * max(1.0, math.log2(vocabulary) / 10)


def sampler_tolerance(e: Experiment) -> float:
    """``tolerance_of`` the student, unless ``log.sampler_tolerance`` says otherwise."""
    student = e.models["student"].config
    allowed = tolerance_of(student.layers, e.shape.vocabulary, student.dtype)
    return e.config.log.sampler_tolerance or allowed


def check_sampler(
    e, stages: Stages, state, got: collect.Collected, at: int
) -> tuple[dict, list[str]]:
    """Recorded against recomputed log-probs, in nats: their mean and largest gap.

    Returns:
      The two, and what to say of them.

    Raises:
      FloatingPointError: see ``judge_gap``.
    """
    if schedules.behavior_budget(e.config, at) > 0:
        return {}, []  # a teacher drew with the student
    fresh = place_rows(e)(got.fresh)
    logp_BT = stages.replay_logp(state.params, fresh)
    gap_BT = jnp.abs(logp_BT - fresh.rollout.behavior_logp_BT)
    # A token at the edge of top-p or min-p may fall outside when it is recomputed.
    cut = e.config.rollout.top_p < 1 or e.config.rollout.min_p > 0
    drawn_BT = fresh.mask_BT & (fresh.rollout.source_BT == STUDENT)
    compared_BT = drawn_BT & (jnp.isfinite(logp_BT) | (not cut))
    gap_BT = jnp.where(compared_BT, gap_BT, 0.0)
    largest = float(jnp.max(gap_BT))
    average = float(jnp.sum(gap_BT) / jnp.maximum(jnp.sum(drawn_BT), 1))
    said = judge_gap(e, average, largest, at)
    return {"check/sampler_gap_mean": average, "check/sampler_gap_max": largest}, said


def judge_gap(e: Experiment, average: float, largest: float, at: int) -> list[str]:
    """What to say of a gap between sampler and trainer: nothing within the tolerance.

    A wrong position, mask or temperature shows in the mean. The largest gap of a sharp
    model is rounding, a few 1e-5 where one unit in the last place of the weights moves
    as much, so only a hundredfold tolerance is asked of it. bfloat16 rounds away what
    small faults do, so there a gap is said and stops nothing.

    Raises:
      FloatingPointError: more than ``BUG`` times ``sampler_tolerance``, in float32.
    """
    tolerance = sampler_tolerance(e)
    excess = max(average, largest / 100) / tolerance
    student = e.models["student"].config
    if excess <= 1:
        if not (student.exact and largest):
            return []
        return [
            f"step {at}: student.exact=True, but log-probs recorded while sampling "
            f"differ from the trainer's by up to {largest:.1e} nats: on CPUs they are "
            "known not to, on this device they do"
        ]
    line = (
        f"step {at}: log-probs recorded while sampling differ from the trainer's by "
        f"{average:.1e} nats in the mean and {largest:.1e} at most, {excess:.1f} times "
        f"the {tolerance:.1e} (100 times that at most) of log.sampler_tolerance: "
    )
    if student.dtype != "float32":
        return [line + "more than bfloat16 explains; student.dtype=float32 tells why"]
    if not excess <= BUG:  # NaN is neither
        raise FloatingPointError(
            line + "no rounding; the sampler is not the trainer's student"
        )
    return [line + f"it may be rounding, and above {BUG} times stops the run"]


def check_ratio(e: Experiment, got: collect.Collected, parts: dict) -> list[str]:
    """What to say of the mean importance ratio of rollouts that no update has used.

    It is 1 within rounding: the loss must take the student for what it was drawn from.
    A filter (top-k, top-p, min-p) or another temperature of the loss explains that it
    is not.

    Raises:
      FloatingPointError: it is not 1 in float32, and nothing explains it.
    """
    if schedules.behavior_budget(e.config, 0) > 0:
        return []  # a teacher drew with the student
    drawn_BT = np.asarray(got.batch.mask_BT)
    drawn_BT = drawn_BT & (np.asarray(got.batch.rollout.source_BT) == STUDENT)
    if got.fresh is None or "logp/student" not in parts or not drawn_BT.any():
        return []
    gap_BT = np.asarray(parts["logp/student"]) - got.batch.rollout.behavior_logp_BT
    ratio = float(np.exp(gap_BT[drawn_BT], dtype=np.float64).mean())
    exact = e.models["student"].config.dtype == "float32"
    if abs(ratio - 1) <= (100 * sampler_tolerance(e) if exact else 0.05):
        return []
    c = e.config.rollout
    filters = [f"rollout.{key}={c[key]}" for key in ("top_k", "top_p", "min_p")]
    off = (c.top_k == 0, c.top_p == 1, c.min_p == 0)
    why = [name for name, is_off in zip(filters, off) if not is_off]
    if c.temperature != e.config.objective.temperature:
        why.append(f"objective.temperature={e.config.objective.temperature}")
    said = f"fresh rollouts have a mean importance ratio of {ratio:.4g}, not 1"
    if exact and not why:
        raise FloatingPointError(
            f"{said}: the loss does not take the student for what drew them"
        )
    return [f"{said}, so clips may act: {', '.join(why) or 'rounding of bfloat16'}"]


def describe_rollouts(e: Experiment, seen: tuple[Batch, list[str], dict]) -> dict:
    """Health of fresh rollouts that were judged; waits for nothing that an update
    computes.
    """
    fresh, texts, means = seen
    limit = e.config.rollout.max_new_tokens
    found = diagnostics.rollout_metrics(fresh, texts, repetition_test(e, limit))
    if e.rows.rewards is not None:
        found |= diagnostics.reward_metrics(fresh) | means
    if e.config.rollout.early_stop.function:
        found["length/stopped_rate"] = diagnostics.stopped_rate(fresh, limit)
    return found


def judged(e: Experiment, fresh: Batch) -> tuple[Batch, list[str], dict]:
    """Fresh rollouts with their rewards, also where no update read them, and texts.

    And, of those that no update read, what several verifiers give (``rewarded``).
    """
    texts, means = e.rows.training.texts(fresh.rollout), {}
    if e.rows.rewards is not None and not e.rewards_first:
        fresh, means = asking.rewarded(fresh, texts, e.rows.training)
    return fresh, texts, means


def tokens_in(batch, source: int | None = None) -> int:
    """Response tokens of a batch, of one source or of all."""
    counted_BT = np.asarray(batch.mask_BT)
    if source is not None:
        counted_BT = counted_BT & (np.asarray(batch.rollout.source_BT) == source)
    return int(counted_BT.sum())


def teacher_tokens(e: Experiment, got: collect.Collected, at: int) -> int:
    """Response tokens that the terms' models read at an update, each its own, wrote as
    text, or read while they were written; without those that an early stop cut off."""
    read = tokens_in(got.batch) * len(frozen_named(e.config, e.terms))
    along = bool(e.config.rollout.early_stop.teacher)
    along += schedules.behavior_budget(e.config, at) > 0
    if got.fresh is not None:
        read += tokens_in(got.fresh) * along
    return read + int(got.facts.get("teacher/completion_tokens", 0))


def stop_if_unfinite(e: Experiment, logged: dict, parts: dict, batch, at: int) -> None:
    """Raises FloatingPointError where a loss or the gradient is NaN or infinite."""
    name = diagnostics.unfinite(logged)
    if name is not None:
        raise FloatingPointError(
            f"step {at}: {name} is {logged[name]}{blame(e, name, parts, batch)}; the "
            "run stops and its checkpoints are kept. Lower optimizer.learning_rate, or "
            "look at the last good metrics"
        )


def blame(e: Experiment, name: str, parts: dict, batch) -> str:
    """First row in which ``parts[name]`` is no number, and the models that are none
    there; empty where nothing per token is known."""
    if name not in parts:
        return ""
    bad_BT = ~np.isfinite(np.asarray(parts[name]))
    if not bad_BT.any():
        return ""
    row, token = np.argwhere(bad_BT)[0]
    number = int(np.asarray(batch.prompt_id_B)[row])
    models = [
        key.partition("/")[2]
        for key in sorted(parts)
        if key.startswith("logp/")
        and not np.isfinite(np.asarray(parts[key])[row, token])
    ]
    place = token - int(np.asarray(batch.rollout.prompt_length_B)[row]) + 1
    told = f" and the log-prob of {' and of '.join(models)}" if models else ""
    shown = e.rows.train.texts[number][:60]
    return (
        f", in {int(bad_BT.any(axis=1).sum())} of {len(bad_BT)} rows; in the first, "
        f"prompt {number} ({shown!r}), this{told} from token {place} of the "
        "response on"
    )


def measure(e, run: Run, at: int, phase: str) -> dict:
    """Evaluates the student as it is and keeps a few of its rollouts.

    What each prompt earned is kept of the evaluations before and after the run. {} of a
    run that is not evaluated.
    """
    c, frozen = e.config.eval, e.frozen | run.state["teachers"]
    if not c.prompts:
        return {}
    count = min(c.prompts, len(e.rows.held.prompts))
    console.say(f"evaluating at step {at}: {count:,} prompts, {c.k} samples of each")
    found, samples = run.stages.evaluate(run.state["train"].params, frozen)
    workdir.append_samples(run.directory / "samples.jsonl", at, phase, samples)
    per_prompt = found.pop("per_prompt", None)
    if per_prompt and phase != "train":
        workdir.keep_per_prompt(run.directory, phase, per_prompt)
    return found


def keep_rollouts(
    e, run: Run, at: int, got: collect.Collected, parts: dict, seen=None
) -> None:
    """Adds a few of an update's rollouts to ``samples.jsonl``.

    ``seen`` is what ``judged`` gave of them, None where they were not judged yet.
    """
    fresh, texts, _ = seen or judged(e, got.fresh)
    place_B = np.argsort(got.order_B)
    group = evaluation.Rolled(
        jax.tree.map(np.asarray, fresh),
        texts,
        # Fresh rows are collected first, so their numbers come first in that order.
        {
            key: np.asarray(parts[key])[place_B]
            for key in parts
            if key.startswith("logp/")
        },
        len(fresh.reward_B),
    )
    count = min(e.config.eval.save_samples, group.count)
    rows = [evaluation.sample_row(group, row, e.rows.training) for row in range(count)]
    workdir.append_samples(run.directory / "samples.jsonl", at, "rollout", rows)


def evaluation_metrics(found: dict) -> dict:
    """The scalars of an evaluation under ``eval/``."""
    return {
        f"eval/{name}": value
        for name, value in found.items()
        if isinstance(value, (int, float))
    }


def goodness(found: dict | None) -> float | None:
    """What keep-best compares: avg@k with a verifier, else -KL to the teacher."""
    if not found:
        return None
    if found["avg_at_k"] is not None:
        return found["avg_at_k"]
    apart = found["reverse_kl"]
    if apart is None:
        apart = found.get("sampled_kl")
    return None if apart is None else -apart
