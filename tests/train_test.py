"""Whole runs: what they leave, how they resume, how they stop."""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
import types
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file

import runs
from jopd import control, observe, optimizer, signals, train, workdir
from jopd.models import hf

# Replay buffer, gold rows and the reference model. Rollouts end soon, so that a row is
# wide only where a gold solution is of the higher level.
EVERYTHING = {
    "data__levels": (2, 2, 2, 7),
    "rollout__stop_ids": (2, 3, 4, 5, 6, 7),
    "mix__student": 0.5,
    "mix__gold": 0.25,
    "mix__replay": 0.25,
    "checkpoint__every_steps": 2,
    "rollout__max_new_tokens": 64,
    "log__check_sampler_every_steps": 5,
    "log__samples_every_steps": 2,
    "eval__every_steps": 4,
}
EVALUATION = {
    "accuracy",
    "avg_at_k",
    "pass_at_k",
    "k",
    "truncation_rate",
    "repetition_rate",
    "mean_length",
    "reverse_kl",
    "forward_kl",
}
PATIENCE = 300  # seconds a child process may take to the next event


def counted(config, directory):
    """The summary, and for each step its row width and the programs compiled in it.

    Programs of a save, which orbax has compiled at its first one, are left out.
    """
    seen, before = [], [0]

    with pytest.MonkeyPatch.context() as patch, control.CompileCounter() as compiled:
        describe, save = train.describe_tokens, train.save

        def spy_of_save(*arguments):
            save(*arguments)
            before[0] = compiled.count

        def spy(e, got, parts):
            found = describe(e, got, parts)
            shapes = [plan[0].shape for plan in got.batch.packing.values()]
            seen.append((str(shapes), compiled.count - before[0]))
            before[0] = compiled.count
            return found

        patch.setattr(train, "describe_tokens", spy)
        patch.setattr(train, "save", spy_of_save)
        return train.run(config, directory), seen


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    """(directory, config, summary, programs by step) of a run with all parts on."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    changes = EVERYTHING | {"steps": 8, "eval__every_steps": 0}
    config = runs.config(models, "stableopd", **changes)
    summary, seen = counted(config, directory)
    return directory, config, summary, seen


def test_every_file_of_the_contract_is_there(finished):
    directory, config, _, _ = finished
    names = {path.name for path in directory.iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "samples.jsonl",
        "checkpoints",
        "export",
        "report.html",
    }
    written = json.loads((directory / "config.json").read_text())
    assert written == json.loads(json.dumps(config.to_dict()))
    steps = [row["step"] for row in runs.rows(directory / "metrics.jsonl")]
    assert steps == list(range(1, 9))
    assert (directory / "report.html").stat().st_size > 1000
    kept = sorted(int(p.name) for p in (directory / "checkpoints").iterdir())
    assert kept[-2:] == [6, 8]


def test_summary_has_exactly_the_promised_keys(finished):
    directory, _, summary, _ = finished
    written = json.loads((directory / "summary.json").read_text())
    assert written == json.loads(json.dumps(summary))
    assert set(written) == {
        "before",
        "after",
        "steps",
        "wall_seconds",
        "seconds_to_first_step",
        "compilations",
        "tokens_sampled",
        "teacher_tokens",
        "config_name",
        "seed",
        "versions",
        "git_commit",
    }
    for phase in ("before", "after"):
        assert set(written[phase]) >= EVALUATION
        assert written[phase]["reverse_kl"] > 0
    assert written["steps"] == 8 and written["config_name"] == "stableopd"
    assert written["before"]["reverse_kl"] != written["after"]["reverse_kl"]
    assert 0 < written["seconds_to_first_step"] < written["wall_seconds"]


def test_tokens_sampled_is_the_sum_over_steps(finished):
    directory, _, summary, _ = finished
    rows = runs.rows(directory / "metrics.jsonl")
    by_step = [row["length/mean"] * 4 for row in rows]
    assert summary["tokens_sampled"] == round(sum(by_step))


def test_teacher_tokens_count_every_model_that_terms_read(finished):
    directory, _, summary, _ = finished
    rows = runs.rows(directory / "metrics.jsonl")
    both = ("teacher", "reference")  # of StableOPD; gold rows are read, too
    read = [row["tokens/opd"] + row["tokens/gold"] for row in rows]
    assert summary["teacher_tokens"] == len(both) * round(sum(read))


def test_samples_are_of_every_phase_and_add_up(finished):
    directory, config, _, _ = finished
    rows = runs.rows(directory / "samples.jsonl")
    at = [(row["step"], row["phase"]) for row in rows]
    expected = [(0, "before")] + [(s, "rollout") for s in (2, 4, 6, 8)] + [(8, "after")]
    assert at == [place for place in expected for _ in range(config.eval.save_samples)]
    for row in rows:
        tokens = [token for token in row["tokens"] if token[0] != "<"]
        assert "".join(tokens) == row["response"]
        assert (
            len(row["tokens"]) == len(row["student_logp"]) == len(row["teacher_logp"])
        )
        assert all(value <= 0 for value in row["student_logp"])
        assert row["reward"] in (0.0, 1.0) and row["answer"].isdecimal()


def test_export_loads_again(finished):
    directory, config, _, _ = finished
    shape, params = hf.load(directory / "export")
    before, start = hf.load(config.student.path)
    assert shape == before
    assert float(np.abs(params["embed"] - start["embed"]).max()) > 0
    described = transformers.AutoConfig.from_pretrained(directory / "export")
    assert described.vocab_size == 18 and described.num_hidden_layers == 1
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory / "export")
    assert tokenizer.decode(tokenizer("1+2=")["input_ids"]) == "1+2="


def test_nothing_compiles_for_a_packing_that_was_seen(finished):
    _, _, summary, seen = finished
    shapes = [shape for shape, _ in seen]
    assert len(set(shapes)) > 1, "the run must meet two packings for this to mean much"
    # Step 5 checks the sampler a second time, with what step 0 compiled for it.
    new = [count for i, (shape, count) in enumerate(seen) if shape in shapes[:i]]
    # The replay buffer has rows from the second step on, in arrays placed as at first.
    assert new == [0] * len(new)
    assert summary["compilations"] >= sum(count for _, count in seen) > 0


def test_programs_are_counted_step_by_step(finished):
    directory, _, summary, seen = finished
    logged = [
        row["speed/compilations"] for row in runs.rows(directory / "metrics.jsonl")
    ]
    assert logged == sorted(logged) and logged[-1] <= summary["compilations"]
    assert logged[-1] - logged[0] >= sum(count for _, count in seen[1:])


def test_running_again_does_not_train_and_repeats_the_summary(finished, tmp_path):
    directory, config, summary, _ = finished
    again = tmp_path / "run"
    shutil.copytree(directory, again)
    repeated = train.run(config, again)
    changing = ("compilations", "git_commit", "versions")
    one, two = (
        {k: v for k, v in json.loads(json.dumps(s)).items() if k not in changing}
        for s in (summary, repeated)
    )
    assert one == two
    for name in ("metrics.jsonl", "samples.jsonl", "config.json"):
        assert (again / name).read_text() == (directory / name).read_text(), name
    assert same_weights(again, directory)


def same_weights(one: Path, two: Path) -> bool:
    files = [load_file(path / "export" / "model.safetensors") for path in (one, two)]
    assert files[0].keys() == files[1].keys()
    return all(
        files[0][name].tobytes() == files[1][name].tobytes() for name in files[0]
    )


def test_a_broken_newest_checkpoint_falls_back(finished, tmp_path):
    directory, config, _, _ = finished
    again = tmp_path / "run"
    shutil.copytree(directory, again)
    shutil.rmtree(again / "export")
    files = [p for p in (again / "checkpoints" / "8").rglob("*") if p.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with pytest.warns(UserWarning, match=r"damaged.*Restored step 6"):
        train.run(config, again)
    steps = [row["step"] for row in runs.rows(again / "metrics.jsonl")]
    assert steps == list(range(1, 9))
    assert same_weights(again, directory)


def test_fewer_steps_than_were_made_are_refused(finished, tmp_path):
    directory, _, _, _ = finished
    again = tmp_path / "run"
    shutil.copytree(directory, again)
    changes = EVERYTHING | {"eval__every_steps": 0, "steps": 4}
    config = runs.config(Path(finished[1].student.path).parent, "stableopd", **changes)
    with pytest.raises(ValueError, match=r"at step 8 already, past steps=4"):
        train.run(config, again)


# Interruptions, in real processes.

STEPS = 24
LONG = EVERYTHING | {"steps": STEPS, "log__check_sampler_every_steps": 0}


def start(models, cache, directory) -> subprocess.Popen:
    words = runs.flags(models, **LONG)
    config = f"--config={runs.ROOT / 'configs' / 'stableopd.py'}"
    log = (directory.parent / "log.txt").open("a")
    return subprocess.Popen(
        runs.command("main", config, f"--workdir={directory}", *words),
        env=runs.environment(cache),
        cwd=directory.parent,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def wait_until(child: subprocess.Popen, happened) -> None:
    """Returns as soon as ``happened()`` or the child has ended."""
    began = time.monotonic()
    while child.poll() is None and not happened():
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.002)


def reached(directory: Path) -> int:
    with contextlib.suppress(IndexError):
        return runs.rows(directory / "metrics.jsonl")[-1]["step"]
    return 0


@pytest.fixture(scope="module")
def uninterrupted(models, cache, tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    child = start(models, cache, directory)
    assert child.wait(PATIENCE) == 0, (directory.parent / "log.txt").read_text()
    return directory


@pytest.fixture(scope="module")
def interrupted(models, cache, tmp_path_factory):
    """(directory, return codes, step seen at each): stopped six times, then "
    "finished."""
    directory = tmp_path_factory.mktemp("interrupted") / "run"
    # At step 0 the process dies in or after its first evaluation.
    steps = [0, *sorted(random.Random(0).sample(range(1, STEPS - 3), 4))]
    ends = []
    for number, target in enumerate(steps):
        child = start(models, cache, directory)
        if target:
            wait_until(child, lambda: reached(directory) >= target)  # noqa: B023
        else:
            wait_until(child, (directory / "samples.jsonl").exists)
        child.send_signal(signal.SIGKILL)
        ends.append((child.wait(PATIENCE), reached(directory)))
        if number == 2:
            before = reached(directory)
            child = start(models, cache, directory)
            wait_until(child, lambda: reached(directory) > before)  # noqa: B023
            child.send_signal(signal.SIGTERM)
            ends.append((child.wait(PATIENCE), reached(directory)))
            saved = [int(p.name) for p in (directory / "checkpoints").glob("[0-9]*")]
            ends[-1] += (max(p for p in saved),)
    child = start(models, cache, directory)
    ends.append((child.wait(PATIENCE), reached(directory)))
    return directory, ends, (directory.parent / "log.txt").read_text()


