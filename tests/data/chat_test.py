"""What a row says reaches the tokens, or is named; with real templates."""

import json
import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jopd.data import chat, dataset, sources

LIMITS = {"max_prompt_tokens": 100_000, "max_response_tokens": 100_000}
NAMES = ("gemma3", "llama3_2", "qwen2_5", "qwen3")
ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>")
# Renders every key of every turn, and all that stands beside them.
EVERYTHING = (
    "{{ tools | tojson }}{{ documents | tojson }}{% for m in messages %}<|im_start|>"
    "{{ m | tojson }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
# As many do: tools and calls, no documents, no reasoning.
CALLING = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages if m.role in ('system', 'user', 'assistant') %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}"
    "<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OWN = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
TOOL = {"type": "function", "function": {"name": "weather", "description": "of a city"}}
CALL = {"id": "c1", "type": "function"}
CALL |= {"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}


@pytest.fixture
def speak(request):
    """A tokenizer of bytes, with a template by name, by its text, or without."""

    def make(template=None, **special):
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        ids = {letter: n for n, letter in enumerate(letters)}
        bytewise = Tokenizer(models.BPE(vocab=ids, merges=[]))
        bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bytewise.decoder = decoders.ByteLevel()
        bytewise.add_special_tokens([AddedToken(end, special=True) for end in ENDS])
        special = {"bos_token": "<s>", "eos_token": "</s>"} | special
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise, **special)
        if template in NAMES:
            folder = request.getfixturevalue("shared") / "tokenizers/chat_templates"
            template = (folder / f"{template}.jinja").read_text()
        tokenizer.chat_template = template
        return tokenizer

    return make


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def encode(tokenizer, *rows, **options):
    return dataset.encode(sources.examples(rows), tokenizer, **LIMITS | options)


# --- Every field reaches the tokens, or is named --------------------------------------


def words():
    number = 0
    while True:
        number += 1
        yield f"word{number}x"


def random_row(draw: random.Random, word) -> dict:
    """A row in the shape of a chat, with a word of its own in every field."""
    say = lambda odds, value: {} if draw.random() > odds else value
    turns = []
    if draw.random() < 0.4:
        turns.append(turn(draw.choice(["system", "developer"]), next(word)))
    for _ in range(draw.randint(1, 3)):
        parts = [{"type": "text", "text": next(word)} for _ in range(2)]
        content = parts if draw.random() < 0.3 else f"  {next(word)}\n"
        role = draw.choice(["user"] * 8 + ["human", "critic"])
        turns.append(turn(role, content) | say(0.1, {"name": next(word)}))
        if draw.random() < 0.3:
            asked = {"city": next(word), "days": [next(word)], next(word): True}
            asked = json.dumps(asked) if draw.random() < 0.5 else asked
            function = {"name": next(word), "arguments": asked}
            call = {"id": next(word), "type": "function", "function": function}
            called = turn("assistant", draw.choice([None, next(word)]))
            turns.append(called | {"tool_calls": [call]})
            if draw.random() < 0.6:
                turns.append(turn("tool", next(word), tool_call_id=next(word)))
                turns.append(turn("assistant", next(word)))
        else:
            said = turn(draw.choice(["assistant", "gpt"]), next(word))
            said |= say(0.3, {"reasoning_content": next(word)})
            turns.append(
                said | say(0.05, {"weight": 0}) | say(0.05, {"mood": next(word)})
            )
    row = {"messages": turns[: len(turns) - draw.randint(0, 1)]}
    tool = {"type": "function", "function": {"name": next(word), "strict": True}}
    row |= say(0.3, {"tools": draw.choice([[tool], json.dumps([tool])])})
    row |= say(0.1, {"documents": [{"title": next(word), "text": next(word)}]})
    return row | say(0.3, {"level": next(word)}) | say(0.2, {"answer": next(word)})


def fields(value, path=()):
    """(path, text) of every text in a row, names of keys with it."""
    if isinstance(value, str) and value[:1] in "[{" and path[-1] != "content":
        value = json.loads(value)
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from [((*path, key), key)] * str(key).startswith("word")
            yield from fields(inner, (*path, key))
    elif isinstance(value, str):
        yield path, value.strip()


