"""Runs whose teacher is behind a server of its own, beside runs that hold it."""

import json
import signal
import threading
import time

import pytest

import runs
from jopd.setup import experiment, validation
from jopd.teachers import transport
from jopd.training import loop as train
from jopd_server import serving

pytestmark = pytest.mark.usefixtures("plain_charts")
LIKELY = {
    "loss__near": dict(signal="top_k_forward_kl", k=5),
    "loss__far": dict(signal="top_k_reverse_kl", k=3, tail=False, renormalize="both"),
    "loss__anchor": dict(signal="k3", other="teacher", coef=0.1),
}


def served(models, url: str, tmp_path, method="opd", **changes):
    """A config whose teacher is at ``url``; its answers are kept under ``tmp_path``."""
    keys = dict(
        teacher__weights="served",
        teacher__url=url,
        teacher__model="teacher",
        remote__cache_dir=str(tmp_path / "cache"),
    )
    return runs.config(models, method, **(keys | changes))


def summary(directory) -> dict:
    return json.loads((directory / "summary.json").read_text())


@pytest.fixture(scope="module")
def url(models):
    with serving(models / "teacher") as (url, _):
        yield url


def same_losses(one, other) -> None:
    for a, b in zip(runs.updates(one), runs.updates(other), strict=True):
        keys = {key for key in a if key.startswith(("loss", "log_ratio", "logp"))}
        keys |= {"optim/grad_norm"}
        assert keys <= b.keys()
        for key in keys - {key for key in keys if a[key] is None}:
            assert b[key] == pytest.approx(a[key], rel=1e-5, abs=1e-5), key


def test_every_loss_is_that_of_a_teacher_that_is_here(models, url, tmp_path):
    train.run(runs.config(models, "opd", **LIKELY), tmp_path / "here")
    there = served(models, url, tmp_path, teacher__top_k=6, **LIKELY)
    train.run(there, tmp_path / "there")
    same_losses(tmp_path / "here", tmp_path / "there")
    for row in runs.updates(tmp_path / "there"):
        assert row["served/teacher_requests"] == 4
        assert row["served/teacher_unknown"] == 0
        assert row["served/teacher_completion_tokens"] == 0
        assert "kl/reverse" not in row and "entropy/teacher" not in row
    here, there = (summary(tmp_path / name) for name in ("here", "there"))
    assert there["after"]["reverse_kl"] is None
    assert there["after"]["sampled_kl"] is not None
    assert there["after"]["accuracy"] == here["after"]["accuracy"]


OWN = {
    "loss__exact": dict(
        signal="restricted_kl", support="student", k=5, form="tail", coef=0.5
    ),
    "loss__sdpo": dict(signal="sdpo.distil", k=4, renormalize="both"),
}


def test_a_teacher_asked_about_the_students_likely_tokens(models, url, tmp_path):
    """The reverse KL on these and their tail, as a teacher that is here gives it."""
    train.run(runs.config(models, "opd", **OWN), tmp_path / "here")
    more = dict(teacher__top_k=6, teacher__support="student")
    train.run(served(models, url, tmp_path, **more, **OWN), tmp_path / "there")
    same_losses(tmp_path / "here", tmp_path / "there")
    for row in runs.updates(tmp_path / "there"):
        assert row["served/teacher_unknown"] == 0
    assert summary(tmp_path / "there")["after"]["sampled_kl"] is not None


def test_a_teacher_that_is_the_student_teaches_nothing(models, tmp_path):
    """What would be shifted by a token, or read otherwise, would not be 0."""
    with serving(models / "student", "--name=teacher") as (url, _):
        config = served(models, url, tmp_path, steps=1, eval__prompts=0)
        train.run(config, tmp_path / "run")
    (row,) = runs.updates(tmp_path / "run")
    assert abs(row["loss"]) < 1e-5 and row["optim/grad_norm"] < 1e-3


def test_a_server_that_is_killed_and_comes_back(models, tmp_path, monkeypatch):
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.2)
    changes = dict(steps=6, checkpoint__every_steps=0, eval__prompts=0)
    train.run(runs.config(models, "opd", **changes), tmp_path / "here")
    failure = []

    def work(config):
        try:
            train.run(config, tmp_path / "there")
        except BaseException as error:
            failure.append(error)

    with serving(models / "teacher") as (url, first):
        port = int(url.split(":")[2].split("/")[0])
        config = served(models, url, tmp_path, remote__retries=12, **changes)
        thread = threading.Thread(target=work, args=(config,))
        thread.start()
        log = tmp_path / "there" / "metrics.jsonl"
        while not log.exists() or len(runs.updates(tmp_path / "there")) < 2:
            assert not failure, failure
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.wait()
    with serving(models / "teacher", port=port):
        thread.join()
    assert not failure, failure
    same_losses(tmp_path / "here", tmp_path / "there")
    rows = runs.updates(tmp_path / "there")
    assert sum(row["served/teacher_failures"] for row in rows) == 0


