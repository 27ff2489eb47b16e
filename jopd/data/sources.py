"""Where prompts come from: files, Hugging Face data sets and the bundled task."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from jopd.data import tasks, turns

PROMPT_COLUMNS = ("prompt", "messages", "question", "problem")
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".txt")


class Example(NamedTuple):
    """One row before tokenising.

    Attributes:
      prompt: text, or a chat as a list of ``{"role", "content", ...}``.
      solution: gold response as text, or None.
      answer: what a verifier compares with, or None.
      id: the row's own identifier, or its number.
      fields: further columns as text, by name.
      beside: what a chat template is given beside the turns, see `turns.BESIDE`.
      reply: the gold turn, where it is more than its content.
      unread: columns of the row that nothing above is made of.
    """

    prompt: str | list[dict[str, Any]]
    solution: str | None
    answer: str | None
    id: str
    fields: dict[str, str | None] = {}  # never changed in place
    beside: dict[str, Any] = {}  # never changed in place
    reply: dict[str, Any] | None = None
    unread: tuple[str, ...] = ()


def read(
    source: str,
    *,
    split: str = "train",
    prompt_column: str = "",
    solution_column: str = "",
    answer_column: str = "",
    answer_after: str = "",
    fields: Sequence[str] = (),
    separator: str = "<|endoftext|>",
    drop_partial: bool = False,
    count: int = 10_000,
    seed: int = 0,
    levels: Sequence[int] = tasks.LEVELS,
    skip: int = 0,
    limit: int | None = None,
) -> list[Example]:
    """Reads prompts, with gold solutions and answers where there are any.

    Args:
      source: ``task:arithmetic``; a path (``gs://`` too) ending in ``.jsonl``,
        ``.json``, ``.parquet``, ``.csv`` or ``.txt``, each also with ``.gz``; else a
        Hugging Face data set, ``owner/name`` or ``owner/name:configuration``.
      split: of the task or the Hugging Face data set; files have none.
      prompt_column: dots for nested ones (``reward_model.ground_truth``). Empty: the
        first of `PROMPT_COLUMNS`. A chat whose last turn is the assistant's gives
        that turn as the solution.
      solution_column, answer_column: empty: ``solution`` and ``answer`` if they exist.
      answer_after: marker within the answer column, ``"####"`` for GSM8K. The text
        after its last occurrence is the answer; the whole cell, which states it, is
        the solution unless there is a solution column.
      fields: columns kept beside these, as text (``level`` of ``task:arithmetic``).
      separator: between the documents of a text file; `data.encode` cuts them with
        `prefix_tokens`.
      drop_partial: leave out the first and last document, cut ones, of a text file.
      count, seed, levels: of ``task:arithmetic``, see `tasks.make`.
      skip, limit: rows to leave out first, and to read at most after that.

    Raises:
      FileNotFoundError, ValueError: each names the source, the row or line, and a
        remedy. ImportError: an optional reader is missing.
    """
    if source.startswith("task:"):
        rows = _task(source, split, count, seed, levels)
    elif not _suffix(source):
        rows = _hugging_face(source, split)
    elif _suffix(source) == ".txt":
        documents = _documents(source, separator, drop_partial)
        rows = [{"prompt": text} for text in documents]
    else:
        rows = _READERS[_suffix(source)](source)
    rows = rows[skip:][:limit]
    if not rows:
        raise ValueError(f"{source}: no rows (skip={skip}, limit={limit}); add some")
    return examples(
        rows,
        prompt_column=prompt_column,
        solution_column=solution_column,
        answer_column=answer_column,
        answer_after=answer_after,
        fields=fields,
        source=source,
    )


def is_file(source: str) -> bool:
    """Whether the name is that of a file, and not of a task or a data set."""
    return bool(_suffix(source))


def examples(
    rows: Sequence[dict[str, Any]],
    *,
    prompt_column: str = "",
    solution_column: str = "",
    answer_column: str = "",
    answer_after: str = "",
    fields: Sequence[str] = (),
    source: str = "rows",
) -> list[Example]:
    """Picks prompt, solution, answer and further fields out of rows; see `read`."""
    prompt = prompt_column or _prompt_column(rows[0], source)
    found = []
    for index, row in enumerate(rows):
        where = f"{source}: row {index}"
        asked, last = _prompt(_value(row, prompt, where), prompt, where)
        gold = _text(row, solution_column, "solution", where)
        reply = _text(row, answer_column, "answer", where)
        if answer_after and reply is not None:
            _, marker, after = reply.rpartition(answer_after)
            if not marker:
                raise ValueError(
                    f"{where}: answer_after={answer_after!r} does not occur in column "
                    f"{answer_column or 'answer'!r}; correct the marker or drop the row"
                )
            gold, reply = gold or reply, after.strip()
        name = row.get("unique_id", row.get("id", index))
        kept = {column: _text(row, column, "", where) for column in fields}
        given = turns.beside(row, where) if isinstance(asked, list) else {}
        lost = _unread(row, (prompt, solution_column, answer_column, *fields, *given))
        lost = () if source.startswith("task:") else lost
        if last is not None and not gold:
            gold, last = turns.as_text(last), turns.whole(last)
        elif last is not None:
            lost, last = (*lost, f"the last turn of {prompt}"), None
        found.append(Example(asked, gold, reply, str(name), kept, given, last, lost))
    return found


def _unread(row: dict, used: Sequence[str]) -> tuple[str, ...]:
    """Columns that no part of an example is made of; dotted names use the first."""
    known = {"solution", "answer", "id", "unique_id"}
    known |= {column if column in row else column.split(".")[0] for column in used}
    return tuple(
        str(column)
        for column, value in row.items()
        if column not in known and value not in (None, "", [])
    )


def _listed(names) -> str:
    return ", ".join(repr(name) for name in names)


def _prompt_column(row: dict, source: str) -> str:
    name = next((name for name in PROMPT_COLUMNS if name in row), None)
    if name is None:
        raise ValueError(
            f"{source}: no column {_listed(PROMPT_COLUMNS)}; the columns are "
            f"{_listed(row)}; name the one that holds the prompt"
        )
    return name


def _value(row: dict, column: str, where: str) -> Any:
    """The value at a dotted path; a column whose name has dots comes first."""
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        if not isinstance(value, dict) or key not in value:
            raise ValueError(
                f"{where}: no column {column!r}; the columns are {_listed(row)}"
            )
        value = value[key]
    return value


def _text(row: dict, named: str, default: str, where: str) -> str | None:
    """A cell as text: a named column has to exist, the default one need not.

    A list of one counts as its entry.
    """
    column = named or default
    value = _value(row, column, where) if named else row.get(default)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list | dict):
        raise ValueError(
            f"{where}: column {column!r} holds {type(value).__name__} {value!r:.80}, "
            f"not text; name a text column, with dots for a nested one"
        )
    return None if value is None else str(value)


def _prompt(value: Any, column: str, where: str) -> tuple[str | list, dict | None]:
    """A prompt and, for chats that end with it, the assistant's last turn."""
    if isinstance(value, str) and value.strip():
        return value, None
    if not isinstance(value, list) or not value:
        raise ValueError(
            f"{where}: column {column!r} holds {value!r:.80}; a prompt is a text that "
            f"is not empty or a list of {{role, content}}"
        )
    where = f"{where}: column {column!r}"
    return turns.split(turns.conversation(value, where), where)


def _task(source: str, split: str, count: int, seed: int, levels) -> list[dict]:
    if source != "task:arithmetic":
        raise ValueError(f"{source!r} is unknown; the bundled task is task:arithmetic")
    return tasks.make(split, count, seed, levels)


def _suffix(source: str) -> str:
    plain = source.removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if plain.endswith(suffix)), "")


