"""What a run leaves when it has made all its updates."""

from jopd.models import hf
from jopd.reporting import console, report
from jopd.setup import inputs
from jopd.setup.experiment import Experiment
from jopd.training import workdir
from jopd.training.observe import measure
from jopd.training.state import Run


def finish(e: Experiment, run: Run) -> dict:
    """Evaluates, exports, writes summary and report, and shows the table."""
    c, directory, record = e.config, run.directory, run.record
    after = measure(e, run, c.steps, "after")
    summary = {
        "before": record["before"],
        "after": after,
        "steps": c.steps,
        "wall_seconds": record["wall_seconds"],
        "seconds_to_first_step": record.get("seconds_to_first_step"),
        "compilations": run.compiled.count,
        "tokens_sampled": record["tokens_sampled"],
        "teacher_tokens": record["teacher_tokens"],
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
            run.state["train"].params,
            source=inputs.model_path(c.student.path),
            ends=e.stop_ids,
        )
        left.append(directory / "export")
    left.append(report.write_report(directory))
    console.before_after(summary["before"], after, left)
    return summary
