"""Another tokenizer's words for the same bytes: alignment, and exact marginals."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from jopd.data import pieces
from jopd.losses import prefixes
from jopd.teachers import spans

END = "<|end|>"
LENGTH = 4
STRINGS = [
    "".join(letters)
    for length in range(1, LENGTH + 1)
    for letters in itertools.product("ab", repeat=length)
]


def toy(*merges: str, letters: str = "ab") -> PreTrainedTokenizerFast:
    """A byte-level BPE over a few letters, its merges as "a b"."""
    pairs = [tuple(merge.split()) for merge in merges]
    tokens = dict.fromkeys([END, *letters, *("".join(pair) for pair in pairs)])
    vocab = {token: n for n, token in enumerate(tokens)}
    core = Tokenizer(kinds.BPE(vocab=vocab, merges=pairs))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END)


def speech(tokenizer) -> spans.Speech:
    found = [None] * len(tokenizer)
    for token, index in tokenizer.get_vocab().items():
        found[index] = None if token == END else token.encode()
    return spans.Speech(tokenizer, found, False)


def pair(student, teacher) -> spans.Pair:
    ours, theirs = speech(student), speech(teacher)
    end = teacher.eos_token_id
    begins = pieces.Begins(theirs.pieces, len(teacher), special=(end,))
    return spans.Pair(ours, theirs, {student.eos_token_id: end}, begins)


def cut(tokenizer, text: str) -> tuple[int, ...]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return (*ids, tokenizer.eos_token_id)


def answered(pair: spans.Pair, rows, logits_of) -> spans.Scored:
    """Rows with the answers of a model: ``logits_of(tokens before) -> f32[V]``."""
    width = max(len(row.tokens) for row in rows)
    asked = spans.ask(rows, width)
    logits = np.zeros((len(rows), width, len(pair.teacher.pieces)))
    for b, row in enumerate(rows):
        for k in range(len(row.tokens)):
            logits[b, k] = logits_of(tuple(row.tokens[:k]))
    own, mass = prefixes.masses(
        jnp.asarray(logits), asked.tokens, pair.begins.order_N, asked.lo, asked.hi
    )
    longest = max(len(row.span) for row in rows)
    return spans.score(rows, own, mass, np.zeros(len(rows), int), longest)


def canonical(tokenizer, probability: dict[str, float]):
    """A model that writes each string as its tokenizer does, with its probability."""
    written = {cut(tokenizer, text): p for text, p in probability.items()}

    def logits_of(before):
        p = np.zeros(len(tokenizer))
        for row, share in written.items():
            if row[: len(before)] == before and len(row) > len(before):
                p[row[len(before)]] += share
        with np.errstate(divide="ignore"):
            return np.log(p)

    return logits_of


def random_shares(seed: int) -> dict[str, float]:
    shares = np.random.default_rng(seed).dirichlet(np.ones(len(STRINGS)))
    return dict(zip(STRINGS, shares))


TOKENIZERS = {
    "letters": toy(),
    "ab": toy("a b"),
    "aa": toy("a a", "b b"),
    "deep": toy("a b", "ab a", "b b"),
    "long": toy("b a", "ba ba", "a a"),
}
PAIRS = list(itertools.product(TOKENIZERS, TOKENIZERS))


@pytest.mark.parametrize("student, teacher", PAIRS)
def test_all_strings_of_a_toy_language(student, teacher):
    """Against the sum over every string that begins with the same bytes."""
    student, teacher = TOKENIZERS[student], TOKENIZERS[teacher]
    shares, both = random_shares(len(student)), pair(student, teacher)
    begins_with = lambda text: sum(
        share for one, share in shares.items() if one.startswith(text)
    )
    responses = [cut(student, text) for text in STRINGS]
    rows = spans.translate(both, responses)
    found = answered(both, rows, canonical(teacher, shares))
    exact = 0
    for b, (text, ids) in enumerate(zip(STRINGS, responses)):
        assert np.exp(found.logp[b, : len(ids)].sum()) == pytest.approx(shares[text])
        ends = np.cumsum([0, *(len(both.student.pieces[i]) for i in ids[:-1])])
        reached = np.exp(np.cumsum(found.logp[b, : len(ids) - 1]))
        true = np.array([begins_with(text[:end]) for end in ends[1:]])
        assert (reached <= true * (1 + 1e-5)).all()  # a lower bound
        exact += np.isclose(reached, true, rtol=1e-4).sum()
    total = sum(len(ids) - 1 for ids in responses)
    assert (
        exact == total or teacher is TOKENIZERS["deep"] or teacher is TOKENIZERS["long"]
    )
    assert exact > 0.7 * total


@pytest.mark.parametrize("teacher", ["letters", "ab", "aa"])
def test_the_implied_distribution_of_the_next_token_sums_to_one(teacher):
    """Over the letters and the end, behind every beginning, each in another text."""
    student, teacher = TOKENIZERS["letters"], TOKENIZERS[teacher]
    both, shares = pair(student, teacher), random_shares(7)
    responses = [cut(student, text) for text in STRINGS]
    rows = spans.translate(both, responses)
    found = answered(both, rows, canonical(teacher, shares))
    said: dict[str, dict[int, float]] = {}
    for b, (text, ids) in enumerate(zip(STRINGS, responses)):
        for t, index in enumerate(ids):
            before = said.setdefault(text[:t], {})
            p = np.exp(found.logp[b, t])
            assert before.setdefault(index, p) == pytest.approx(p, rel=1e-4)
    for text, p in said.items():
        assert sum(p.values()) == pytest.approx(1.0, rel=1e-4), text


def test_spans_of_the_worked_example():
    """DPCA's chunks (2, 1), (2, 2) of one text cut in two ways."""
    ours, theirs = [b"he", b"llo", b" wor", b"ld"], [b"hello", b" w", b"orld"]
    found = spans.align(ours, theirs)
    assert [side.tolist() for side in found] == [[1, 1, 2, 2], [1, 2, 2]]
    assert [side.tolist() for side in spans.align(ours, ours)] == [[1, 2, 3, 4]] * 2


