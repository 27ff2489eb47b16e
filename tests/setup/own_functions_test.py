"""Functions of a user's own, by name or as they are, wherever a config names one."""

import json
import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import runs
from jopd import commandline
from jopd.losses import binding, signals
from jopd.setup import builders, shipped, validation
from jopd.training import loop as train

pytestmark = pytest.mark.usefixtures("plain_charts")


def half_nll(outputs, scale=0.5):
    return scale * signals.nll(outputs)


def early(scores, *, tokens=4):
    return (scores.position < tokens).astype(jnp.float32)


def gap(scores):
    return scores.logp["teacher"] - scores.logp["student"]


def mean_position(scores):
    return {"position": jnp.mean(scores.position * scores.mask)}


def never(seen):
    return jnp.zeros(len(seen.tokens_BW), bool)


def short(response: str, answer: str) -> float:
    return float(len(response) < 9)


def own(name, models, **changes):
    """A config whose every function is ours; ``name`` makes a key of a function."""
    built = runs.config(models, "opd", **changes)
    with built.unlocked():
        built.loss.own = dict(
            signal=name(half_nll),
            scale=0.25,
            weights=dict(early=dict(function=name(early), tokens=3)),
            report=name(mean_position),
        )
        built.loss.opd.advantage = name(gap)
    built.eval.verifier = name(short)
    built.rollout.early_stop.function = name(never)
    built.rollout.early_stop.window = 4
    built.rollout.block_tokens = 8
    return built


dotted = binding.name_of
itself = lambda function: function


def test_by_name_and_as_they_are_they_are_the_same(models):
    assert dotted(half_nll) == f"{__name__}.half_nll"
    for name in (dotted, itself):
        built = own(name, models)
        validation.validate(built)
        terms = {term.name: term for term in builders.build_terms(built)}
        assert terms["own"].signal.func is half_nll
        assert terms["own"].signal.keywords == {"scale": 0.25}
        assert terms["own"].weights[0].func is early
        assert terms["own"].report is mean_position
        assert terms["opd"].advantage is gap and terms["opd"].models == ("teacher",)
        assert builders.build_stop(built).rule is never


def test_a_run_uses_and_records_them_and_resumes(models, tmp_path):
    built = own(itself, models)
    train.run(built, tmp_path / "run")
    rows = runs.updates(tmp_path / "run")
    assert all(np.isfinite(row["own/position"]) for row in rows)
    assert all(row["loss/own"] > 0 and 0 < row["weight/own"] <= 1 for row in rows)
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["loss"]["own"]["signal"] == dotted(half_nll)
    assert written["eval"]["verifier"] == dotted(short)
    assert written["rollout"]["early_stop"]["function"] == dotted(never)
    assert "half_nll" in (tmp_path / "run" / "report.html").read_text()
    # By name it is the same run, which goes on.
    built = own(dotted, models, steps=3)
    assert train.run(built, tmp_path / "run")["steps"] == 3
    other = own(itself, models, steps=4)
    other.eval.verifier = runs.begins_with_digit
    with pytest.raises(ValueError, match=r"eval\.verifier"):
        train.run(other, tmp_path / "run")


@pytest.mark.parametrize(
    "name, said",
    [
        ("nowhere.to.be.found", "there is no module jopd.methods.nowhere.to.be nor"),
        (f"{__name__}.nothing", f"{__name__} has no function 'nothing'; it has dotted"),
        (f"{__name__}.json", "has no function 'json'"),
        ("nope", "unknown signal of loss.own 'nope'; known: forward_kl"),
    ],
)
def test_what_cannot_be_found_is_said_before_anything(models, name, said):
    built = own(itself, models)
    built.loss.own.signal = name
    with pytest.raises(ValueError) as caught:
        validation.validate(built)
    assert said.split(";")[0] in str(caught.value)


def test_a_method_of_the_library_comes_before_a_module_of_its_name(
    tmp_path, monkeypatch
):
    (tmp_path / "tropd.py").write_text("def state_forward_kl(scores): ...")
    (tmp_path / "unheard_of.py").write_text("def weight(scores): ...")
    monkeypatch.syspath_prepend(tmp_path)
    found = binding.resolve("tropd.state_forward_kl", None, "advantage")
    assert found.__module__ == "jopd.methods.tropd"
    found = binding.resolve("unheard_of.weight", None, "weight")
    assert found.__module__ == "unheard_of"


@pytest.mark.parametrize(
    "source, said",
    [
        ("import no_such_package", r"No module named .* \(.*broken.py, line 1\)"),
        ("x = 1\ny = z", r"NameError: name 'z' is not .* \(.*broken.py, line 2\)"),
        ("def f(:", "SyntaxError: invalid syntax"),
    ],
)
def test_a_module_of_ones_own_that_breaks_is_one_line(
    tmp_path, monkeypatch, source, said, models
):
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    (tmp_path / "broken.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    built = runs.config(models, "opd", eval__verifier="broken.verifier")
    with pytest.raises(ValueError, match=r"of eval\.verifier 'broken") as caught:
        validation.validate(built)
    assert re.search(said, str(caught.value))
    assert caught.value.__cause__ is not None


def test_an_argument_that_it_does_not_take(models):
    built = own(itself, models)
    with built.unlocked():
        built.loss.own.slope = 1.0
    with pytest.raises(ValueError, match=r"half_nll takes no 'slope'.*takes scale"):
        validation.validate(built)


def test_verifiers_that_cannot_be_found(models):
    built = runs.config(models, "opd", eval__verifier="no.such.verifier")
    with pytest.raises(ValueError, match=r"of eval\.verifier 'no\.such\.verifier'"):
        validation.validate(built)
    # What the command line makes of ``--config.eval.verifier=5`` is no name either.
    built = runs.config(models, "omniopd")
    for value in (5, 1.5, None, (1, 2)):
        said = re.escape(str(value))
        for section, key in ((built.eval, "verifier"), (built.audit, "similarity")):
            before, section[key] = section[key], value
            with pytest.raises(ValueError, match=said):
                validation.validate(built)
            section[key] = before
        before, built.loss.chunks.signal = built.loss.chunks.signal, value
        with pytest.raises(ValueError, match=said):
            validation.validate(built)
        built.loss.chunks.signal = before


# Shipped configs by name.


def test_a_bare_name_is_a_shipped_config():
    assert set(shipped.names()) == {
        p.stem for p in (runs.ROOT / "configs").glob("*.py")
    }
    path = str(runs.ROOT / "configs" / "opd.py")
    words = commandline.with_paths(["main", "--config=opd", "--config.steps=2"])
    assert words == ["main", f"--config={path}", "--config.steps=2"]
    assert commandline.with_paths(["main", "--config", "opd"])[1:] == words[1:2]
    assert shipped.load("opd").name == "opd"


def test_files_stay_what_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "opd").write_text("")
    for word in ("--config=opd", "--config=configs/opd.py", "--config=mine.py:large"):
        assert commandline.with_paths(["main", word]) == ["main", word]


def test_a_name_that_is_not_shipped():
    with pytest.raises(ValueError, match=r"no config is named 'odp'; shipped: adwin"):
        commandline.with_paths(["main", "--config=odp"])