def test_sigterm_saves_the_step_in_hand_and_ends_well(interrupted):
    _, ends, log = interrupted
    (code, step, saved) = next(end for end in ends if len(end) == 3)
    assert code == 0
    assert saved == step
    assert f"stopped at step {step}; the same command continues" in log
    assert f"resumed from step {step}" in log


def test_a_killed_run_ends_as_if_it_had_not_been(interrupted, uninterrupted):
    directory, ends, log = interrupted
    killed = [end for end in ends if end[0] == -signal.SIGKILL]
    assert len(killed) == 5, (ends, log)
    assert ends[-1] == (0, STEPS), log
    rows, expected = (
        [runs.plain(row) for row in runs.rows(path / "metrics.jsonl")]
        for path in (directory, uninterrupted)
    )
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows == expected
    assert same_weights(directory, uninterrupted)
    one, two = (
        runs.rows(path / "samples.jsonl") for path in (directory, uninterrupted)
    )
    assert one == two
    one, two = (
        json.loads((path / "summary.json").read_text())
        for path in (directory, uninterrupted)
    )
    for key in ("before", "after", "tokens_sampled", "steps"):
        assert one[key] == two[key], key


def test_evaluations_share_the_line_of_their_step(uninterrupted):
    rows = runs.rows(uninterrupted / "metrics.jsonl")
    at = [row["step"] for row in rows if "eval/reverse_kl" in row]
    assert at == list(range(4, STEPS, 4))
    assert all("loss" in row for row in rows)


