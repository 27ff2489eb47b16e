"""The study tool: its statistics, its tuning, and one small study from end to end."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import runs

sys.path.insert(0, str(runs.ROOT / "tools"))  # a folder of commands, not a package
import study
from studying import finished, numbers, page, reading, verdicts

from jopd.setup import inputs, overrides, validation
from jopd.training import origins


def test_interval_is_students():
    values = [0.1, 0.4, 0.5, 0.9]
    mean, half = numbers.interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert mean == pytest.approx((low + high) / 2)
    assert half == pytest.approx((high - low) / 2)
    assert np.isnan(numbers.interval([0.3])[1])


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
    assert numbers.shown(values, key) == want


def test_numbers_of_a_run():
    rows = [{"step": 1, "x": 3.0}, {"step": 2, "x": None}, {"step": 3, "x": 1.0}]
    summary = {"updates": rows, "steps": 3, "before": {"a": 1}, "after": {"a": 2}}
    keys = ("mean x", "max x", "min x", "last x", "steps", "before.a", "a", "mean y")
    found = [numbers.value_of(summary, key) for key in keys]
    np.testing.assert_array_equal(found, [2, 3, 1, 1, 3, 1, 2, np.nan])


def test_a_curve_of_seeds_that_log_different_updates():
    seeds = [
        [{"step": s, "x": s + seed} if s in steps else {"step": s} for s in range(1, 6)]
        for seed, steps in enumerate(((1, 2, 4), (2, 3, 4)))
    ]
    made = [{"updates": rows} for rows in seeds]
    found = page.curve(made, "x")
    want = [[1, 2, 3, 4], [1, 2.5, 4, 4.5], [1, 2, 4, 4], [1, 3, 4, 5]]
    np.testing.assert_array_equal(found, want)
    assert page.curve(made, "y") is None


def test_a_curve_of_some_seeds_says_of_which():
    """Runs kept for another page may lack the updates of a metric."""
    made = [
        {"seed": s, "updates": [{"step": 1, "x": 1} if s > 2 else {}]}
        for s in (0, 3, 4)
    ]
    assert page.curve_name("OPD", made, "x") == "OPD, seed 3 and 4"
    assert page.curve_name("OPD", made[1:], "x") == "OPD"


def test_the_best_rate_is_the_lowest_of_equals_and_never_a_diverged_one():
    assert page.chosen({1e-3: 0.5, 1e-4: 0.5, 1e-2: 0.1}) == 1e-4
    assert page.chosen({1e-3: -np.inf, 1e-2: 0.1}) == 1e-2
    assert page.chosen({}) is None
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
    for name in made.arms:
        words = study.command(made, name, 0, None, path)
        rest, given = overrides.split(words)
        file = next(w for w in rest if w.startswith("--config=")).partition("=")[2]
        config = runs.runpy.run_path(file)["get_config"]()
        before = config.to_dict()
        overrides.apply(config, given)
        assert config.to_dict() != before
        validation.validate(config.lock())


# Enough of a file for ``load``.
PLAIN = "TITLE, ABOUT, SEEDS, METRICS = 'T', 'A', (0, 1), {'avg_at_k': 'avg'}\n"
ARMS = "ARMS = {'OPD': dict(config='opd'), 'GKD': dict(config='gkd')}\n"


def plain(tmp_path, text: str = "") -> reading.Study:
    (tmp_path / "s.py").write_text(PLAIN + ARMS + text)
    return study.load(str(tmp_path / "s.py"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ARMS['GKD']['seed'] = 3", "arm 'GKD' has .'seed'.; an arm has"),
        ("ARMS['GKD']['config'] = 'gdk'", "there is no config .*gdk.py"),
        ("BASELINE = 'ODP'", "baseline 'ODP' of 'OPD' is no arm"),
        ("ARMS['GKD']['baseline'] = 'X'", "baseline 'X' of 'GKD' is no arm"),
        ("START = 'X'", "START='X' is no arm; arms are OPD, GKD"),
        ("EQUAL = ('steps',)", "EQUAL names 'steps'; what can be equal: updates"),
        ("CLAIMS = {'c': dict(arm='OPD')}", "claim 'c' has .'arm'., and needs"),
        (
            "CLAIMS = {'c': dict(arm='GKD', against='X', metric='a', direction='up')}",
            "claim 'c': 'X' is no arm, nor 'before'",
        ),
        (
            "CLAIMS = {'c': dict(arm='GKD', against='OPD', metric='', direction='up')}",
            "direction='up'; it is 'higher' or 'lower'",
        ),
        (
            "ARMS['GKD']['rate_of'] = 'X'",
            "rate_of='X' is no arm with a rate of its own",
        ),
        ("ARMS['GKD']['rate_of'] = 'GKD'", "'GKD' is no arm with a rate of its own"),
        ("GRID, TUNE_SEED = (1, 2), 1", "TUNE_SEED=1 is a reported seed of 'OPD'"),
    ],
)
def test_what_a_study_cannot_mean_is_one_line(tmp_path, text, said):
    with pytest.raises(SystemExit, match=said):
        plain(tmp_path, text)


def test_a_config_is_a_shipped_one_or_any_file(tmp_path):
    own = tmp_path / "mine.py"
    own.write_text("")
    made = plain(tmp_path, f"ARMS['GKD']['config'] = {str(own)!r}")
    assert f"--config={own}" in study.command(made, "GKD", 0, None, tmp_path)
    shipped = f"--config={runs.ROOT / 'configs' / 'opd.py'}"
    assert shipped in study.command(made, "OPD", 0, None, tmp_path)


class Rates:
    """A runner whose score is highest at ``best``; keeps what it was asked for."""

    def __init__(self, **best):
        self.best, self.asked = best, []

    def all(self, asked):
        self.asked += asked
        near = lambda arm, rate: -abs(np.log(rate / self.best[arm]))
        return [{"after": {"avg_at_k": near(arm, rate)}} for arm, _, rate in asked]


def test_a_grid_grows_until_the_best_rate_is_inside_or_the_limit(tmp_path):
    made = plain(tmp_path, "GRID, WIDEN = (1e-3, 5e-3, 1e-2), 2")
    runner = Rates(OPD=5e-3, GKD=1.0)
    scores = study.tune(made, runner)
    assert sorted(scores["OPD"]) == [1e-3, 5e-3, 1e-2]  # inside from the start
    assert sorted(scores["GKD"]) == [1e-3, 5e-3, 1e-2, 2e-2, 4e-2]
    assert not page.on_border(scores["OPD"]) and page.on_border(scores["GKD"])
    assert {seed for _, seed, _ in runner.asked} == {made.tune_seed}
    assert len(runner.asked) == len(set(runner.asked)) == 3 + 5
    words = page.grid_words(made, scores)
    assert "**Still on the border**: GKD." in words and "at most 2 times" in words
    low = study.tune(made, Rates(OPD=2e-4, GKD=5e-3))["OPD"]
    assert sorted(low) == [4e-5, 2e-4, 1e-3, 5e-3, 1e-2]  # one outside, then inside
    assert page.chosen(low) == 2e-4 and not page.on_border(low)
    table = page.grid_table({"OPD": low, "GKD": {1e-3: 0.0}})
    assert table.count("**") == 4 and "| GKD | – | – | **0.000** | – | – |" in table
    unwidened = Rates(OPD=1.0, GKD=1.0)
    study.tune(made._replace(widen=0), unwidened)
    assert len(unwidened.asked) == 6
    one = Rates(OPD=1.0, GKD=1.0)
    study.tune(made._replace(grid=(1e-3,)), one)  # no ratio, nothing to widen by
    assert len(one.asked) == 2


def test_a_tuning_run_that_diverged_is_the_worst_and_not_run_again(
    tmp_path, monkeypatch
):
    made = plain(tmp_path, "GRID = (1e-3, 1e-2)")
    started = []

    def start(self, words, log):
        started.append(words)
        log.write_text(
            "error: step 3: the run stops. Lower\noptimizer.learning_rate, or"
        )
        return 1

    monkeypatch.setattr(study.Runner, "start", start)
    runner = study.Runner(made, tmp_path, tmp_path / "kept")
    for _ in range(2):
        assert study.score(made, runner.one("OPD", 1000, 1e-2)) == -np.inf
    assert len(started) == 1
    with pytest.raises(SystemExit, match="OPD seed 0 failed"):
        runner.one("OPD", 0, 1e-2)


def run(seed, before, after, prompts="p", **numbers) -> dict:
    """What a run leaves whose prompts earned ``before`` and ``after``, f[N, K]."""
    phases = {"before": np.asarray(before, float), "after": np.asarray(after, float)}
    earned = {
        phase: {"prompts": prompts, "greedy": r[:, 0].tolist(), "sampled": r.tolist()}
        for phase, r in phases.items()
    }
    summary = {
        phase: {"accuracy": r[:, 0].mean(), "avg_at_k": r.mean()}
        for phase, r in phases.items()
    }
    return summary | {"evaluation": earned, "seed": seed} | numbers


def test_differences_are_paired_by_seed_and_by_prompt():
    rng = np.random.default_rng(0)
    drawn = lambda: rng.integers(0, 2, (6, 3)).astype(float)
    ones = [run(seed, drawn(), drawn()) for seed in (0, 1, 2)]
    twos = [run(seed, drawn(), drawn()) for seed in (2, 1, 5)]
    found = verdicts.difference(ones, twos, "avg_at_k", "avg_at_k")
    pairs = [(ones[1], twos[1]), (ones[2], twos[0])]  # seeds 1 and 2
    sampled = lambda run: numbers.by_prompt(run, "avg_at_k")[1]
    deltas = np.array([sampled(a) - sampled(b) for a, b in pairs])
    assert found.seeds == 2 and found.prompts == 6
    assert found.mean == pytest.approx(deltas.mean())
    assert found.over_seeds == pytest.approx(numbers.interval(deltas.mean(1))[1])
    assert found.over_prompts == pytest.approx(numbers.interval(deltas.mean(0))[1])
    itself = verdicts.difference(ones, ones, "accuracy", "before.accuracy")
    want = [r["after"]["accuracy"] - r["before"]["accuracy"] for r in ones]
    assert itself.mean == pytest.approx(np.mean(want))


def test_prompts_are_only_paired_where_they_are_the_same():
    a, b = np.array([1.0, 0.0]), np.array([0.0, 0.0])
    same = verdicts.prompt_deltas([(("p", a), ("p", b)), (("p", b), ("p", b))])
    np.testing.assert_array_equal(same, [0.5, 0])
    apart = verdicts.prompt_deltas([(("p", a), ("p", b)), (("q", b), ("q", b))])
    np.testing.assert_array_equal(apart, [1, 0, 0, 0])
    assert verdicts.prompt_deltas([(("p", a), ("q", b))]) is None
    assert verdicts.prompt_deltas([(("p", a), None)]) is None


def test_what_a_prompt_counts_for():
    one = run(0, [[0, 0]], [[0, 1]])
    found = {key: numbers.by_prompt(one, key)[1][0] for key in numbers.PER_PROMPT}
    assert found == {"accuracy": 0, "avg_at_k": 0.5, "pass_at_k": 1}
    assert numbers.by_prompt(one, "before.pass_at_k")[1][0] == 0
    assert numbers.by_prompt(one, "reverse_kl") is None
    of_an_older_release = one | {"evaluation": {}}
    assert numbers.by_prompt(of_an_older_release, "accuracy") is None


@pytest.mark.parametrize(
    ("mean", "seeds", "prompts", "higher", "lower"),
    [
        (2.0, 1.0, 1.5, "confirmed", "contradicted"),
        (2.0, 1.0, 2.5, "not seen", "not seen"),
        (2.0, 2.5, 1.0, "not seen", "not seen"),
        (-2.0, np.nan, 1.0, "contradicted", "confirmed"),
        (-2.0, 1.0, np.nan, "contradicted", "confirmed"),
        (2.0, np.nan, np.nan, "not decided", "not decided"),
        (np.nan, np.nan, 1.0, "not decided", "not decided"),
        (0.0, 0.0, 0.0, "not seen", "not seen"),
    ],
)
def test_verdicts_are_two_sided(mean, seeds, prompts, higher, lower):
    found = verdicts.Difference(mean, seeds, 3, prompts, 8)
    assert verdicts.verdict(found, "higher") == higher
    assert verdicts.verdict(found, "lower") == lower


def test_lines_say_what_an_arm_is_worth(tmp_path):
    start = np.zeros((8, 1))
    results = {
        "OPD": [run(seed, start, start) for seed in (0, 1)],
        "GKD": [run(seed, start, start + 1) for seed in (0, 1)],
    }
    made = plain(
        tmp_path,
        "BASELINE = 'OPD'\n"
        "CLAIMS = {'GKD teaches': dict(arm='GKD', against='before',\n"
        "                              metric='accuracy', direction='higher'),\n"
        "          'OPD is better': dict(arm='OPD', against='GKD',\n"
        "                                metric='avg_at_k', direction='higher')}",
    )
    first, second = verdicts.arm_lines(made, results).splitlines()
    assert first.endswith("no gain over its student is seen.")
    gain = "+100.0 (± 0.0 over 2 seeds, ± 0.0 over 8 prompts)"
    assert second == (
        f"- **GKD**, avg_at_k 0.0 ± 0.0 -> 100.0 ± 0.0: {gain}, improves its student; "
        f"{gain} to OPD, beats it."
    )
    rows = verdicts.claims_table(made, results).splitlines()[2:]
    assert rows[0] == (
        f"| GKD teaches | accuracy, GKD - before: {gain} | **confirmed** |"
    )
    assert rows[1].startswith("| OPD is better |") and "**contradicted**" in rows[1]


def test_budgets_that_differ_are_said(tmp_path):
    mix = {"student": 1.0, "on_policy_probability": 0.5, "updates_per_rollout": 1}
    config = {"rollout": {"prompts_per_step": 4, "group_size": 2}, "mix": mix}
    one = run(0, [[0]], [[0]], steps=10, wall_seconds=3.0, config=config)
    one |= {"tokens_sampled": 100, "teacher_tokens": 104}
    two = one | {"tokens_sampled": 104, "teacher_tokens": 200}
    had = page.budgets({"OPD": [one], "GKD": [two]})
    assert "| OPD | 10 | 40 | 100 | 104 | 3 |" in page.budget_table(had)
    made = plain(tmp_path, "EQUAL = ('updates', 'tokens_sampled', 'teacher_tokens')")
    assert page.equality(made, had) == (
        "Equal between the arms: updates, tokens sampled, teacher tokens. "
        "**The teacher tokens are not**: from 104 to 200."
    )


def test_a_tuning_seed_must_not_be_reported(tmp_path):
    text = (runs.ROOT / "tools" / "studies" / "bundled.py").read_text()
    (tmp_path / "s.py").write_text(text.replace("TUNE_SEED = 1000", "TUNE_SEED = 2"))
    with pytest.raises(SystemExit, match="TUNE_SEED=2 is a reported seed"):
        study.load(str(tmp_path / "s.py"))


def pretend(self, words, log) -> int:
    """A run that earns the more the nearer its rate is to 4e-3, GKD more than OPD.

    What is measured of it besides, is its number of rows in ``x``.
    """
    given = dict(word.removeprefix("--config.").split("=", 1) for word in words[3:])
    if "jopd.evaluate" in words:
        run_of = type(log)(given["--model"]).parent
        found = len((run_of / "metrics.jsonl").read_text().splitlines())
        type(log)(given["--out"]).write_text(json.dumps({"x": found, "y": None}))
        return given["data.path"] == "broken"
    seed, rate = int(given["seed"]), float(given["optimizer.learning_rate"])
    near = {2e-3: 2, 4e-3: 4}.get(rate, 1)
    earned = np.arange(8) < near + seed % 2 + 2 * ("gkd" in given["--config"])
    numbers = dict(steps=5, tokens_sampled=10, teacher_tokens=10, wall_seconds=1.0)
    made = run(seed, np.zeros((8, 1)), earned[:, None], **numbers)
    config = study.config_today(words)
    rows = [{"step": step, "loss": 1.0 / (step + 1), "x": 1} for step in range(6)]
    files = {"evaluation": made.pop("evaluation"), "config": config, "summary": made}
    folder = type(log)(given["--workdir"])
    folder.mkdir(parents=True)
    for name, what in files.items():
        (folder / f"{name}.json").write_text(json.dumps(what))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return 0


PRETENDED = (
    "GRID, BASELINE, CURVES = (1e-3, 2e-3), 'OPD', {'loss': 'loss'}\n"
    "COMMON = {'rollout.prompts_per_step': 1, 'rollout.group_size': 2}\n"
    "JUDGED = ('accuracy',)\n"
    "CLAIMS = {'GKD > OPD': dict(arm='GKD', against='OPD', metric='avg_at_k',\n"
    "                            direction='higher')}\n"
)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs tools/study.py with ``PRETENDED`` in this process: jobs -> the page."""
    monkeypatch.setattr(study.Runner, "start", pretend)

    def go(jobs: int, text: str = PRETENDED) -> str:
        plain(tmp_path, text)
        words = [tmp_path / "s.py", f"--out={tmp_path / 'runs'}", f"--jobs={jobs}"]
        words = ["study.py", *map(str, words), f"--page={tmp_path / 'page.md'}"]
        monkeypatch.setattr(sys, "argv", words)
        study.main()
        return (tmp_path / "page.md").read_text()

    return go


