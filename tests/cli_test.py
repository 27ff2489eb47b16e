"""The commands, as a user starts them."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import runs
from jopd import __main__ as jopd_command
from jopd import evaluate

OPD = f"--config={runs.ROOT / 'configs' / 'opd.py'}"


@pytest.fixture
def start(cache, tmp_path):
    def call(module: str, *words: str):
        return subprocess.run(
            runs.command(module, *words),
            env=runs.environment(cache),
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
        )

    return call


def one_error(child) -> str:
    """The only line of standard error that is not a library's."""
    assert child.returncode == 1, child.stdout + child.stderr
    assert "Traceback" not in child.stderr
    lines = [line for line in child.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, child.stderr
    print(lines[0])
    return lines[0]


# generate


def test_generate_is_deterministic_where_it_should_be(models, start):
    model = f"--model={models / 'student'}"
    words = ("--prompt=1+2=", "--prompt=12-3*2=", "--samples=2", "--max_new_tokens=8")
    greedy = start("generate", model, *words, "--temperature=0")
    assert greedy.returncode == 0, greedy.stderr
    assert "transformers" not in greedy.stderr  # nor what it says without PyTorch
    lines = greedy.stdout.splitlines()
    assert len(lines) == 4
    assert lines[0] == lines[1] and lines[0].startswith("1+2=")
    assert lines[2] == lines[3] and lines[2].startswith("12-3*2=")
    sampled = start("generate", model, *words, "--seed=3")
    again = start("generate", model, *words, "--seed=3")
    assert sampled.stdout == again.stdout
    first = sampled.stdout.splitlines()
    assert first[0] != first[1]  # two samples of one prompt


def test_generate_says_what_is_wrong_in_one_line(models, start):
    prompt = "--prompt=1+2="
    assert "is not a directory" in one_error(start("generate", "--model=nope", prompt))
    model = f"--model={models / 'student'}"
    long = one_error(start("generate", model, prompt, "--max_new_tokens=125"))
    assert "exceed the 128 positions" in long and "max_new_tokens=124" in long
    other = one_error(start("generate", model, "--prompt=Once upon a time"))
    assert "cannot be tokenised" in other


def test_generate_needs_its_flags(start):
    said = one_error(start("generate", "--model=nope"))
    assert "--prompt must have a value other than None; --help lists" in said
    given = ("--model=nope", "--prompt=a")
    assert "unexpected argument 'b'; " in one_error(start("generate", *given, "b"))
    assert "flag 'nope'; --help" in one_error(start("generate", *given, "--nope"))
    assert "0 is not a positive" in one_error(start("generate", *given, "--samples=0"))


# evaluate


def test_evaluate_writes_its_numbers(models, start, tmp_path):
    words = (OPD, *runs.flags(models, eval__temperature=0.9, eval__top_p=0.8))
    words += (f"--out={tmp_path / 'found.json'}",)
    child = start("evaluate", f"--model={models / 'teacher'}", *words)
    assert child.returncode == 0, child.stderr
    assert "transformers" not in child.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["reverse_kl"] == pytest.approx(0, abs=1e-6)
    assert found["k"] == 2 and found["prompts"] == 4
    assert (found["temperature"], found["top_p"]) == (0.9, 0.8)
    assert "leak_pattern" not in found  # none was looked for
    texts = runs.rows(tmp_path / "found.jsonl")
    assert [row["greedy"] for row in texts] == [False] * 8 + [True] * 4
    assert all({"prompt", "response", "reward"} <= row.keys() for row in texts)
    assert "truncation rate" in child.stdout


def test_a_start_that_fails_leaves_earlier_numbers(tmp_path):
    out = tmp_path / "found.json"
    evaluate.keep(out, {"k": 2}, [{"response": "7"}])
    evaluate.check_out(out)
    assert json.loads(out.read_text()) == {"k": 2}
    assert runs.rows(tmp_path / "found.jsonl") == [{"response": "7"}]
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match=r"use --out=.*found\.json$"):
        evaluate.check_out(tmp_path / "found.jsonl")
    with pytest.raises(OSError):
        evaluate.check_out(tmp_path / "no" / "found.json")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        evaluate.check_out(tmp_path)


def test_evaluate_says_what_is_wrong_in_one_line(models, start):
    words = (OPD, *runs.flags(models))
    said = one_error(start("evaluate", "--model=nope", *words))
    assert "nope is not a directory" in said
    said = one_error(start("evaluate", "--model=nope", OPD, "--config.eval.kk=3"))
    assert "unknown key --config.eval.kk; did you mean eval.k" in said


# main