# Numbers that are not finite.


@pytest.fixture
def method(monkeypatch):
    """``method(f)`` makes f known as the signal ``planted.f``."""

    def plant(function):
        module = types.ModuleType("jopd.methods.planted")
        function.__module__ = module.__name__
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return f"planted.{function.__name__}"

    return plant


def planted(models, name: str, **changes):
    config = runs.config(models, "opd", checkpoint__every_steps=1, **changes)
    with config.unlocked():
        config.loss.planted = dict(signal=name)
    return config


def test_a_nan_loss_stops_the_run_and_names_the_term(models, method, tmp_path):
    def bad(outputs):
        return signals.nll(outputs) * jnp.nan

    with pytest.raises(FloatingPointError, match=r"step 1: loss/planted is nan"):
        train.run(planted(models, method(bad)), tmp_path / "run")
    assert runs.rows(tmp_path / "run" / "metrics.jsonl") == []


def test_a_nan_gradient_stops_the_run(models, method, tmp_path):
    def bad(outputs):
        return jnp.sqrt(0.0 * signals.nll(outputs))  # value 0, slope infinite

    with pytest.raises(FloatingPointError, match=r"step 1: optim/grad_norm is nan"):
        train.run(planted(models, method(bad)), tmp_path / "run")


def test_broken_parameters_are_not_saved(models, monkeypatch, tmp_path):
    # The rate is 0 in the first update and infinite in the second.
    ruinous = lambda count: jnp.where(count < 1, 0.0, jnp.inf)
    monkeypatch.setattr(optimizer, "schedule", lambda *_, **__: ruinous)
    config = runs.config(models, "opd", checkpoint__every_steps=1, steps=3)
    directory = tmp_path / "run"
    with pytest.raises(FloatingPointError, match=r"step 2: the update gave parameters"):
        train.run(config, directory)
    logged = [row["step"] for row in runs.rows(directory / "metrics.jsonl")]
    assert logged == [1, 2]
    assert [p.name for p in (directory / "checkpoints").iterdir()] == ["1"]


