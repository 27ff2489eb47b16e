"""Which ids of two tokenizers are compared, where added tokens differ."""

import json
import random
import shutil

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jopd.data import vocabulary

R1 = {
    151_643: "<｜end▁of▁sentence｜>",
    151_644: "<｜User｜>",
    151_645: "<｜Assistant｜>",
    151_646: "<｜begin▁of▁sentence｜>",
    151_647: "<|EOT|>",
    151_648: "<think>",
    151_649: "</think>",
}
WORDS = [f"w{n}" for n in range(12)]


def words(*added, eos=None, words=WORDS):
    """A token a word, and added ones behind them; no unknown token."""
    model = models.WordLevel({word: n for n, word in enumerate(words)})
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in added])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos)


def test_added_tokens_that_differ_are_paired_by_name_and_by_end():
    student = words("<end>", "<a>", "<box>", "<think>", eos="<end>")
    teacher = words("<stop>", "<a>", "<think>", eos="<stop>")
    pairs = vocabulary.pairing(student, teacher, 16)
    # The ends stand alike; what thinks is elsewhere, and the box takes its place.
    assert pairs == {15: 14, 14: 15}
    (first,) = vocabulary.compare_tokenizers(student, teacher, 16)
    assert first.startswith(
        "2 of 15 shared ids are other added tokens: id 12: student "
    )
    assert "'<think>' (15) with '<think>' (14), the teacher reads" in first
    # A head without that row has no place for the pair.
    assert vocabulary.pairing(student, teacher, 15) == {}
    moved = words("<a>", "<stop>", eos="<stop>")
    student = words("<end>", "<a>", eos="<end>")
    assert vocabulary.pairing(student, moved) == {12: 13, 13: 12}
    assert vocabulary.pairing(student, student) == {}


def test_ends_that_both_have_stay_what_they_are():
    base, instruct = words("<a>", "<b>", eos="<a>"), words("<a>", "<b>", eos="<b>")
    assert vocabulary.pairing(base, instruct) == {}
    assert vocabulary.compare_tokenizers(base, instruct) == []


def test_words_that_differ_are_refused():
    other = words("<a>", words=[*WORDS[:-1], "x"])
    with pytest.raises(ValueError, match="1 of 13 shared ids: id 11: student 'w11'"):
        vocabulary.compare_tokenizers(words("<a>"), other)


def test_a_pairing_is_a_permutation():
    """By generation: each id once, each token with its own name where both have it."""
    names = [f"<{n}>" for n in range(9)]
    for seed in range(200):
        draw = random.Random(seed)
        sides = [draw.sample(names, draw.randint(1, 6)) for _ in range(2)]
        student, teacher = (words(*side, eos=side[0]) for side in sides)
        rows = draw.choice([14, 16, 20])
        pairs = vocabulary.pairing(student, teacher, rows)
        assert sorted(pairs) == sorted(pairs.values())
        assert all(12 <= here < rows and here != there for here, there in pairs.items())
        ids = np.arange(20)
        ids[list(pairs)] = list(pairs.values())
        for here, name in enumerate(sides[0], 12):
            if name in sides[1] and max(here, 12 + sides[1].index(name)) < rows:
                assert ids[here] == 12 + sides[1].index(name)
        if sides[0][0] not in sides[1] and sides[1][0] not in sides[0]:
            assert ids[12] == 12


@pytest.mark.slow
def test_the_added_tokens_of_r1_against_those_of_qwen(shared, tmp_path):
    folder = shared / "tokenizers" / "qwen3"
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(folder / name, tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    added = settings["added_tokens_decoder"]
    for index, name in R1.items():
        added[str(index)]["content"] = name
    for index in range(151_665, 151_669):
        del added[str(index)]
    settings |= {"eos_token": R1[151_643], "pad_token": R1[151_643]}
    settings |= {"additional_special_tokens": []}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    qwen, r1 = (
        AutoTokenizer.from_pretrained(path, local_files_only=True)
        for path in (folder, tmp_path)
    )
    assert vocabulary.pairing(qwen, r1, 151_936) == {
        **{151_645: 151_643, 151_643: 151_645},  # <|im_end|> and R1's end
        **{151_667: 151_648, 151_668: 151_649},  # <think>, </think>
        **{151_648: 151_667, 151_649: 151_668},
    }
    note = vocabulary.compare_tokenizers(qwen, r1, 151_936)[0]
    assert note.startswith("7 of 151,665 shared ids are other added tokens: id 151643")
    with pytest.raises(ValueError, match="shared ids"):
        vocabulary.compare_tokenizers(qwen, words("<a>"))
