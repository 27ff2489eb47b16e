"""What a teacher's context is worth: ``jopd probe --config=FILE --teacher=NAME``.

Rollouts of a run's first updates, what the teacher answers to the same prompts as it
reads them, and what the student answers when it is asked again. Nothing is trained. The
status is 1 where the teacher is not better than the student asked again.
--json=FILE keeps the numbers.
"""

import sys

from absl import app, flags

from jopd import commandline


def main(argv: list[str]) -> None:
    del argv
    commandline.quiet()
    from jopd.setup import experiment
    from jopd.training import probe

    f = flags.FLAGS
    with commandline.one_error():
        file = commandline.json_file(f.json)
        found = probe.measure(experiment.build(f.config), f.teacher, updates=f.updates)
        print(probe.said(found, f.teacher))
        commandline.write_json(file, found._asdict())
    if found.net[1][0] <= 0:
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_string("teacher", "self", "Whose answers are compared.")
    flags.DEFINE_integer("updates", 8, "Whose prompts are asked.", lower_bound=1)
    flags.DEFINE_string("json", "", "File for the numbers.")
    commandline.define_config()
    app.run(main, flags_parser=commandline.parse)
