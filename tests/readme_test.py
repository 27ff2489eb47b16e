"""The examples of README.md run as they stand, at a small size."""

import re

import pytest

import runs

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
