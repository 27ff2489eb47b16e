"""The study tool: its statistics, its tuning, and one small study from end to end."""

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import runs

sys.path.insert(0, str(runs.ROOT / "tools"))  # a folder of commands, not a package
import study

from jopd.setup import validation


def test_interval_is_students():
    values = [0.1, 0.4, 0.5, 0.9]
    mean, half = study.interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert mean == pytest.approx((low + high) / 2)
    assert half == pytest.approx((high - low) / 2)
    assert np.isnan(study.interval([0.3])[1])


@pytest.mark.parametrize(
    ("values", "key", "want"),
    [
        ([0.5, 0.7], "accuracy", "60.0 ± 127.1"),
        ([0.25], "truncation_rate", "25.0"),
        ([0.1234], "reverse_kl", "0.123"),
        ([36.48], "mean_length", "36.5"),
        ([1_940_446.0], "tokens_sampled", "1,940,446"),
        ([np.nan, np.nan], "mean weight/trust", "–"),
    ],
)
def test_cells(values, key, want):
    assert study.shown(values, key) == want


def test_numbers_of_a_run(tmp_path):
    rows = [{"step": 1, "x": 3.0}, {"step": 2, "x": None}, {"step": 3, "x": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    summary = {"folder": tmp_path, "steps": 3, "before": {"a": 1}, "after": {"a": 2}}
    keys = ("mean x", "max x", "min x", "last x", "steps", "before.a", "a", "mean y")
    found = [study.value_of(summary, key) for key in keys]
    np.testing.assert_array_equal(found, [2, 3, 1, 1, 3, 1, 2, np.nan])


def test_a_curve_of_seeds_that_log_different_updates(tmp_path):
    for seed, steps in enumerate(((1, 2, 4), (2, 3, 4))):
        (tmp_path / f"{seed}").mkdir()
        rows = [
            {"step": s, "x": s + seed} if s in steps else {"step": s}
            for s in range(1, 6)
        ]
        text = "\n".join(map(json.dumps, rows))
        (tmp_path / f"{seed}" / "metrics.jsonl").write_text(text)
    folders = [tmp_path / "0", tmp_path / "1"]
    found = study.curve(folders, "x")
    want = [[1, 2, 3, 4], [1, 2.5, 4, 4.5], [1, 2, 4, 4], [1, 3, 4, 5]]
    np.testing.assert_array_equal(found, want)
    assert study.curve(folders, "y") is None


def test_the_best_rate_is_the_lowest_of_equals_and_never_a_diverged_one():
    assert study.chosen({1e-3: 0.5, 1e-4: 0.5, 1e-2: 0.1}) == 1e-4
    assert study.chosen({1e-3: -np.inf, 1e-2: 0.1}) == 1e-2
    assert study.chosen({}) is None
    made = study.load(str(runs.ROOT / "tools" / "studies" / "bundled.py"))
    nan = {"after": {"avg_at_k": float("nan")}}
    assert study.score(made, nan) == -np.inf
    assert (
        study.score(made._replace(best="-reverse_kl"), {"after": {"reverse_kl": 2}})
        == -2
    )


STUDIES = sorted((runs.ROOT / "tools" / "studies").glob("*.py"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_arm_of_a_study_is_a_config_that_validates(path):
    made = study.load(str(path))
    for spec in made.arms.values():
        found = runs.runpy.run_path(str(runs.ROOT / "configs" / f"{spec['config']}.py"))
        config = found["get_config"]()
        changes = {**made.common, **spec.get("overrides", {})}
        for key in changes:  # a flag only changes what the config file gives
            *path, last = key.split(".")
            assert last in functools.reduce(getattr, path, config), key
        config.update_from_flattened_dict(changes)
        assert config.to_dict() != found["get_config"]().to_dict()
        validation.validate(config.lock())


def test_a_tuning_seed_must_not_be_reported(tmp_path):
    text = (runs.ROOT / "tools" / "studies" / "bundled.py").read_text()
    (tmp_path / "s.py").write_text(text.replace("TUNE_SEED = 1000", "TUNE_SEED = 2"))
    with pytest.raises(SystemExit, match="TUNE_SEED=2 is a reported seed"):
        study.load(str(tmp_path / "s.py"))


@pytest.mark.slow
def test_a_small_study_runs_resumes_and_writes_its_page(models, cache, tmp_path):
    small = {key: value for key, value in runs.SMALL.items()}
    common = small | {
        "steps": 2,
        "student.path": str(models / "student"),
        "teacher.path": str(models / "teacher"),
    }
    (tmp_path / "s.py").write_text(
        f"TITLE, ABOUT = 'Small', 'Two arms.'\n"
        f"SEEDS, GRID, TUNE_SEED = (0, 1), (1e-3, 1e-2), 7\n"
        f"COMMON = {common!r}\n"
        "ARMS = {'A': {'config': 'opd'},\n"
        "        'B': {'config': 'gkd', 'seeds': (3,)}}\n"
        "METRICS = {'reverse_kl': 'KL', 'tokens_sampled': 'tokens'}\n"
        "CURVES, BEST, START = {'loss': 'loss'}, '-reverse_kl', 'A'\n"
    )
    words = [
        sys.executable,
        str(runs.ROOT / "tools" / "study.py"),
        str(tmp_path / "s.py"),
    ]
    words += [f"--out={tmp_path / 'runs'}", f"--page={tmp_path / 'page.md'}"]
    words += ["--jobs=2"]

    def go():
        done = subprocess.run(
            words,
            env=runs.environment(cache),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout, (tmp_path / "page.md").read_text()

    printed, page = go()
    assert printed.count("jopd.main") == 4 + 3
    kls = [
        json.loads(path.read_text())["after"]["reverse_kl"]
        for path in sorted((tmp_path / "runs" / "A").glob("seed[01]-lr*/summary.json"))
    ]
    assert len(kls) == 2
    assert f"| A | 2 | {study.shown(kls, 'reverse_kl')} |" in page
    befores = [
        json.loads(path.read_text())["before"]["reverse_kl"]
        for path in sorted((tmp_path / "runs" / "A").glob("seed[01]-lr*/summary.json"))
    ]
    line = f"| student before | 2 | {study.shown(befores, 'reverse_kl')} | – |"
    assert line in page and page.index(line) < page.index("| A | 2 |")
    assert "| B | 1 |" in page and "±" not in page.split("| B | 1 |")[1].split("\n")[0]
    assert page.count("**") == 4, "one best rate for each arm"
    assert (tmp_path / "page.png").stat().st_size > 5_000
    again, same = go()
    assert "jopd.main" not in again and same == page
