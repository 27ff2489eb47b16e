"""The model card says what a run knows, and no more."""

import re

import pytest

from jopd.config import base_config
from jopd.models import files
from jopd.reporting import card
from jopd.training import workdir

BASE = card.Base("Qwen/Qwen3-0.6B@v1", "Qwen/Qwen3-0.6B", {"license": "apache-2.0"})
BEFORE = {"accuracy": 0.25, "intervals": {"accuracy": [0.2, 0.3]}, "prompts": 64}
AFTER = {"accuracy": 0.5, "intervals": {"accuracy": [0.45, 0.55]}, "prompts": 64}
FACTS = card.Facts(
    step=40,
    before=BEFORE,
    after=AFTER,
    after_step=40,
    rows=(7_000, 256),
    teachers={"teacher": "/home/me/big", "self": "the ema student"},
    versions={"jopd": "0.1.0"},
    commit="c0ffee",
)


def config(**changes) -> dict:
    found = base_config()
    found.name = "mine"
    found.seed = 3
    found.loss.opd = dict(signal="policy_gradient", clip_low=0.2)
    found.loss.off = dict(signal="nll", coef=0.0)
    coef = dict(schedule="linear", value=1.0, end=0.5)
    found.loss.gold = dict(signal="nll", source="gold", coef=coef)
    found.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    return workdir.written(found.to_dict())


def written(facts=FACTS, base=BASE, **changes) -> str:
    return card.text(config(**changes), base, facts, files.MARK)


def front_of(text: str) -> list[str]:
    return re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1].splitlines()


def test_the_front_matter_is_what_the_hub_reads():
    assert front_of(written(data__path="openai/gsm8k@refs/pr/2:main")) == [
        "library_name: transformers",
        "base_model: Qwen/Qwen3-0.6B",
        "license: apache-2.0",
        "datasets:",
        "- openai/gsm8k",
        "tags:",
        "- jopd",
        "- on-policy-distillation",
    ]
    local = card.Base("/home/me/qwen", "", {})
    gold = dict(mix__student=0.0, mix__gold=1.0)
    assert front_of(written(base=local, **gold)) == [
        "library_name: transformers",
        "tags:",
        "- jopd",
    ]
    adapter = front_of(written(export__adapter=True))
    assert adapter[0] == "library_name: peft" and adapter[-1] == "- lora"


def test_models_method_data_and_numbers():
    text = written(student__lora__rank=8)
    assert text.split("---\n")[2].strip().startswith(files.MARK)
    assert "| student | `Qwen/Qwen3-0.6B@v1` |" in text
    assert "| self | the ema student |" in text
    assert "Step 40, seed 3, config `mine`, LoRA of rank 8." in text
    assert "| opd | `policy_gradient` | 1 | clip_low=0.2 |" in text
    assert "| gold | `nll` | end=0.5, schedule=linear, value=1 | source=gold |" in text
    assert "| off |" not in text
    assert "`task:arithmetic`: 7,000 prompts for training, 256 held out." in text
    assert "On 64 of the held-out prompts" in text and "at step 40" in text
    assert "| accuracy | 25.0% [20.0, 30.0] | 50.0% [45.0, 55.0] |" in text
    assert "jopd 0.1.0; commit of jopd: c0ffee." in text
    assert text.endswith("Of the base model: apache-2.0.\n")


def test_places_of_the_machine_are_not_told():
    base = card.Base("/home/me/models/student/", "", {})
    path = "/home/me/rows.jsonl,/data/more"
    text = written(base=base, data__path=path)
    assert "/home" not in text and "/data/" not in text
    assert "| student | `student` |" in text and "| teacher | `big` |" in text
    assert "`rows.jsonl`, `more`:" in text and "datasets" not in text


def test_what_is_not_known_is_not_told():
    text = written(card.Facts(3), card.Base("demo:student", "", {}))
    assert "| student | `demo:student`, which comes with jopd |" in text
    assert "| teachers | not recorded |" in text and "rows not recorded" in text
    assert "Versions not recorded; commit of jopd: not recorded." in text
    assert "## Numbers\n\nNot measured." in text
    assert text.endswith("Of the base model: not stated.\n")
    under_way = written(FACTS._replace(after={}))
    assert "These weights were not evaluated" in under_way and "50.0%" not in under_way
    best = written(FACTS._replace(step=20))
    assert "The weights are those of step 20." in best and "at step 40" in best


@pytest.mark.parametrize(
    "names, found",
    [
        ({}, {}),
        ({"README.md": "# Mine\nlicense: mit\n"}, {}),
        ({"README.md": "---\nlicense: mit\n---\n"}, {"license": "mit"}),
        (
            {"README.md": "---\r\nlicense: 'other' # \r\nlicense_name: own\r\n---\r\n"},
            {"license": "other", "license_name": "own"},
        ),
        ({"README.md": "---\nlicense:\n- mit\n---\n"}, {}),
        ({"LICENSE.txt": "\n   Apache License\n"}, {"file": "Apache License"}),
        ({"LICENSE": "\n\n"}, {}),
        ({"README.md": b"---\nlicense: \xff\n---", "LICENSE": b"\xff"}, None),
    ],
)
def test_the_licence_of_a_base(tmp_path, names, found):
    for name, text in names.items():
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(content)
    said = card.licence_of(tmp_path)
    assert found is None or said == found


def test_a_licence_file_is_quoted(tmp_path):
    (tmp_path / "LICENSE").write_text("LLAMA 3.2 COMMUNITY LICENSE\n")
    base = card.Base("meta/llama", "meta/llama", card.licence_of(tmp_path))
    text = written(base=base)
    assert 'its LICENSE begins "LLAMA 3.2 COMMUNITY LICENSE".' in text
    assert "license" not in "".join(front_of(text))


def test_keys_of_secrets_are_hidden():
    path = "https://me:sesame@host/rows.jsonl"
    assert "sesame" not in written(data__path=path)