def test_a_study_of_pretended_runs_from_its_file_to_its_page(command, tmp_path, capsys):
    text = command(jobs=2)
    made = {place.name for place in (tmp_path / "runs" / "GKD").iterdir()}
    # On from 2e-3, until 4e-3 has a worse one on both sides.
    tuned = {f"seed1000-lr{rate}" for rate in ("0.001", "0.002", "0.004", "0.008")}
    assert made == tuned | {"seed0-lr0.004", "seed1-lr0.004"}
    assert "| OPD | 2 | 56.2 ± 79.4 |" in text and "Still on the border" not in text
    claim = "+25.0 (± 0.0 over 2 seeds, ± 31.6 over 8 prompts)"
    assert f"| GKD > OPD | avg_at_k, GKD - OPD: {claim} | **not seen** |" in text
    assert "- **GKD**, accuracy 0.0 ± 0.0 -> 81.2 ± 79.4: +81.2" in text
    assert "| OPD | 5 | 10 | 10 | 10 | 1 |" in text
    assert "**not seen**" in capsys.readouterr().out


def test_what_is_kept_draws_the_same_page_on_another_machine(command, tmp_path):
    first = command(jobs=2)
    shutil.rmtree(tmp_path / "runs")
    assert command(jobs=0) == first
    file = tmp_path / "page" / "GKD" / "seed0-lr0.004.json.gz"
    assert file.stat().st_size < 5_000
    kept = finished.kept(file)
    assert kept["updates"][-1] == {"step": 5, "loss": 1 / 6}  # what is read, no more
    # The next arm is run, the others are not.
    more = PRETENDED + "ARMS['B'] = dict(config='opd', overrides={'loss.opd.coef': 2})"
    assert "**Not run yet**: B (seeds 0, 1)." in command(jobs=0, text=more)
    assert "Not run yet" not in command(jobs=1, text=more)
    one = more + "\nARMS['B']['seeds'] = (1,)"
    assert "which another seed may turn: B." in command(jobs=1, text=one)
    assert [place.name for place in (tmp_path / "runs").iterdir()] == ["B"]


