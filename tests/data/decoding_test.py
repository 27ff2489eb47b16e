"""What tokens add to the text before them, for tokenizers that drop and tidy spaces."""

import random
import string

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

import runs
from jopd.data import decoding

TEXTS = (
    "a little birds sang",
    "one , two 's",
    " led by a space",
    "é, ü and \U0001f642 !",
)


def sentencepiece(*, tidy: bool) -> PreTrainedTokenizerFast:
    """As Llama's is made: a space before the first word, bytes for what is unknown."""
    known = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    known += ["\u2581", *string.ascii_letters, ",", ".", "'", "!"]
    scored = [(token, -1.0) for token in known]
    made = tokenizers.Tokenizer(models.Unigram(scored, 0, byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=tidy,
    )


@pytest.mark.parametrize("tidy", [False, True])
def test_what_is_cut_in_two_joins_again(tidy):
    tokenizer, rng = sentencepiece(tidy=tidy), random.Random(0)
    for text in TEXTS:
        for cut in (0, *rng.sample(range(1, len(text)), 8)):
            before = tokenizer(text[:cut], add_special_tokens=False)["input_ids"]
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if ids[: len(before)] != before:
                continue
            found = decoding.text_of(tokenizer, before, ids[len(before) :])
            assert found == text[cut:], (text, cut)


def test_the_first_space_of_a_response_stays():
    tokenizer = sentencepiece(tidy=False)
    ids = tokenizer("a birds", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids[2:]) == "birds"  # what a response alone reads as
    assert decoding.text_of(tokenizer, ids[:2], ids[2:]) == " birds"
    assert decoding.pieces(tokenizer, ids[:2], [*ids[2:5], 1]) == [
        " ",
        "b",
        "i",
        "</s>",
    ]


def test_special_tokens_are_left_out_unless_asked_for():
    tokenizer = runs.bundled_tokenizer()
    eos, one, two = tokenizer.convert_tokens_to_ids(["<eos>", "1", "2"])
    assert decoding.texts_of(tokenizer, [[one], []], [[two, eos], [eos]]) == ["2", ""]
    assert decoding.text_of(tokenizer, [one], [two, eos], special=True) == "2<eos>"
    assert decoding.texts_of(tokenizer, [], []) == []


def test_half_a_character_before_hides_nothing():
    tokenizer = sentencepiece(tidy=False)
    ids = tokenizer("\u00e9b", add_special_tokens=False)["input_ids"]
    # The context ends in the middle of a character: what follows is read alone.
    assert decoding.text_of(tokenizer, ids[:2], ids[3:]).endswith("b")


def test_the_text_of_a_response_ends_before_the_first_string():
    text = "18\nQuestion: a\nAnswer:"
    assert decoding.before_end(text, ("\nAnswer", "\nQuestion:")) == "18"
    assert decoding.before_end(text, ("?",)) == decoding.before_end(text, ()) == text


@pytest.mark.parametrize(
    "given, pieces",
    [
        (("",), ("is no text",)),
        ((3,), ("3 is no text",)),
        (("1<eos>",), ("special token '<eos>'", "rollout.stop_ids=(1,)")),
        (("\nQ",), ("'\\nQ' can never end",)),
    ],
)
def test_strings_that_can_end_nothing_are_refused(given, pieces):
    with pytest.raises(ValueError) as caught:
        decoding.check_strings(runs.bundled_tokenizer(), given, "rollout.stop_strings")
    for piece in ("rollout.stop_strings", *pieces):
        assert piece in str(caught.value)


def test_strings_that_a_tokenizer_writes_are_taken():
    decoding.check_strings(runs.bundled_tokenizer(), (";", "=1"), "stop_strings")
    decoding.check_strings(sentencepiece(tidy=True), ("\nQ:", " a"), "stop_strings")


def test_a_line_break_that_the_shell_left_as_two_characters_is_said():
    (line,) = decoding.escapes((r"\nQ:", "\nQ:", "Q"), "--stop")
    assert line.startswith(r"--stop: '\\nQ:' holds a backslash and an n")
    assert r"$'\nQ:'" in line
