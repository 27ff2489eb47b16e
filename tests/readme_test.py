"""The examples of README.md run as they stand, at a small size."""

import json
import re
import shlex
import sys

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from transformers import AutoTokenizer

import runs
from jopd import commandline
from jopd.data import judging
from jopd.setup import experiment
from jopd.training import loop

TEXT = (runs.ROOT / "README.md").read_text()
pytestmark = pytest.mark.usefixtures("plain_charts")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
SMALL = """
config.steps = 1
config.eval.prompts, config.eval.k, config.rollout.prompts_per_step = 4, 2, 2
"""


def test_there_are_examples():
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number, cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = EXAMPLES[number]
    smaller = re.sub(r"^config\.steps = .*$", SMALL, source, flags=re.MULTILINE)
    assert ("train.run" in source) == (smaller != source)
    names = {"__name__": "example"}
    exec(compile(smaller, f"README example {number}", "exec"), names)
    if "summary" in names:
        assert names["summary"]["steps"] == 1
        assert (tmp_path / "runs" / "mine" / "report.html").exists()
    # What a comment says of a printed or returned value is so.
    said = re.findall(r"^(student\..*?)  # (.*)$", source, re.MULTILINE)
    assert bool(said) == ("jopd.load" in source)
    for told, value in said:
        found = eval(told, names)
        shape = re.fullmatch(r"f32\[([\d, ]+)\]", value)
        assert (list(found.shape) if shape else found) == eval(
            value.removeprefix("f32")
        )


# The command for one's own models and data, over random models of that family.

COMMAND = re.search(r"Your own models and data\n\n```sh\n(.*?)```", TEXT, re.DOTALL)[1]
STORY = "A farmer has {} hens, each of which lays an egg a day, and sells them all. "
ASKED = (
    STORY * 3 + "How many eggs does she sell in {} days at 2 dollars each? Explain it."
)


def questions(count: int) -> str:
    """Lines as those of GSM8K, none under 64 tokens."""
    row = lambda n: {
        "question": ASKED.format(n, n, n, n % 7 + 2)[: 180 + n % 90],
        "answer": f"Each day brings <<{n}*2={2 * n}>>{2 * n} dollars.\n#### {2 * n}",
    }
    return "".join(json.dumps(row(n)) + "\n" for n in range(count))


def command_of_readme(folder, monkeypatch, tokenizer, text: str, *further: str):
    """The config that README's command gives, in a folder that has what it names."""
    monkeypatch.chdir(folder)
    words = shlex.split(COMMAND)[2:]
    assert words[0] == "jopd.main"
    given = dict(word.split("=", 1) for word in words if "=" in word)
    shape = dict(max_positions=2048, qkv_bias=True, vocab_size=max_id(tokenizer) + 1)
    for seed, name in enumerate(("student", "teacher")):
        assert given[f"--config.{name}.path"].startswith("Qwen/Qwen2.5-")
        made = runs.make_model(
            folder / name, seed=seed, layers=1 + seed, tokenizer=tokenizer, **shape
        )
        given[f"--config.{name}.path"] = str(made)
    (folder / given["--config.data.path"]).parent.mkdir()
    (folder / given["--config.data.path"]).write_text(text)
    given["--config"] = "stableopd"
    argv = ["main", *(f"{key}={value}" for key, value in given.items()), *further]
    monkeypatch.setattr(sys, "argv", commandline.with_paths(argv))
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
    values(sys.argv)
    return values.config


def max_id(tokenizer) -> int:
    return max(tokenizer.get_vocab().values())


def test_the_command_for_own_models_starts(tmp_path, monkeypatch):
    asked = command_of_readme(
        tmp_path, monkeypatch, runs.byte_tokenizer(), questions(40)
    )
    e = experiment.build(asked)
    lengths = [len(p) for part in (e.rows.train, e.rows.held) for p in part.prompts]
    assert len(lengths) == 40 and min(lengths) > 64
    assert max(lengths) <= e.widths.prompts[-1] < max(lengths) + 8
    assert e.rows.train.texts[0].startswith("<|im_start|>user\nA farmer has")
    assert all(solution is not None for solution in e.rows.train.solutions)
    asked = judging.Asked(["That makes \\boxed{6}"], [e.rows.train.answers[3]])
    assert judging.judge(e.rows.verifier, asked)[0] == [1.0]


@pytest.mark.slow
def test_the_command_for_own_models_trains_on_gsm8k(shared, tmp_path, monkeypatch):
    qwen = AutoTokenizer.from_pretrained(shared / "tokenizers" / "qwen3")
    template = shared / "tokenizers" / "chat_templates" / "qwen2_5.jinja"
    qwen.chat_template = template.read_text()
    text = (shared / "gsm8k" / "train.jsonl").read_text()
    small = ("steps=1", "rollout.prompts_per_step=2", "rollout.max_new_tokens=16")
    small += ("rollout.group_size=2", "eval.prompts=2", "eval.k=2", "mix.gold=0.0")
    words = [f"--config.{word}" for word in small]
    words += ["--config.loss.gold.coef=0.0"]
    asked = command_of_readme(tmp_path, monkeypatch, qwen, text, *words)
    found = loop.run(asked, tmp_path / "run")
    assert found["steps"] == 1 and np.isfinite(found["after"]["reverse_kl"])
