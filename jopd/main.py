"""Trains: ``jopd train --config=stableopd``, or ``python -m jopd.main``.

Any key is overridden with ``--config.section.key=value``. Running the same command
again resumes from the newest checkpoint in the workdir.

Exit codes: 0 done, 1 an error that is said, 75 interrupted (SIGTERM, SIGHUP, Ctrl-C):
all updates are saved, and the same command continues.
"""

import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from jopd import commandline

INTERRUPTED = 75  # EX_TEMPFAIL: try again

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run is kept; default runs/<config name>."
)


def main(argv: list[str]) -> None:
    del argv
    commandline.quiet()
    # After flags are parsed, so that --help needs no JAX.
    from jopd.training import loop

    config = flags.FLAGS.config
    if not config.name:
        file = config_flags.get_config_filename(flags.FLAGS["config"])
        config.name = Path(file).stem
    with commandline.one_error():
        done = loop.run(config, _WORKDIR.value or f"runs/{config.name}")
    if "interrupted" in done:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    commandline.define_config()
    app.run(main, flags_parser=commandline.parse)
