"""Rows as other trainers have them, and how a template words their questions."""

import json

import pytest

from jopd.data import judging, rewards, shapes, sources, tables

USER = {"role": "user", "content": "1+1?"}
REPLY = {"role": "assistant", "content": "2"}
SHARED = [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]
# Row, what it asks, its gold response, columns that nothing is made of.
SHAPES = {
    "prompt, completion": (dict(prompt="1+1?", completion="2"), "1+1?", "2", ()),
    "both as chats": (dict(prompt=[USER], completion=[REPLY]), [USER], "2", ()),
    "a chat's completion as text": (
        dict(prompt=[USER], completion="2"),
        [USER],
        "2",
        (),
    ),
    "a chat behind a text": (dict(prompt="1+1?", completion=[REPLY]), [USER], "2", ()),
    "solution before completion": (
        dict(prompt="1+1?", completion="3", solution="2"),
        "1+1?",
        "2",
        ("completion",),
    ),
    "conversations": (dict(conversations=SHARED), [USER], "2", ()),
    "conversations under a system text": (
        dict(conversations=SHARED, system="Add."),
        [{"role": "system", "content": "Add."}, USER],
        "2",
        (),
    ),
    "instruction": (
        dict(instruction="Add.", input="1+1", output="2"),
        "Add.\n\n1+1",
        "2",
        (),
    ),
    "instruction alone": (
        dict(instruction="Add 1 and 1.", input="", output="2"),
        "Add 1 and 1.",
        "2",
        (),
    ),
    "the chat's own system turn": (
        dict(conversation=[{"from": "System", "value": "Own."}, *SHARED], system="No."),
        [{"role": "system", "content": "Own."}, USER],
        "2",
        ("system",),
    ),
    "Dolly's names": (
        dict(instruction="Add.", context="1+1", response="2"),
        "Add.\n\n1+1",
        "2",
        (),
    ),
    "a prompt that its messages repeat": (
        dict(prompt="1+1?", messages=[USER, REPLY]),
        [USER],
        "2",
        ("prompt",),
    ),
    "a chat as JSON text": (dict(messages=json.dumps([USER, REPLY])), [USER], "2", ()),
    "an empty completion": (dict(prompt="1+1?", completion=""), "1+1?", None, ()),
    "an empty output": (dict(instruction="1+1?", output=" "), "1+1?", None, ()),
    "an empty solution": (dict(prompt="1+1?", solution=""), "1+1?", None, ()),
    "an empty last turn": (
        dict(messages=[USER, {"role": "assistant", "content": ""}]),
        [USER],
        None,
        (),
    ),
    "preferences": (
        dict(prompt="1+1?", chosen="2", rejected="3"),
        "1+1?",
        None,
        ("chosen", "rejected"),
    ),
    "text": (dict(text="One day."), "One day.", None, ()),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_read_whole(name):
    row, prompt, solution, unread = SHAPES[name]
    (found,) = sources.examples([row])
    assert found.prompt == prompt and found.solution == solution
    assert found.unread == unread
    assert found.document == ("text" in row)


def test_a_chat_that_is_damaged_json_is_refused():
    with pytest.raises(ValueError, match=r"column 'messages' holds .* nor JSON of one"):
        sources.examples([{"messages": "[{'role': 'user'}]"}])


def test_a_named_column_is_taken_as_it_is():
    row = dict(instruction="Add.", input="1+1", output="2", text="whole")
    (found,) = sources.examples([row], prompt_column="instruction")
    assert found.prompt == "Add." and found.solution is None
    assert found.unread == ("input", "output", "text")
    (found,) = sources.examples([row], prompt_column="text", solution_column="output")
    assert found.solution == "2" and not found.document


def test_jsonl_of_texts_is_read_as_plain_text_is(tmp_path):
    texts = ["One day.", "Two\ndays."]
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(texts))
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "a.jsonl").write_text(lines)
    one, two = (sources.read(str(tmp_path / f"a.{end}")) for end in ("txt", "jsonl"))
    assert one == two and all(row.document for row in one)


# Right answers.


