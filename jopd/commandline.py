"""What the commands share: flags parsed with one clear error, libraries silenced."""

import contextlib
import os
import re
import shutil
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

from jopd.setup import config, keys, shipped

flags.disclaim_key_flags()  # those defined here belong to the command that asks


def quiet() -> None:
    """Silences the libraries below, which log every file that they touch."""
    logging.set_verbosity(logging.WARNING)


@contextlib.contextmanager
def one_error():
    """What a user can mend ends the process with one line and status 1."""
    try:
        yield
    except (ValueError, ImportError, OSError, FloatingPointError) as error:
        from jopd.reporting import console

        console.error(error)
        sys.exit(1)


def define_config() -> None:
    """The flags of a command that reads a config."""
    config_flags.DEFINE_config_file(
        "config", None, "Shipped config, or Python file with get_config()."
    )
    flags.DEFINE_bool("print_config", False, "Print all keys as flags, and end.")
    flags.mark_flag_as_required("config")


def parse(argv: list[str]) -> list[str]:
    """``flags_parser`` of ``app.run``; a bad config flag exits with status 1.

    ``--help`` and ``--print_config`` end here, too. A mistake inside the config file
    keeps its traceback, which shows the line.
    """
    if {"--help", "-h", "-help"} & set(argv):
        explain(argv)
        sys.exit(0)
    try:
        rest = app.parse_flags_with_usage(with_paths(argv))
        # A file that could not be loaded is only reported when it is asked for.
        flags.FLAGS["config"].value.keys()
        if flags.FLAGS["print_config"].value:
            print(keys.as_flags(flags.FLAGS["config"].value))
            sys.exit(0)
        return rest
    except (AttributeError, KeyError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if any(frame.name == "get_config" for frame in frames):
            raise
        reason = unknown_key(str(error.args[0]), argv)
    except ValueError as error:
        reason = f"--config: {error}"
    except OSError as error:
        reason = f"--config cannot be read: {str(error).split('config_config')[-1]}"
    print(f"error: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(1)


def explain(argv: list[str]) -> None:
    """Flags, shipped configs and all keys: those of ``--config`` where it is given."""
    given = [word for word in with_paths(argv) if word.startswith("--config=")]
    flags.FLAGS.mark_as_parsed()
    if given:
        flags.FLAGS["config"].parse(given[-1].partition("=")[2])
    found = flags.FLAGS["config"].value or config.base_config()
    print(sys.modules["__main__"].__doc__.strip(), end="\n\n")
    print(flags.FLAGS.main_module_help().partition("\n")[2])  # without its file
    print(f"\nconfigs: {', '.join(shipped.names())}; or a file of yours\n\nkeys:\n")
    print(keys.explained(found, shutil.get_terminal_size((100, 24)).columns))


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


def unknown_key(said: str, argv: list[str]) -> str:
    """What is wrong with an override, from the words of ``ConfigDict``."""
    first = re.search(r"[A-Za-z_]\w*", said)
    key = first[0] if first else "?"
    near = re.search(r'Did you mean "(\w+)"', said)
    given = [word.partition("=")[0] for word in argv]
    where = " or ".join(flag for flag in given if key in flag.split("."))
    return (
        f"unknown key {key!r}{f' in {where}' if where else ''}; "
        + (f"did you mean {near[1]!r}? " if near else "")
        + "All keys are explained in jopd/setup/config.py; a term's arguments can be "
        "overridden where its config file gives them"
    )
