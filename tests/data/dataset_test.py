import collections
import csv
import gzip
import json
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import runs
from jopd.data import dataset as data
from jopd.data import sources, tasks, vocabulary
from jopd.data.sources import Example
from jopd.types import GOLD

LIMITS = {"max_prompt_tokens": 64, "max_response_tokens": 64}


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def example(prompt, solution=None, answer=None, name="0"):
    return Example(prompt, solution, answer, name)


def load(shared, name):
    return AutoTokenizer.from_pretrained(shared / name, local_files_only=True)


def words(vocabulary, **special):
    """A tokenizer with one token per word."""
    model = models.WordLevel(vocabulary, unk_token=special.get("unk_token", ""))
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.fixture(scope="module")
def digits():
    return runs.bundled_tokenizer()


@pytest.fixture(scope="module")
def qwen3(shared):
    return load(shared, "tokenizers/qwen3")


@pytest.fixture(scope="module")
def stories(shared):
    return load(shared, "models/stories260K")


# --- Reading ------------------------------------------------------------------------


def test_jsonl_with_crlf_blank_lines_unicode_and_bom(tmp_path):
    text = lines({"question": "Wie groß?", "answer": 3}, {"question": "a\u2028b\x85c"})
    text = "\ufeff" + text.replace("\n", "\r\n") + "\r\n"
    first, second = sources.read(write(tmp_path / "a.jsonl", text))
    assert first == example("Wie groß?", None, "3")
    assert second == example("a\u2028b\x85c", name="1")