@pytest.mark.parametrize("name", [*NAMES, EVERYTHING, CALLING, None])
def test_every_field_reaches_the_tokens_or_is_named(speak, name):
    """By generation: rows in many shapes, a word of its own in every field."""
    tokenizer, word, read, named = speak(name), words(), 0, 0
    for seed in range(80):
        row = random_row(random.Random(seed), word)
        try:
            found = encode(tokenizer, row)
        except ValueError as error:
            said = str(error)
            assert said.startswith(("row 0 ", "rows: row 0")) and "\n" not in said
            named += 1
            continue
        read += 1
        solution = found.solutions[0]
        text = found.texts[0] + ("" if solution is None else tokenizer.decode(solution))
        said = " ".join([*found.notes, *found.unread, str(found.answers[0])])
        for path, leaf in fields(row):
            known = path[-1] in ("role", "type") or (*path, "")[0] in found.unread
            noted = any(
                key in said.replace(",", " ").replace(".", " ").split() for key in path
            )
            assert leaf in text or known or noted or leaf in said, (path, row, text)
    assert read >= 8 and named >= (0 if name == EVERYTHING else 5)


COLUMNS = "prompt messages question problem conversations instruction text input output"
COLUMNS += " completion solution answer system level id tools documents"


def test_every_column_is_read_or_listed():
    """By generation: rows in any shape, a word of its own in every column."""
    word, read = words(), 0

    def cell(name):
        if name not in ("messages", "conversations"):
            return next(word)
        return [turn("user", next(word)), turn("assistant", next(word))]

    for seed in range(500):
        draw = random.Random(seed)
        row = {name: cell(name) for name in draw.sample(COLUMNS.split(), 4)}
        named = draw.choice(["", "", *row])
        try:
            (found,) = sources.examples([row], solution_column=named)
        except ValueError as error:
            assert str(error).startswith("rows: ")
            continue
        read += 1
        kept = json.dumps(found._replace(unread=()))
        for path, leaf in fields(row):
            listed = path[0] in found.unread or f"of {path[0]}" in str(found.unread)
            assert leaf in kept or listed or path[-1] == "role", (path, row, found)
    assert read > 300


@pytest.mark.parametrize(
    ("turns", "key"),
    [
        ([turn("user", "a", mood="b")], r"turn 0 \(user\): messages\[0\].mood"),
        ([turn("function", "a"), turn("user", "b")], r"turn 0 \(function\): .*content"),
        ([turn("user", "a"), turn("assistant", "b", weight=0)], r"turn 1 .*weight"),
        (
            [turn("user", "a"), turn("assistant", "b", reasoning_content="c")],
            r"turn 1 \(assistant\): messages\[1\].reasoning_content",
        ),
    ],
)
def test_a_key_that_a_template_leaves_out_is_an_error(speak, turns, key):
    wrong = {"messages": turns, "id": "r7"}
    with pytest.raises(ValueError, match=rf"row 0 \('r7'\): {key} does not reach"):
        encode(speak(CALLING), wrong)


def test_the_remedy_names_all_minor_keys_and_never_what_is_meant(speak):
    more = dict(mood="b", header={"agent": "c", "tongue": "d"}, toxic=False)
    with pytest.raises(ValueError) as raised:
        encode(speak(OWN), {"messages": [turn("user", "a", **more)]})
    said = str(raised.value)
    assert "mood does not reach the text (nor do 3 other parts)" in said
    assert said.endswith("add 'mood', 'header', 'toxic' to data.ignored_keys")
    strict = {"function": {"name": "f", "arguments": {}, "strict": True}}
    calls = turn("assistant", "", tool_calls=[strict])
    named = CALLING.replace("c.function", "c.function.name")
    with pytest.raises(ValueError, match=r"or add 'strict' to data\.ignored_keys"):
        encode(speak(named), {"messages": [turn("user", "a"), calls]})
    unshown = {"messages": [turn("function", "a"), turn("user", "b")]}
    with pytest.raises(ValueError, match=r"or take another template$"):
        encode(speak(CALLING), unshown)
    with pytest.raises(ValueError, match=r"or take another template$"):
        encode(speak(OWN), {"messages": [turn("user", "a")], "tools": [TOOL]})


