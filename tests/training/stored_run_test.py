"""Runs that read what a teacher said once, beside runs that hold it."""

import json
import shutil
import subprocess

import numpy as np
import pytest

import runs
from jopd.setup import experiment, validation
from jopd.teachers import likely, roles, stored
from jopd.training import loop as train
from jopd.training import stored as writing
from jopd_server import serving

pytestmark = pytest.mark.usefixtures("plain_charts")
GOLD = {
    "loss__sampled": dict(signal="k2", other="teacher", source="gold", coef=0.1),
    "loss__near": dict(signal="top_k_forward_kl", k=5, source="gold"),
    "loss__far": dict(signal="top_k_jsd", k=3, source="gold"),
    "loss__opd__coef": 0.0,
    "mix__student": 0.5,
    "mix__gold": 0.5,
}
UNMEASURED = {"eval__prompts": 0}
NONE = np.zeros((0,), np.int32), np.zeros((0,), np.float32)
QUIET = lambda done, of: None


def written(models, folder, top_k: int = 6, **changes) -> int:
    """Scores by the teacher; how many rows."""
    e = experiment.build(runs.config(models, "opd", **changes), train=False)
    wrote, lost = writing.write(e, folder, "teacher", top_k=top_k, progress=QUIET)
    assert not lost
    return wrote


def reading(models, folder, **changes):
    keys = dict(teacher__weights="stored", teacher__path=str(folder), teacher__top_k=6)
    return runs.config(models, "opd", **(GOLD | keys | changes))


@pytest.fixture(scope="module")
def folder(models, tmp_path_factory):
    place = tmp_path_factory.mktemp("scores") / "scores"
    assert written(models, place) == 40
    return place


def same_losses(one, other, keys=("loss/near", "loss/far", "loss/sampled")) -> None:
    for a, b in zip(runs.updates(one), runs.updates(other), strict=True):
        for key in (*keys, "optim/grad_norm", "loss"):
            assert b[key] == pytest.approx(a[key], rel=1e-5, abs=1e-6), key
            assert a[key] != 0


def test_every_loss_is_that_of_a_teacher_that_is_here(models, folder, tmp_path):
    train.run(runs.config(models, "opd", **GOLD), tmp_path / "here")
    train.run(reading(models, folder), tmp_path / "stored")
    same_losses(tmp_path / "here", tmp_path / "stored")
    summary = json.loads((tmp_path / "stored" / "summary.json").read_text())
    assert summary["after"]["reverse_kl"] is None
    inputs = json.loads((tmp_path / "stored" / "inputs.json").read_text())
    assert inputs["the scores of teacher"].startswith("sha256")


def test_prefixes_of_gold_rows_are_scored_too(models, folder, tmp_path):
    """Their tokens have the source "teacher"."""
    prefix = {
        "rollout__prefix__source": "gold",
        "rollout__prefix__schedule": "constant",
        "rollout__prefix__share": 0.5,
        "loss__guide": dict(signal="top_k_forward_kl", k=4, source="teacher"),
    } | UNMEASURED
    train.run(runs.config(models, "opd", **GOLD, **prefix), tmp_path / "here")
    train.run(reading(models, folder, **prefix), tmp_path / "stored")
    same_losses(tmp_path / "here", tmp_path / "stored", ("loss/guide", "loss/near"))


def test_scoring_goes_on_where_it_was_stopped(models, folder, tmp_path):
    """A part at a time; nothing is scored twice."""
    place, parts = tmp_path / "scores", []

    def stop(done, of):
        parts.append((done, of))
        if len(parts) == 2:
            raise KeyboardInterrupt

    e = experiment.build(runs.config(models, "opd", eval__batch_rows=8), train=False)
    with pytest.raises(KeyboardInterrupt):
        writing.write(e, place, "teacher", top_k=6, progress=stop)
    assert len(stored.read(place).rows) == 16
    assert writing.write(e, place, "teacher", top_k=6, progress=QUIET) == (24, 0)
    assert writing.write(e, place, "teacher", top_k=6, progress=QUIET) == (0, 0)
    whole, again = stored.read(folder).rows, stored.read(place).rows
    assert whole.keys() == again.keys()
    for key, row in whole.items():
        np.testing.assert_allclose(again[key].logp, row.logp, atol=1e-5)
        np.testing.assert_allclose(again[key].likely, row.likely, atol=1e-5)


def test_a_served_teacher_scores_the_same(models, folder, tmp_path):
    with serving(models / "teacher") as (url, _):
        e = experiment.build(
            runs.config(
                models,
                "opd",
                teacher__weights="served",
                teacher__url=url,
                teacher__model="teacher",
                teacher__top_k=6,
                remote__cache_dir=str(tmp_path / "cache"),
            ),
            train=False,
        )
        place = tmp_path / "scores"
        found = writing.write(e, place, "teacher", top_k=6, progress=QUIET)
        assert found == (40, 0)
    for key, row in stored.read(folder).rows.items():
        found = stored.read(place).rows[key]
        np.testing.assert_allclose(found.logp, row.logp, atol=1e-5)
        assert (found.ids == row.ids).mean() > 0.99  # but for ties


