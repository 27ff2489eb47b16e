"""Turns of rows: what is mapped, joined, read, and what is refused by name."""

import datetime
import json

import pytest

from jopd.data import turns

CALL = {"name": "weather", "arguments": {"city": "Oslo"}}


def one(turn):
    return turns.conversation([turn], "row 7")[0]


def test_names_of_roles_and_keys():
    said = turns.conversation(
        [
            {"from": "system", "value": "a"},
            {"from": "human", "value": "b"},
            {"role": "gpt", "content": "c", "weight": None, "tool_calls": []},
        ],
        "row 0",
    )
    assert said == [
        {"role": role, "content": text}
        for role, text in (("system", "a"), ("user", "b"), ("assistant", "c"))
    ]


def test_roles_in_any_letters_and_no_others():
    names = dict.fromkeys(["GPT", "ChatGPT", "model", "Assistant", "bing"], "assistant")
    for name, role in (names | {"User": "user", "Human": "user"}).items():
        assert one({"role": name, "content": "a"})["role"] == role
    critic = {"role": "critic", "content": "a"}
    with pytest.raises(ValueError, match=r"row 7, turn 0 .*role 'critic' is none of"):
        one(critic)
    assert turns.conversation([critic], "row 7", ["critic"]) == [critic]


def test_a_system_turn_of_nothing_is_none():
    ask = {"role": "user", "content": "a"}
    for text in (None, "", " "):
        empty = {"role": "system", "content": text}
        assert turns.conversation([empty, ask], "row 7") == [ask]
        with pytest.raises(ValueError, match=r"row 7 holds .* which says nothing"):
            turns.conversation([empty], "row 7")


def test_days_are_texts():
    day = datetime.datetime(2024, 5, 6, 7, 8)
    found = one({"role": "user", "content": "a", "timestamp": day})
    assert found["timestamp"] == "2024-05-06T07:08:00"


def test_parts_of_text_are_joined_and_others_refused():
    parts = ["a ", {"type": "text", "text": "b", "image": None}, {"text": "c"}]
    assert one({"role": "user", "content": parts})["content"] == "a bc"
    for part in ({"type": "image", "url": "u"}, {"type": "text"}, None, 3):
        turn = {"role": "user", "content": ["a", part]}
        with pytest.raises(ValueError, match=r"row 7, turn 0 \(user\): part 1 of"):
            one(turn)
    with pytest.raises(ValueError, match=r"turn 0 \(user\): part 0 .*cache"):
        one({"role": "user", "content": [{"text": "a", "cache": True}]})


def test_nothing_is_not_the_text_none():
    for turn in ({"role": "user"}, {"role": "tool", "content": None}):
        with pytest.raises(ValueError, match=r"turn 0 .* has no content"):
            one(turn)
    calling = one({"role": "assistant", "content": None, "tool_calls": [CALL]})
    assert calling == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    for turn in (3, "a", {}, {"content": "a"}, {"role": 3, "content": "a"}):
        with pytest.raises(ValueError, match="row 7, turn 0 holds"):
            one(turn)
    with pytest.raises(ValueError, match=r"\(user\): content holds 3, no text"):
        one({"role": "user", "content": 3})
    assert one({"role": "tool", "content": {"t": "ä"}})["content"] == '{"t": "ä"}'


def test_calls_and_tools_may_be_json():
    text = CALL | {"arguments": json.dumps(CALL["arguments"])}
    for calls in ([CALL], [text], json.dumps([CALL]), json.dumps([text])):
        assert one({"role": "assistant", "tool_calls": calls})["tool_calls"] == [CALL]
    nested = one({"role": "assistant", "tool_calls": [{"function": text, "id": "1"}]})
    assert nested["tool_calls"] == [{"function": CALL, "id": "1"}]
    bare = {"role": "assistant", "content": "a", "tool_calls": ""}
    assert one(bare) == {"role": "assistant", "content": "a"}
    empty = [CALL | {"arguments": ""}]
    found = one({"role": "assistant", "tool_calls": empty})
    assert found["tool_calls"] == [CALL | {"arguments": {}}]
    for arguments in ("{", "[1]", 3, None, "[" * 100_000):
        wrong = [CALL | {"arguments": arguments}]
        with pytest.raises(ValueError, match=r"tool_calls\[0\]: arguments holds"):
            one({"role": "assistant", "tool_calls": wrong})
    with pytest.raises(ValueError, match=r"tool_calls\[0\] holds 'f', no object"):
        one({"role": "assistant", "tool_calls": ["f"]})
    for tools in ([CALL], json.dumps([CALL])):
        assert turns.beside({"tools": tools, "x": 1}, "row 0") == {"tools": [CALL]}
    assert turns.beside({"tools": None, "documents": [], "x": 1}, "row 0") == {}
    with pytest.raises(ValueError, match="row 0: column 'tools' holds 'f', neither"):
        turns.beside({"tools": "f"}, "row 0")


def test_reasoning_under_its_names():
    for name in ("reasoning_content", "reasoning", "thinking"):
        found = one({"role": "assistant", "content": "b", name: "a"})
        assert found["reasoning_content"] == "a" and len(found) == 3
        with pytest.raises(
            ValueError, match=rf"\(assistant\): {name} holds 3, no text"
        ):
            one({"role": "assistant", "content": "b", name: 3})
    with pytest.raises(ValueError, match="has two texts of reasoning"):
        one({"role": "assistant", "reasoning": "a", "thinking": "b"})


def test_what_is_no_json_is_named():
    for value in (b"x", {"a": [{1, 2}]}):
        with pytest.raises(
            ValueError, match=r"row 7, turn 0 \(user\) holds what is no"
        ):
            one({"role": "user", "content": "a", "more": value})
        with pytest.raises(ValueError, match="row 0: column 'tools' holds what is no"):
            turns.beside({"tools": [value]}, "row 0")


def test_the_last_turn_of_the_assistant():
    ask, say = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    assert turns.split([ask, say], "row 0") == ([ask], say)
    assert turns.split([ask, say, ask], "row 0") == ([ask, say, ask], None)
    with pytest.raises(ValueError, match="row 0 has no turn before"):
        turns.split([say], "row 0")
    assert turns.split([ask, say | {"content": " "}], "row 0") == ([ask], None)
    assert turns.whole(say) is None
    rich = say | {"reasoning_content": "r", "tool_calls": [CALL]}
    assert turns.whole(rich) == rich
    assert turns.as_text(rich) == f"r\nb\n{json.dumps(CALL)}"
