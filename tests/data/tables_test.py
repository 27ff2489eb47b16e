"""Files of rows: damage is one line with file and row, and no cell is lost."""

import gzip
import io
import json

import pyarrow
import pytest
from pyarrow import parquet

from jopd.data import dataset, sources, tables


def put(path, data: bytes):
    path.write_bytes(data)
    return str(path)


def packed(rows: list[dict]) -> bytes:
    held = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), held)
    return held.getvalue()


def test_bytes_of_parquet_are_the_texts_that_they_are(tmp_path):
    rows = [{"question": "é\ufeff".encode(), "answer": b"2"}]
    (one,) = sources.read(put(tmp_path / "a.parquet", packed(rows)))
    assert (one.prompt, one.answer) == ("é\ufeff", "2")
    nested = [{"messages": [{"role": b"user", "content": b"x"}]}]
    (one,) = sources.read(put(tmp_path / "a.parquet", packed(nested)))
    assert one.prompt == [{"role": "user", "content": "x"}]
    path = put(tmp_path / "a.parquet", packed([{"question": b"\xff"}]))
    with pytest.raises(ValueError, match=r"row 0, 'question' holds b'\\xff', bytes"):
        sources.read(path)


WHOLE = packed([{"question": "x", "answer": "y"}] * 3)
JSON = {
    "deep": b"[" * 200_000,
    "deep objects": b'[{"question": ' * 100_000,
    "cut": b'[{"question": "x"',
    "numbers": b"[1, 2]",
    "a long number": b'[{"question": "x", "answer": ' + b"9" * 5000 + b"}]",
    "a key twice": b'[{"question": "x", "question": "y"}]',
}


@pytest.mark.parametrize("content", JSON.values(), ids=JSON)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_damaged_json_is_one_line(tmp_path, content, suffix):
    refused(put(tmp_path / f"a{suffix}", content))


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", WHOLE[:-9], WHOLE[9:], WHOLE.replace(b"question", b"x")]
)
def test_damaged_parquet_is_one_line(tmp_path, content):
    refused(put(tmp_path / "a.parquet", content))


@pytest.mark.parametrize("content", [b"a,a\n1,2\n", b"a,b\n1\n", b"\xff", b"a\x00,b\n"])
def test_damaged_csv_is_one_line(tmp_path, content):
    refused(put(tmp_path / "a.csv", content))


def test_damaged_gzip_and_a_folder_in_place_of_a_file_are_one_line(tmp_path):
    whole = gzip.compress(b'{"question": "x"}\n' * 99)
    refused(put(tmp_path / "a.jsonl.gz", whole[:12] + b"\x00\x01" + whole[14:]))
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(ValueError, match=r"b\.jsonl cannot be read: Is a directory"):
        tables.rows(str(tmp_path / "b.jsonl"))


def refused(path: str) -> None:
    with pytest.raises(ValueError) as caught:
        sources.read(path)
    said = str(caught.value)
    assert path in said
    assert len(said.splitlines()) == 1
    assert len(said) < 500


def test_many_long_columns_are_listed_in_short(tmp_path):
    row = {f"{i} {'a' * 5000}": 1 for i in range(100)}
    path = put(tmp_path / "a.jsonl", json.dumps(row).encode())
    said = r"and 80 more; name the prompt.s in data\.prompt_column"
    with pytest.raises(ValueError, match=said) as caught:
        sources.read(path)
    assert len(str(caught.value)) < 2000


def test_what_is_not_read_is_named_whatever_it_is_called():
    (one,) = sources.examples([{"question": "x", "": "y", "z": 0}])
    assert one.unread == ("", "z")


@pytest.mark.parametrize("given", [3, {"a": 1}, ["x"], float("nan")])
def test_an_input_that_is_no_text_is_refused(given):
    row = {"instruction": "x", "input": given, "output": "y"}
    with pytest.raises(ValueError, match="row 0: column 'input' holds"):
        sources.examples([row])


def test_a_text_that_ends_in_the_end_token_takes_nothing_from_others():
    """The first row was asked whether the tokenizer ends texts by itself."""
    import runs

    tokenizer = runs.bundled_tokenizer()
    texts = [f"1{tokenizer.eos_token}", "2+3="]
    rows = sources.examples([{"question": text} for text in texts])
    found = dataset.encode(rows, tokenizer, max_prompt_tokens=9, max_response_tokens=9)
    assert tokenizer.batch_decode(found.prompts) == texts


def test_objects_of_a_table_lose_the_keys_of_others(tmp_path):
    call = lambda **arguments: {"function": {"name": "f", "arguments": arguments}}
    ask = {"role": "user", "content": "a"}
    turns = [
        [ask, {"role": "assistant", "tool_calls": [call(**{key: "x"})]}] for key in "ab"
    ]
    rows = [{"messages": said, "meta": {"truth": None}} for said in turns]
    read = sources.read(put(tmp_path / "a.parquet", packed(rows)))
    for row, (_, said) in zip(read, turns, strict=True):
        assert row.reply == {"role": "assistant", "content": ""} | said
    # Elsewhere a null is a column without a value.
    options = dict(answer_column="meta.truth", prompt_column="messages")
    path = put(
        tmp_path / "b.parquet", packed([*rows, rows[0] | {"meta": {"truth": "1"}}])
    )
    assert [row.answer for row in sources.read(path, **options)] == [None, None, "1"]


def test_a_path_with_an_empty_part_is_refused():
    for path in ("", "a.jsonl,", ",a.jsonl", "a.jsonl, ,b.jsonl"):
        with pytest.raises(ValueError, match=r"data\.path .* has an empty part"):
            tables.parts_of(path)


def test_what_lies_beside_data_in_a_folder_is_none(tmp_path):
    for name in ("README.txt", "LICENSE.txt", "dataset_info.json", ".a.jsonl", "B.CSV"):
        put(tmp_path / name, b"question\nx\n")
    assert tables.parts_of(str(tmp_path)) == [[str(tmp_path / "B.CSV")]]
    assert tables.rows(str(tmp_path / "B.CSV")) == [{"question": "x"}]


def test_tabs_and_long_cells(tmp_path):
    long = "x" * 200_000
    path = put(tmp_path / "a.tsv", f"question\tanswer\na, b\t{long}\n".encode())
    assert tables.rows(path) == [{"question": "a, b", "answer": long}]
