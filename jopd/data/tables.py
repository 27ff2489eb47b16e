"""Rows as they are in files and in Hugging Face data sets."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable

from etils import epath

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt")
# What lies beside data in a folder.
NO_DATA = ("readme.txt", "license.txt", "licence.txt", "notice.txt", "changelog.txt")
NO_DATA += ("dataset_info.json", "dataset_infos.json", "dataset_dict.json")
NO_DATA += ("state.json", "citation.txt", "requirements.txt")
_LONGEST_CELL = 2**31 - 1  # the csv module's own limit is 131,072


def parts_of(path: str) -> list[list[str]]:
    """What a path names: for every part between commas its sources, in order.

    A folder is the files in it that can be read, and so are the matches of a glob;
    anything else is one source, a file with a comma in its name too. Of a folder and a
    glob hidden files and those of ``NO_DATA`` are left out.

    Raises:
      FileNotFoundError: a folder or a glob without such a file.
      ValueError: a part is empty.
    """
    if "," in path and epath.Path(path).exists():
        return [[path]]
    parts = [part.strip() for part in path.split(",")]
    if not all(parts):
        raise ValueError(
            f"data.path or data.eval_path, {path!r}, has an empty part; name a file, a "
            "folder, a data set or a task there, or remove the comma"
        )
    return [_expanded(part) for part in parts]


def _expanded(part: str) -> list[str]:
    wild = re.search(r"[*?\[]", part)
    if not wild and (is_file(part) or not epath.Path(part).is_dir()):
        return [part]
    pattern = part if wild else f"{part.rstrip('/')}/*"
    before = part[: wild.start()] if wild else f"{part.rstrip('/')}/"
    folder = before[: before.rfind("/") + 1]
    matches = epath.Path(folder or ".").glob(pattern[len(folder) :])
    found = sorted(name for name in map(str, matches) if _is_data(name))
    if not found:
        raise FileNotFoundError(
            f"{part}: no file that ends in {', '.join(SUFFIXES)} (or with .gz); check "
            "the folder or the pattern"
        )
    return found


def _is_data(name: str) -> bool:
    plain = name.rpartition("/")[2].lower()
    return is_file(name) and not plain.startswith(".") and plain not in NO_DATA


def is_file(source: str) -> bool:
    """Whether the name is that of a file, and not of a task or a data set."""
    return bool(suffix(source))


def rows(source: str) -> list[dict]:
    """Rows of a file of any kind but plain text."""
    return _READERS[suffix(source)](source)


def suffix(source: str) -> str:
    """``.jsonl`` of ``a.jsonl`` and ``A.JSONL.gz``; empty for what is no file."""
    plain = source.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if plain.endswith(suffix)), "")


def _load(source: str) -> bytes:
    path = epath.Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{source} does not exist; check the path")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{source} cannot be read: {error.strerror}") from error
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
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
            row = json.loads(line, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{source}, line {number}: not JSON ({error}): {line.strip()!r:.80}; "
                f"correct or remove the line"
            ) from error
        rows.append(_object(row, f"{source}, line {number}", "per line"))
    return rows


def _json(source: str) -> list[dict]:
    """A list of objects, or lines of objects under the name of JSON."""
    text = _decode(_load(source), source)
    if not text.lstrip().startswith("["):
        return _jsonl(source)
    try:
        found = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise ValueError(
            f"{source}, line {line}: not JSON ({error}); correct the line"
        ) from error
    return [
        _object(row, f"{source}: row {n}", "per row") for n, row in enumerate(found)
    ]


def _unique(pairs: list[tuple]) -> dict:
    """An object none of whose keys is there twice: one of them would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.80} is there twice")
    return found


def _object(row, where: str, each: str) -> dict:
    if not isinstance(row, dict):
        raise ValueError(
            f"{where}: {row!r:.80} is no object; one JSON object {each} is expected"
        )
    return row


def _csv(source: str) -> list[dict]:
    csv.field_size_limit(_LONGEST_CELL)
    text = io.StringIO(_decode(_load(source), source), newline="")
    tabs = suffix(source) == ".tsv"
    reader = csv.DictReader(text, delimiter="\t" if tabs else ",")
    rows = []
    try:
        names = reader.fieldnames or ()
        if len(set(names)) < len(names):
            raise csv.Error("a column is there twice")
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
    data = _load(source)
    try:
        found = parquet.read_table(io.BytesIO(data)).to_pylist()
    except Exception as error:  # of many classes, pyarrow's and others
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{source}: damaged Parquet ({reason:.200}); fetch it again"
        ) from error
    return _plain(found, source)


def _plain(rows: Iterable[dict], source: str) -> list[dict]:
    """Rows of a table as they were before it was one."""
    texts = (_as_texts(row, f"{source}: row {n}") for n, row in enumerate(rows))
    return [_without_padding(row) for row in texts]


def _without_padding(value, listed: bool = False):
    """Lists of objects as they were before a table gave each the keys of all.

    Arrow has one set of keys for all objects of a column and null where one has none,
    so a null that was written there looks the same and goes with the others.
    """
    if isinstance(value, list):
        return [_without_padding(one, True) for one in value]
    if not isinstance(value, dict):
        return value
    pairs = value.items()
    return {
        k: _without_padding(one, listed)
        for k, one in pairs
        if one is not None or not listed
    }


def _as_texts(value, where: str):
    """Binary columns, as some tools write texts, as the texts that they are."""
    if isinstance(value, dict):
        return {key: _as_texts(one, f"{where}, {key!r}") for key, one in value.items()}
    if isinstance(value, list):
        return [_as_texts(one, where) for one in value]
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where} holds {value!r:.60}, bytes that are no UTF-8; convert the column"
        ) from error


def hub_rows(source: str, split: str) -> list[dict]:
    """All rows of a data set of the hub, ``owner/name@revision:configuration``."""
    if source.partition("@")[0].count("/") != 1 or source.startswith((".", "/")):
        raise ValueError(
            f"{source!r} is neither task:arithmetic nor task:words, nor a file "
            f"ending in {', '.join(SUFFIXES)} (or with .gz), nor a data set owner/name"
        )
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{source}: Hugging Face data sets need the package datasets; "
            f"pip install 'jopd[data]', or name a local file"
        ) from error
    name, _, configuration = source.partition(":")
    name, _, revision = name.partition("@")
    given = dict(split=split, **{"revision": revision} if revision else {})
    try:
        found = datasets.load_dataset(name, configuration or None, **given)
    except Exception as error:  # of the hub, or of any library that reads from it
        raise ValueError(
            f"{source} (split {split!r}) could not be read from the hub: "
            f"{type(error).__name__}: {' '.join(str(error).split()):.300}; check name, "
            "split and connection, log in where it is private (hf auth login, or "
            "HF_TOKEN), or name a local file"
        ) from error
    return _plain(found, source)


def documents(source: str, separator: str) -> list[str]:
    """The texts between separators, those of white space alone left out."""
    pieces = _decode(_load(source), source).replace("\r\n", "\n").split(separator)
    texts = [piece.strip() for piece in pieces]
    return [text for text in texts if text]


_READERS = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