def test_keys_may_be_ignored_by_name(speak):
    turns = [turn("user", "a", mood="b"), turn("assistant", "c", weight=0)]
    found = encode(speak(CALLING), {"messages": turns}, ignored_keys=("mood", "weight"))
    assert found.notes == ["the chat template leaves out, of some turns: mood, weight"]
    # Reasoning before the last turn goes by design; the same key in that turn stays.
    turns = [
        turn("user", "a"),
        turn("assistant", "b", thinking="old"),
        turn("user", "c"),
    ]
    found = encode(speak("qwen3"), {"messages": turns})
    assert "old" not in found.texts[0] and "reasoning_content" in found.notes[0]


def test_a_reply_of_which_nothing_is_left_is_refused(speak):
    calls = turn("assistant", None, tool_calls=[CALL])
    row = {"messages": [turn("user", "a"), calls]}
    own = OWN.replace(":{{ m.content }};", "{{ m.content }}<|im_end|>\n")
    own += "{% if add_generation_prompt %}assistant{% endif %}"
    with pytest.raises(ValueError, match=r"tool_calls\[0\].* does not reach the text"):
        encode(speak(own), row)
    with pytest.raises(ValueError, match=r"row 0 .*: nothing of the assistant's last"):
        encode(speak(own), row, ignored_keys=("tool_calls",))


def test_tools_that_a_template_has_no_place_for(speak):
    row = {"messages": [turn("user", "a")], "level": 3}
    for name, value in (("tools", [TOOL]), ("documents", [{"text": "d"}])):
        wrong = row | {name: value}
        with pytest.raises(ValueError, match=rf"column '{name}': {name}.*not reach"):
            encode(speak(OWN), wrong)
        assert encode(speak(OWN), wrong, ignored_keys=(name,)).unread == ["level"]
    # Beside a text they are columns like others.
    assert encode(speak(OWN), {"prompt": "a", "tools": [TOOL]}).unread == ["tools"]


# --- The reply ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gold"),
    [
        (CALLING, '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}'),
        (
            "qwen2_5",
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n',
        ),
        (
            "qwen3",
            '<think>\n\n</think>\n\n<tool_call>\n{"name": "weather", "arguments": ',
        ),
        ("llama3_2", '{"name": "weather", "parameters": {"city": "Oslo"}}<|eot_id|>'),
    ],
)
def test_a_reply_that_calls_is_what_the_template_writes(speak, name, gold):
    tokenizer = speak(name)
    asked, said = turn("user", "Weather?"), turn("assistant", None, tool_calls=[CALL])
    found = encode(tokenizer, {"messages": [asked, said], "tools": [TOOL]})
    solution = tokenizer.decode(found.solutions[0])
    assert solution.startswith(gold) and "of a city" in found.texts[0]
    end = "<|eot_id|>" if name == "llama3_2" else "<|im_end|>"
    assert solution.endswith(end) and solution.count(end) == 1
    function = CALL["function"] | {
        "arguments": json.loads(CALL["function"]["arguments"])
    }
    said = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    whole = tokenizer.apply_chat_template([asked, said], tools=[TOOL], tokenize=False)
    assert whole == found.texts[0] + solution + "\n" * (name != "llama3_2")


def test_reasoning_of_the_reply_is_learnt(speak):
    said = turn("assistant", "4", reasoning="2 and 2")
    row = {"messages": [turn("user", "2+2"), said]}
    tokenizer = speak("qwen3")
    found = encode(tokenizer, row)
    wanted = "<think>\n2 and 2\n</think>\n\n4<|im_end|>"
    assert tokenizer.decode(found.solutions[0]) == wanted
    off = {"template_kwargs": {"enable_thinking": False}}
    with pytest.raises(ValueError, match="lays the prompt out otherwise before"):
        encode(tokenizer, row, **off)


