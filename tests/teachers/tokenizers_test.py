"""Spans over published tokenizers; needs the shared test data."""

import itertools
import json

import numpy as np
import pytest
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

from jopd.data import pieces
from jopd.teachers import spans

FAMILIES = ("qwen3", "llama2", "gpt2")
FURTHER = ("llama3", "mistral_v3")  # their files want two more packages to be read
# How Llama 3 parts a text before it is cut into tokens.
PARTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
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
    spoken = {name: _speech(one) for name, one in found.items()}
    leads = {name: one.leads for name, one in spoken.items()}
    assert leads == {"qwen3": False, "llama2": True, "gpt2": False}
    return spoken


@pytest.fixture(scope="module")
def more_speeches(shared, speeches):
    pytest.importorskip("tiktoken")
    pytest.importorskip("sentencepiece")
    from transformers.convert_slow_tokenizer import TikTokenConverter

    folder = shared / "tokenizers"
    file = str(folder / "llama3" / "tokenizer_llama3.tiktoken")
    core = TikTokenConverter(file, pattern=PARTS, extra_special_tokens=["<|end|>"])
    llama3 = PreTrainedTokenizerFast(
        tokenizer_object=core.converted(), eos_token="<|end|>"
    )
    mistral = AutoTokenizer.from_pretrained(folder / "mistral_v3")
    found = dict(zip(FURTHER, map(_speech, (llama3, mistral))))
    assert [one.leads for one in found.values()] == [False, True]
    return speeches | found


def _speech(tokenizer) -> spans.Speech:
    known = pieces.token_bytes(tokenizer)
    return spans.Speech(tokenizer, known, pieces.leads(tokenizer, known))


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
    check_texts(speeches[ours], speeches[theirs])


@pytest.mark.slow
@pytest.mark.parametrize(
    "ours, theirs",
    [
        pair
        for pair in itertools.permutations(FAMILIES + FURTHER, 2)
        if {*pair} & {*FURTHER}
    ],
)
def test_ten_thousand_texts_of_two_more(more_speeches, ours, theirs):
    check_texts(more_speeches[ours], more_speeches[theirs])


def check_texts(student: spans.Speech, teacher: spans.Speech) -> None:
    begins = pieces.Begins(teacher.pieces, len(teacher.pieces))
    texts = random_texts(COUNT)
    coded = student.tokenizer(texts, add_special_tokens=False)["input_ids"]
    # Llama 2 reads a text alike whether it begins with a space or not.
    coded_alone = student.tokenizer(["a", " a"], add_special_tokens=False)["input_ids"]
    lost = coded_alone[0] == coded_alone[1]
    read = [text.removeprefix(" ") if lost else text for text in texts]
    told = teacher.tokenizer(read, add_special_tokens=False)["input_ids"]
    rows = spans.translate(spans.Pair(student, teacher, {}, begins), coded)
    for ids, there, row in zip(coded, told, rows, strict=True):
        assert row.tokens == there
        # What is but the space before a text may have no bytes that both write.
        bare = student.leads and student.pieces[ids[0]] == b" "
        assert {*range(len(ids))} - row.before.keys() <= ({0} if bare else set())
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