def test_a_teacher_with_tokens_of_its_own(models, tmp_path):
    own = {"teacher__tokenizer": "own"}
    assert written(models, tmp_path / "scores", top_k=0, **own) == 40
    keys_off = {"loss__near__coef": 0.0, "loss__far__coef": 0.0}
    keys = keys_off | UNMEASURED | {"teacher__top_k": 0}
    train.run(reading(models, tmp_path / "scores", **keys), tmp_path / "run")
    here = GOLD | own | keys_off | UNMEASURED
    train.run(runs.config(models, "opd", **here), tmp_path / "here")
    same_losses(tmp_path / "here", tmp_path / "run", ("loss/sampled",))
    e = experiment.build(runs.config(models, "opd", **own), train=False)
    with pytest.raises(ValueError, match=r"--top_k=3: teacher has tokens of its own"):
        writing.write(e, tmp_path / "more", "teacher", top_k=3, progress=QUIET)


def test_a_folder_is_of_one_teacher(models, folder, tmp_path):
    """By its weights, whatever it is called."""
    copy = tmp_path / "copy"
    shutil.copytree(models / "teacher", copy)
    assert written(models, folder, teacher__path=str(copy)) == 0, "the same"
    for changes in (
        {"teacher__path": str(models / "student")},
        {"teacher__weights": "initial"},
    ):
        with pytest.raises(ValueError, match="weights was 'sha256"):
            written(models, folder, **changes)
    with pytest.raises(ValueError, match="dtype was 'float32'"):
        written(models, folder, teacher__dtype="bfloat16")


def test_more_likely_tokens_than_there_are(models, tmp_path):
    assert written(models, tmp_path / "s", top_k=1000) == 40
    assert stored.read(tmp_path / "s").settings["top_k"] == 18
    assert written(models, tmp_path / "s", top_k=1000) == 0


@pytest.mark.parametrize("weights", ["live", "ema", "snapshot", "gated", "stored"])
def test_a_teacher_that_moves_is_not_stored(weights):
    with pytest.raises(ValueError, match=r"of a teacher that stays as it is"):
        writing.check_teacher("teacher", roles.Teacher(weights=weights, path="x"))


def test_rows_that_a_server_lost_are_said_and_scored_again(models, tmp_path):
    lost = {3, 7}

    class Client:
        top_k = 0

        def score(self, asked):
            rows = [
                likely.Scores(np.full(len(a.tokens) - a.first, -1.0), *NONE)
                for a in asked
            ]
            return [None if n in lost else row for n, row in enumerate(rows)]

    e = experiment.build(runs.config(models, "opd"), train=False)
    client, place = Client(), tmp_path / "scores"
    client.probe = np.float32([-1.0])
    teachers = {"teacher": roles.Teacher(weights="served", url="u", model="m")}
    e = e._replace(served={"teacher": client}, teachers=teachers)
    first = writing.write(e, place, "teacher", top_k=0, progress=QUIET)
    assert first[1] >= 2 and sum(first) == 40
    lost.clear()
    again = writing.write(e, place, "teacher", top_k=0, progress=QUIET)
    assert again == (first[1], 0)


def test_other_rows_or_limits_are_refused(models, folder):
    for changes in ({"data__size": 80}, {"seed": 7}):
        with pytest.raises(ValueError, match=r"no scores of .* of .* gold rows"):
            experiment.build(reading(models, folder, **changes))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"teacher__path": ""}, "teacher.path is empty"),
        ({"loss__near__source": "student"}, "stored scores are of gold tokens"),
        ({"loss__near__source": "any"}, "stored scores are of gold tokens"),
        ({"loss__near__k": 7}, "loss.near compares whole distributions"),
        ({"teacher__url": "http://a/v1"}, "teacher.url=.* is for"),
    ],
)
def test_what_cannot_be_read_of_scores(models, folder, changes, said):
    with pytest.raises(ValueError, match=said):
        validation.validate(reading(models, folder, **changes))


def test_a_run_does_not_go_on_with_other_scores(models, folder, tmp_path):
    train.run(reading(models, folder, steps=1, **UNMEASURED), tmp_path / "run")
    other = tmp_path / "other"
    written(models, other, teacher__path=str(models / "student"))
    config = reading(models, folder, steps=2, **UNMEASURED)
    config.teacher.path = str(folder)
    moved = tmp_path / "moved"
    folder.rename(moved)
    try:
        other.rename(folder)
        with pytest.raises(ValueError, match="the scores of teacher had"):
            train.run(config, tmp_path / "run")
    finally:
        folder.rename(other)
        moved.rename(folder)


def test_the_command(models, tmp_path):
    words = runs.command("score", "--config=opd", f"--out={tmp_path / 's'}")
    done = subprocess.run(
        [*words, "--top_k=3", *runs.flags(models)],
        capture_output=True,
        text=True,
        env=runs.environment(tmp_path / "cache"),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "40 rows more, 40 in all" in done.stdout + done.stderr
    assert stored.read(tmp_path / "s").settings["top_k"] == 3
