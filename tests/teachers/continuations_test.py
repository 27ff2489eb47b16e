import pytest

from jopd.teachers import continuations

LONG = "12+3=15;15-7=8;8*2=16;"


@pytest.mark.parametrize(
    "text, want",
    [
        ("16+1=17;", "16+1=17;"),
        (LONG + "16+1=17;", "16+1=17;"),
        (LONG[2:] + "16+1", "16+1"),
        (LONG[-16:] + "16+1", "16+1"),
        (LONG[-15:] + "16+1", LONG[-15:] + "16+1"),  # may be meant
        (LONG[:18], None),  # cut off while it repeated
        ("", ""),
    ],
)
def test_a_restated_prefix_is_cut_off(text, want):
    assert continuations.without_restated(LONG, text) == want
    assert continuations.cleaned(LONG, text) == want


def test_a_short_prefix_is_never_taken_for_restated():
    assert continuations.without_restated("1+2=", "1+2=3") == "1+2=3"


@pytest.mark.parametrize(
    "text",
    [
        "Sure! Here is the continuation:\n\n16+1=17;",
        "Sure! Here is the continuation\n16+1=17;",
        "Certainly, here's the rest of the solution: 16+1=17;",
        "Here’s the continuation: 16+1=17;",
        "Of course!\n16+1=17;",
        "The continuation of the solution:\n16+1=17;",
        '"16+1=17;"',
        "\u201c16+1=17;\u201d",
        "```\n16+1=17;\n```",
        "Okay. Here is the continuation:\n```text\n16+1=17;\n```\n",
        f'Sure! Here is the continuation: "{LONG}16+1=17;"',
    ],
)
def test_what_a_chat_puts_around_a_continuation(text):
    assert continuations.cleaned(LONG, text) == "16+1=17;"


@pytest.mark.parametrize(
    "text",
    [
        "Okay, so 16+1=17.\nThen",
        "The solution is 17.\n",
        "The rest of the apples are 17:\n3",
        "Sure enough, she has 17.\n",
        "Here are 3 apples: one, two",
        '"Yes," she said, "17."',
        "Sorry, I was late, said Tom.",
        "I'm sorry for the 3 apples, said Tom, and gave 2 back.",
        "I can't, because 3 < 2",
        "I cannot divide 7 by 2, so I take 8.",
        "I can't complete the square here, so I factor.",
        "I am unable to factor it, so I use the formula.",
        "I can't say. 3 friends help.",
        " 17 apples",
        "\n```\ncode",
    ],
)
def test_a_solution_keeps_its_words(text):
    assert continuations.cleaned("short", text) == text
    assert not continuations.is_refusal(text)


def test_only_an_opener_leaves_nothing():
    assert continuations.cleaned("short", "Sure! Here is the continuation") == ""


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't.",
        "I cannot help",
        " As an AI model",
        "I’m unable",
        "Sorry, I can't assist with that request.",
        "I'm sorry, but I can’t help with that.\nIs there anything else?",
        "I apologize, but I cannot fulfill this request.",
        "I am not able to continue this text.",
        "I'm sorry, but your request is not clear.",
        "I can't provide a solution to this.",
        "My apologies, I won't do that.",
        "Sorry.",
    ],
)
def test_refusals(text):
    assert continuations.is_refusal(text)
