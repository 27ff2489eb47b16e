"""Checkpoints that others read: picked, exported, started from."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace as Fake

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from transformers import AutoConfig

import hub_server
import runs
from jopd import geometry
from jopd.models import hf
from jopd.training import ending, kept, step, sums, workdir
from jopd.training import loop as train
from jopd.training.checkpoint import Checkpointer

pytestmark = pytest.mark.usefixtures("plain_charts")


@pytest.fixture(scope="module")
def run(models, tmp_path_factory):
    """The folder of a run of two updates, both saved."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    changes = dict(checkpoint__every_steps=1, rollout__stop_ids=(3,))
    train.run(runs.config(models, **changes), folder)
    return folder


@pytest.mark.parametrize(
    "metrics, which, found",
    [
        ({2: None, 10: 0.5, 9: 0.75}, "last", 10),
        ({2: None, 10: 0.5, 9: 0.75}, "best", 9),
        ({2: None, 10: 0.5, 9: 0.75}, "2", 2),
        ({2: float("nan"), 10: 0.5}, "best", 10),
    ],
)
def test_which_checkpoint(metrics, which, found, tmp_path):
    for at, metric in metrics.items():
        (tmp_path / "checkpoints" / str(at)).mkdir(parents=True)
        sums.write(tmp_path / "checkpoints" / str(at), metric)
    (tmp_path / "checkpoints" / "11.damaged").mkdir()
    assert kept.pick(tmp_path, which) == found
    with pytest.raises(ValueError, match=r"'7'; give last, best or one of 2"):
        kept.pick(tmp_path, "7")


def test_a_run_may_be_named_from_where_one_stands(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    with kept.as_model(run.name, "last") as path:
        assert (Path(path) / "config.json").is_file()


def test_its_checkpoints_are_measured_by_their_folders(run, models):
    names = geometry.named([str(run / "checkpoints" / "1"), "2"])
    found = geometry.measured([str(models / "student"), *names], "q", rank=2, share=0.5)
    norms = [each["q 0"]["norm"] for each in found.values()]
    assert 0 < norms[0] < norms[1]


def test_where_nothing_was_judged_nothing_is_the_best(tmp_path):
    for at in (2, 10):
        (tmp_path / "checkpoints" / str(at)).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no best checkpoint.*give last or one of 2,"):
        kept.pick(tmp_path, "best")


def test_what_is_gone_or_unreadable_in_any_way_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"checkpoint 4 of .* is gone: a run keeps its"
    ):
        kept.read(tmp_path, 4, {})
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    sums.write(tmp_path / "checkpoints" / "4", None)
    monkeypatch.setattr(kept.ocp, "load_checkpointables", lambda *_: {"meta": {}})
    with pytest.raises(ValueError, match=r"4 of .* is damaged \(KeyError: 'leaves'\)"):
        kept.read(tmp_path, 4, {})


def test_a_damaged_best_is_no_reason_to_export_nothing(monkeypatch, capsys):
    """The next best, or the last update, as if that were the best."""

    def read(run, at, template):
        if at == 2:
            raise ValueError("checkpoint 2 of x is damaged")
        return {"train": {"params": f"of {at}"}}, {}

    monkeypatch.setattr(kept, "read", read)
    e = Fake(config=Fake(steps=9, export=Fake(which="best")))
    for best, found in (
        ([2, 4], (4, "of 4")),
        ([2, 9, 4], (9, "now")),
        ([2], (9, "now")),
    ):
        saver = Fake(best_steps=lambda best=best: best)
        run = Fake(saver=saver, directory="x", state={"train": Fake(params="now")})
        assert ending.to_export(e, run) == found
        assert "step 2 is the best, and checkpoint 2 of x is" in capsys.readouterr().out
    e.config.export.which = "last"
    assert ending.to_export(e, run) == (9, "now")


def test_a_folder_without_checkpoints_is_said(tmp_path):
    with pytest.raises(ValueError, match="has no checkpoints; give the folder of"):
        kept.pick(tmp_path, "best")


