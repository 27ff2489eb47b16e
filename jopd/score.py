"""What a teacher says of gold rows, once and for all runs that read them.

    jopd score --config=FILE --out=FOLDER --top_k=20

Rows, template and teacher are those of the config. The same command again goes on where
it was stopped. A run reads the folder with ``teacher.weights="stored"`` and
``teacher.path=FOLDER`` and needs no teacher: docs/teachers.md, "Scored once".
"""

import sys
from pathlib import Path

from absl import app, flags

from jopd import commandline


def main(argv: list[str]) -> None:
    del argv
    commandline.quiet()
    from jopd.reporting import console
    from jopd.setup import experiment
    from jopd.setup.summary import summary_rows
    from jopd.teachers import roles
    from jopd.teachers.stored import read
    from jopd.training import stored

    f, config = flags.FLAGS, flags.FLAGS.config
    with commandline.one_error():
        if not f.out or Path(f.out).is_file():
            raise ValueError(f"--out={f.out} is for a folder; name one")
        stored.check_teacher("teacher", roles.Teacher(**config.teacher.to_dict()))
        if config.teacher.weights == "served":
            config.teacher.top_k = f.top_k
        e = experiment.build(config, train=False)
        if "teacher" not in e.teachers:
            raise ValueError("the config has no teacher; name one in teacher.path")
        said = ("teacher", "vocabulary", "data", "devices")
        console.startup([row for row in summary_rows(e) if row[0] in said])
        tell = lambda done, of: console.say(f"scored {done:,} of {of:,} gold rows")
        try:
            how = dict(top_k=f.top_k, progress=tell)
            wrote, lost = stored.write(e, Path(f.out), "teacher", **how)
        except KeyboardInterrupt:
            console.say(f"stopped; what was scored is in {f.out}, the same goes on")
            sys.exit(130)
        rows = len(read(Path(f.out)).rows)
        console.say(f"{f.out}: {wrote:,} rows more, {rows:,} in all")
        if lost:
            raise ConnectionError(
                f"{lost:,} rows stayed unanswered; run the same command again"
            )


if __name__ == "__main__":
    what = "Likeliest tokens kept at every place, 4 bytes each for id and number."
    flags.DEFINE_string("out", None, "Folder of the scores.")
    flags.DEFINE_integer("top_k", 0, what, lower_bound=0, upper_bound=1024)
    commandline.define_config()
    flags.mark_flag_as_required("out")
    app.run(main, flags_parser=commandline.parse)
