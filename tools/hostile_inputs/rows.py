"""Rows of data: files of every format, in every shape that people publish, damaged.

Right is: as many rows as an independent reading of the file gives; every text of a row
is in the tokens, or in the answer, or its column is named as unread or its key as left
out; answers are what the cells say.
"""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pyarrow
import tokenizers
import transformers
from pyarrow import parquet

from hostile_inputs import Case, damage, mutate_json, nasty
from jopd.data import dataset, sources

TEXTS = (
    *("What is 1 + 1?", "2", "18", "#### 18", "so 3+4=7\n#### 7", "1,234", "x", " y "),
    *(
        "a\nb",
        "\ttab",
        "é漢🙂",
        "line\u2028sep",
        "<|im_end|>",
        "{{ x }}",
        "null",
        "b'2'",
    ),
    *(
        "b'2'",
        'quote "',
        "comma, ",
        "None",
        "\\n",
        "a" * 300,
        "e\u0301",
        "\ufeffx",
        "-0.5",
    ),
)
CHATML = (
    "{%- if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
IDS = ("id", "unique_id")


def byte_tokenizer(template: str | None):
    """A token a byte, and the turns of a chat."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, merges=[])
    plain = tokenizers.Tokenizer(model)
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = tokenizers.decoders.ByteLevel()
    plain.add_special_tokens(list(SPECIAL))
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="<|im_end|>"
    )
    made.chat_template = template
    return made


def prepare(scratch: Path):
    known = {True: byte_tokenizer(CHATML), False: byte_tokenizer(None)}

    def make(rng: random.Random) -> Case:
        shape = rng.choice(SHAPES)
        rows = [shape(rng) for _ in range(rng.randint(1, 4))]
        said = []
        if rng.random() < 0.5:
            rows, how = mutate_json(rng, rows)
            said.append(how)
        suffix = rng.choice(list(WRITERS))
        try:
            data = WRITERS[suffix](rows)
        except Exception:  # this format cannot hold such rows
            suffix, data = ".json", WRITERS[".json"](rows)
        if rng.random() < 0.3:
            data, how = damage(rng, data)
            said.append(how)
        if rng.random() < 0.1:
            suffix, data = suffix + ".gz", gzip.compress(data)
        path = scratch / f"rows{suffix}"
        path.write_bytes(data)
        tokenizer = known[rng.random() < 0.7]
        options = {}
        if rng.random() < 0.2:
            options["answer_after"] = "####"
        said = f"{suffix} {'; '.join(said)} {rows!r:.600} {options}"
        names = (str(path), "row ")
        return Case(said, names, lambda: _read(path, suffix, tokenizer, options))

    return make


# Shapes.


def _text(rng: random.Random) -> str:
    return rng.choice(TEXTS)


def _plain(rng):
    row = {rng.choice(["question", "prompt", "problem"]): _text(rng)}
    row |= {"answer": rng.choice([_text(rng), rng.randint(-5, 99), 0.5, None])}
    if rng.random() < 0.5:
        row["solution"] = _text(rng)
    if rng.random() < 0.3:
        row[rng.choice(["id", "level", "source"])] = rng.choice([7, "a", None])
    return row


def _chat(rng):
    turns = [{"role": "user", "content": _text(rng)}]
    if rng.random() < 0.4:
        turns.insert(0, {"role": "system", "content": _text(rng)})
    for _ in range(rng.choice([0, 1, 1, 2])):
        turns.append({"role": "assistant", "content": _text(rng)})
        if rng.random() < 0.2:
            turns[-1]["reasoning_content"] = _text(rng)
        if rng.random() < 0.2:
            call = {"name": "add", "arguments": {"x": _text(rng)}}
            turns[-1]["tool_calls"] = [{"type": "function", "function": call}]
            turns.append({"role": "tool", "content": _text(rng)})
        turns.append({"role": "user", "content": _text(rng)})
    if rng.random() < 0.6:
        turns.append({"role": "assistant", "content": _text(rng)})
    if rng.random() < 0.2:
        part = {"type": "text", "text": _text(rng)}
        turns[0]["content"] = rng.choice(
            [[part], [part, part], None, [part, nasty(rng)]]
        )
    row = {rng.choice(["messages", "prompt"]): turns}
    if rng.random() < 0.2:
        row["tools"] = [{"type": "function", "function": {"name": _text(rng)}}]
    if rng.random() < 0.4:
        row["answer"] = _text(rng)
    return row


def _said(rng):
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    turns = [
        {"from": names.get(turn["role"], turn["role"]), "value": turn["content"]}
        for turn in next(iter(_chat(rng).values()))
    ]
    return {"conversations": turns}


def _completion(rng):
    if rng.random() < 0.5:
        return {"prompt": _text(rng), "completion": _text(rng)}
    asked = [{"role": "user", "content": _text(rng)}]
    reply = [{"role": "assistant", "content": _text(rng)}]
    return {"prompt": asked, "completion": reply}


def _instruction(rng):
    more = rng.choice(["", _text(rng)])
    return {"instruction": _text(rng), "input": more, "output": _text(rng)}


def _document(rng):
    return {"text": _text(rng) * rng.randint(1, 30)}


def _preference(rng):
    row = {"prompt": _text(rng), "chosen": _text(rng), "rejected": _text(rng)}
    return row | {"answer": [_text(rng)] * rng.randint(0, 2)}


SHAPES = (_plain, _plain, _chat, _chat, _said, _completion, _instruction, _document)
SHAPES += (_preference,)


# Files.


def _as_lines(rows) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def _as_csv(rows) -> bytes:
    held = io.StringIO(newline="")
    names = list(rows[0])
    writer = csv.writer(held)
    writer.writerow(names)
    for row in rows:
        if not all(isinstance(row[n], str | int | float) for n in names):
            raise TypeError
        writer.writerow([row[name] for name in names])
    return held.getvalue().encode()


def _as_parquet(rows) -> bytes:
    held = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), held)
    return held.getvalue()


def _as_binary(rows) -> bytes:
    """Parquet whose texts are columns of bytes."""
    as_bytes = lambda v: v.encode() if isinstance(v, str) else v
    return _as_parquet([{k: as_bytes(v) for k, v in row.items()} for row in rows])


WRITERS = {
    ".jsonl": _as_lines,
    ".json": lambda rows: json.dumps(rows).encode(),
    ".csv": _as_csv,
    ".parquet": _as_parquet,
    ".binary.parquet": _as_binary,
}


def _independent(path: Path, suffix: str) -> list[dict]:
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    if ".parquet" in suffix:
        return parquet.read_table(io.BytesIO(data)).to_pylist()
    text = data.decode("utf-8-sig")
    if ".csv" in suffix:
        return list(csv.DictReader(io.StringIO(text, newline="")))
    if ".jsonl" not in suffix and text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line.strip()]


# What is read, and what it should be.


def _read(path: Path, suffix: str, tokenizer, options: dict) -> str | None:
    examples = sources.read(str(path), **options)
    found = dataset.encode(
        examples,
        tokenizer,
        max_prompt_tokens=100_000,
        max_response_tokens=100_000,
    )
    rows = _independent(path, suffix)
    if len(rows) != len(found) or len(found) != len(examples):
        return f"{len(found)} of {len(rows)} rows"
    for number, row in enumerate(rows):
        wrong = _row(row, number, found, tokenizer, options)
        if wrong:
            return f"row {number}: {wrong}"
    return None


def _row(row: dict, number: int, found, tokenizer, options: dict) -> str | None:
    gold = found.solutions[number]
    gold = "" if gold is None else tokenizer.decode(gold)
    used = tokenizer.decode(found.prompts[number]) + gold
    answer = found.answers[number]
    answer = answer if isinstance(answer, str | None) else "\n".join(answer)
    if answer is not None and ("b'" in answer and "b'" not in str(_decoded(row))):
        return f"bytes became {answer!r}"
    said = " ".join(found.notes)
    for path, leaf in _leaves(_decoded(row), ()):
        keys = [key for key in path if isinstance(key, str)]
        if path[0] in (*IDS, *found.unread) or any(repr(key) in said for key in keys):
            continue
        if any(name.endswith(f" of {path[0]}") for name in found.unread):
            continue  # a last turn that a column takes the place of, which is said
        if (
            keys[-1] in ("role", "from", "type")
            or leaf in (None, "")
            or path[0] == "id"
        ):
            continue
        if not _occurs(leaf, used, answer):
            return f"{path} {leaf!r:.60} is nowhere: {used!r:.200}, {answer!r:.50}"
    wanted = row.get("answer")
    if isinstance(wanted, list) or not wanted or "answer_after" in options:
        return None
    if answer is not None and str(answer).strip() != str(_decoded(wanted)).strip():
        return f"the answer {wanted!r:.60} became {answer!r:.60}"
    return None


def _decoded(value):
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, dict):
        return {key: _decoded(inner) for key, inner in value.items()}
    return [_decoded(inner) for inner in value] if isinstance(value, list) else value


def _leaves(value, path: tuple):
    if isinstance(value, dict | list):
        steps = value.items() if isinstance(value, dict) else enumerate(value)
        for step, inner in steps:
            yield from _leaves(inner, (*path, step))
    else:
        yield path, value


def _occurs(leaf, used: str, answer: str | None) -> bool:
    bare = leaf.strip() if isinstance(leaf, str) else json.dumps(leaf)
    inside = json.dumps(bare, ensure_ascii=False)[1:-1]
    held = (used, str(answer))
    forms = {bare, inside, str(leaf), str(leaf).lower()}
    # An answer behind its marker, and JSON that was read, are cut up.
    return any(form in text for form in forms for text in held) or _in_json(bare, used)


def _in_json(text: str, used: str) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError, TypeError):
        return False
    return all(_occurs(leaf, used, None) for _, leaf in _leaves(value, ()) if leaf)
