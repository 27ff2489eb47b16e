"""Spans over published tokenizers; needs the shared test data."""

import itertools
import json

import numpy as np
import pytest
from transformers import AutoTokenizer, GPT2Tokenizer

from jopd.data import pieces
from jopd.teachers import spans

FAMILIES = ("qwen3", "llama2", "gpt2")
COUNT = 10_000
# Share of a student's tokens that are one token of the teacher, too, on 300 solutions.
SHARES = {
    ("qwen3", "llama2"): 0.938,
    ("llama2", "qwen3"): 0.884,
    ("gpt2", "qwen3"): 0.726,
    ("gpt2", "llama2"): 0.738,
    ("qwen3", "gpt2"): 0.570,
    ("llama2", "gpt2"): 0.546,
}


@pytest.fixture(scope="module")
def speeches(shared):
    folder = shared / "tokenizers"
    files = [str(folder / "gpt2" / name) for name in ("vocab.json", "merges.txt")]
    found = {
        name: AutoTokenizer.from_pretrained(folder / name) for name in FAMILIES[:2]
    }
    found["gpt2"] = GPT2Tokenizer(*files)
    known = {name: pieces.token_bytes(one) for name, one in found.items()}
    leads = {name: pieces.leads(one, known[name]) for name, one in found.items()}
    assert leads == {"qwen3": False, "llama2": True, "gpt2": False}
    return {name: spans.Speech(found[name], known[name], leads[name]) for name in found}


def random_texts(count: int) -> list[str]:
    """Words of many scripts, numbers, spaces and signs; none that NFC would change."""
    rng = np.random.default_rng(0)
    alphabets = [
        "abcdefghij XYZ",
        "0123456789.,",
        " \n\t",
        "çñüß éà",
        "你好日本語",
        "🙂🚀é",
        "{}[]();=+-*/",
    ]
    letters = [
        rng.choice(list(one), 5).tolist() for one in rng.choice(alphabets, count * 3)
    ]
    return ["".join(itertools.chain(*letters[3 * n : 3 * n + 3])) for n in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("ours, theirs", [*itertools.permutations(FAMILIES, 2)])
def test_ten_thousand_texts_agree_on_every_byte(speeches, ours, theirs):
    student, teacher = speeches[ours], speeches[theirs]
    begins = pieces.Begins(teacher.pieces, len(teacher.pieces))
    texts = random_texts(COUNT)
    coded = student.tokenizer(texts, add_special_tokens=False)["input_ids"]
    # A space at the beginning is not to be told from one that a tokenizer adds.
    read = [text.removeprefix(" ") if student.leads else text for text in texts]
    told = teacher.tokenizer(read, add_special_tokens=False)["input_ids"]
    rows = spans.translate(spans.Pair(student, teacher, {}, begins), coded)
    for ids, there, row in zip(coded, told, rows, strict=True):
        assert row.tokens == there
        # What is but the space before a text has no bytes of it.
        bare = student.leads and student.pieces[ids[0]] == b" "
        assert len(row.before) == len(ids) - bare
        ours_by, theirs_by = (
            by_span(side, of, row_ids)
            for side, of, row_ids in (
                (student, row.span, ids),
                (teacher, row.span_of, there),
            )
        )
        assert ours_by == theirs_by


def by_span(speech, span, ids) -> dict[int, bytes]:
    """The bytes of every span, a space before the text apart."""
    found: dict[int, bytes] = {}
    for number, index in zip(span, ids, strict=True):
        found[number] = found.get(number, b"") + speech.pieces[index]
    return {n: found[n].lstrip(b" ") if n == 1 else found[n] for n in found if n}


@pytest.mark.slow
@pytest.mark.parametrize("ours, theirs", SHARES)
def test_shares_of_tokens_that_both_have(speeches, shared, ours, theirs):
    lines = (shared / "gsm8k" / "train.jsonl").read_text().splitlines()[:300]
    texts = [json.loads(line)["answer"] for line in lines]
    student, teacher = speeches[ours], speeches[theirs]
    begins = pieces.Begins(teacher.pieces, len(teacher.pieces))
    coded = student.tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = spans.translate(spans.Pair(student, teacher, {}, begins), coded)
    kinds = [spans.kinds(np.array(row.span), np.array(row.span_of)) for row in rows]
    share = (np.concatenate(kinds) == spans.ONE).mean()
    assert share == pytest.approx(SHARES[ours, theirs], abs=0.006)
