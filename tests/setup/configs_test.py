"""Every file in configs/: a new one is tested without a new line here."""

import ast
import json
import re
import tokenize

import numpy as np
import pytest

import runs
from jopd.setup import builders, config, keys, schedules, validation
from jopd.training import loop as train

pytestmark = pytest.mark.usefixtures("plain_charts")
FILES = sorted((runs.ROOT / "configs").glob("*.py"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def file(request):
    return request.param


def test_it_builds_validates_locks_and_can_be_written(file, models):
    built = runs.config(models, file.stem)
    validation.validate(built)
    assert built.is_locked
    written = json.dumps(built.to_dict())
    listed = lambda value: list(value) if isinstance(value, tuple) else value
    flat = {key: listed(value) for key, value in keys.flatten(built).items()}
    assert flat == keys.flatten(json.loads(written))
    assert builders.build_terms(built)


def test_it_says_what_it_is_where_from_and_how_to_run(file):
    words = ast.get_docstring(ast.parse(file.read_text()))
    assert re.search(r"arXiv:\d{4}\.\d{5}|https://", words)
    assert f"python -m jopd.main --config=configs/{file.name}" in words
    first = words.splitlines()[0]
    assert first.endswith(".") and len(first) > 20


def test_it_says_in_which_regime_it_is_shown(file):
    text = source = file.read_text()
    if of_another := re.search(r'load\("(\w+)"\)', text):
        source = file.with_stem(of_another[1]).read_text()
    asked = re.search(r'base_config\(regime="(\w+)"\)', source)
    regime = asked[1] if asked else "digits"
    run = re.escape(f"--config=configs/{file.name}")
    assert file.stem == "stories" or re.search(rf"{run}  # {regime}\b", text)


# Rows of every source that two devices can share, whatever the shares of a config.
SPLITS = {"rollout__prompts_per_step": 8, "rollout__group_size": 2}


def test_it_trains(file, models, tmp_path):
    built = runs.config(models, file.stem, **SPLITS, eval__prompts=0)
    if not any(validation.needs_rewards(t) for t in builders.build_terms(built)):
        built.eval.verifier = "none"
    else:
        built.eval.verifier = "runs.is_even"  # random models solve nothing
        built.eval.reward_truncated = True  # nor do they end
        built.data.max_context_tokens = 104  # and write what is read as more tokens
    summary = train.run(built, tmp_path / "run")
    rows = runs.updates(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert np.isfinite(row["loss"]) and np.isfinite(row["optim/grad_norm"])
    assert sum(row["optim/grad_norm"] for row in rows) > 0
    assert summary["config_name"] == file.stem
    for term in builders.build_terms(built):
        assert sum(row[f"tokens/{term.name}"] for row in rows) > 0, term.name


def test_names_are_those_of_the_files():
    assert len(FILES) >= 4
    for path in FILES:
        assert runs.runpy.run_path(str(path))["get_config"]().name in ("", path.stem)


# The keys.


def commented_lines(source: str) -> set[int]:
    lines = source.splitlines(keepends=True)
    found = tokenize.generate_tokens(iter(lines).__next__)
    return {token.start[0] for token in found if token.type == tokenize.COMMENT}


# Names that say all there is to say.
PLAIN = {"temperature", "learning_rate", "weight_decay", "b1", "b2", "eps", "dtype"}
PLAIN |= {"max_new_tokens", "max_prompt_tokens", "prompts_per_step", "path", "prompts"}
PLAIN |= {"student", "gold", "end_learning_rate", "warmup", "threshold"}


SECTIONS = (ast.Call, ast.Dict)


def test_every_key_has_a_comment():
    """On its line, on the line above it, or above its section."""
    source = (runs.ROOT / "jopd" / "setup" / "config.py").read_text()
    comments = commented_lines(source)
    (function,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == "base_config"
    )
    bare = []
    for node in ast.walk(function):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                lines = {key.lineno, key.lineno - 1, value.end_lineno}
                if not lines & comments:
                    bare.append(key.value)
        if isinstance(node, ast.Assign) and not isinstance(node.value, SECTIONS):
            if not {node.lineno, node.lineno - 1} & comments:
                bare.append(ast.unparse(node.targets[0]))
    assert not sorted(set(bare) - PLAIN)


def test_every_key_is_read_somewhere():
    known = keys.flatten(config.base_config())
    modules = (runs.ROOT / "jopd").rglob("*.py")
    source = "\n".join(path.read_text() for path in modules)
    # Without the lines that only define them.
    source = re.sub(r'^\s+"\w+": .*$', "", source, flags=re.MULTILINE)
    source = re.sub(r"^    c\.\w+ = .*$", "", source, flags=re.MULTILINE)
    whole = {"mesh"}  # handed on as keywords
    for key in known:
        last = key.split(".")[-1]
        used = re.search(rf"\.{last}\b|_{last}\b|get\(\"{last}\"", source)
        assert used or key.split(".")[0] in whole, f"{key} is read nowhere"


def test_defaults_survive_a_round_trip(models):
    built = runs.config(models)
    again = json.loads(json.dumps(built.to_dict()))
    assert again["data"]["levels"] == [2]
    assert again["loss"]["opd"]["signal"] == "policy_gradient"


def test_coefficients_follow_their_schedule(models):
    built = runs.config(models, steps=10)
    with built.unlocked():
        built.loss.ramp = dict(
            signal="nll", coef=dict(schedule="linear", value=1.0, end=0.0, steps=4)
        )
        built.loss.off = dict(signal="nll", coef=0.0)
        built.loss.half = dict(signal="nll", coef=0.5)
    found = [schedules.coefficients(built, at) for at in (0, 2, 4, 9)]
    assert [c["ramp"] for c in found] == [1.0, 0.5, 0.0, 0.0]
    assert all(c["half"] == 0.5 and c["opd"] == 1.0 for c in found)
    names = {term.name for term in builders.build_terms(built)}
    assert names == set(found[0]) == set(found[-1]) == {"opd", "half", "ramp"}


def test_a_coefficient_may_rise_and_may_step(models):
    built = runs.config(models, steps=10)
    with built.unlocked():
        for name, schedule in (("up", "linear"), ("curve", "cosine"), ("step", "step")):
            coef = dict(schedule=schedule, value=0.0, end=0.5, steps=4)
            built.loss[name] = dict(signal="nll", coef=coef)
    validation.validate(built)
    found = [schedules.coefficients(built, at) for at in range(7)]
    assert [c["up"] for c in found] == [0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    assert [c["step"] for c in found] == [0, 0, 0, 0, 0.5, 0.5, 0.5]
    curve = [c["curve"] for c in found]
    assert curve[0] == 0 and curve[2] == pytest.approx(0.25) and curve[4:] == [0.5] * 3
    assert curve == sorted(curve)


def test_a_coefficient_may_hold_then_fall_then_end(models):
    """SG-OPD's anchor: phases end at 30 and 35, from 1 to .1."""
    built = runs.config(models, steps=40)
    coef = dict(schedule="hold", value=1.0, end=0.1, hold=30, steps=35)
    built.loss.anchor = dict(signal="nll", coef=coef)
    validation.validate(built)
    found = [schedules.coefficients(built, at)["anchor"] for at in range(40)]
    assert found[:31] == [1.0] * 31 and found[36:] == [0.0] * 4
    want = [0.914058, 0.689058, 0.410942, 0.185942, 0.1]
    assert found[31:36] == pytest.approx(want, abs=1e-6)


def test_a_coefficient_may_warm_up(models):
    """The two of RLSD share their keys and add up to 1 at every update."""
    built = runs.config(models, "rlsd", steps=10)
    coef = built.loss.evidence.coef
    coef.warmup, coef.steps = 3, 7
    assert built.loss.grpo.coef.warmup == 3
    validation.validate(built)
    found = [schedules.coefficients(built, at) for at in range(9)]
    want = [0.125, 0.25, 0.375, 0.5, 0.375, 0.25, 0.125, 0, 0]
    assert [c["evidence"] for c in found] == want
    assert [c["grpo"] for c in found] == [1 - share for share in want]
    coef.warmup = 7
    with pytest.raises(ValueError, match=r"warmup=7 leaves no update before .*steps=7"):
        validation.validate(built)


def test_what_a_term_reads_is_found_by_tracing(models):
    terms = {
        name: dict(signal="policy_gradient", other=None, advantage=advantage)
        for name, advantage in (
            ("reward", "group_reward"),
            ("to_go", "minillm.reward_to_go"),
        )
    }
    terms["coin"] = dict(signal="nll", weights=dict(accepted=dict(other="reference")))
    terms["plain"] = dict(signal="reverse_kl")
    built = runs.config(models)
    built.loss.update(terms)
    read = {t.name: validation.fields_read(t) for t in builders.build_terms(built)}
    assert read["reward"] == {"reward", "group", "mask", "source"}
    assert read["to_go"] == {"logp", "mask", "source"}
    assert read["coin"] == {"logp", "uniform"}
    assert read["plain"] == read["opd"] == set()


def test_a_schedule_that_is_zero_keeps_its_term(models):
    built = runs.config(models)
    with built.unlocked():
        built.loss.off = dict(signal="nll", coef=dict(schedule="constant", value=0.0))
    names = {term.name for term in builders.build_terms(built)}
    assert names == set(schedules.coefficients(built, 0))