@pytest.mark.parametrize(
    "ours, theirs, want",
    [
        ([b"ab", b"c"], [b"abd"], ([0, 0], [0])),  # another text
        ([b"ab", b"c"], [b"ab", b"d"], ([1, 0], [1, 0])),
        ([b"a"] * 7, [b"a" * 7], ([0] * 7, [0])),  # too many in one span
        ([b"a"] * 6, [b"a" * 6], ([1] * 6, [1])),
        ([b"\xc3", b"\xa9"], [b"\xc3\xa9"], ([1, 1], [1])),
        ([], [], ([], [])),
        ([b"a"], [], ([0], [])),
    ],
)
def test_spans_at_the_limits(ours, theirs, want):
    found = spans.align(ours, theirs)
    assert tuple(side.tolist() for side in found) == want


def trained(texts, *, byte_level: bool, size: int):
    """A real tokenizer of either kind, trained here."""
    core = Tokenizer(kinds.BPE(byte_fallback=not byte_level))
    bytes_of = [f"<0x{n:02X}>" for n in range(256)]
    if byte_level:
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=[END], initial_alphabet=alphabet
        )
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        core.decoder = decoders.Sequence(
            [
                decoders.Replace(pieces.SPACE, " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END, *bytes_of])
    core.train_from_iterator(texts, trainer)
    if not byte_level:  # bytes are tokens like others, not special ones
        told = json.loads(core.to_str())
        told["added_tokens"] = told["added_tokens"][:1]
        core = Tokenizer.from_str(json.dumps(told))
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END)


def random_texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    words = [
        "the",
        "cat",
        "12",
        "3.5",
        "naïve",
        "你好",
        "🙂",
        "x=y",
        "\n",
        "don't",
        "日本",
    ]
    return [
        " ".join(rng.choice(words, rng.integers(1, 9)).tolist()) for _ in range(count)
    ]


FAMILIES = {
    "bytes": trained(random_texts(200), byte_level=True, size=330),
    "more": trained(random_texts(200, 1), byte_level=True, size=300),
    "pieces": trained(random_texts(200, 2), byte_level=False, size=340),
}


def spoken(tokenizer) -> spans.Speech:
    known = pieces.token_bytes(tokenizer)
    ids = tokenizer("a", add_special_tokens=False)["input_ids"]
    return spans.Speech(tokenizer, known, (known[ids[0]] or b"")[:1] == b" ")


@pytest.mark.parametrize("ours, theirs", [*itertools.permutations(FAMILIES, 2)])
def test_real_tokenizers_agree_on_every_byte(ours, theirs):
    """And a finished response has the probability that the teacher gives its own."""
    student, teacher = FAMILIES[ours], FAMILIES[theirs]
    said = [spoken(student), spoken(teacher)]
    begins = pieces.Begins(said[1].pieces, len(teacher), (teacher.eos_token_id,))
    both = spans.Pair(*said, {student.eos_token_id: teacher.eos_token_id}, begins)
    texts = random_texts(60, 3)
    responses = [cut(student, text) for text in texts]
    rows = spans.translate(both, responses)
    rng = np.random.default_rng(4)
    made = {}
    logits_of = lambda before: made.setdefault(
        before, 2 * rng.standard_normal(len(teacher))
    )
    found = answered(both, rows, logits_of)
    for b, (text, row) in enumerate(zip(texts, rows)):
        size = len(responses[b])
        assert row.tokens == list(cut(teacher, text))
        assert (found.logp[b, :size] <= 0).all() and found.kind[b, :size].all()
        logits = [logits_of(tuple(row.tokens[:k])) for k in range(len(row.tokens))]
        own = [z[i] - np.logaddexp.reduce(z) for z, i in zip(logits, row.tokens)]
        assert found.logp[b, :size].sum() == pytest.approx(sum(own), rel=1e-4)
        total = found.span_logp[b, :size][np.unique(row.span, return_index=True)[1]]
        if all(row.span):
            assert total.sum() == pytest.approx(sum(own), rel=1e-4)
