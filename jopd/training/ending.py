"""What a run leaves when it has made all its updates."""

from jopd.models import hf
from jopd.reporting import console, report
from jopd.setup import inputs
from jopd.setup.experiment import Experiment
from jopd.training import kept, observe, workdir
from jopd.training.state import Run


def finish(e: Experiment, run: Run) -> dict:
    """Evaluates, exports, writes summary and report, and shows the table."""
    c, directory, record = e.config, run.directory, run.record
    after = observe.measure(e, run, c.steps, "after")
    run.writer.write(c.steps, observe.evaluation_metrics(after))
    run.saver.judge(c.steps, observe.goodness(after))
    exported = c.steps
    if c.export.which == "best":
        exported = run.saver.best_step() or c.steps
    summary = {
        "before": record["before"],
        "after": after,
        "steps": c.steps,
        "wall_seconds": record["wall_seconds"],
        "seconds_to_first_step": record.get("seconds_to_first_step"),
        "compilations": run.compiled.count,
        "tokens_sampled": record["tokens_sampled"],
        "teacher_tokens": record["teacher_tokens"],
        "exported_step": exported if c.export.enabled else None,
        "config_name": c.name,
        "seed": c.seed,
        "versions": workdir.versions(),
        "git_commit": workdir.git_commit(),
    }
    left = [directory / "summary.json", directory / "metrics.jsonl"]
    workdir.write_json(left[0], summary)
    run.writer.close()
    run.saver.close()
    if c.export.enabled:
        hf.save(
            directory / "export",
            e.models["student"].config,
            params_at(e, run, exported),
            source=inputs.model_path(c.student.path),
            ends=e.stop_ids,
        )
        left.append(directory / "export")
        if exported != c.steps:
            console.say(f"the export is of step {exported}, the best")
    left.append(report.write_report(directory))
    console.before_after(summary["before"], after, left)
    return summary


def params_at(e: Experiment, run: Run, at: int):
    """The student's parameters as of step ``at``, the last or one that is kept."""
    params = run.state["train"].params
    if at == e.config.steps:
        return params
    return kept.read(run.directory, at, {"train": {"params": params}})[0]["train"][
        "params"
    ]
