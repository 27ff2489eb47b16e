"""A run's checkpoint as a model: ``jopd export --model=runs/x --checkpoint=best``.

The run may be under way. What is written loads in ``transformers``. With
``--push_to_hub=org/name`` it is uploaded, too: private, unless with
``--visibility=public``.
"""

from pathlib import Path

from absl import app, flags

from jopd import commandline


def main(argv: list[str]) -> None:
    del argv
    commandline.quiet()
    from jopd.models import hub
    from jopd.reporting import console
    from jopd.training import kept

    f = flags.FLAGS
    run = Path(f.model)
    with commandline.one_error():
        if f.push_to_hub:
            hub.check_target(f.push_to_hub)  # before an export that may take long
        elif f.visibility == "public":
            raise ValueError(
                "--visibility=public is of an upload; add --push_to_hub=org/name"
            )
        at = kept.pick(run, f.checkpoint)
        out = Path(f.out or run / f"export-{at}")
        kept.export(run, at, out)
        console.say(f"checkpoint {at}: {out}")
        for line in kept.other_card(out):
            console.warn(line)
        if f.push_to_hub:
            address = hub.push(out, f.push_to_hub, private=f.visibility == "private")
            console.say(f"pushed to {address}")


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "Folder of a run.")
    flags.DEFINE_string("checkpoint", "last", "best, last or a step.")
    flags.DEFINE_string("out", "", "Directory to write; default RUN/export-STEP.")
    flags.DEFINE_string("push_to_hub", "", "Upload it, too: org/name on the hub.")
    flags.DEFINE_enum(
        "visibility", "private", ["private", "public"], "Who may read the upload."
    )
    flags.mark_flag_as_required("model")
    app.run(main, flags_parser=commandline.parse_flags)
