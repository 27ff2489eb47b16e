"""Metric writers: strict lines, no duplicates after a resume, torn tails."""

import builtins
import importlib
import json
import math
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from jopd.reporting import metrics


def lines(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()


def strict(line):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(line, parse_constant=refuse)


def test_one_strict_object_per_line(tmp_path):
    writers = metrics.open_writers(tmp_path / "new" / "run")
    row = {
        "loss": jnp.float32(0.5),
        "half": jnp.asarray(1.5, jnp.bfloat16),
        "nan": float("nan"),
        "inf": np.float32("inf"),
        "count": np.int64(3),
        "note": "a\nb\u2028c",
        "none": None,
        "flag": jnp.asarray(True),
    }
    writers.write(1, row)
    writers.write(jnp.int32(2), {"loss": 0.25})
    writers.close()
    first, second = lines(tmp_path / "new" / "run")
    assert strict(first) == {
        "step": 1,
        "loss": 0.5,
        "half": 1.5,
        "nan": None,
        "inf": None,
        "count": 3,
        "note": "a\nb\u2028c",
        "none": None,
        "flag": True,
    }
    assert strict(second) == {"step": 2, "loss": 0.25}


def test_a_line_is_on_disk_once_written(tmp_path):
    writers = metrics.open_writers(tmp_path)
    writers.write(1, {"loss": 1.0})
    assert metrics.read(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.0}]
    writers.close()


def test_an_array_is_refused_by_name(tmp_path):
    writers = metrics.open_writers(tmp_path)
    with pytest.raises(ValueError, match=r"'loss' has shape \(2,\)"):
        writers.write(1, {"loss": np.zeros(2)})
    writers.close()
    assert lines(tmp_path) == []


def test_a_resumed_run_has_no_duplicates(tmp_path):
    writers = metrics.open_writers(tmp_path)
    for step in range(1, 6):
        writers.write(step, {"run": 1})
    writers.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "ru')  # killed here
    writers = metrics.open_writers(tmp_path, last_step=3)
    for step in range(4, 7):
        writers.write(step, {"run": 2})
    writers.close()
    rows = metrics.read(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["run"]) for r in rows] == [
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 2),
        (5, 2),
        (6, 2),
    ]
    metrics.open_writers(tmp_path).close()
    assert lines(tmp_path) == []


def test_read_forgives_a_torn_last_line_only(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "x"')
    assert metrics.read(path) == [{"step": 1}]
    path.write_bytes(b'{"step": 1}\n{"note": "\xe2\x82')  # cut inside a character
    assert metrics.read(path) == [{"step": 1}]
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"m\.jsonl, line 2 is not JSON"):
        metrics.read(path)
    path.write_text('{"step": 1, "note": "a\u2028b"}\n', encoding="utf-8")
    assert metrics.read(path) == [{"step": 1, "note": "a\u2028b"}]
    for odd in ('{"note": 1}', '{"step": "1"}', '{"step": null}', "[1]", "3"):
        path.write_text(f'{odd}\n{{"step": 3, "x": NaN}}\n')
        with pytest.raises(ValueError, match=r"m\.jsonl, line 1 is not JSON with a"):
            metrics.read(path)
        path.write_text(f'{{"step": 3, "x": NaN}}\n{odd}\n')
        assert metrics.read(path) == [{"step": 3, "x": None}]
    path.write_text("")
    assert metrics.read(path) == []
    with pytest.raises(FileNotFoundError):
        metrics.read(tmp_path / "absent.jsonl")


def test_an_atomic_write_that_fails_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    metrics.write_atomically(path, "old")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        metrics.write_atomically(path, "new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    metrics.write_atomically(path, "new \N{GREEK SMALL LETTER BETA}")
    assert path.read_text(encoding="utf-8") == "new \N{GREEK SMALL LETTER BETA}"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_tensorboard_files_hold_the_numbers(tmp_path):
    writers = metrics.open_writers(tmp_path, tensorboard=True)
    writers.write(7, {"loss": 0.5, "note": "text", "none": None})
    writers.close()
    (path,) = (tmp_path / "tensorboard").glob("events.*")
    event_pb2 = importlib.import_module("tensorboardX.proto.event_pb2")
    found, data = [], path.read_bytes()
    while data:  # records: length, its checksum, the event, its checksum
        size = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + size])
        found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
        data = data[16 + size :]
    assert found == [(7, "loss", 0.5)]


def test_more_of_the_last_step_joins_its_line(tmp_path):
    writers = metrics.open_writers(tmp_path)
    writers.write(0, {"eval/k": 4})
    writers.write(1, {"loss": 1.0})
    writers.write(1, {"eval/k": 5})
    writers.close()
    writers = metrics.open_writers(tmp_path, last_step=1)
    writers.write(1, {"eval/k": 6})
    writers.write(2, {"loss": 2.0})
    writers.close()
    assert metrics.read(tmp_path / "metrics.jsonl") == [
        {"step": 0, "eval/k": 4},
        {"step": 1, "loss": 1.0, "eval/k": 6},
        {"step": 2, "loss": 2.0},
    ]


def test_a_missing_tracker_is_said_with_its_key(monkeypatch):
    metrics.check_trackers(tensorboard=False, wandb="")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"log.wandb_project='p' needs .* wandb"):
        metrics.check_trackers(tensorboard=False, wandb="p")


def fake_wandb(calls):
    run = types.SimpleNamespace(
        log=lambda row, step: calls.append((step, row)),
        finish=lambda: calls.append("finish"),
    )
    return types.SimpleNamespace(init=lambda **kw: calls.append(kw) or run)


def test_wandb_gets_init_arguments_and_rows(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(calls))
    about = dict(wandb="p", name="opd", config={"seed": 3})
    writers = metrics.open_writers(tmp_path, **about)
    writers.write(1, {"loss": float("nan")})
    writers.close()
    metrics.open_writers(tmp_path, last_step=1, **about).close()
    first, again = calls[0], calls[3]
    assert first == again and first.pop("id")  # the same run, when it is resumed
    assert first == {
        "dir": str(tmp_path),
        "project": "p",
        "name": "opd",
        "config": {"seed": 3},
        "resume": "allow",
    }
    assert calls[1][0] == 1 and math.isnan(calls[1][1]["loss"])
    assert calls[2] == "finish"


@pytest.mark.parametrize(
    "option, package",
    [({"wandb": "p"}, "wandb"), ({"tensorboard": True}, "tensorboardX")],
)
def test_a_missing_package_is_named_before_any_file_is_made(
    tmp_path, monkeypatch, option, package
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        metrics.open_writers(tmp_path / "run", **option)
    assert not (tmp_path / "run").exists()


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.jax, "process_index", lambda: 1)
    monkeypatch.setattr(builtins, "open", None)
    writers = metrics.open_writers(tmp_path / "run", tensorboard=True)
    writers.write(1, {"loss": 1.0})
    writers.close()
    assert not (tmp_path / "run").exists()
