"""Looks a pair over before a run: ``jopd doctor --config=FILE``.

Tokens, templates, ends, precision, gold answers, lengths; then, on some held-out
prompts, what student and teacher say of gold solutions and of the student's own text,
and what to set. A line each, ok, warn or fail, with what to do. The status is 1 where
one fails. --json=FILE keeps everything.
"""

import json
import sys
from pathlib import Path

from absl import app, flags

from jopd import commandline


def main(argv: list[str]) -> None:
    del argv
    commandline.quiet()
    from jopd.reporting import console, metrics
    from jopd.setup import experiment, pairing
    from jopd.training import doctor

    f, config = flags.FLAGS, flags.FLAGS.config
    found = {"findings": [], "nats": [], "advice": []}
    with commandline.one_error():
        if f.json and not Path(f.json).parent.is_dir():
            raise FileNotFoundError(
                f"--json={f.json}: {Path(f.json).parent} is missing"
            )
        try:
            e = experiment.build(config)
        except (ValueError, OSError, ImportError) as error:
            found["findings"] = [pairing.Finding("config", pairing.FAIL, str(error))]
        else:
            found = doctor.examine(e, f.prompts)
        console.examination(**found)
        if f.json:
            text = json.dumps(doctor.plain(found), indent=2)
            metrics.write_atomically(Path(f.json), text + "\n")
    if any(one.state == pairing.FAIL for one in found["findings"]):
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_string("json", "", "File for all that was found.")
    what = "Held-out prompts that are measured; 0: no model is run."
    flags.DEFINE_integer("prompts", 32, what, lower_bound=0)
    commandline.define_config()
    app.run(main, flags_parser=commandline.parse)
