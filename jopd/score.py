"""What a teacher says of gold rows, once and for all runs that read them.

    jopd score --config=FILE --out=FOLDER --top_k=20

Rows, template and teacher are those of the config. The same command again goes on where
it was stopped. A run reads the folder with ``teacher.weights="stored"`` and
``teacher.path=FOLDER`` and needs no teacher: docs/teachers.md, "Scored once".
"""

from pathlib import Path

from absl import app, flags

from jopd import commandline


def main(argv: list[str]) -> None:
    del argv
    commandline.quiet()
    from jopd.reporting import console
    from jopd.setup import experiment
    from jopd.setup.summary import summary_rows
    from jopd.training import stored

    f, config = flags.FLAGS, flags.FLAGS.config
    with commandline.one_error():
        e = experiment.build(config, train=False)
        if "teacher" not in e.teachers:
            raise ValueError("the config has no teacher; name one in teacher.path")
        said = ("teacher", "vocabulary", "data", "devices")
        console.startup([row for row in summary_rows(e) if row[0] in said])
        tell = lambda done, of: console.say(f"scored {done:,} of {of:,} gold rows")
        how = dict(top_k=f.top_k, progress=tell)
        count = stored.write(e, Path(f.out), "teacher", **how)
        console.say(f"{f.out}: {count:,} rows more")


if __name__ == "__main__":
    what = "Likeliest tokens kept at every place, 4 bytes each for id and number."
    flags.DEFINE_string("out", None, "Folder of the scores.")
    flags.DEFINE_integer("top_k", 0, what, lower_bound=0, upper_bound=1024)
    commandline.define_config()
    flags.mark_flag_as_required("out")
    app.run(main, flags_parser=commandline.parse)