# --- Roles, templates that refuse -----------------------------------------------------


def test_developer_is_system_where_the_template_has_no_such_role(speak):
    row = {"messages": [turn("developer", "a"), turn("user", "b")]}
    assert "<|im_start|>system\na<|im_end|>" in encode(speak(CALLING), row).texts[0]
    known = OWN + "{# developer #}"
    assert encode(speak(OWN), row).texts == ["system:a;user:b;"]
    assert encode(speak(known), row).texts == ["developer:a;user:b;"]


def test_a_template_that_refuses_is_one_line(speak):
    rows = [{"prompt": "a"}, {"messages": [turn("user", "a")] * 2, "id": "r1"}]
    rows[0] = {"messages": [turn("user", "a")]}
    fussy = "{% if messages | length > 1 %}{{ raise_exception('No,\n no') }}{% endif %}"
    with pytest.raises(ValueError) as raised:
        encode(speak(fussy + OWN), *rows)
    assert str(raised.value) == (
        "row 1 ('r1'): the chat template refuses it (turns: user, user): No, no; "
        "change the row, or the tokenizer's chat_template"
    )
    with pytest.raises(
        ValueError, match=r"^row 1 .*: Conversation roles must alternate"
    ):
        encode(speak("gemma3"), *rows)
    with pytest.raises(ValueError, match=r"^the chat template, line 1: "):
        encode(speak("{% if %}"), rows[0])
    with pytest.raises(ValueError, match=r"row 0 .*takes more than 1,000,000 steps"):
        loop = "{% for i in range(9999) %}{% for j in range(9999) %}"
        encode(speak(loop + "{% endfor %}{% endfor %}"), rows[0])


def test_the_rows_own_arguments_of_the_template(speak):
    row = {"messages": [turn("user", "a")]}
    off = row | {"chat_template_kwargs": {"enable_thinking": False}}
    found = encode(speak("qwen3"), row, off)
    assert found.texts[1] == found.texts[0] + "<think>\n\n</think>\n\n"
    for name in ("messages", "tools", "documents", "add_generation_prompt"):
        own = row | {"chat_template_kwargs": {name: []}}
        with pytest.raises(ValueError, match=rf"row 0 .*'{name}' is set from the rows"):
            encode(speak(EVERYTHING), own)
        with pytest.raises(ValueError, match=f"kwargs: '{name}' is set from the rows"):
            encode(speak(EVERYTHING), row, template_kwargs={name: []})
    off = row | {"chat_template_kwargs": {"thinkin": False}}
    with pytest.raises(ValueError, match=r"row 0 .*'thinkin' does not occur"):
        encode(speak("qwen3"), off)


# --- System turns, no template, long conversations ------------------------------------


def test_the_rows_own_system_turn_wins(speak):
    rows = [
        {"messages": [turn("user", "b")]},
        {"messages": [turn("system", "own"), turn("user", "b")]},
    ]
    found = encode(speak(CALLING), *rows, system="ours")
    assert [text.count("<|im_start|>system") for text in found.texts] == [1, 1]
    assert "ours" in found.texts[0] and "ours" not in found.texts[1]
    assert "own" in found.texts[1] and len(found.notes) == 1
    assert "data.system" in found.notes[0]


def test_without_a_template_no_role_is_lost_unsaid(speak):
    several = {"messages": [turn("user", "a"), turn("gpt", "b"), turn("user", "c")]}
    with pytest.raises(ValueError, match=r"turns user, assistant, user, and .*'plain'"):
        encode(speak(), several)
    plain = encode(
        speak(), several, {"messages": [turn("user", "a")]}, chat_template="plain"
    )
    assert plain.texts == ["User:\na\n\nAssistant:\nb\n\nUser:\nc\n\nAssistant:\n", "a"]
    joined = encode(speak(), several, chat_template="never")
    assert joined.texts == ["a\n\nb\n\nc"]
    one = {"messages": [turn("user", "a")]}
    assert encode(speak(), one, system="s").texts == ["s\n\na"]
    for extra in ({"tools": [TOOL]}, {"documents": [{"text": "d"}]}):
        with pytest.raises(ValueError, match="need a chat template"):
            encode(speak(), one | extra)
    calls = {"messages": [*one["messages"], turn("assistant", "b", tool_calls=[CALL])]}
    with pytest.raises(ValueError, match="has tool_calls, which need a chat template"):
        encode(speak(), calls, chat_template="never")


