"""Measures any model: ``jopd evaluate --model=DIR --config=opd``."""

import json
from pathlib import Path

from absl import app, flags

from jopd import commandline
from jopd.reporting.evaluation import evaluate  # noqa: F401 (the function beneath)


def main(argv: list[str]) -> None:
    """Evaluates ``--model`` under the data, teacher and settings of ``--config``."""
    del argv
    commandline.quiet()
    from jopd.reporting import console
    from jopd.setup import experiment
    from jopd.setup.summary import summary_rows
    from jopd.training import kept, stages

    f, config = flags.FLAGS, flags.FLAGS.config
    with commandline.one_error(), kept.as_model(f.model, f.checkpoint) as path:
        config.student.path = path
        e = experiment.build(config, train=False)
        console.startup(summary_rows(e))
        found, _ = stages.make_evaluate(e)(e.params, e.frozen)
    console.evaluation(found)
    if flags.FLAGS.out:
        Path(flags.FLAGS.out).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "HF directory, hub id, or demo:student|teacher.")
    flags.DEFINE_string(*commandline.CHECKPOINT)
    flags.DEFINE_string("out", "", "Also write the numbers to this JSON file.")
    commandline.define_config()
    flags.mark_flag_as_required("model")
    app.run(main, flags_parser=commandline.parse)
