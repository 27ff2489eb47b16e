"""``jopd geometry``: models and checkpoints named, read and compared."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import runs
from jopd import geometry
from jopd.models import hf
from jopd.reporting import geometry as measures


@pytest.fixture(scope="module")
def moved(models, tmp_path_factory):
    """Two later states of the student: one matrix moved, then all of them."""
    folder, source = tmp_path_factory.mktemp("moved"), models / "student"
    config, params = hf.load(source)
    rng = np.random.default_rng(0)
    one = jax.tree.map(np.copy, params)
    one["layers"]["q"][0] += np.outer(
        rng.normal(size=one["layers"]["q"][0].shape[0]), 1
    )
    hf.save(folder / "one", config, one, source=source)
    every = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), params)
    every = jax.tree.map(np.float32, every)
    hf.save(folder / "all", config, every, source=source)
    return folder, params, one


def test_models_are_compared_matrix_by_matrix(models, moved, tmp_path):
    folder, before, after = moved
    first, *later = names = [
        str(models / "student"),
        *(str(folder / n) for n in ("one", "all")),
    ]
    found = geometry.measured(names, ".", rank=64, share=0.5)
    assert list(found) == later
    layers = len(before["layers"]["q"])
    assert len(found[names[1]]) == 7 * layers
    one = found[names[1]]
    assert [key for key in one if one[key]["norm"]] == ["q 0"]
    w0, w1 = (tree["layers"]["q"][0].T for tree in (before, after))
    assert one["q 0"]["spectral_shift"] == measures.spectral_shift(w0, w1)
    # The outer product of anything with ones over what comes out: rank one.
    assert one["q 0"]["stable_rank"] == pytest.approx(1, abs=1e-4)
    only = geometry.measured(names, "^[qkvo]$", rank=64, share=0.5)
    assert len(only[names[2]]) == 4 * layers

    file = tmp_path / "geometry.json"
    flags = f"--before={first}", f"--after={','.join(later)}", f"--json={file}"
    words = [sys.executable, "-m", "jopd", "geometry", *flags]
    child = subprocess.run(words, capture_output=True, text=True, cwd=runs.ROOT)
    assert child.returncode == 0, child.stderr
    kept = json.loads(file.read_text())
    assert kept["models"][later[0]] == measures.together(one)
    assert child.stdout.startswith(measures.table(kept["models"]))
    assert kept["each"][later[0]]["k 0"]["similarity"] is None


@pytest.mark.parametrize(
    "words, found",
    [
        (["a", "b"], ["a", "b"]),
        (
            ["r/checkpoints/5", "10", "x", "s/checkpoints/1", "2"],
            [f"r/checkpoints/{n}" for n in (5, 10)]
            + ["x", "s/checkpoints/1", "s/checkpoints/2"],
        ),
    ],
)
def test_a_number_is_a_checkpoint_of_the_same_run(words, found):
    assert geometry.named(words) == found


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "must name models, each once"),
        (["a", "a"], "--after=a,a must name models, each once"),
        (["7"], "7 stands behind no checkpoint; write RUN/checkpoints/7"),
        (["runs/x/export", "7"], "7 stands behind no checkpoint"),
    ],
)
def test_names_that_cannot_be_meant(words, said):
    with pytest.raises(ValueError, match=said):
        geometry.named(words)


def test_what_cannot_be_compared_is_said(models):
    student, teacher = str(models / "student"), str(models / "teacher")
    how = dict(rank=64, share=0.5)
    with pytest.raises(ValueError, match=r"layers/\w+ is \(.*name models of one shape"):
        geometry.measured([student, teacher], ".", **how)
    with pytest.raises(ValueError, match=r"--matrices='z' is in no name; .*gate"):
        geometry.measured([student, student], "z", **how)