def tree(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_the_last_is_what_the_run_exported_and_nothing_is_touched(run, tmp_path):
    before = tree(run)
    kept.export(run, kept.pick(run, "last"), tmp_path / "export")
    assert tree(run) == before
    assert runs.same_weights(run, tmp_path)
    for name in ("generation_config.json", "config.json", "tokenizer.json"):
        ours, theirs = (d / "export" / name for d in (run, tmp_path))
        assert ours.read_text() == theirs.read_text()
    with kept.as_model(str(run), "1") as path:
        first = hf.load(path)[1]
    last = hf.load(tmp_path / "export")[1]
    assert (first["embed"] != last["embed"]).any()


def test_an_export_has_a_card_and_ones_own_stays(models, run, tmp_path):
    out, there = tmp_path / "export", run / "export" / "README.md"
    kept.export(run, 2, out)
    assert (out / "README.md").read_text() == there.read_text()
    assert "Step 2, seed 0, config `opd`." in there.read_text()
    assert kept.other_card(out) == []
    kept.export(run, 1, out)
    told = (out / "README.md").read_text()
    assert "Step 1, seed" in told and "The weights are those of step 1." in told
    assert "40 prompts for training" in told and "before | at step 2 |" in told
    assert AutoConfig.from_pretrained(out).model_type == "llama"
    hf.load(out)
    (out / "README.md").write_text("# Mine\n")
    kept.export(run, 2, out)
    assert (out / "README.md").read_text() == "# Mine\n"
    assert (out / "README.jopd.md").read_text() == there.read_text()
    (said,) = kept.other_card(out)
    assert "README.md was not written by jopd and stays; the card of this" in said
    shape, params = hf.load(out)
    hf.save(out, shape, params, source=models / "student")
    assert (out / "README.md").read_text() == "# Mine\n"
    assert not (out / "README.jopd.md").exists()


def test_a_card_of_a_run_under_way_says_what_there_is(run, tmp_path):
    source = shutil.copytree(run, tmp_path / "source")
    (source / "summary.json").unlink()
    (source / "export" / "README.md").unlink()
    licence = "---\nlicense: mit\n---\n"
    config = workdir.read_config(source)
    base = Path(shutil.copytree(config["student"]["path"], tmp_path / "base"))
    (base / "README.md").write_text(licence)
    config["student"]["path"] = str(base)
    workdir.write_config(source, config)
    kept.export(source, 1, tmp_path / "export")
    told = (tmp_path / "export" / "README.md").read_text()
    assert "were not evaluated" in told and "\nlicense: mit\n" in told
    assert "| student | `base` |" in told and str(tmp_path) not in told
    assert workdir.versions()["jax"] in told


def test_a_damaged_summary_is_said_and_no_reason_to_export_nothing(
    run, tmp_path, capsys
):
    cut = shutil.copytree(run, tmp_path / "run")
    kept.facts_of(cut, 1, {})
    assert "damaged" not in capsys.readouterr().out
    for content in ('{"after": ', "[]", "{}"):
        (cut / "summary.json").write_text(content)
        assert kept.facts_of(cut, 1, {}).after == {}
        said = " ".join(capsys.readouterr().out.split())
        assert "summary.json is damaged" in said and "model card" in said
    (cut / "summary.json").unlink()  # it is under way
    kept.facts_of(cut, 1, {})
    assert "damaged" not in capsys.readouterr().out


def test_an_export_is_pushed_by_the_command(run, cache, tmp_path):
    out = tmp_path / "export"
    words = ("export", f"--model={run}", f"--out={out}")
    env = runs.environment(cache) | {"HF_TOKEN": "hf_sesame", "HF_HOME": str(tmp_path)}

    def call(*more: str, **settings):
        command = runs.command(*words, *more)
        options = dict(capture_output=True, text=True, timeout=200)
        return subprocess.run(command, env=env | settings, **options)

    with hub_server.serving(tmp_path) as server:
        done = call("--push_to_hub=org/made", **server.env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            f"checkpoint 2: {out}",
            f"pushed to {server.env['HF_ENDPOINT']}/org/made",
        ]
    assert server.pushed == {p.name: p.read_bytes() for p in out.iterdir()}
    assert b"# opd\n" in server.pushed["README.md"]
    for more, said in (
        (("--push_to_hub=made",), "push_to_hub='made' is no id of a model to write"),
        (("--visibility=public",), "--visibility=public is of an upload; add --push"),
        (
            ("--push_to_hub=org/made",),
            f"{out} could not be pushed to org/made (Offline",
        ),
    ):
        done = call(*more)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 1 and line.startswith(f"error: {said}")


def test_a_model_is_its_own_path_and_a_run_asks_which(run):
    with kept.as_model("demo:student", "") as path:
        assert path == "demo:student"
    with (
        pytest.raises(ValueError, match=r"folder of a run; add --checkpoint=best"),
        kept.as_model(str(run), ""),
    ):
        pass


def test_a_damaged_checkpoint_is_refused_with_the_reason(run, tmp_path):
    shutil.copytree(run / "checkpoints" / "2", tmp_path / "checkpoints" / "2")
    shutil.copy(run / "config.json", tmp_path)
    file = next((tmp_path / "checkpoints" / "2" / "state").glob("**/d/*"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"checkpoint 2 of .* damaged \(.*changed"):
        kept.export(tmp_path, 2, tmp_path / "export")


def state_of(transform, seed):
    params = {"w": jax.random.normal(jax.random.key(seed), (3, 2))}
    return step.TrainState(jnp.int32(0), params, transform.init(params))


@pytest.mark.parametrize("optimizer", [True, False])
def test_a_start_takes_moments_but_no_step_of_the_schedule(optimizer, tmp_path):
    transform = optax.adamw(optax.linear_schedule(1.0, 0.0, 10))
    state = state_of(transform, 0)
    for _ in range(3):
        moved, opt_state = transform.update(state.params, state.opt_state, state.params)
        params = optax.apply_updates(state.params, moved)
        state = step.TrainState(state.step + 1, params, opt_state)
    saver = Checkpointer(tmp_path / "checkpoints")
    saver.save(3, {"train": state, "buffer": None, "teachers": {}}, {})
    saver.close()
    fresh = state_of(transform, 1)
    found = kept.train_state(tmp_path, 3, fresh, optimizer=optimizer)
    np.testing.assert_array_equal(found.params["w"], state.params["w"])
    assert found.step == 0
    adam, _, scheduled = found.opt_state
    assert scheduled.count == 0
    wanted = state.opt_state[0] if optimizer else fresh.opt_state[0]
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), adam, wanted))
    assert int(adam.count) == (3 if optimizer else 0)