def test_students_are_measured_on_other_rows_too(command, tmp_path):
    text = PRETENDED + "METRICS['words.x'] = 'rows'\n"
    also = text + "ALSO = {'words': {'data.path': 'task:words'}}\n"
    page = command(jobs=1, text=also)
    assert "| 56.2 ± 79.4 | 6.000 ± 0.000 |" in page
    # Not where rates are tuned; and once only, kept with the run.
    assert len(list((tmp_path / "runs").rglob("also-words.json"))) == 4
    shutil.rmtree(tmp_path / "runs")
    assert command(jobs=0, text=also) == page
    # A run that was not measured yet is not done.
    shutil.rmtree(tmp_path / "page")
    command(jobs=1, text=text)
    shutil.rmtree(tmp_path / "page")
    with pytest.raises(SystemExit, match="no run of"):
        command(jobs=0, text=also)
    assert command(jobs=1, text=also) == page


def test_an_arm_less_a_part_has_the_rate_of_the_whole(command, tmp_path):
    more = "ARMS['part'] = dict(config='opd', rate_of='GKD')"
    text = command(jobs=1, text=PRETENDED + more)
    made = {place.name for place in (tmp_path / "runs" / "part").iterdir()}
    assert made == {"seed0-lr0.004", "seed1-lr0.004"}
    assert "part has the rate of GKD." in text and "| part | –" not in text


