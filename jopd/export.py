"""A run's checkpoint as a model: ``jopd export --model=runs/x --checkpoint=best``.

The run may be under way. What is written loads in ``transformers``.
"""

from pathlib import Path

from absl import app, flags

from jopd import commandline


def main(argv: list[str]) -> None:
    del argv
    commandline.quiet()
    from jopd.reporting import console
    from jopd.training import kept

    f = flags.FLAGS
    run = Path(f.model)
    with commandline.one_error():
        at = kept.pick(run, f.checkpoint)
        out = Path(f.out or run / f"export-{at}")
        kept.export(run, at, out)
        console.say(f"checkpoint {at}: {out}")


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "Folder of a run.")
    flags.DEFINE_string("checkpoint", "last", "best, last or a step.")
    flags.DEFINE_string("out", "", "Directory to write; default RUN/export-STEP.")
    flags.mark_flag_as_required("model")
    app.run(main, flags_parser=commandline.parse_flags)
