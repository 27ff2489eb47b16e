"""Whole runs of one thing each that a config can ask for."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import runs
from jopd.training import loop as train
from jopd.training import observe
from jopd.types import Memory

pytestmark = pytest.mark.usefixtures("plain_charts")


def test_rollouts_from_teacher_prefixes(models, tmp_path):
    """The prefix shrinks to nothing, is guided by its own term and never sampled."""
    changes = {"steps": 4, "rollout__prefix__source": "teacher", "eval__prompts": 0}
    config = runs.config(models, "opd", **changes)
    with config.unlocked():
        config.loss.guide = {"signal": "nll", "source": "teacher", "coef": 0.1}
    summary = train.run(config, tmp_path / "run")
    rows = runs.updates(tmp_path / "run")
    given = [row["length/prefix"] for row in rows]
    # Cosine over four updates: 1, 0.85, 0.5, 0.15 of responses of different lengths.
    assert given[0] > given[2] > given[3] > 0
    assert given[-1] < 0.2 * given[0]
    assert rows[0]["tokens/guide"] == round(given[0] * 4)
    assert rows[0]["loss/guide"] > 0
    # The first step's prefix is the teacher's whole response: where that was ended,
    # nothing is left to draw.
    drawn = [row["length/mean"] - row["length/prefix"] for row in rows]
    assert summary["tokens_sampled"] == round(sum(drawn) * 4)
    assert "check/sampler_gap_mean" in rows[0]


def test_rollouts_are_as_long_as_the_window_that_was_chosen(models, tmp_path):
    """Every second update is of whole rollouts, from which the shortest is chosen."""
    config = runs.config(models, "opd", steps=4, eval__prompts=0)
    longest, grid = config.rollout.max_new_tokens, (2, 4, 20)
    with config.unlocked():
        rule = dict(function="adwin.window", grid=grid, every_steps=2, threshold=-1.0)
        config.memory.window = rule
        config.rollout.horizon = dict(memory="window")
        config.loss.opd.report = dict(function="adwin.levels", memory="window")
    train.run(config, tmp_path / "run")
    rows = runs.updates(tmp_path / "run")
    assert [row["rollout/horizon"] for row in rows] == [longest, 2, longest, 2]
    assert [row["opd/window"] for row in rows] == [longest, 2, 2, 2]
    assert all(row["length/mean"] <= 2 for row in rows[1::2])
    assert rows[0]["length/mean"] > 2 and -1 <= rows[1]["opd/shortest_cosine"] <= 1


def drawn_and_learnt(models, place, **more):
    """(tokens sampled, losses, rollouts kept) of a run that can be cut up."""
    changes = {"rollout__prompts_per_step": 8, "rollout__block_tokens": 8}
    changes["eval__verifier"] = "none"
    changes["log__samples_every_steps"] = 1
    summary = train.run(runs.config(models, **changes, **more), place)
    losses = [row["loss"] for row in runs.updates(place)]
    samples = runs.rows(place / "samples.jsonl")
    kept = [row for row in samples if row["phase"] == "rollout"]
    return summary["tokens_sampled"], losses, kept


@pytest.fixture(scope="module")
def in_one(models, tmp_path_factory):
    return drawn_and_learnt(models, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    "change", [{"rollout__at_once": 2}, {"optimizer__accumulate": 2}], ids=str
)
def test_a_run_is_the_same_however_it_is_cut_up(models, in_one, tmp_path, change):
    """Rows drawn a few at a time; micro-batches, each packed for itself."""
    drawn, losses, kept = in_one
    others, others_losses, others_kept = drawn_and_learnt(models, tmp_path, **change)
    assert drawn == others
    np.testing.assert_allclose(losses, others_losses, rtol=1e-4)
    # What is kept of a rollout is its own, in whatever micro-batch it was.
    assert kept
    for row, other in zip(kept, others_kept, strict=True):
        assert row["tokens"] == other["tokens"]
        for name in ("student_logp", "teacher_logp"):
            np.testing.assert_allclose(row[name], other[name], atol=1e-3)


def test_rollouts_end_early_where_the_teacher_is_far(models, tmp_path):
    """Looks at 6, 11 and 16 tokens; the bound lets some rows go on."""
    config = runs.config(
        models,
        steps=1,
        eval__verifier="none",
        eval__prompts=0,
        rollout__prompts_per_step=8,
        rollout__block_tokens=5,
        rollout__early_stop__function="divergence",
        rollout__early_stop__window=5,
        rollout__early_stop__teacher="teacher",
    )
    rates = []
    for limit in (100.0, 0.01):
        config.rollout.early_stop.limit = limit
        place = tmp_path / str(limit)
        summary = train.run(config, place)
        row = runs.updates(place)[0]
        rates.append(row["length/stopped_rate"])
        # The loss reads the rollouts once, who reads along once more.
        assert summary["teacher_tokens"] == 2 * summary["tokens_sampled"]
    assert rates[0] == 0
    assert 0 < rates[1] < 1
    assert rates[1] <= row["length/truncation_rate"]


# Those that carry something of their own to the next run, and those that do not.
STILL = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("initial", "live")]


@pytest.mark.parametrize("kind", ["ema", "snapshot", "gated", *STILL])
def test_self_teachers_with_a_context_train_and_resume(models, tmp_path, kind):
    """Two runs of two and four updates are one of four, moving teachers included."""

    def run(directory, steps):
        changes = {"steps": steps, "optimizer__schedule": "constant"}
        changes["eval__prompts"] = 0
        changes["optimizer__warmup"] = 2  # not a share of the run: one is cut
        config = runs.config(models, "opd", **changes)
        with config.unlocked():
            config.teachers.self = {"weights": kind, "context": "{answer};{question}"}
            if kind == "snapshot":
                config.teachers.self["every_steps"] = 3
            if kind == "gated":
                # Open at the third update at the earliest, and by what came before.
                gate = {"every_steps": 3, "check_steps": 1, "tail_ratio": 100.0}
                gate |= {"reward_window": 3, "reward_margin": -1.0}
                config.teachers.self.update(gate)
                config.eval.verifier = "runs.begins_with_digit"
            config.loss.opd = {"signal": "forward_kl", "other": "self"}
        return train.run(config, directory)

    run(tmp_path / "whole", 4)
    rows = runs.updates(tmp_path / "whole")
    assert all(row["loss/opd"] > 1e-3 for row in rows)
    assert rows[0]["kl/forward_self"] == pytest.approx(rows[0]["loss/opd"], rel=1e-4)
    run(tmp_path / "cut", 2)
    shutil.copytree(tmp_path / "cut", tmp_path / "resumed")
    settings = json.loads((tmp_path / "resumed" / "config.json").read_text())
    settings["steps"] = 4
    (tmp_path / "resumed" / "config.json").write_text(json.dumps(settings))
    run(tmp_path / "resumed", 4)
    want, got = (
        load_file(tmp_path / name / "export" / "model.safetensors")
        for name in ("whole", "resumed")
    )
    assert all(np.array_equal(want[key], got[key]) for key in want)
    again = runs.updates(tmp_path / "resumed")
    assert [*map(runs.plain, again)] == [*map(runs.plain, rows)]
    if kind == "gated":
        refreshed = [row["teacher/self_refreshed"] for row in rows]
        assert refreshed == [0, 0, 1, 0]
        assert [row["teacher/self_steps_since"] for row in rows] == [1, 2, 0, 1]


def updates_so_far(vocabulary: int, *, other: str = "teacher") -> Memory:
    """The updates so far, and at id 0 the sum of the KL over their tokens."""

    def step(held, scores):
        return held[0] + 1, held[1].at[0].add(jnp.sum(scores.reverse_kl[other]))

    return Memory(lambda: (jnp.int32(0), jnp.zeros(vocabulary)), step)


def by_memory(scores, *, memory: str):
    updates, sums = scores.memory[memory]
    weight = updates + jnp.sum(sums)
    return jnp.full(scores.mask.shape, weight, jnp.float32)


def test_what_weights_remember_goes_on_in_a_resumed_run(models, tmp_path):
    """An update reads what was before it; two and two updates are four."""

    def run(directory, steps):
        changes = {"steps": steps, "optimizer__schedule": "constant"}
        changes |= {"optimizer__warmup": 2, "optimizer__accumulate": 2}
        changes["eval__prompts"] = 0
        config = runs.config(models, "opd", **changes)
        with config.unlocked():
            config.memory.past = {"function": updates_so_far}
            config.loss.opd.weights = {"w": {"function": by_memory, "memory": "past"}}
        return train.run(config, directory)

    run(tmp_path / "whole", 4)
    run(tmp_path / "cut", 2)
    run(tmp_path / "cut", 4)
    rows, again = (runs.updates(tmp_path / name) for name in ("whole", "cut"))
    weights = [row["weight/opd"] for row in rows]
    assert weights[0] == 0 and 1 < weights[1] < weights[2] < weights[3]
    assert [*map(runs.plain, again)] == [*map(runs.plain, rows)]
    assert rows[-1]["speed/compilations"] == rows[1]["speed/compilations"]
    assert runs.same_weights(tmp_path / "whole", tmp_path / "cut")


def test_a_projected_run_goes_on_as_if_it_had_not_stopped(models, tmp_path):
    """Cut before its directions are taken, and behind; parameters are split."""
    wanted = {"steps": 4, "checkpoint__every_steps": 1, "checkpoint__keep_last": 4}
    wanted |= {"optimizer__project__rank": 3, "optimizer__project__after": 0.5}
    wanted |= {"mesh__fsdp": 2, "mesh__data": 1, "eval__prompts": 0}
    config = runs.config(models, "opd", **wanted)
    train.run(config, tmp_path / "whole")
    rows = [*map(runs.plain, runs.updates(tmp_path / "whole"))]
    for at in (1, 3):
        cut = tmp_path / f"cut at {at}"
        shutil.copytree(tmp_path / "whole", cut)
        shutil.rmtree(cut / "export")
        for later in range(at + 1, 5):
            shutil.rmtree(cut / "checkpoints" / str(later))
        train.run(config, cut)
        assert [*map(runs.plain, runs.updates(cut))] == rows
        assert runs.same_weights(tmp_path / "whole", cut)
    free = runs.config(models, "opd", **wanted | {"optimizer__project__rank": 0})
    train.run(free, tmp_path / "free")
    others = [*map(runs.plain, runs.updates(tmp_path / "free"))]
    assert others[:3] == rows[:3]  # what is projected first is the third update's
    assert not runs.same_weights(tmp_path / "whole", tmp_path / "free")


@pytest.mark.parametrize("name", ["opd", "grpo"])
def test_rewards_are_waited_for_only_where_they_are_read(models, tmp_path, name):
    seen, judge = [], observe.judged

    def spy(e, fresh):
        rewards_B = np.asarray(fresh.reward_B)
        found = judge(e, fresh)
        seen.append((rewards_B, float(np.mean(found[0].reward_B))))
        return found

    config = runs.config(
        models,
        name,
        rollout__group_size=4,
        eval__verifier="runs.begins_with_digit",
        log__samples_every_steps=1,
        **runs.DIGITS | {"eval__prompts": 0},
        eval__save_samples=100,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observe, "judged", spy)
        train.run(config, tmp_path / "run")
    assert len(seen) == config.steps  # once each, though both logs and samples ask
    rows = runs.rows(tmp_path / "run" / "samples.jsonl")
    for at, (reward_B, logged) in enumerate(seen, start=1):
        kept = [r for r in rows if r["phase"] == "rollout" and r["step"] == at]
        right = [
            runs.begins_with_digit(r["response"], r["answer"]) * r["finished"]
            for r in kept
        ]
        assert [r["reward"] for r in kept] == right
        assert logged == pytest.approx(np.mean(right))
        read = sorted(right) if name == "grpo" else [0] * len(right)
        assert sorted(reward_B.tolist()) == read
    assert 0 < np.mean([logged for _, logged in seen]) < 1


def test_the_share_of_each_term_in_the_gradient(models, tmp_path):
    """On its own steps, whichever are logged; the run is the same with and without."""
    changes = {"steps": 5, "log__every_steps": 3, "export__enabled": False}
    changes["eval__prompts"] = 0
    changes["rollout__prefix__steps"] = 0  # prefixes to the end
    found = {}
    for every in (0, 2):
        config = runs.config(
            models, "tropd", **changes, log__gradient_every_steps=every
        )
        train.run(config, tmp_path / str(every))
        rows = runs.updates(tmp_path / str(every))
        found[every] = {row["step"]: runs.plain(row) for row in rows}
    assert sorted(found[0]) == [3, 5] and sorted(found[2]) == [2, 3, 4, 5]
    for step, row in found[2].items():
        shares = [row[name] for name in row if name.startswith("grad_share/")]
        norms = {name: row[name] for name in row if name.startswith("grad_norm/")}
        assert len(shares) == len(norms) == (0 if step % 2 else 3)
        if shares:
            assert sum(shares) == pytest.approx(1)
            # As many as the triangle inequality allows, no more.
            assert row["optim/grad_norm"] <= sum(norms.values()) * (1 + 1e-5)
            assert norms["grad_norm/trust"] > 0 and norms["grad_norm/guide"] > 0
        else:
            assert row == found[0][step]


def test_one_term_has_the_whole_gradient(models, tmp_path):
    config = runs.config(models, log__gradient_every_steps=1, steps=1, eval__prompts=0)
    train.run(config, tmp_path / "run")
    (row,) = runs.updates(tmp_path / "run")
    assert row["grad_share/opd"] == 1
    assert row["grad_norm/opd"] == pytest.approx(row["optim/grad_norm"], rel=1e-5)
