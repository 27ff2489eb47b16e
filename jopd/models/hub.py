"""The Hugging Face hub: models fetched by their id, folders pushed to it.

An id is ``org/name``, or ``org/name@revision`` for a branch, a tag or a commit. The
token is the hub library's own: ``HF_TOKEN``, or what ``hf auth login`` has left.
"""

import contextlib
import functools
import re
import sys
from pathlib import Path
from typing import Any

ID = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")
# What a model may be asked for, its tokenizer and what people read of it included.
MODEL = (
    *("*.json", "*.safetensors", "*.model", "*.jinja", "merges.txt"),
    *("README.md", "LICENSE*"),
)
LOGIN = "hf auth login, or HF_TOKEN"


def split(path: str | Path) -> tuple[str, str | None]:
    """``org/name`` and the revision of an id, None where it names none.

    Raises:
      FileNotFoundError: it is no id, so what was meant is a directory.
    """
    found = ID.fullmatch(str(path))
    if not found:
        raise FileNotFoundError(
            f"{path} is not a directory; give one, or a hub id like Qwen/Qwen3-0.6B, "
            "with a revision Qwen/Qwen3-0.6B@main"
        )
    return found[1], found[2]


def joined(name: str, revision: str | None) -> str:
    """The inverse of ``split``."""
    return f"{name}@{revision}" if revision else name


@functools.lru_cache(maxsize=64)
def fetch(path: str, patterns: tuple[str, ...]) -> Path:
    """The folder that holds a model, fetched as far as the patterns say.

    What is in the hub's cache is taken from there; what is not is said in one line, and
    on a terminal by the hub's own bars. A process asks once.

    Raises:
      FileNotFoundError: it cannot be had; names the id, the reason and remedies.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError, LocalEntryNotFoundError

    name, revision = split(path)
    asked, mute = dict(revision=revision, allow_patterns=list(patterns)), _mute()
    try:
        with _warnings_off():
            try:
                _announce(path)
                shown = {} if sys.stderr.isatty() else mute
                return Path(snapshot_download(name, **shown, **asked))
            except DryRunError as error:
                why = error.__cause__ or error
            try:
                local = snapshot_download(name, local_files_only=True, **mute, **asked)
            except LocalEntryNotFoundError as error:
                raise why from error  # it says more than that nothing is here
    except Exception as error:  # of the hub, or of any library that it asks with
        raise FileNotFoundError(
            f"{path} is not a directory here, and as a hub id it could not be fetched "
            f"({_reason(error)}); check the id and the connection, log in where the "
            f"model is private or gated ({LOGIN}), or give the directory of a copy"
        ) from error
    if "*.safetensors" in patterns and not any(Path(local).glob("*.safetensors")):
        raise FileNotFoundError(
            f"{path}: only a part of it was fetched before ({local} has no "
            f"*.safetensors), and the hub cannot be asked ({_reason(why)}); check the "
            "connection, or give the directory of a copy"
        )
    return Path(local)


def check_target(path: str) -> None:
    """Raises ValueError where ``path`` is no ``org/name`` to push to."""
    found = ID.fullmatch(path)
    if not found or found[2]:
        raise ValueError(
            f"push_to_hub={path!r} is no id of a model to write; give org/name"
        )


def push(folder: str | Path, path: str, *, private: bool = True) -> str:
    """Uploads a folder as the model ``org/name``; returns the address of that.

    The model is made where there is none. One that is public stays so, so nothing is
    uploaded to it as ``private``.

    Raises:
      ValueError: no such id, or a public model that was asked to be private.
      ConnectionError: the hub refused, or cannot be reached; says why.
    """
    check_target(path)
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        with _warnings_off(), _bars_off():
            address = str(api.create_repo(path, private=private, exist_ok=True))
            open_to_all = private and not api.repo_info(path).private
            if not open_to_all:
                words = dict(repo_id=path, commit_message="Export of jopd")
                api.upload_folder(folder_path=str(folder), **words)
    except Exception as error:  # of the hub, or of any library that it asks with
        raise ConnectionError(
            f"{folder} could not be pushed to {path} ({_reason(error)}); check the "
            f"id, the connection and the login ({LOGIN}), which must be one that may "
            "write there"
        ) from error
    if open_to_all:
        raise ValueError(
            f"{path} is there and public, and the upload was to be private: nothing "
            "was uploaded; give --visibility=public or another id"
        )
    return address


@functools.lru_cache(maxsize=64)
def _announce(path: str) -> None:
    """One line of what a model lacks here, for all that is asked for one by one."""
    from huggingface_hub import snapshot_download

    name, revision = split(path)
    asked = dict(revision=revision, allow_patterns=list(MODEL))
    files = snapshot_download(name, dry_run=True, **_mute(), **asked)
    new = [file.file_size or 0 for file in files if file.will_download]
    if new:
        size = f"{sum(new) / 1e6:,.1f} MB"
        print(f"fetching {path}: {len(new)} files, {size}", file=sys.stderr, flush=True)


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2]) or 'no reason given':.300}"


def _mute() -> dict[str, Any]:
    """The hub's option for bars that show nothing."""
    from huggingface_hub.utils import tqdm

    class Mute(tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **(kwargs | {"disable": True}))

    return {"tqdm_class": Mute}


@contextlib.contextmanager
def _warnings_off():
    """The hub's advice is no part of what was asked for; errors are raised."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextlib.contextmanager
def _bars_off():
    """No bars of an upload where there is no terminal."""
    from huggingface_hub import utils

    off = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    if off:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if off:
            utils.enable_progress_bars()
