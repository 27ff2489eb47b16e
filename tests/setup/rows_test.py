"""Which rows a run reads, and how wide they are."""

import json

import pytest

import runs
from jopd.setup import rows
from jopd.teachers import roles

POSITIONS = {"student": 128, "teacher": 128, "self": 128}


@pytest.fixture(scope="module")
def digits():
    return runs.bundled_tokenizer()


def sums(terms: int, count: int) -> list[dict]:
    """Chains of ``2 * terms + 2`` tokens, ``#7`` the solution of all."""
    ones = "+1" * terms
    made = [{"prompt": f"{n}{ones}=", "solution": "#7"} for n in range(1, count + 1)]
    return [row | {"answer": "7"} for row in made]


def written(path, found: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(path)


def read(models, tokenizer, *, known=None, method="opd", **changes) -> rows.Rows:
    made = runs.config(models, method, **changes)
    return rows.read_rows(made, tokenizer, known or {}, None, POSITIONS)


# How long prompts may be.


def test_the_limit_of_prompts_is_chosen_from_the_data(models, digits, tmp_path):
    path = written(tmp_path / "a.jsonl", sums(3, 9) + sums(40, 1))
    found = read(models, digits, data__path=path)
    lengths = [len(p) for part in (found.train, found.held) for p in part.prompts]
    assert sorted(lengths) == [8] * 9 + [82]
    # Whoever drops or cuts does so where positions end: 128 - 50 are left.
    long = dict(data__path=path, rollout__max_new_tokens=50)
    found = read(models, digits, **long, data__on_long_prompt="drop")
    assert max(len(p) for p in found.train.prompts) == 8
    assert found.train.dropped["prompt"] + found.held.dropped["prompt"] == 1
    found = read(models, digits, **long, data__on_long_prompt="truncate_left")
    assert 78 in [len(p) for part in (found.train, found.held) for p in part.prompts]


def test_a_context_is_as_long_as_its_rows_need(models, digits, tmp_path):
    path = written(tmp_path / "a.jsonl", sums(3, 9) + sums(15, 9))
    seen = roles.Teacher(weights="ema", context="{question}{peer};{question}")
    own = roles.Teacher(weights="initial", context="{question}{answer};{question}")
    known = {"self": seen, "teacher": own}
    found = read(models, digits, known=known, data__path=path)
    assert max(len(p) for p in found.own_prompts["teacher"][0].prompts) == 66
    # Twice 32 tokens, the mark between, and a peer of 20: 85, in steps of 8.
    assert found.peers.widths == (48, 88)
    found = read(
        models, digits, known=known, data__path=path, rollout__max_new_tokens=55
    )
    assert found.peers.widths == (40, 72)  # 120, but 128 positions hold 73
    found = read(
        models, digits, known=known, data__path=path, data__max_prompt_tokens=60
    )
    assert found.peers.widths == (40, 80)


def test_the_bundled_widths_stay(models, digits):
    """Padding is of the numbers: another width rounds differently."""
    made = runs.config(models, "sdpo", rollout__max_new_tokens=64)
    known = {"self": roles.Teacher(context=made.teachers.self.context)}
    found = rows.read_rows(made, digits, known, None, POSITIONS)
    assert found.peers.widths == (64, 128)