def test_a_run_of_another_page_is_not_run_again_nor_kept_twice(command, tmp_path):
    command(jobs=1)
    (tmp_path / "page").rename(tmp_path / "other")
    shutil.rmtree(tmp_path / "runs")
    shared = "ARMS['GKD']['kept'] = 'other/GKD'\nARMS['OPD']['kept'] = 'other/OPD'"
    text = command(jobs=0, text=PRETENDED + shared)
    assert "| OPD | 2 | 56.2 ± 79.4 |" in text and "Not run yet" not in text
    # One that the other page lacks is made, and left where it looks for it.
    file = tmp_path / "other" / "GKD" / "seed1-lr0.004.json.gz"
    file.unlink()
    assert command(jobs=1, text=PRETENDED + shared) == text
    assert file.exists() and not (tmp_path / "page").exists()
    changed = PRETENDED + shared + "\nCOMMON['steps'] = 7"
    with pytest.raises(SystemExit, match=r"other/.*gz was made with another steps"):
        command(jobs=0, text=changed)


def test_a_run_with_another_config_than_todays_is_refused(command, tmp_path):
    command(jobs=1)
    other = PRETENDED + "ARMS['GKD']['overrides'] = {'rollout.max_new_tokens': 5}"
    with pytest.raises(SystemExit, match=r"with another rollout.max_new_tokens than"):
        command(jobs=0, text=other)
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(SystemExit, match=r"gz was made with another rollout.max_new"):
        command(jobs=0, text=other)
    shutil.rmtree(tmp_path / "page")
    with pytest.raises(SystemExit, match=r"no run of .*s.py is in"):
        command(jobs=0)


