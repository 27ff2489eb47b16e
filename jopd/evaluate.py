"""Measures any model: ``jopd evaluate --model=DIR --config=opd``."""

import json
from pathlib import Path

from absl import app, flags

from jopd import commandline
from jopd.reporting import metrics
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
        if not config.eval.prompts:
            raise ValueError("eval.prompts=0 asks for no evaluation; raise it")
        config.student.path = path
        # An export holds it already.
        config.student.lora.rank, config.student.adapter = 0, ""
        if f.out:
            check_out(Path(f.out))
        e = experiment.build(config, train=False)
        console.startup(summary_rows(e))
        measure = stages.make_evaluate(e, save_all=bool(f.out))
        found, written = measure(e.params, e.frozen)
        found.pop("per_prompt", None)  # every reward is beside its generation
        if f.out:
            keep(Path(f.out), found, written)
        console.evaluation(found)


def check_out(out: Path) -> None:
    """Says before any load what could not be written, and leaves what is there.

    Raises:
      ValueError: numbers and generations would be one file.
      OSError: a folder that is not there, or where nothing may be written.
    """
    if out.suffix == ".jsonl":
        raise ValueError(
            f"--out={out} is for the numbers, and the generations go to the .jsonl "
            f"beside them; use --out={out.with_suffix('.json')}"
        )
    for file in (out, out.with_suffix(".jsonl")):
        commandline.check_file("--out", file)


def keep(out: Path, found: dict, written: list[dict]) -> None:
    """Numbers to ``out``, every generation to the ``.jsonl`` beside it."""
    commandline.write_json(out, found)
    lines = "".join(json.dumps(row) + "\n" for row in written)
    metrics.write_atomically(out.with_suffix(".jsonl"), lines)


if __name__ == "__main__":
    flags.DEFINE_string("model", None, commandline.MODEL)
    flags.DEFINE_string(*commandline.CHECKPOINT)
    flags.DEFINE_string("out", "", "JSON file of the numbers; texts: .jsonl beside.")
    commandline.define_config()
    flags.mark_flag_as_required("model")
    app.run(main, flags_parser=commandline.parse)