def test_gzip_by_content_and_damage(tmp_path):
    packed = gzip.compress(lines({"prompt": "x", "solution": "y"}).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    assert sources.read(str(tmp_path / "a.jsonl.gz")) == [example("x", "y")]
    (tmp_path / "b.jsonl.gz").write_bytes(packed[:-9])
    with pytest.raises(ValueError, match=r"b\.jsonl\.gz: damaged gzip"):
        sources.read(str(tmp_path / "b.jsonl.gz"))


def test_malformed_rows_name_file_and_line(tmp_path):
    bad = write(tmp_path / "a.jsonl", '{"prompt": "x"}\n\n{"prompt": \n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3: not JSON"):
        sources.read(bad)
    bad = write(tmp_path / "a.jsonl", '{"prompt": "x"}\n["y"]\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: .*no object"):
        sources.read(bad)
    bad = write(tmp_path / "a.json", '[{"prompt": "x"},\n{"prompt" "y"}]')
    with pytest.raises(ValueError, match=r"a\.json, line 2: not JSON"):
        sources.read(bad)
    bad = write(tmp_path / "a.csv", "prompt,answer\nx,1\ny\n")
    with pytest.raises(ValueError, match=r"a\.csv, line 3: not 2 cells"):
        sources.read(bad)
    bad = write(tmp_path / "a.jsonl", '{"prompt": "é"}', "latin-1")
    with pytest.raises(ValueError, match=r"a\.jsonl: byte 12 is not UTF-8"):
        sources.read(bad)


def test_json_holds_a_list_or_lines(tmp_path):
    rows = [{"prompt": "x"}, {"prompt": "y"}]
    listed = sources.read(write(tmp_path / "a.json", json.dumps(rows)))
    assert listed == sources.read(write(tmp_path / "b.json", lines(*rows)))
    assert [row.prompt for row in listed] == ["x", "y"]


def test_csv_with_quoted_line_ends(tmp_path):
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["problem", "answer", "id"], ["a,\r\nb", "1", "p7"]])
    assert sources.read(str(tmp_path / "a.csv")) == [
        example("a,\r\nb", None, "1", "p7")
    ]


def test_text_is_cut_into_documents(tmp_path):
    whole = "end of one.<|endoftext|>\r\nTwo.\r\nTwo.<|endoftext|>\n\n<|endoftext|>Thr"
    path = write(tmp_path / "a.txt", whole)
    found = [row.prompt for row in sources.read(path)]
    assert found == ["end of one.", "Two.\nTwo.", "Thr"]
    path = write(tmp_path / "b.txt", "One\n---\nTwo")
    rows = sources.read(path, separator="---")
    assert [row.prompt for row in rows] == ["One", "Two"]


def test_a_text_that_is_cut_within_a_character_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("é|bé|é".encode()[:-1])
    with pytest.raises(ValueError, match="not UTF-8"):
        sources.read(str(tmp_path / "a.txt"), separator="|")


def test_columns_by_default_name_and_dotted_path():
    rows = [{"q": "x", "meta": {"truth": 4}, "a.b": "s", "id": "r1"}]
    found = sources.examples(
        rows, prompt_column="q", answer_column="meta.truth", solution_column="a.b"
    )
    assert found == [example("x", "s", "4", "r1")]
    rows = [{"messages": "no", "prompt": "yes", "question": "no"}]
    assert sources.examples(rows)[0].prompt == "yes"


def test_default_columns_may_be_missing_from_some_rows():
    first, second = sources.examples([{"prompt": "x"}, {"prompt": "y", "answer": 0}])
    assert first.answer is None and second.answer == "0"


def test_missing_columns_list_those_that_exist(tmp_path):
    path = write(tmp_path / "a.jsonl", lines({"body": "x", "label": 1}))
    with pytest.raises(ValueError, match=r"a\.jsonl: no column .*'body', 'label'"):
        sources.read(path)
    with pytest.raises(ValueError, match=r"no column 'truth'.*'body', 'label'"):
        sources.read(path, prompt_column="body", answer_column="truth")
    with pytest.raises(ValueError, match=r"no column 'label\.x'"):
        sources.read(path, prompt_column="body", answer_column="label.x")
    path = write(tmp_path / "b.jsonl", lines({"prompt": "x"}, {"text": "y"}))
    with pytest.raises(ValueError, match=r"b\.jsonl: row 1: no column 'prompt'"):
        sources.read(path)


@pytest.mark.parametrize("prompt", ["", "  ", None, [], 3, ["x"], [{"role": "user"}]])
def test_prompts_that_are_none_are_refused(prompt):
    with pytest.raises(ValueError, match="row 0: column 'prompt'"):
        sources.examples([{"prompt": prompt}])


def test_structured_answers_need_a_path():
    assert sources.examples([{"prompt": "x", "answer": ["4"]}])[0].answer == "4"
    with pytest.raises(ValueError, match="column 'answer' holds dict"):
        sources.examples([{"prompt": "x", "answer": {"value": 4}}])


def test_answer_after_takes_the_last_marker():
    rows = [{"question": "x", "answer": "a #### 3\n#### 42 "}]
    (found,) = sources.examples(rows, answer_after="####")
    assert found.answer == "42" and found.solution == rows[0]["answer"]
    (found,) = sources.examples([rows[0] | {"solution": "s"}], answer_after="####")
    assert found.answer == "42" and found.solution == "s"
    with pytest.raises(ValueError, match=r"row 0: answer_after='\$\$' does not occur"):
        sources.examples(rows, answer_after="$$")


def test_last_turn_of_the_assistant_is_the_solution():
    user, reply = ({"role": r, "content": r} for r in ("user", "assistant"))
    rows = [{"messages": [user, reply]}, {"messages": [user, reply, user]}]
    first, second = sources.examples(rows)
    assert first.prompt == [user] and first.solution == "assistant"
    assert second.prompt == [user, reply, user] and second.solution is None


def test_task_rows():
    rows = sources.read("task:arithmetic", split="test", count=20, levels=(2,))
    made = tasks.make("test", 20, levels=(2,))
    assert [row.prompt for row in rows] == [row["question"] for row in made]
    assert [row.answer for row in rows] == [row["answer"] for row in made]
    with pytest.raises(ValueError, match="bundled tasks are task:arithmetic and"):
        sources.read("task:algebra")


def test_sources_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl does not exist"):
        sources.read(str(tmp_path / "none.jsonl"))
    with pytest.raises(
        ValueError, match="neither task:arithmetic nor task:words, nor a file"
    ):
        sources.read("data.xlsx")
    with pytest.raises(ValueError, match="no rows"):
        sources.read(write(tmp_path / "a.jsonl", "\n"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'jopd\[data\]'"):
        sources.read("openai/gsm8k:main")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"needs pyarrow; pip install 'jopd\[data\]'"):
        sources.read(write(tmp_path / "a.parquet", ""))


def test_hugging_face_data_sets(monkeypatch):
    asked = []

    class Package:
        @staticmethod
        def load_dataset(*args, **kwargs):
            asked.append((args, kwargs))
            return iter([{"question": "x", "answer": b"y"}])

    monkeypatch.setitem(sys.modules, "datasets", Package)
    assert sources.read("openai/gsm8k:main", split="test")[0].answer == "y"
    sources.read("owner/name")
    assert asked[0] == (("openai/gsm8k", "main"), {"split": "test"})
    assert asked[1] == (("owner/name", None), {"split": "train"})


def test_gsm8k_and_math(shared):
    rows = sources.read(str(shared / "gsm8k" / "train.jsonl"), answer_after="####")
    assert len(rows) == 7_473 and rows[0].answer == "72"
    assert rows[0].solution.endswith("#### 72")
    rows = sources.read(
        str(shared / "math" / "math_train12k.parquet"),
        answer_column="reward_model.ground_truth",
    )
    assert len(rows) == 12_000 and rows[0].answer == "2" and rows[0].solution is None
    assert [turn["role"] for turn in rows[0].prompt] == ["user"]
    rows = sources.read(str(shared / "math" / "math_test5000.jsonl.gz"))
    assert len(rows) == 5_000 and rows[0].solution and rows[0].answer is None


# --- Tokenising ---------------------------------------------------------------------


def test_encode_task_rows(digits):
    rows = sources.read("task:arithmetic", count=50)
    found = data.encode(rows, digits, **LIMITS)
    assert len(found) == 50 and found.dropped == {"prompt": 0, "solution": 0}
    for i, row in enumerate(rows):
        assert found.prompts[i].dtype == found.solutions[i].dtype == np.int32
        assert digits.decode(found.prompts[i]) == found.texts[i] == row.prompt
        assert digits.decode(found.solutions[i]) == row.solution + "<eos>"
        assert found.answers[i] == row.answer and found.finished[i]


def test_a_solution_that_ends_already_gets_no_second_end(digits):
    rows = [example("1+1=", "1+1=2;#2<eos>"), example("1+2=", "1+2=3;#3")]
    found = data.encode(rows, digits, **LIMITS)
    for solution in found.solutions:
        assert solution.tolist().count(digits.eos_token_id) == 1
        assert solution[-1] == digits.eos_token_id


def test_pad_that_is_eos_does_not_shorten_anything(digits):
    digits = runs.bundled_tokenizer()
    digits.pad_token = digits.eos_token
    rows = [example("1+1=", "1+1=2;#2"), example("20+20=", "20+20=40;#40")]
    found = data.encode(rows, digits, **LIMITS)
    gold = data.gold_rows(found, [0, 1], width=32, pad_id=digits.pad_token_id)
    assert gold.length_B.tolist() == [4 + 9, 6 + 13]
    assert gold.tokens_BT[0, 12] == digits.eos_token_id
    assert found.solutions[1][-1] == digits.eos_token_id


def test_long_prompts(digits):
    rows = [example("1+1=", name="a"), example("1+2+3=", "#6", "6", "b")]
    tight = {"max_prompt_tokens": 4, "max_response_tokens": 8}
    said = r"2 of 3 prompts .*tokens=4 tokens, .*row 1 \('b'\), the longest 8; "
    with pytest.raises(ValueError, match=said + "set max_prompt_tokens to 8"):
        data.encode([*rows, example("1+2+3+4=")], digits, **tight)
    found = data.encode(rows, digits, **tight, on_long_prompt="drop")
    assert found.ids == ["a"] and found.dropped["prompt"] == 1
    assert all(len(column) == 1 for column in (found.prompts, found.texts))
    found = data.encode(rows, digits, **tight, on_long_prompt="truncate_left")
    assert digits.decode(found.prompts[1]) == "2+3="
    with pytest.raises(ValueError, match="empty: 1 prompts were longer"):
        data.encode(rows[1:], digits, **tight, on_long_prompt="drop")
    with pytest.raises(ValueError, match="on_long_prompt='cut' is unknown"):
        data.encode(rows, digits, **tight, on_long_prompt="cut")


def test_left_truncation_keeps_bos(stories):
    rows = [example("Once upon a time, there was a big red ball.")]
    tight = {"max_prompt_tokens": 5, "max_response_tokens": 8}
    full = data.encode(rows, stories, **LIMITS).prompts[0]
    cut = data.encode(rows, stories, **tight, on_long_prompt="truncate_left").prompts[0]
    assert cut.tolist() == [stories.bos_token_id, *full[-4:].tolist()]


def test_long_solutions(digits):
    rows = [example("1+1=", "1+1=2;#2"), example("1+2=", "#3")]
    tight = {"max_prompt_tokens": 8, "max_response_tokens": 8}
    found = data.encode(rows, digits, **tight)
    assert found.solutions[0] is None and found.dropped["solution"] == 1
    assert len(found) == 2 and found.solutions[1] is not None
    found = data.encode(rows, digits, **tight, on_long_solution="truncate")
    assert digits.decode(found.solutions[0]) == "1+1=2;#2"
    assert found.finished == [False, True]
    exactly = data.encode(rows, digits, max_prompt_tokens=8, max_response_tokens=9)
    assert exactly.finished == [True, True] and exactly.dropped["solution"] == 0


def test_documents_are_cut_into_prompt_and_continuation(shared, stories):
    path = str(shared / "text" / "tinystories_sample_2MiB.txt")
    rows = sources.read(path)[1:-1]  # those at both ends are cut
    assert len(rows) == 2_315
    limits = {"max_prompt_tokens": 9, "max_response_tokens": 64}
    found = data.encode(
        rows[:50], stories, **limits, prefix_tokens=8, on_long_solution="truncate"
    )
    for i, row in enumerate(rows[:50]):
        whole = stories(row.prompt, verbose=False)["input_ids"]
        joined = [*found.prompts[i], *found.solutions[i]]
        assert found.prompts[i][0] == stories.bos_token_id
        assert len(found.prompts[i]) == 9
        assert joined == [*whole, stories.eos_token_id][: 9 + 64]
        assert row.prompt.startswith(found.texts[i])
        assert found.finished[i] == (len(whole) + 1 <= 9 + 64)
    short = data.encode([example("One day")], stories, **LIMITS, prefix_tokens=8)
    assert short.solutions == [None]


def test_chat_template_and_its_arguments(qwen3):
    rows = [example([{"role": "user", "content": "Hi"}], "Hello")]
    off = {"template_kwargs": {"enable_thinking": False}}
    found = data.encode(rows, qwen3, **LIMITS, **off, system="Be brief.")
    assert found.texts[0] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert qwen3.decode(found.prompts[0]) == found.texts[0]
    assert qwen3.decode(found.solutions[0]) == "Hello<|im_end|>"
    on = data.encode(rows, qwen3, **LIMITS)
    assert "<think>" not in on.texts[0]
    same = data.encode([example("Hi", "Hello")], qwen3, **LIMITS)
    assert same.texts == on.texts
    with pytest.raises(ValueError, match="'enable_thinkin' does not occur in the chat"):
        data.encode(rows, qwen3, **LIMITS, template_kwargs={"enable_thinkin": False})


def test_chat_template_never_and_always(qwen3, digits):
    turns = [{"role": "user", "content": "1+1="}]
    found = data.encode([example(turns)], qwen3, **LIMITS, chat_template="never")
    assert found.texts == ["1+1="]
    assert data.encode([example(turns)], digits, **LIMITS).texts == ["1+1="]
    with pytest.raises(ValueError, match="chat_template='always', but the tokenizer"):
        data.encode([example(turns)], digits, **LIMITS, chat_template="always")
    with pytest.raises(ValueError, match="as none is applied"):
        data.encode([example(turns)], digits, **LIMITS, template_kwargs={"x": 1})
    with pytest.raises(ValueError, match="prefix_tokens=2 takes documents"):
        data.encode(
            [example(turns)], qwen3, **LIMITS, chat_template="always", prefix_tokens=2
        )


def test_bos(shared, stories, qwen3):
    llama2 = load(shared, "tokenizers/llama2")
    assert llama2("One day")["input_ids"][0] != 1
    rows = [example("One day", "she ran")]

    def begins(tokenizer, **options):
        found = data.encode(rows, tokenizer, **LIMITS, **options)
        assert list(found.solutions[0]).count(tokenizer.bos_token_id) == 0
        return list(found.prompts[0]).count(1), int(found.prompts[0][0])

    assert begins(llama2) == begins(stories) == (1, 1)
    assert begins(llama2, add_bos="always") == begins(stories, add_bos="always")
    assert begins(llama2, add_bos="never")[0] == 0
    assert begins(stories, add_bos="never")[0] == 0
    with pytest.raises(ValueError, match="the tokenizer has no BOS"):
        data.encode(rows, qwen3, **LIMITS, add_bos="always")
    llama2.init_kwargs["add_bos_token"] = False
    assert begins(llama2)[0] == 0


def test_bos_under_a_chat_template_is_left_to_it(stories):
    rows = [example("One day", "she ran")]
    stories = AutoTokenizer.from_pretrained(stories.name_or_path, local_files_only=True)
    stories.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    found = data.encode(rows, stories, **LIMITS)
    assert list(found.prompts[0]).count(stories.bos_token_id) == 1
    stories.chat_template = "{{ messages[0].content }}"
    found = data.encode(rows, stories, **LIMITS)
    assert list(found.prompts[0]).count(stories.bos_token_id) == 0
    found = data.encode(rows, stories, **LIMITS, add_bos="always")
    assert found.prompts[0][0] == stories.bos_token_id


def test_eos_that_a_tokenizer_adds_is_taken_off_prompts():
    tokenizer = words({"</s>": 0, "a": 1, "b": 2}, eos_token="</s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 0)]
    )
    found = data.encode([example("a b", "b")], tokenizer, **LIMITS)
    assert found.prompts[0].tolist() == [1, 2] and found.solutions[0].tolist() == [2, 0]


def test_missing_eos_is_named():
    with pytest.raises(ValueError, match="has no EOS"):
        data.encode([example("a", "a")], words({"a": 0}), **LIMITS)


# --- Order --------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "prompts"), [(10, 4), (7, 7), (5, 12), (1, 3)])
def test_order_visits_each_row_once_per_epoch(size, prompts):
    steps = [
        data.order(step, prompts_per_step=prompts, size=size, seed=0)
        for step in range(3 * size)
    ]
    assert all(rows.shape == (prompts,) and rows.dtype == np.int64 for rows in steps)
    stream = np.concatenate(steps)
    epochs = stream.reshape(-1, size)
    assert len(epochs) == 3 * prompts
    for epoch in epochs:
        assert sorted(epoch) == list(range(size))
    if size > 5:
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_order_is_a_pure_function_of_step_and_seed():
    arguments = {"prompts_per_step": 6, "size": 20, "seed": 1}
    forward = [data.order(step, **arguments) for step in range(10)]
    backward = [data.order(step, **arguments) for step in reversed(range(10))]
    np.testing.assert_array_equal(forward, backward[::-1])
    data.order(0, **arguments)[:] = -1
    np.testing.assert_array_equal(data.order(0, **arguments), forward[0])
    other = [data.order(step, **arguments | {"seed": 2}) for step in range(10)]
    assert not np.array_equal(forward, other)


@pytest.mark.parametrize(
    "wrong", [{"step": -1}, {"size": 0}, {"prompts_per_step": 0}], ids=str
)
def test_order_refuses_nonsense(wrong):
    arguments = {"step": 0, "prompts_per_step": 1, "size": 1, "seed": 0} | wrong
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        data.order(**arguments)


# --- Arrays -------------------------------------------------------------------------


def test_pad_prompts_takes_the_smallest_bucket():
    prompts = [np.array([5, 6, 7]), np.array([8])]
    tokens_BP, length_B = data.pad_prompts(prompts, buckets=(16, 4, 3), pad_id=9)
    np.testing.assert_array_equal(tokens_BP, [[5, 6, 7], [8, 9, 9]])
    np.testing.assert_array_equal(length_B, [3, 1])
    assert tokens_BP.dtype == length_B.dtype == np.int32
    assert data.pad_prompts(prompts, buckets=(16, 4))[0].shape == (2, 4)
    with pytest.raises(ValueError, match="3 tokens exceeds the largest bucket of 2"):
        data.pad_prompts(prompts, buckets=(1, 2))


def test_gold_rows(digits):
    rows = [example("1+1=", "#2"), example("1+2=", None), example("10+2=", "#12")]
    found = data.encode(rows, digits, **LIMITS)
    gold = data.gold_rows(found, [2, 0], width=12, pad_id=3)
    assert digits.decode(gold.tokens_BT[0, :9]) == "10+2=#12<eos>"
    np.testing.assert_array_equal(gold.tokens_BT[1, 7:], [3] * 5)
    np.testing.assert_array_equal(gold.prompt_length_B, [5, 4])
    np.testing.assert_array_equal(gold.length_B, [9, 7])
    np.testing.assert_array_equal(gold.group_B, [2, 0])
    assert gold.finished_B.all() and gold.finished_B.dtype == bool
    assert (gold.source_BT == GOLD).all() and (gold.behavior_logp_BT == 0).all()
    assert (gold.age_B == 0).all()
    kinds = collections.Counter(array.dtype.name for array in gold)
    assert kinds == {"int32": 6, "float32": 1, "bool": 1}
    with pytest.raises(ValueError, match=r"row 1 \('0'\) has no gold"):
        data.gold_rows(found, [0, 1], width=12)
    with pytest.raises(ValueError, match=r"5 prompt and 4 solution .* width=8"):
        data.gold_rows(found, [2], width=8)


def test_gold_rows_cut_to_the_limit_are_not_finished(digits):
    rows = [example("1+1=", "1+1=2;#2")]
    found = data.encode(
        rows,
        digits,
        max_prompt_tokens=8,
        max_response_tokens=5,
        on_long_solution="truncate",
    )
    gold = data.gold_rows(found, [0], width=9)
    assert not gold.finished_B[0] and gold.length_B[0] == 9


# --- Vocabularies -------------------------------------------------------------------


def test_tokenizers_that_agree(shared, stories, digits):
    other = load(shared, "models/llama2xs_279K")
    assert vocabulary.compare_tokenizers(stories, other) == []
    assert vocabulary.compare_tokenizers(digits, runs.bundled_tokenizer()) == []


def test_tokenizers_that_differ_name_the_first_ids(shared, stories, qwen3):
    small, large = (load(shared, f"models/babyllama_{n}") for n in (105, 361))
    with pytest.raises(
        ValueError, match=r"102 of 105 .*id 3: student '▁', teacher '<0"
    ):
        vocabulary.compare_tokenizers(small, large)
    with pytest.raises(ValueError, match="shared ids: id 0: "):
        vocabulary.compare_tokenizers(qwen3, stories)


def test_further_ids_at_the_end_are_allowed(qwen3):
    longer = AutoTokenizer.from_pretrained(qwen3.name_or_path, local_files_only=True)
    longer.add_tokens(["<extra>"])
    assert vocabulary.compare_tokenizers(qwen3, longer) == []
    assert vocabulary.compare_tokenizers(longer, qwen3) == []


def test_equal_ids_with_other_rules_are_refused(qwen3):
    other = AutoTokenizer.from_pretrained(qwen3.name_or_path, local_files_only=True)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(True)
    with pytest.raises(ValueError, match="share their ids, but cut"):
        vocabulary.compare_tokenizers(qwen3, other)
    lower = words({"<unk>": 0, "in": 1, "In": 2}, unk_token="<unk>")
    plain = words({"<unk>": 0, "in": 1, "In": 2}, unk_token="<unk>")
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ValueError, match="share their ids, but cut"):
        vocabulary.compare_tokenizers(plain, lower)


def test_shared_vocab_cuts_padding_only():
    ours = runs.bundled_tokenizer()
    assert vocabulary.shared_vocab(24, 20, ours) == 20
    assert vocabulary.shared_vocab(18, 32, ours) == 18
    with pytest.raises(ValueError, match="17"):
        vocabulary.shared_vocab(24, 17, ours)


def test_shared_vocab_is_the_smaller_head(qwen3):
    assert vocabulary.shared_vocab(151_936, 152_064, qwen3) == 151_936
    assert vocabulary.shared_vocab(152_064, 151_936, qwen3) == 151_936
    assert vocabulary.shared_vocab(151_669, 151_669, qwen3) == 151_669
    with pytest.raises(ValueError, match=r"ids up to 151668.*151668 .student."):
        vocabulary.shared_vocab(151_668, 152_064, qwen3)
