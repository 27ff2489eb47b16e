"""A run's folder: one process at a time, nothing half written, nothing found late."""

import datetime
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

import runs
from jopd.setup import config as configs
from jopd.training import workdir

PLAIN = workdir.written(configs.base_config().to_dict())
HOLD = """
import sys, time
from pathlib import Path
from jopd.training import workdir
with workdir.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_has_died(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(runs.ROOT)},
    )
    first.stdout.readline()
    who = f"in use by process {first.pid} on {socket.gethostname()}; wait"
    with pytest.raises(ValueError, match=who), workdir.locked(tmp_path):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    with workdir.locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / workdir.LOCK).read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_of_one_process_is_refused_and_the_lock_goes_with_it(tmp_path):
    with workdir.locked(tmp_path / "run"):
        who = f"in use by process {os.getpid()} on "
        with pytest.raises(ValueError, match=who), workdir.locked(tmp_path / "run"):
            pass
        workdir.prepare(tmp_path / "run", PLAIN)
    with pytest.raises(KeyError), workdir.locked(tmp_path / "run"):
        raise KeyError
    assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_that_its_holder_removed_meanwhile_is_none(tmp_path, monkeypatch):
    flock, seen = workdir.fcntl.flock, []

    def late(file, how):
        if not seen:
            (tmp_path / workdir.LOCK).unlink()
        seen.append(file)
        flock(file, how)

    monkeypatch.setattr(workdir.fcntl, "flock", late)
    with workdir.locked(tmp_path):
        assert len(seen) == 2 and (tmp_path / workdir.LOCK).exists()


def test_what_kills_left_is_cleaned_and_what_is_not_ours_stays(tmp_path):
    for name in ("config.json.tmp", "metrics.jsonl.tmp", "slurm-17.out", "job.log"):
        (tmp_path / name).write_text("x")
    for name in (".export.ab12", ".export-20.ab12", ".export-21.ab12"):
        (tmp_path / name / "new").mkdir(parents=True)
    os.utime(tmp_path / ".export-20.ab12", (0, 0))
    workdir.prepare(tmp_path, PLAIN)
    going_on = ".export-21.ab12"
    assert {p.name for p in tmp_path.iterdir()} == {"slurm-17.out", "job.log", going_on}


def test_a_run_of_an_older_release_knows_fewer_keys(tmp_path):
    older = changed("data.date", "2026-01-01")
    del older["init_from"], older["remote"]["api"], older["data"]["date"]
    workdir.write_config(tmp_path, older)
    now = changed("data.date", "2026-01-02")
    workdir.prepare(tmp_path, now)
    now["init_from"]["run"] = "runs/x"
    with pytest.raises(
        ValueError, match=r"config: init_from.run was '' and is now 'runs"
    ):
        workdir.prepare(tmp_path, now)


def test_a_start_whose_probe_another_start_removed_is_not_refused(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(workdir.Path, "write_text", lambda *_: None)
    with workdir.locked(tmp_path):
        pass


@pytest.mark.parametrize("name", [*workdir.FILES, *workdir.FOLDERS])
def test_what_stands_in_the_way_of_a_file_is_found_at_the_start(name, tmp_path):
    workdir.write_config(tmp_path, PLAIN)
    (tmp_path / name).unlink(missing_ok=True)
    if name in workdir.FILES:
        (tmp_path / name / "x").mkdir(parents=True)
        kind = "is no file"
    else:
        (tmp_path / name).write_text("x")
        kind = "is no folder"
    with pytest.raises(ValueError, match=rf"{name} {kind}; remove it"):
        workdir.prepare(tmp_path, PLAIN)


def test_what_prompts_earned_is_replaced_by_phase_and_outlives_damage(tmp_path):
    path = tmp_path / "evaluation.json"
    for phase, found in (("before", 1), ("after", 2), ("after", 3)):
        workdir.keep_per_prompt(tmp_path, phase, {"greedy": [found]})
    assert json.loads(path.read_text()) == {
        "before": {"greedy": [1]},
        "after": {"greedy": [3]},
    }
    for damaged in ("", "[1]", '{"before"', "[" * 200_000):
        path.write_text(damaged)
        workdir.keep_per_prompt(tmp_path, "after", {"greedy": [4]})
        assert json.loads(path.read_text()) == {"after": {"greedy": [4]}}


def test_foreign_files_in_the_export_are_found_at_the_start(tmp_path):
    workdir.write_config(tmp_path, PLAIN)
    (tmp_path / "export").mkdir()
    workdir.prepare(tmp_path, PLAIN)
    (tmp_path / "export" / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="export is not empty and holds no model"):
        workdir.prepare(tmp_path, PLAIN)
    workdir.prepare(tmp_path, PLAIN | {"export": {"enabled": False}})


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"seed": 1', "[" * 200_000, "\xff"])
def test_a_damaged_config_of_a_run_is_one_line(text, tmp_path):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config.json cannot be read: .*from a copy"):
        workdir.prepare(tmp_path, PLAIN)


FREE = [
    ("eval.k", 9),
    ("mesh.fsdp", 2),
    ("optimizer.accumulate", 2),
    ("remote.cache_dir", "elsewhere"),
    ("rollout.at_once", 8),
    ("checkpoint.every_minutes", 1.0),
]
FIXED = [("eval.verifier", "numeric"), ("optimizer.b1", 0.5), ("rollout.top_k", 3)]


def changed(key, value):
    with (config := configs.base_config()).unlocked():
        config.update_from_flattened_dict({key: value})
    return workdir.written(config.to_dict())


@pytest.mark.parametrize("key, value", FREE)
def test_what_leaves_updates_as_they_are_may_change(key, value, tmp_path):
    workdir.write_config(tmp_path, PLAIN)
    workdir.prepare(tmp_path, changed(key, value))


@pytest.mark.parametrize("key, value", FIXED)
def test_what_changes_updates_is_refused(key, value, tmp_path):
    workdir.write_config(tmp_path, PLAIN)
    with pytest.raises(ValueError, match=rf"{key} was .* and is now {value!r}; choose"):
        workdir.prepare(tmp_path, changed(key, value))


def test_a_run_goes_on_with_the_day_that_it_began_on(models, tmp_path):
    config = runs.config(models)
    today = str(datetime.date.today())
    assert workdir.dated(tmp_path, config).data.date == today
    assert config.data.date == ""
    begun = workdir.written(config.to_dict())
    begun["data"]["date"] = "2024-02-29"
    workdir.write_config(tmp_path, begun)
    later = workdir.dated(tmp_path, config)
    assert later.data.date == "2024-02-29"
    workdir.prepare(tmp_path, workdir.written(later.to_dict()))
    other = workdir.dated(tmp_path, runs.config(models, data__date="2024-03-01"))
    with pytest.raises(ValueError, match=r"data.date was '2024-02-29' and is now"):
        workdir.prepare(tmp_path, workdir.written(other.to_dict()))


@pytest.mark.parametrize("text", ["{", "[]", '{"data": 3}', "{}"])
def test_a_damaged_config_is_left_to_who_checks_it(models, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    today = str(datetime.date.today())
    assert workdir.dated(tmp_path, runs.config(models)).data.date == today


def _older(weights):
    """A config as an earlier release wrote it, with the gate that it had."""
    teacher = {
        key: value
        for key, value in PLAIN["teacher"].items()
        if key not in ("check_steps", "reward_window", "tail_ratio")
    }
    teacher |= {"weights": weights, "every_steps": 10, "reward_margin": 0.0}
    return PLAIN | {"teacher": teacher | {"reward_rate": 0.1, "max_truncation": 0.2}}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("path", None),
        ("ema", None),
        ("snapshot", "every_steps was 10 and is now 30; choose"),
        ("gated", "teacher.reward_rate was 0.1 and is now None"),
    ],
)
def test_a_run_goes_on_unless_keys_that_it_read_are_gone(tmp_path, weights, words):
    workdir.write_config(tmp_path, _older(weights))
    now = PLAIN | {"teacher": PLAIN["teacher"] | {"weights": weights}}
    if words is None:
        assert not workdir.prepare(tmp_path, now)
        return
    with pytest.raises(ValueError, match=words):
        workdir.prepare(tmp_path, now)
