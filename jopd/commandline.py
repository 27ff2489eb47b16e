"""What the commands share: flags parsed with one clear error, libraries silenced."""

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from absl import flags, logging
from ml_collections import config_flags

from jopd.setup import config, keys, overrides, shipped

flags.disclaim_key_flags()  # those defined here belong to the command that asks

HELP = {"--help", "-help", "-h", "-?"}
MODEL = "HF directory, hub id (org/name, org/name@revision), or demo:student|teacher."
CHECKPOINT = (
    "checkpoint",
    "",
    "best, last or a step, where --model is a run's folder.",
)


def quiet() -> None:
    """Silences the libraries below, which log every file that they touch."""
    logging.set_verbosity(logging.WARNING)


@contextlib.contextmanager
def one_error():
    """What a user can mend ends the process with one line and status 1; that nobody
    reads what it prints does not."""
    from jopd.reporting import console

    with console.lasting_streams():
        try:
            yield
        except (ValueError, ImportError, OSError, FloatingPointError) as error:
            console.error(error)
            sys.exit(1)


def check_file(flag: str, file: Path) -> None:
    """Says before any work what could not be written, and leaves what is there.

    Raises:
      OSError: a folder, or in one that is not there or where nothing may be written.
    """
    if file.is_dir():
        raise IsADirectoryError(f"{flag}={file} is a folder; name a file")
    tempfile.TemporaryFile(dir=file.parent).close()


def json_file(given: str) -> Path | None:
    """The file of ``--json``, if one is asked for, checked before any work."""
    if not given:
        return None
    check_file("--json", Path(given))
    return Path(given)


def write_json(file: Path | None, found) -> None:
    """Keeps what a command found, where a file is asked for."""
    from jopd.reporting import metrics

    if file is not None:
        metrics.write_atomically(file, json.dumps(found, indent=2) + "\n")


def define_writing(max_new_tokens: int) -> None:
    """The flags of a command whose model writes."""
    flags.DEFINE_string("model", None, MODEL)
    flags.DEFINE_string(*CHECKPOINT)
    most = ("max_new_tokens", max_new_tokens, "Most tokens to write.")
    flags.DEFINE_integer(*most, lower_bound=1)
    flags.DEFINE_float("temperature", 1.0, "0 is greedy.", lower_bound=0.0)
    flags.DEFINE_integer("top_k", 0, "Keep the k most likely tokens; 0: all.")
    flags.DEFINE_float("top_p", 1.0, "Keep the smallest set with this mass; 1: all.")
    share = "Drop tokens below this share of the best; 0: none."
    flags.DEFINE_float("min_p", 0.0, share)
    flags.DEFINE_integer("seed", 0, "Of the random stream.")
    define_dtype()


def define_dtype() -> None:
    known = ["auto", "float32", "bfloat16"]
    what = "Of the computation; auto: what the model's config.json names."
    flags.DEFINE_enum("dtype", "float32", known, what)


WRITING = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed")


def writing() -> dict[str, Any]:
    """What the flags of ``define_writing`` say of how to write."""
    return {name: flags.FLAGS[name].value for name in WRITING}


def define_config() -> None:
    """The flags of a command that reads a config."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Shipped config, or Python file with get_config().",
        lock_config=False,
        sys_argv=[],  # its keys are ``overrides``'
    )
    flags.DEFINE_bool("print_config", False, "Print all keys as flags, and end.")
    flags.mark_flag_as_required("config")


def parse_flags(argv: list[str]) -> list[str]:
    """``flags_parser`` of ``app.run`` for a command that reads no config.

    ``--help`` ends here; what is wrong with a flag is one line and status 1.
    """
    try:
        words = flags.FLAGS.read_flags_from_files(argv, False)
        if HELP & set(words):
            with one_error():
                print(_usage())
            sys.exit(0)
        return _parsed(words, "--help lists all flags")
    except (ValueError, flags.Error) as error:
        _end(str(error))


def parse(argv: list[str]) -> list[str]:
    """``parse_flags`` of a command that reads a config, whose keys are words, too.

    ``--print_config`` ends here. A mistake inside the config file keeps its traceback,
    which shows the line.
    """
    try:
        words, given = overrides.split(flags.FLAGS.read_flags_from_files(argv, False))
        asks = HELP & set(words)
        words = with_paths(words)
        check_flags(words)
        if asks:
            with one_error():
                explain(words, given)
            sys.exit(0)
        rest = _parsed(words, "keys are --config.KEY=...; --help lists all")
        found = flags.FLAGS["config"].value
        found.keys()  # a file that could not be loaded is only reported when asked for
        overrides.apply(found, given)
    except (ValueError, flags.Error) as error:
        _end(str(error))
    except OSError as error:
        _end(f"--config cannot be read: {str(error).split('config_config')[-1]}")
    found.lock()
    if flags.FLAGS["print_config"].value:
        with one_error():
            print(keys.as_flags(found))
        sys.exit(0)
    return rest


def _parsed(words: list[str], remedy: str) -> list[str]:
    """What is left when flags are read: the command's name.

    Raises:
      ValueError: an unknown flag, a value that it cannot have, or a word that is none.
    """
    try:
        rest = flags.FLAGS(words)
    except flags.Error as error:
        raise ValueError(f"{str(error).rstrip('.')}; {remedy}") from None
    if len(rest) > 1:
        raise ValueError(f"unexpected argument {rest[1]!r}; {remedy}")
    return rest


def _end(reason: str) -> NoReturn:
    print(f"error: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(1)


def _usage() -> str:
    """What the command is for, and its flags."""
    of_file = flags.FLAGS.main_module_help().strip()
    said = sys.modules["__main__"].__doc__.strip()
    return f"{said}\n\nflags:\n{of_file.partition(chr(10))[2]}"  # without its path


def explain(words: list[str], given: list[tuple[str, str]]) -> None:
    """Flags, shipped configs and all keys: those of ``--config`` where it is given."""
    asked = [word for word in words if word.startswith("--config=")]
    flags.FLAGS.mark_as_parsed()
    if asked:
        flags.FLAGS["config"].parse(asked[-1].partition("=")[2])
    found = flags.FLAGS["config"].value or config.base_config()
    overrides.apply(found, given)
    print(_usage())
    print(f"\nconfigs: {', '.join(shipped.names())}; or a file of yours\n\nkeys:\n")
    print(keys.explained(found, shutil.get_terminal_size((100, 24)).columns))


def check_flags(words: list[str]) -> None:
    """Raises ValueError where a key was given as a flag, ``--steps=3``."""
    known = keys.flatten(config.base_config())
    for word in words[1:]:
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("-") and name in known and name not in flags.FLAGS:
            raise ValueError(f"unknown flag {word}; did you mean --config.{name}=...?")


def with_paths(argv: list[str]) -> list[str]:
    """``--config=opd`` to the path of the shipped ``opd.py``; files stay as they are.

    Raises:
      ValueError: a bare name that is neither a file nor a shipped config; a file that
        a run has written.
    """
    words, found = iter(argv), []
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in ("--config", "-config"):
            value = value if equals else next(words, "")
            if value.endswith(".json"):
                raise ValueError(
                    f"--config={value} is what a run keeps of its config, not a file "
                    "with get_config(); give the config that it was made of, and what "
                    "differs as --config.KEY=VALUE"
                )
            bare = re.fullmatch(r"\w+", value) and not os.path.exists(value)
            word = f"--config={shipped.find(value) if bare else value}"
        found.append(word)
    return found