def test_what_makes_a_kept_run_another_one():
    pair = {role: {"path": f"demo:{role}"} for role in ("student", "teacher")}
    then = {"steps": 5, "data": {"date": "a", "size": 2}, "loss": {}} | pair
    today = then | {"data": {"date": "b", "size": 2}, "later": 1}
    then = {"config": then, "inputs": {}}
    assert finished.changed(then, today) == []
    assert finished.changed(then, today | {"steps": 6}) == ["steps"]
    assert finished.changed(then, today | {"data": {"date": "b"}}) == ["data.size"]
    there = origins.of_model(inputs.model_path("demo:student"))
    of = lambda **models: (
        then | {"inputs": {f"the model {k}": v for k, v in models.items()}}
    )
    assert finished.changed(of(student=there), today) == []
    assert finished.changed(of(teacher=there), today) == ["teacher (demo:teacher)"]
    gone = today | {"teacher": {"path": "no/such/folder"}}
    assert finished.changed(of(teacher=there), gone) == ["teacher.path"]


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
        "BASELINE, WIDEN = 'A', 1\n"
        "CLAIMS = {'B is right more often': dict(arm='B', against='before',\n"
        "          metric='avg_at_k', direction='higher')}\n"
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
    assert printed.count("jopd.main") == 4 + 2 + 3  # two rates are always a border
    kls = [
        json.loads(path.read_text())["after"]["reverse_kl"]
        for path in sorted((tmp_path / "runs" / "A").glob("seed[01]-lr*/summary.json"))
    ]
    assert len(kls) == 2
    assert f"| A | 2 | {numbers.shown(kls, 'reverse_kl')} |" in page
    befores = [
        json.loads(path.read_text())["before"]["reverse_kl"]
        for path in sorted((tmp_path / "runs" / "A").glob("seed[01]-lr*/summary.json"))
    ]
    line = f"| student before | 2 | {numbers.shown(befores, 'reverse_kl')} | – |"
    assert line in page and page.index(line) < page.index("| A | 2 |")
    assert "| B | 1 |" in page and "±" not in page.split("| B | 1 |")[1].split("\n")[0]
    rates = page.split("## Learning rates")[1].split("## Curves")[0]
    best = [line for line in rates.splitlines() if line.startswith("|")]
    assert "".join(best).count("**") == 4, "one best rate for each arm"
    assert len(list((tmp_path / "runs" / "B").glob("seed3-lr*/evaluation.json"))) == 1
    assert "| B is right more often | avg_at_k, B - before: " in page
    assert "- **A**, reverse_kl " in page and "over 2 seeds" in page
    assert "Equal between the arms: updates, rollouts." in page
    assert (tmp_path / "page.png").stat().st_size > 5_000
    again, same = go()
    assert "jopd.main" not in again and same == page


def test_a_key_that_has_another_name_today_is_no_change():
    was = {"loss": {"a": {"weights": {"has_peer": {}}}}}
    models = {role: {"path": ""} for role in ("student", "teacher")}
    for weights, differ in [
        ({"has_context": {"of": "self"}}, []),
        ({"finished": {}}, ["loss.a.weights.has_peer"]),
    ]:
        now = {"loss": {"a": {"weights": weights}}} | models
        assert finished.changed({"config": was, "inputs": {}}, now) == differ
