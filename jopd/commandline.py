"""What the commands share: flags parsed with one clear error, libraries silenced."""

import contextlib
import os
import re
import shutil
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from jopd.setup import config, keys, overrides, shipped

flags.disclaim_key_flags()  # those defined here belong to the command that asks

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


def parse(argv: list[str]) -> list[str]:
    """``flags_parser`` of ``app.run``; a bad config flag exits with status 1.

    ``--help`` and ``--print_config`` end here, too. A mistake inside the config file
    keeps its traceback, which shows the line.
    """
    try:
        words, given = overrides.split(flags.FLAGS.read_flags_from_files(argv, False))
        asks = {"--help", "-h", "-help"} & set(words)
        words = with_paths(words)
        check_flags(words)
        if asks:
            with one_error():
                explain(words, given)
            sys.exit(0)
        rest = app.parse_flags_with_usage(words)
        found = flags.FLAGS["config"].value
        found.keys()  # a file that could not be loaded is only reported when asked for
        overrides.apply(found, given)
    except ValueError as error:
        reason = str(error)
    except OSError as error:
        reason = f"--config cannot be read: {str(error).split('config_config')[-1]}"
    else:
        found.lock()
        if flags.FLAGS["print_config"].value:
            with one_error():
                print(keys.as_flags(found))
            sys.exit(0)
        return rest
    print(f"error: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(1)


def explain(words: list[str], given: list[tuple[str, str]]) -> None:
    """Flags, shipped configs and all keys: those of ``--config`` where it is given."""
    asked = [word for word in words if word.startswith("--config=")]
    flags.FLAGS.mark_as_parsed()
    if asked:
        flags.FLAGS["config"].parse(asked[-1].partition("=")[2])
    found = flags.FLAGS["config"].value or config.base_config()
    overrides.apply(found, given)
    print(sys.modules["__main__"].__doc__.strip(), end="\n\n")
    of_file = flags.FLAGS.main_module_help().strip()
    print(f"flags:\n{of_file.partition(chr(10))[2]}")  # without the file's name
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
      ValueError: a bare name that is neither a file nor a shipped config.
    """
    words, found = iter(argv), []
    for word in words:
        flag, equals, value = word.partition("=")
        if flag in ("--config", "-config"):
            value = value if equals else next(words, "")
            bare = re.fullmatch(r"\w+", value) and not os.path.exists(value)
            word = f"--config={shipped.find(value) if bare else value}"
        found.append(word)
    return found