# Small pieces.


def test_an_interrupt_gives_the_handlers_back():
    before = signal.getsignal(signal.SIGTERM)
    with control.Interrupt() as interrupt:
        assert not interrupt.asked
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.asked
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_ctrl_c_is_not_swallowed():
    with control.Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_best_is_judged_by_avg_at_k_then_by_the_divergence():
    assert observe.goodness(None) is None
    assert observe.goodness({"avg_at_k": 0.25, "reverse_kl": 3.0}) == 0.25
    assert observe.goodness({"avg_at_k": None, "reverse_kl": 3.0}) == -3.0
    assert observe.goodness({"avg_at_k": None, "reverse_kl": None}) is None


def test_config_is_written_only_once_the_run_can_begin(models, tmp_path):
    """A wrong path, corrected, must not meet "a run of another config"."""
    config = runs.config(models, student__path=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"student: .*nowhere is not a directory"):
        train.run(config, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_what_may_change_between_runs(models, tmp_path):
    config = runs.config(models).to_dict()
    workdir.write_config(tmp_path, config)
    for section in workdir.FREE_TO_CHANGE:
        assert section in config
    workdir.prepare(tmp_path, config | {"steps": 99})
    with pytest.raises(ValueError, match=r"seed was 0 and is now 1"):
        workdir.prepare(tmp_path, config | {"seed": 1})


def test_no_warning_of_jax_is_hidden():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert workdir.versions()["jax"]
    assert not caught


def test_rollouts_from_teacher_prefixes(models, tmp_path):
    """The prefix shrinks to nothing, is guided by its own term and never sampled."""
    changes = {"steps": 4, "rollout__prefix__source": "teacher"}
    config = runs.config(models, "opd", **changes)
    with config.unlocked():
        config.loss.guide = {"signal": "nll", "source": "teacher", "coef": 0.1}
    summary = train.run(config, tmp_path / "run")
    rows = runs.rows(tmp_path / "run" / "metrics.jsonl")
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


@pytest.mark.parametrize(
    "change", [{"rollout__at_once": 2}, {"optimizer__accumulate": 2}], ids=str
)
def test_a_run_is_the_same_however_it_is_cut_up(models, tmp_path, change):
    """Rows drawn a few at a time; micro-batches, each packed for itself."""
    changes = {"rollout__prompts_per_step": 8, "rollout__block_tokens": 8}
    changes["eval__verifier"] = "none"
    changes["log__samples_every_steps"] = 1
    found = []
    for name, more in (("whole", {}), ("cut", change)):
        place = tmp_path / name
        built = runs.config(models, **changes, **more)
        summary = train.run(built, place)
        losses = [row["loss"] for row in runs.rows(place / "metrics.jsonl")]
        samples = runs.rows(place / "samples.jsonl")
        kept = [row for row in samples if row["phase"] == "rollout"]
        found.append((summary["tokens_sampled"], losses, kept))
    (drawn, losses, kept), (others, others_losses, others_kept) = found
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
        row = runs.rows(place / "metrics.jsonl")[0]
        rates.append(row["length/stopped_rate"])
        # The loss reads the rollouts once, who reads along once more.
        assert summary["teacher_tokens"] == 2 * summary["tokens_sampled"]
    assert rates[0] == 0
    assert 0 < rates[1] < 1
    assert rates[1] <= row["length/truncation_rate"]


@pytest.mark.parametrize("kind", ["initial", "live", "ema", "snapshot", "gated"])
def test_self_teachers_with_a_context_train_and_resume(models, tmp_path, kind):
    """Two runs of two and four updates are one of four, moving teachers included."""

    def run(directory, steps):
        changes = {"steps": steps, "optimizer__schedule": "constant"}
        config = runs.config(models, "opd", **changes)
        with config.unlocked():
            config.teachers.self = {"weights": kind, "context": "{answer};{question}"}
            if kind == "snapshot":
                config.teachers.self["every_steps"] = 3
            if kind == "gated":
                # Open at the third update at the earliest, and by what came before.
                gate = {"every_steps": 3, "length_growth": 9.0, "max_truncation": 1.0}
                config.teachers.self.update(gate | {"reward_margin": -1.0})
                config.eval.verifier = "runs.begins_with_digit"
            config.loss.opd = {"signal": "forward_kl", "other": "self"}
        return train.run(config, directory)

    run(tmp_path / "whole", 4)
    rows = runs.rows(tmp_path / "whole" / "metrics.jsonl")
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
    again = runs.rows(tmp_path / "resumed" / "metrics.jsonl")
    assert [*map(runs.plain, again)] == [*map(runs.plain, rows)]
    if kind == "gated":
        refreshed = [row["teacher/self_refreshed"] for row in rows]
        assert refreshed == [0, 0, 1, 0]
        assert [row["teacher/self_steps_since"] for row in rows] == [1, 2, 0, 1]


@pytest.mark.parametrize("name", ["opd", "grpo"])
def test_rewards_are_waited_for_only_where_they_are_read(models, tmp_path, name):
    seen, describe = [], train.describe_rollouts

    def spy(e, got):
        rewards_B = np.asarray(got.batch.reward_B)
        found = describe(e, got)
        seen.append((rewards_B, found["reward/mean"]))
        return found

    config = runs.config(
        models,
        name,
        rollout__group_size=4,
        eval__verifier="runs.begins_with_digit",
        log__samples_every_steps=1,
        eval__save_samples=100,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "describe_rollouts", spy)
        train.run(config, tmp_path / "run")
    rows = runs.rows(tmp_path / "run" / "samples.jsonl")
    for at, (reward_B, logged) in enumerate(seen, start=1):
        kept = [r for r in rows if r["phase"] == "rollout" and r["step"] == at]
        right = [runs.begins_with_digit(r["response"], r["answer"]) for r in kept]
        assert logged == pytest.approx(np.mean(right))
        read = sorted(right) if name == "grpo" else [0] * len(right)
        assert sorted(reward_B.tolist()) == read
    assert 0 < np.mean([logged for _, logged in seen]) < 1


def test_the_share_of_each_term_in_the_gradient(models, tmp_path):
    """On its own steps, whichever are logged; the run is the same with and without."""
    changes = {"steps": 5, "log__every_steps": 3, "export__enabled": False}
    found = {}
    for every in (0, 2):
        config = runs.config(
            models, "tropd", **changes, log__gradient_every_steps=every
        )
        train.run(config, tmp_path / str(every))
        rows = runs.rows(tmp_path / str(every) / "metrics.jsonl")
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
    config = runs.config(models, log__gradient_every_steps=1, steps=1)
    train.run(config, tmp_path / "run")
    (row,) = runs.rows(tmp_path / "run" / "metrics.jsonl")
    assert row["grad_share/opd"] == 1
    assert row["grad_norm/opd"] == pytest.approx(row["optim/grad_norm"], rel=1e-5)
