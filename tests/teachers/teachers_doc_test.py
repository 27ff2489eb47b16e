"""Every snippet of docs/teachers.md trains, and says in the metrics what it should."""

import re
from pathlib import Path

import numpy as np
import pytest

import runs
from jopd.setup import builders, config, experiment, needs, validation
from jopd.teachers import roles
from jopd.training import loop as train
from jopd.training import stored
from jopd_server import serving

pytestmark = pytest.mark.usefixtures("plain_charts")
TEXT = (runs.ROOT / "docs" / "teachers.md").read_text()
ELSEWHERE = ("served", "stored")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def models(models, tmp_path_factory):
    """The tiny pair and a third model, ``code``."""
    folder = tmp_path_factory.mktemp("three")
    for name in ("student", "teacher"):
        (folder / name).symlink_to(models / name)
    runs.make_model(folder / "code", seed=3)
    return folder


def built(models, snippet: str):
    c = config.base_config()
    snippet = snippet.replace("models/math", str(models / "teacher"))
    exec(snippet.replace("models/code", str(models / "code")), {"c": c})
    small = runs.SMALL | {"data.levels": (2, 3), "rollout.prompts_per_step": 4}
    paths = {f"{name}.path": str(models / name) for name in ("student", "teacher")}
    if c.teacher.weights == "stored":
        paths.pop("teacher.path")  # of scores
    rest = {"eval.verifier": "runs.begins_with_digit", "optimizer.warmup": 0}
    rest |= {"eval.reward_truncated": True}  # random models rarely end
    rest |= {"eval.prompts": 0}
    c.update_from_flattened_dict(small | paths | rest)
    return c.lock()


@pytest.fixture
def served(models, request, tmp_path):
    """A snippet with a server in the place of the one that it names."""
    snippet = SNIPPETS[request.param]
    if "runs/scores" in snippet:
        folder = str(tmp_path / "scores")
        snippet = snippet.replace("runs/scores", folder)
        e = experiment.build(
            built(models, "c.loss.opd = dict(signal='k2')"), train=False
        )
        how = dict(top_k=8, progress=lambda done, of: None)
        stored.write(e, Path(folder), "teacher", **how)
    if "http://localhost:8000/v1" not in snippet:
        yield snippet
        return
    with serving(models / "teacher", "--name=demo:teacher") as (url, _):
        yield snippet.replace("http://localhost:8000/v1", url)


@pytest.mark.parametrize("served", range(len(SNIPPETS)), indirect=True)
def test_a_snippet_trains(served, models, tmp_path):
    c = built(models, served)
    c.remote.cache_dir = str(tmp_path / "cache")
    train.run(c, tmp_path / "run")
    rows = runs.updates(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2]
    for term in builders.build_terms(c):
        assert sum(row[f"tokens/{term.name}"] for row in rows) > 0
        assert sum(abs(row[f"loss/{term.name}"]) for row in rows) > 0
        for name in term.models:
            key = "kl/forward" if name == "teacher" else f"kl/forward_{name}"
            elsewhere = "own" in c.teacher.values() or c.teacher.weights in ELSEWHERE
            key = "log_ratio/mean" if elsewhere else key
            assert all(np.isfinite(row[key] or 0) for row in rows)
    for name in c.teachers:
        if c.teachers[name].get("weights") == "gated":
            assert all(row[f"teacher/{name}_refreshed"] in (0, 1) for row in rows)


def test_complementary_routes_share_the_rows_of_a_run(models, tmp_path):
    (snippet,) = [text for text in SNIPPETS if "c.teachers.long = " in text]
    snippet = snippet.replace("models/code", str(models / "teacher"))
    c = built(models, snippet)
    train.run(c, tmp_path / "run")
    rows = runs.updates(tmp_path / "run")
    for row in rows:
        left_out = row["unserved/short"] + row["unserved/long"]
        assert left_out == c.rollout.prompts_per_step * c.rollout.group_size
        tokens = row["tokens/short"] + row["tokens/long"]
        assert tokens == round(row["length/mean"] * left_out)
        if row["tokens/short"] and row["tokens/long"]:
            # Both are of one model: the means of its two parts.
            parts = [row[f"tokens/{n}"] * row[f"loss/{n}"] for n in ("short", "long")]
            means = [row[f"kl/reverse_{n}"] for n in ("short", "long")]
            assert row["loss/short"] == pytest.approx(means[0], rel=1e-4)
            assert row["loss/long"] == pytest.approx(means[1], rel=1e-4)
            assert row["kl/reverse"] == pytest.approx(sum(parts) / tokens, rel=1e-4)
    assert any(row["tokens/short"] and row["tokens/long"] for row in rows)


def test_the_page_shows_every_kind():
    for kind in roles.WEIGHTS:
        assert f"| `{kind}` |" in TEXT
    assert len(SNIPPETS) == 14


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("c.panels.p = dict(members=('teacher',), sort='mean')", "no key 'sort'"),
        ("c.panels.p = dict(weights=(1.0,))", "panels.p has no members"),
        ("c.panels.p = dict(members=('mentor',))", "the model 'mentor'; known"),
        (
            "c.panels.p = dict(members=('teacher',))\n"
            "c.panels.q = dict(members=('p',))",
            "no panels in it",
        ),
        ("c.panels.teacher = dict(members=('reference',))", "choose another"),
        ("c.teacher.route = dict(field='level', equals=2)", r"data\.fields=\(\)"),
        ("c.teacher.route = dict(field='level')", "must be dict"),
        ("c.loss.x = dict(signal='jsd', other='nobody')", "'nobody'; known"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(models, wrong, words):
    c = built(models, "c.loss.x = dict(signal='jsd', other='teacher')\n" + wrong)
    with pytest.raises(ValueError, match=words):
        validation.validate(c)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            "c.data.fields = ('level',)\n"
            "c.teacher.route = dict(field='level', equals=9)",
            "none of the 40 training rows, whose 'level' is '2', '3'; change equals",
        ),
        (
            "c.data.fields = ('domain',)\n"
            "c.teacher.route = dict(field='domain', equals='math')",
            "no column 'domain'; the columns are 'question'",
        ),
    ],
)
def test_a_route_that_no_row_follows_is_refused(models, tmp_path, wrong, words):
    c = built(models, "c.loss.x = dict(signal='jsd', other='teacher')\n" + wrong)
    with pytest.raises(ValueError, match=words):
        train.run(c, tmp_path / "run")


def test_a_gate_without_rewards_is_refused(models):
    gated = "c.teachers.t = dict(weights='gated')\n"
    c = built(models, gated + "c.loss.x = dict(signal='jsd', other='t')")
    validation.validate(c)
    assert needs.waits_for_rewards(c, builders.build_terms(c))
    c.teachers.t.weights = "snapshot"
    assert not needs.waits_for_rewards(c, builders.build_terms(c))
    c.teachers.t.context = "{failure};{question}"
    assert needs.waits_for_rewards(c, builders.build_terms(c)), (
        "it is shown what failed"
    )
    c.teachers.t.context = ""
    c.loss.x.report = dict(function="information_gain", other="t")
    assert needs.waits_for_rewards(c, builders.build_terms(c)), (
        "it tells right from wrong"
    )
    c.teachers.t.weights = "gated"
    c.eval.verifier = "none"
    with pytest.raises(ValueError, match="'gated' waits for rewards"):
        validation.validate(c)