def test_a_run_goes_on_with_the_model_that_it_began_with(models, url, tmp_path):
    more = dict(eval__prompts=0)
    config = served(models, url, tmp_path, steps=1, **more)
    train.run(config, tmp_path / "run")
    with serving(models / "student", "--name=teacher") as (other, _):
        config = served(models, other, tmp_path, steps=2, **more)
        with pytest.raises(
            ValueError, match="of a probe text by the server of teacher"
        ):
            train.run(config, tmp_path / "run")
    train.run(served(models, url, tmp_path, steps=2, **more), tmp_path / "run")
    assert summary(tmp_path / "run")["steps"] == 2


def test_two_teachers_with_routes_are_asked_for_their_rows(models, url, tmp_path):
    """Each for the rows that it serves, and its own context."""
    with serving(models / "student", "--name=other") as (other, _):
        config = served(
            models,
            url,
            tmp_path,
            steps=1,
            eval__prompts=0,
            data__fields=("level",),
            data__levels=(2, 3),
            rollout__prompts_per_step=8,
            rollout__group_size=1,
            teacher__route=dict(field="level", equals=2),
            teachers__second=dict(
                weights="served",
                url=other,
                model="other",
                route=dict(field="level", equals=3),
            ),
            loss__second=dict(signal="policy_gradient", other="second"),
        )
        train.run(config, tmp_path / "run")
    (row,) = runs.updates(tmp_path / "run")
    asked = [row[f"served/{name}_requests"] for name in ("teacher", "second")]
    assert sum(asked) == 8 and min(asked) > 0
    assert row["loss/second"] == pytest.approx(0.0, abs=1e-5), "it is the student"
    assert abs(row["loss/opd"]) > 1e-3


REFUSED = {
    "no address": (dict(teacher__url=""), "weights='served' needs teacher.url"),
    "no name": (dict(teacher__model=""), "needs teacher.model, its name there"),
    "whole distributions": (
        dict(loss__opd=dict(signal="reverse_kl")),
        "loss.opd compares whole .* teacher.weights='served' gives .* teacher.top_k",
    ),
    "more than is given": (
        dict(teacher__top_k=4, loss__near=dict(signal="top_k_forward_kl", k=5)),
        "loss.near compares whole distributions",
    ),
    "somebody else's likely tokens": (
        dict(teacher__top_k=9, loss__near=dict(signal="sdpo.distil", k=4)),
        "loss.near compares whole distributions",
    ),
    "the teacher's likely tokens, asked about the student's": (
        dict(
            teacher__top_k=9,
            teacher__support="student",
            loss__near=dict(signal="top_k_forward_kl", k=4),
        ),
        "loss.near compares whole distributions",
    ),
    "a support without likely tokens": (
        dict(teacher__support="student"),
        "support='student' needs teacher.weights='served' and teacher.top_k",
    ),
    "the student's support": (
        dict(
            teacher__top_k=4,
            loss__near=dict(signal="restricted_kl", support="student", k=4),
        ),
        "loss.near compares whole distributions",
    ),
    "spans": (
        dict(loss__opd__advantage="cross_tokenizer.proportional"),
        "loss.opd reads span/teacher, .* for a teacher with tokenizer='own'",
    ),
    "a panel": (
        dict(panels__both=dict(members=("teacher", "reference"))),
        "panels.both compares whole distributions",
    ),
    "a writer": (
        dict(probes__samples=2),
        "probes.teacher='teacher' is unknown; use one of",
    ),
    "a tokenizer": (dict(teacher__tokenizer="own"), "tokenizer='own' is for weights="),
    "eight bits": (dict(teacher__quantize="int8"), "quantize='int8' is for weights="),
    "a temperature": (
        dict(objective__temperature=0.7),
        "objective.temperature=0.7 divides",
    ),
    "an address of a model that is here": (
        dict(teacher__weights="path", teacher__model="", teacher__path="demo:teacher"),
        "teacher.url='http://nobody:1/v1' is for teacher.weights='served'",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_served_teacher_cannot_do_is_said_before_it_is_asked(
    models, tmp_path, kind
):
    changes, said = REFUSED[kind]
    config = served(
        models, **{"url": "http://nobody:1/v1", "tmp_path": tmp_path} | changes
    )
    with pytest.raises(ValueError, match=said):
        validation.validate(config)


def test_a_server_that_is_down_is_said_before_any_model_is_read(models, tmp_path):
    config = served(models, "http://127.0.0.1:9/v1", tmp_path)
    with pytest.raises(ConnectionError, match=r"does not answer .*teacher\.url"):
        experiment.build(config)