def test_each_of_several_answers_is_right():
    rows = [{"prompt": "1/2?", "answer": ["1/2", 0.5]}, {"prompt": "?", "answer": 3}]
    first, second = sources.examples(rows)
    assert first.answer == ("1/2", "0.5") and second.answer == "3"
    texts, answers = ["0.5", "1/2", "2", "3"], [first.answer] * 3 + [second.answer]
    found, _ = judging.judge(rewards.exact, judging.Asked(texts, answers))
    assert found.tolist() == [1, 1, 0, 1]
    rows = [{"prompt": "?", "answer": ["so #### 1", "thus #### 2"]}]
    (found,) = sources.examples(rows, answer_after="####")
    assert found.answer == ("1", "2")
    for empty in ([], "", " ", None):
        (found,) = sources.examples([{"prompt": "?", "answer": empty}])
        assert found.answer is None
    with pytest.raises(ValueError, match="row 0: column 'answer' holds dict"):
        sources.examples([{"prompt": "?", "answer": [{"a": 1}, "2"]}])


# Templates.

BOXED = "{question}\nPut the answer in \\boxed{}."


@pytest.mark.parametrize(
    "template, said",
    [
        (BOXED, "1+1?\nPut the answer in \\boxed{}."),
        ("{hint} {question} {meta.level}", "Add! 1+1? 2"),
        (
            "{{question}} {{}} {} {1} \\frac{1}{2} { x } {hint}",
            "{question} {} {} {1} \\frac{1}{2} { x } Add!",
        ),
        ("{question}{question}", "1+1?1+1?"),
    ],
)
def test_a_template_words_the_question(template, said):
    more = dict(hint="Add!", meta=dict(level=2))
    chat = [{"role": "system", "content": "{hint}"}, USER]
    rows = [dict(prompt="1+1?", **more), dict(prompt=[*chat, REPLY], **more)]
    text, turns = sources.examples(rows, template=template)
    assert text.prompt == said
    assert turns.prompt == [chat[0], {"role": "user", "content": said}]
    assert turns.solution == "2"
    used = [name for name in ("hint", "meta") if f"{{{name}" in template]
    assert set(text.unread) == {"hint", "meta"} - set(used)


def test_what_a_question_holds_is_no_field():
    (found,) = sources.examples([{"prompt": "{x} in {question}?"}], template=BOXED)
    assert found.prompt.startswith("{x} in {question}?\nPut")
    assert shapes.fields_of("{question} {a} {{b}} {a} {c.d} {}") == ["a", "c.d"]


def test_an_unknown_field_is_one_line():
    with pytest.raises(ValueError) as caught:
        sources.examples([{"prompt": "?", "hint": "!"}], template="{question} {hnit}")
    said = str(caught.value)
    assert "row 0: no column 'hnit'; the columns are 'prompt', 'hint'" in said
    assert "braces that are none of a field are written {{hnit}}" in said
    with pytest.raises(ValueError, match="has no field, so no question would reach"):
        sources.examples([{"prompt": "?"}], template="Put it in \\boxed{}.")
    with pytest.raises(ValueError, match="these rows are documents"):
        sources.examples([{"text": "One day."}], template=BOXED)


# Several files.


def test_lists_folders_and_globs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for name in ("d/b.jsonl", "d/a.csv.gz", "d/notes.md", "x,y.jsonl", "c.txt"):
        (tmp_path / name).write_text("")
    both = ["d/a.csv.gz", "d/b.jsonl"]
    assert tables.parts_of("d") == tables.parts_of("d/") == [both]
    assert tables.parts_of("d/*") == [both]
    assert tables.parts_of("*/b.*, c.txt") == [["d/b.jsonl"], ["c.txt"]]
    assert tables.parts_of(f"{tmp_path}/d/[ab].*") == [
        [f"{tmp_path}/{f}" for f in both]
    ]
    assert tables.parts_of("x,y.jsonl") == [["x,y.jsonl"]]
    assert tables.parts_of("openai/gsm8k:main") == [["openai/gsm8k:main"]]
    assert tables.parts_of("task:arithmetic") == [["task:arithmetic"]]
    assert tables.parts_of("none.jsonl") == [["none.jsonl"]]
    for empty in ("d/*.txt", "no/*.jsonl"):
        with pytest.raises(FileNotFoundError, match="no file that ends in"):
            tables.parts_of(empty)