def _load(source: str) -> bytes:
    path = epath.Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{source} does not exist; check the path")
    data = path.read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise ValueError(f"{source}: damaged gzip ({error}); fetch it again") from error


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source}: byte {error.start} is not UTF-8; convert the file to UTF-8"
        ) from error


def _jsonl(source: str) -> list[dict]:
    # Not splitlines: JSON strings may hold U+2028 and other line ends of Unicode.
    rows = []
    for number, line in enumerate(_decode(_load(source), source).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{source}, line {number}: not JSON ({error}): {line.strip()!r:.80}; "
                f"correct or remove the line"
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{source}, line {number}: {row!r:.80} is no object; one JSON object "
                f"per line is expected"
            )
        rows.append(row)
    return rows


def _json(source: str) -> list[dict]:
    """A list of objects, or lines of objects under the name of JSON."""
    text = _decode(_load(source), source)
    if not text.lstrip().startswith("["):
        return _jsonl(source)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{source}, line {error.lineno}: not JSON ({error}); correct the line"
        ) from error


def _csv(source: str) -> list[dict]:
    reader = csv.DictReader(io.StringIO(_decode(_load(source), source), newline=""))
    rows = []
    try:
        for row in reader:
            # DictReader files surplus cells under None and lacking ones as None.
            if None in row or None in row.values():
                raise csv.Error(f"not {len(reader.fieldnames or ())} cells")
            rows.append(row)
    except csv.Error as error:
        raise ValueError(
            f"{source}, line {reader.line_num}: {error}; correct the line"
        ) from error
    return rows


def _parquet(source: str) -> list[dict]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            f"{source}: Parquet needs pyarrow; pip install 'jopd[data]'"
        ) from error
    return parquet.read_table(io.BytesIO(_load(source))).to_pylist()


def _hugging_face(source: str, split: str) -> list[dict]:
    if source.count("/") != 1 or source.startswith((".", "/")):
        raise ValueError(
            f"{source!r} is neither task:arithmetic, nor a file ending in "
            f"{', '.join(SUFFIXES)} (or with .gz), nor a data set owner/name"
        )
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{source}: Hugging Face data sets need the package datasets; "
            f"pip install 'jopd[data]', or name a local file"
        ) from error
    name, _, configuration = source.partition(":")
    return list(datasets.load_dataset(name, configuration or None, split=split))


def _documents(source: str, separator: str, drop_partial: bool) -> list[str]:
    """Splits before decoding, so a cut end may cut a UTF-8 character too."""
    pieces = _load(source).replace(b"\r\n", b"\n").split(separator.encode())
    pieces = pieces[1:-1] if drop_partial else pieces
    texts = [_decode(piece, source).strip() for piece in pieces]
    return [text for text in texts if text]


_READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
