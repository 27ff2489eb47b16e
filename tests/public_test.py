"""Names that users import stay, whatever room their file is in."""

import importlib
import re
import sys

import numpy as np
import pytest

import jopd
import runs

SECTION = (runs.ROOT / "docs" / "design.md").read_text().split("## Public names")[1]
ROWS = [line for line in SECTION.split("\n## ")[0].splitlines() if "`jopd." in line]
LISTED = re.findall(r"`jopd\.(\w+)`", "\n".join(line.split("|")[1] for line in ROWS))
MODULES = [name for name in LISTED if name != "load"]


def test_the_table_lists_every_public_name():
    assert sorted(LISTED) == sorted({*jopd.PUBLIC, *jopd.BESIDE, "load"})
    assert set(LISTED) <= set(dir(jopd))


@pytest.mark.parametrize("name", MODULES)
def test_a_public_name_is_one_module(name):
    found = importlib.import_module(f"jopd.{name}")
    assert getattr(jopd, name) is found
    place = jopd.PUBLIC.get(name, name)
    real = importlib.import_module(f"jopd.{place}")
    assert real is found, "not a second copy"
    assert found.__name__ == found.__spec__.name == f"jopd.{place}"
    (row,) = (line for line in ROWS if f"`jopd.{name}`" in line.split("|")[1])
    assert name in jopd.BESIDE or f"`{place.split('.')[0]}/" in row


def test_what_the_names_are_for():
    from jopd.config import base_config
    from jopd.rollout import generate
    from jopd.train import run

    assert base_config().steps == 400 and callable(run) and callable(generate)
    assert jopd.rollout.generate is generate and jopd.train.run is run
    assert callable(jopd.step.make_update) and callable(jopd.objective.objective)
    assert callable(jopd.evaluate.evaluate) and callable(jopd.generate.main)
    assert jopd.models.__path__ and jopd.types.Rollout
    logits = np.log([[0.7, 0.2, 0.1]])
    assert jopd.divergences.reverse_kl(logits, logits) == pytest.approx(0, abs=1e-6)
    assert jopd.estimators.k3(np.float32([-1.0]), np.float32([-1.5])) > 0


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'jopd' has no attribute 'nope'"):
        _ = jopd.nope
    with pytest.raises(ModuleNotFoundError, match=r"jopd\.nope"):
        importlib.import_module("jopd.nope")


def test_importing_jopd_is_free(tmp_path):
    import subprocess

    said = "import jopd, sys; print([m for m in ('jax', 'flax') if m in sys.modules])"
    child = subprocess.run(
        [sys.executable, "-c", said],
        env=runs.environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert child.stdout.strip() == "[]", child.stderr