def test_another_optimizer_is_named(tmp_path):
    saver = Checkpointer(tmp_path / "checkpoints")
    saver.save(3, {"train": state_of(optax.sgd(0.1), 0)}, {})
    saver.close()
    with pytest.raises(ValueError, match=r"does not fit .*mu.*absent there and float"):
        kept.train_state(tmp_path, 3, state_of(optax.adam(0.1), 0), optimizer=True)


def test_a_run_starts_from_another_and_does_not_look_again(models, run, tmp_path):
    source = shutil.copytree(run, tmp_path / "source")
    start = dict(init_from__run=str(source), init_from__checkpoint="2")
    still = dict(optimizer__learning_rate=0.0)
    config = runs.config(models, steps=1, rollout__stop_ids=(3,), **start, **still)
    summary = train.run(config, tmp_path / "run")
    assert summary["before"] == train.run(config, tmp_path / "run")["after"]
    assert runs.same_weights(source, tmp_path / "run")
    shutil.rmtree(source)
    train.run(config, tmp_path / "run")
    with pytest.raises(ValueError, match=r"source has no checkpoints"):
        train.run(config, tmp_path / "other")
    assert not (tmp_path / "other" / "config.json").exists()


@pytest.mark.slow
def test_the_best_is_exported(models, tmp_path, monkeypatch):
    """The evaluation of step 1 was better than that after the last."""
    judged = iter([0.5, 0.25])
    monkeypatch.setattr(train.observe, "goodness", lambda found: found and next(judged))
    changes = dict(eval__every_steps=1, checkpoint__every_steps=1)
    config = runs.config(models, export__which="best", **changes)
    summary = train.run(config, tmp_path)
    assert summary["exported_step"] == 1
    assert kept.pick(tmp_path, "best") == 1
    kept.export(tmp_path, 1, tmp_path / "one" / "export")
    assert runs.same_weights(tmp_path, tmp_path / "one")
    kept.export(tmp_path, kept.pick(tmp_path, "last"), tmp_path / "two" / "export")
    assert not runs.same_weights(tmp_path, tmp_path / "two")
    assert workdir.read_config(tmp_path)["export"]["which"] == "best"