def test_main_takes_overrides_and_names_the_run(models, start, tmp_path):
    changes = {"steps": 1, "rollout__temperature": 0.8, "loss__opd__clip_low": 0.5}
    child = start("main", OPD, *runs.flags(models, **changes))
    assert child.returncode == 0, child.stdout + child.stderr
    assert "transformers" not in child.stderr
    written = json.loads((tmp_path / "runs" / "opd" / "config.json").read_text())
    assert written["rollout"]["temperature"] == 0.8
    assert written["objective"]["temperature"] == 0.8  # follows
    metrics = (tmp_path / "runs" / "opd" / "metrics.jsonl").read_text().splitlines()
    logged = json.loads(metrics[1])
    assert logged["ratio/mean"] == pytest.approx(1, abs=1e-4)
    assert logged["epoch"] == pytest.approx(2 / 40)  # prompts of a step, of all
    assert written["loss"]["opd"]["clip_low"] == 0.5
    assert written["data"]["levels"] == [2]
    assert (tmp_path / "runs" / "opd" / "report.html").exists()


def test_main_without_a_config(start):
    assert "--config must have a value other than None" in one_error(start("main"))


def test_main_with_words_it_does_not_know(start):
    said = one_error(start("main", OPD, "steps=3"))
    assert "unexpected argument 'steps=3'; keys are --config.KEY=..." in said


def test_main_with_a_key_that_does_not_exist(start):
    said = one_error(start("main", OPD, "--config.rollout.temprature=0.8"))
    assert "unknown key --config.rollout.temprature" in said
    assert "did you mean rollout.temperature" in said


def test_main_with_a_value_of_another_type(start):
    said = one_error(start("main", OPD, "--config.steps=many"))
    assert "steps='many' must be a whole number, at least 1" in said


def test_main_with_a_key_as_a_flag(start):
    said = one_error(start("main", OPD, "--steps=3"))
    assert "unknown flag --steps=3; did you mean --config.steps=...?" in said


def test_main_with_a_config_that_does_not_exist(start):
    said = one_error(start("main", "--config=nope.py", "--config.steps=3"))
    assert "--config cannot be read" in said and "nope.py" in said


def test_main_with_a_mistake_in_the_config_shows_its_line(start, tmp_path):
    lines = (
        "from jopd.config import base_config",
        "def get_config():",
        "    c = base_config()",
        "    c.optimizer.learning_rat = 1.0",
        "    return c",
    )
    Path(tmp_path, "mine.py").write_text("\n".join(lines))
    child = start("main", "--config=mine.py")
    assert child.returncode == 1
    assert "c.optimizer.learning_rat = 1.0" in child.stderr
    assert 'Did you mean "learning_rate"' in child.stderr


def test_main_with_bad_input_ends_in_one_line(models, start):
    words = runs.flags(models, student__path="nowhere")
    assert "nowhere is not a directory" in one_error(start("main", OPD, *words))


def test_help_lists_flags_and_keys(start):
    child = start("main", "--help", "--config=opd_plus")
    assert child.returncode == 0, child.stderr
    assert "--workdir" in child.stdout and "runs/<config name>" in child.stdout
    assert "flags:\n  --config: " in child.stdout and "main.py:" not in child.stdout
    assert "rollout.max_new_tokens=64" in child.stdout
    assert "passes over the training prompts" in child.stdout
    assert "loss.opd.advantage.function=opd_plus.corrected" in child.stdout


# jopd


def call(*words: str):
    command = [sys.executable, "-m", "jopd", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=runs.ROOT)


def test_one_command_for_all():
    shown = call("--help")
    assert shown.returncode == 0
    assert all(f"  jopd {name} " in shown.stdout for name in jopd_command.COMMANDS)
    wrong = call("trian")
    assert wrong.returncode == 1 and wrong.stderr.count("\n") == 1
    assert "'trian'; known: train, " in wrong.stderr


@pytest.mark.parametrize("name", jopd_command.COMMANDS)
def test_every_command_has_a_page_of_its_own(name):
    child = call(name, "--help")
    assert child.returncode == 0, child.stderr
    module = jopd_command.COMMANDS[name][0]
    about = importlib.util.find_spec(module).loader.get_source(module)
    assert child.stdout.startswith(ast.get_docstring(ast.parse(about)))
    assert "\n\nflags:\n  --" in child.stdout
    assert "helpfull" not in child.stdout and ".py:" not in child.stdout
    declared = re.findall(r'DEFINE_\w+\(\s*"(\w+)"', about)
    assert declared and all(f"  --{flag}: " in child.stdout for flag in declared)


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_command_prints_its_config(name):
    model = ["--model=nope"] if name == "evaluate" else []
    child = call(name, *model, "--config=opd", "--print_config", "--config.steps=7")
    assert child.returncode == 0, child.stderr
    printed = child.stdout.splitlines()
    assert (
        "--config.steps=7" in printed and "--config.loss.opd.clip_high=inf" in printed
    )


def test_every_command_is_a_module_and_installed():
    for module, said in jopd_command.COMMANDS.values():
        assert importlib.util.find_spec(module) and said
    assert '"jopd = jopd.__main__:main"' in (runs.ROOT / "setup.py").read_text()


def test_the_config_that_a_run_keeps_is_told_from_one_to_run(start):
    child = start("main", "--config=runs/b/config.json")
    assert child.returncode == 1
    said = "error: --config=runs/b/config.json is what a run keeps of its config"
    assert said in child.stderr and child.stderr.count("\n") == 1