def test_long_conversations_lose_their_oldest_turns_then_the_beginning(speak):
    tokenizer = speak(CALLING)
    lasting = [turn("system", "s"), turn("user", "u1 " * 9), turn("assistant", "a1")]
    row = {"messages": [*lasting, turn("user", "u2 " * 9 + "end")]}
    whole = encode(tokenizer, row)
    most = len(whole.prompts[0])
    for limit in range(most, 40, -7):
        how = dict(max_prompt_tokens=limit, on_long_prompt="truncate_left")
        try:
            found = encode(tokenizer, row, **how)
        except ValueError as error:
            assert "too long even without" in str(error)
            break
        text = found.texts[0]
        assert len(found.prompts[0]) == limit or "u2 " * 9 + "end" in text
        assert text.startswith("<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n")
        assert text.endswith("d<|im_end|>\n<|im_start|>assistant\n")
        assert tokenizer.decode(found.prompts[0]) == text
        assert text.count("<|im_start|>") == (5 if limit == most else 3)
    assert limit < most - 80


def test_a_long_text_keeps_the_header_of_the_chat(speak):
    tokenizer = speak(CALLING)
    how = dict(max_prompt_tokens=90, on_long_prompt="truncate_left", system="s")
    found = encode(tokenizer, {"prompt": "0123456789" * 30}, **how)
    assert len(found.prompts[0]) == 90
    assert found.texts[0].startswith(
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user"
    )
    assert found.texts[0].endswith("789<|im_end|>\n<|im_start|>assistant\n")
    (note,) = found.notes
    assert "lost their oldest turns" in note
    with pytest.raises(ValueError, match=r"row 0 .* too long even without"):
        encode(tokenizer, {"prompt": "0123456789"}, **how | {"max_prompt_tokens": 60})


def test_shorten_keeps_what_fits_whole():
    kept = sources.Example([turn("user", "a"), turn("user", "b")], None, None, "0")
    assert chat.shorten(kept, lambda one: True, "row 0") == kept
    (last,) = chat.shorten(kept, lambda one: len(one.prompt) == 1, "row 0").prompt
    assert last == turn("user", "b")


def test_large_numbers_reach_the_text_too(speak):
    for value in (1e308, 10**40, 20_201_202, float("inf"), 0, -1):
        row = {"messages": [turn("user", "a", more=[value])]}
        assert json.dumps(value) in encode(speak(EVERYTHING), row).texts[0]


@pytest.mark.parametrize(
    "template, end",
    [
        ("gemma3", "<end_of_turn>"),
        ("llama3_2", "<|eot_id|>"),
        ("qwen2_5", "<|im_end|>"),
        (CALLING, "<|im_end|>"),
        (EVERYTHING, "<|im_end|>"),
        (OWN, None),  # no token behind a turn
        ("{{ messages[0].content }}<|im_end|>", None),  # no reply is shown
        ("{{ raise_exception('no') if messages[1] }}{{ messages }}", None),
        (None, None),
    ],
)
def test_solutions_end_as_the_template_ends_turns(speak, template, end):
    tokenizer = speak(template)
    known = tokenizer.convert_tokens_to_ids([end or "</s>", "b", "</s>"])
    own = "b" + (end or "</s>")
    texts = ("b", "b</s>", own, own + " \n")
    rows = [dict(prompt="a", solution=text) for text in texts]
    data = dataset.encode(sources.examples(rows), tokenizer, **LIMITS)
    assert data.turn_end == (known[0] if end else None)
    plain, usual, ended, spaced = (gold.tolist() for gold in data.solutions)
    assert plain == ended == spaced == [known[1], known[0]]
    assert usual == [known[1], known[2]]  # what is written out stays
