"""tools/fit_bridge.py: a bridge of an unlike pair, and a run over it."""

import sys

import numpy as np
import pytest

import runs
from jopd.methods import oprd
from jopd.training import loop

sys.path.insert(0, str(runs.ROOT / "tools"))  # a folder of commands, not a package
import fit_bridge

pytestmark = pytest.mark.usefixtures("plain_charts")


def states_config(models, **more):
    """The student has one layer, the teacher two, of one width."""
    config = runs.config(models, "oprd", eval__prompts=0, **more)
    with config.unlocked():
        config.teacher.path = str(models / "teacher")
    return config


@pytest.fixture(scope="module")
def fitted(models):
    return fit_bridge.fit(runs.config(models), name="teacher", rank=3, tokens=60)


def test_a_bridge_of_a_pair(fitted):
    found, share, cosine = fitted
    assert found.student.shape == found.teacher.shape == (1, 3, 16)
    assert 0 < share[0] < 1 and 0.2 < cosine[0] <= 1


def test_a_run_over_a_bridge(models, fitted, tmp_path):
    file = tmp_path / "bridge.npz"
    np.savez(file, **fitted[0]._asdict())
    config = states_config(models, **{"optimizer__accumulate": 2})
    with config.unlocked():
        config.loss.states.signal, config.loss.states.bridge = "oprd.bridged", str(file)
    loop.run(config, tmp_path / "run")
    losses = [row["loss/states"] for row in runs.updates(tmp_path / "run")]
    assert len(losses) == 2 and all(0 < loss < 4 for loss in losses)
    # Another bridge is another input: a run does not go on with it.
    np.savez(file, **fitted[0]._replace(mean=fitted[0].mean + 1)._asdict())
    oprd.load.cache_clear()
    with config.unlocked():
        config.eval.prompts = 5
    with pytest.raises(
        ValueError, match=r"other inputs: the file loss\.states\.bridge"
    ):
        loop.run(config, tmp_path / "run")


def test_who_cannot_be_bridged_is_said(models):
    config = runs.config(models)
    with pytest.raises(
        ValueError, match=r"--teacher='nobody' has no parameters .* known"
    ):
        fit_bridge.fit(config, name="nobody", rank=3, tokens=60)
    adapted = runs.config(models, student__lora__rank=2)
    with pytest.raises(ValueError, match="the student has an adapter"):
        fit_bridge.fit(adapted, name="teacher", rank=3, tokens=60)
