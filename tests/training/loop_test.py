"""Whole runs: what they leave, how they resume, how they stop."""

import datetime
import json
import shutil
import signal
import sys
import time
import types
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

import runs
from jopd.losses import signals
from jopd.models import hf
from jopd.reporting import diagnostics
from jopd.setup import optimizer
from jopd.training import control, observe, workdir
from jopd.training import loop as train

pytestmark = pytest.mark.usefixtures("plain_charts")

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


def counted(config, directory):
    """The summary, and for each step its row width and the programs compiled in it.

    Programs of a save, which orbax has compiled at its first one, are left out.
    """
    seen, before = [], [0]

    with pytest.MonkeyPatch.context() as patch, control.CompileCounter() as compiled:
        describe, save = diagnostics.token_metrics, train.save

        def spy_of_save(*arguments):
            save(*arguments)
            before[0] = compiled.count

        def spy(parts, batch, **options):
            found = describe(parts, batch, **options)
            shapes = [plan[0].shape for plan in batch.packing.values()]
            seen.append((str(shapes), compiled.count - before[0]))
            before[0] = compiled.count
            return found

        patch.setattr(diagnostics, "token_metrics", spy)
        patch.setattr(train, "save", spy_of_save)
        return train.run(config, directory), seen


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    """(directory, config, summary, programs by step) of a run with all parts on."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    changes = runs.EVERYTHING | {"steps": 8, "eval__every_steps": 0}
    config = runs.config(models, "stableopd", **changes)
    summary, seen = counted(config, directory)
    return directory, config, summary, seen


def test_the_export_ends_where_the_run_did(finished):
    directory, config, _, _ = finished
    path = directory / "export" / "generation_config.json"
    assert json.loads(path.read_text())["eos_token_id"] == [1, *config.rollout.stop_ids]


def test_every_file_of_the_contract_is_there(finished):
    directory, config, _, _ = finished
    names = {path.name for path in directory.iterdir()}
    assert names == {
        "config.json",
        "inputs.json",
        "metrics.jsonl",
        "summary.json",
        "samples.jsonl",
        "evaluation.json",
        "checkpoints",
        "export",
        "report.html",
    }
    written = json.loads((directory / "config.json").read_text())
    given = json.loads(json.dumps(config.to_dict()))
    given["data"]["date"] = str(datetime.date.today())  # of the run's first day
    assert written == given
    steps = [row["step"] for row in runs.updates(directory)]
    assert steps == list(range(1, 9))
    assert (directory / "report.html").stat().st_size > 1000
    kept = sorted(int(p.name) for p in (directory / "checkpoints").iterdir())
    assert kept[-2:] == [6, 8]


def test_what_each_prompt_earned_adds_up_to_the_summary(finished):
    directory, _, summary, _ = finished
    kept = json.loads((directory / "evaluation.json").read_text())
    assert list(kept) == ["before", "after"]
    assert kept["before"]["prompts"] == kept["after"]["prompts"]
    for phase, found in kept.items():
        assert np.mean(found["greedy"]) == pytest.approx(summary[phase]["accuracy"])
        assert np.mean(found["sampled"]) == pytest.approx(summary[phase]["avg_at_k"])
        assert "per_prompt" not in summary[phase]


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
        "exported_step",
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


def test_evaluations_share_the_lines_of_their_steps(finished):
    directory, _, summary, _ = finished
    rows = runs.rows(directory / "metrics.jsonl")
    assert [row["step"] for row in rows if "eval/accuracy" in row] == [0, 8]
    assert "loss" not in rows[0] and "loss" in rows[-1]
    for row, phase in ((rows[0], "before"), (rows[-1], "after")):
        assert row["eval/avg_at_k"] == summary[phase]["avg_at_k"]


def test_tokens_sampled_is_the_sum_over_steps(finished):
    directory, _, summary, _ = finished
    rows = runs.updates(directory)
    by_step = [row["length/mean"] * 4 for row in rows]
    assert summary["tokens_sampled"] == round(sum(by_step))


def test_teacher_tokens_count_every_model_that_terms_read(finished):
    directory, _, summary, _ = finished
    rows = runs.updates(directory)
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
    logged = [row["speed/compilations"] for row in runs.updates(directory)]
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
    assert runs.same_weights(again, directory)


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
    steps = [row["step"] for row in runs.updates(again)]
    assert steps == list(range(1, 9))
    assert runs.same_weights(again, directory)


def test_fewer_steps_than_were_made_are_refused(finished, tmp_path):
    directory, _, _, _ = finished
    again = tmp_path / "run"
    shutil.copytree(directory, again)
    changes = runs.EVERYTHING | {"eval__every_steps": 0, "steps": 4}
    config = runs.config(Path(finished[1].student.path).parent, "stableopd", **changes)
    with pytest.raises(ValueError, match=r"at step 8 already, past steps=4"):
        train.run(config, again)


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


NAMED = r"step 1: loss/planted is nan, in 4 of 4 rows; in the first, prompt \d+ \('\d"


def test_a_nan_loss_stops_the_run_and_names_the_term(models, method, tmp_path):
    def bad(outputs):
        return signals.nll(outputs) * jnp.nan

    with pytest.raises(FloatingPointError, match=NAMED):
        train.run(planted(models, method(bad)), tmp_path / "run")
    assert runs.updates(tmp_path / "run") == []


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
    logged = [row["step"] for row in runs.updates(directory)]
    assert logged == [1, 2]
    assert [p.name for p in (directory / "checkpoints").iterdir()] == ["1"]


# Small pieces.


def test_programs_and_their_seconds_are_counted():
    """While it is active only, and a program that is there already costs nothing."""
    double = jax.jit(lambda x: 2 * x + jnp.sin(x))
    x = jnp.arange(7.0)
    with control.CompileCounter() as compiled:
        began = time.perf_counter()
        double(x).block_until_ready()
        spent = time.perf_counter() - began
        assert compiled.count == 1 and 0 < compiled.seconds < spent
        seconds = compiled.seconds
        double(x)
        assert (compiled.count, compiled.seconds) == (1, seconds)
    jax.jit(lambda x: x - 3)(x)
    assert (compiled.count, compiled.seconds) == (1, seconds)


def test_an_interrupt_gives_the_handlers_back():
    before = [signal.getsignal(number) for number in control.SIGNALS]
    with control.Interrupt() as interrupt:
        interrupt.check()
    assert [signal.getsignal(number) for number in control.SIGNALS] == before


@pytest.mark.parametrize("number", control.SIGNALS)
def test_a_signal_ends_what_can_be_had_again_and_waits_for_what_cannot(number):
    with control.Interrupt() as interrupt, interrupt.held():
        for _ in range(3):  # impatience changes nothing
            signal.raise_signal(number)
        assert interrupt.asked
    with pytest.raises(control.Stop):
        interrupt.check()
    with control.Interrupt(), pytest.raises(control.Stop):
        signal.raise_signal(number)


def test_an_ignored_hangup_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with control.Interrupt() as interrupt:
            signal.raise_signal(signal.SIGHUP)
        assert not interrupt.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_stops_a_run_between_updates_costs_none(models, tmp_path, monkeypatch):
    config = runs.config(models, checkpoint__every_steps=0, steps=3)
    gather = train.gather

    def hung_up(e, run, done):
        found = gather(e, run, done)
        if done == 1:
            signal.raise_signal(signal.SIGHUP)
        return found

    def server_gone(e, run, done):
        if done == 2:
            raise ConnectionError("no teacher")
        return gather(e, run, done)

    monkeypatch.setattr(train, "gather", hung_up)
    assert train.run(config, tmp_path / "run") == {"interrupted": 1}
    monkeypatch.setattr(train, "gather", server_gone)
    with pytest.raises(ConnectionError):
        train.run(config, tmp_path / "run")
    monkeypatch.undo()
    assert train.run(config, tmp_path / "run")["steps"] == 3
    saved = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert sorted(saved) == [2, 3]
    train.run(runs.config(models, checkpoint__every_steps=0, steps=3), tmp_path / "one")
    one, two = (runs.updates(tmp_path / n) for n in ("one", "run"))
    assert [runs.plain(row) for row in one] == [runs.plain(row) for row in two]
    assert runs.same_weights(tmp_path / "one", tmp_path / "run")


@pytest.mark.parametrize("minutes, saved", [(0.0, False), (15.0, True)])
def test_checkpoints_by_the_clock(models, minutes, saved):
    """901 seconds after the last one, whatever the step."""
    config = runs.config(models, checkpoint__every_minutes=minutes)
    config.checkpoint.every_steps = 0
    saver = types.SimpleNamespace(seconds_since=lambda: 901.0)
    run = types.SimpleNamespace(saver=saver)
    assert train.save_is_due(config, run, at=1) == saved


def test_best_is_judged_by_avg_at_k_then_by_the_divergence():
    assert observe.goodness(None) is None
    assert observe.goodness({"avg_at_k": 0.25, "reverse_kl": 3.0}) == 0.25
    alone = {"avg_at_k": None, "reverse_kl": 0.0, "sampled_kl": 2.0}
    assert observe.goodness(alone) == 0.0
    assert observe.goodness(alone | {"reverse_kl": None}) == -2.0
    assert observe.goodness({"avg_at_k": None, "reverse_kl": 3.0}) == -3.0
    assert observe.goodness({"avg_at_k": None, "reverse_kl": None}) is None


def test_config_is_written_only_once_the_run_can_begin(models, tmp_path):
    """A wrong path, corrected, must not meet "a run of another config"."""
    config = runs.config(models, student__path=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"student: .*nowhere is not a directory"):
        train.run(config, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_what_may_change_between_runs(models, tmp_path):
    config = workdir.written(runs.config(models).to_dict())
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


def test_a_run_without_evaluations(models, tmp_path, capsys):
    """The same student, and the same files but for what was measured."""
    place, config = tmp_path / "run", runs.config(models, eval__prompts=0)
    summary = train.run(config, place)
    said = capsys.readouterr().out.replace("\n", "")
    assert "evaluating at" not in said and "report.html" in said
    assert summary["before"] == summary["after"] == {}
    assert [row["step"] for row in runs.rows(place / "metrics.jsonl")] == [1, 2]
    assert not (place / "evaluation.json").exists()
    assert "Not measured" in (place / "export" / "README.md").read_text()
    assert train.run(config, place)["steps"] == 2
    train.run(runs.config(models), tmp_path / "measured")
    assert runs.same_weights(place, tmp_path / "measured")
