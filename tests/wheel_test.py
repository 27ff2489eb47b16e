"""A wheel has all that the commands need, in a folder without anything."""

import json
import os
import shutil
import subprocess
import sys

import pytest

import runs

SMALL = {"rollout.prompts_per_step": 4, "eval.prompts": 4, "data.size": 40}


def call(*words, **options):
    child = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return child


@pytest.mark.slow
def test_a_shipped_config_runs_from_an_empty_folder(cache, tmp_path):
    source, site, empty = (tmp_path / name for name in ("source", "site", "empty"))
    # Not in the checkout, where a build leaves its own folders.
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(runs.ROOT / name, source)
    for name in ("jopd", "configs"):
        shutil.copytree(runs.ROOT / name, source / name)
    call("pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("jopd-*.whl")
    call("pip", "install", "-q", "--no-deps", "--target", site, wheel)
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(cache)}
    words = [f"--config.{key}={value}" for key, value in (SMALL | {"steps": 2}).items()]
    call("jopd.main", "--config=opd", *words, cwd=empty, env=environment)
    run = empty / "runs" / "opd"
    assert json.loads((run / "summary.json").read_text())["steps"] == 2
    assert (run / "report.html").exists() and (run / "export").is_dir()
    assert not list(empty.glob("configs")) and (site / "jopd" / "configs").is_dir()
