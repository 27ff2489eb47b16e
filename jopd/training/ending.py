"""What a run leaves when it has made all its updates."""

import dataclasses
from pathlib import Path
from typing import Any

from jopd.models import hf, lora, peft
from jopd.reporting import console, report
from jopd.setup import inputs
from jopd.setup.experiment import Experiment
from jopd.training import kept, observe, workdir
from jopd.training.state import Run


def finish(e: Experiment, run: Run) -> dict:
    """Evaluates, exports, writes summary and report, and shows the table."""
    c, directory, record = e.config, run.directory, run.record
    after = observe.measure(e, run, c.steps, "after")
    if after:
        run.writer.write(c.steps, observe.evaluation_metrics(after))
    run.saver.judge(c.steps, observe.goodness(after))
    exported, params = to_export(e, run) if c.export.enabled else (None, None)
    summary = {
        "before": record["before"],
        "after": after,
        "steps": c.steps,
        "wall_seconds": record["wall_seconds"],
        "seconds_to_first_step": record.get("seconds_to_first_step"),
        "compilations": run.compiled.count,
        "tokens_sampled": record["tokens_sampled"],
        "teacher_tokens": record["teacher_tokens"],
        "exported_step": exported,
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
        told = export_card(e, run, exported, after)
        write_export(e, directory / "export", params, told)
        for line in kept.other_card(directory / "export"):
            console.warn(line)
        left.append(directory / "export")
        if exported != c.steps:
            console.say(f"the export is of step {exported}, the best")
    left.append(report.write_report(directory))
    console.before_after(summary["before"], after, left)
    return summary


def export_card(e: Experiment, run: Run, exported: int, after: dict) -> str:
    """The card of the student of step ``exported``, evaluated ``after`` the last."""
    measured = dict(after=after or {}, after_step=e.config.steps)
    facts = kept.facts_of(run.directory, exported, run.record)._replace(**measured)
    return kept.card_of(workdir.written(e.config.to_dict()), facts)


def write_export(e: Experiment, path: Path, params, told: str = "") -> None:
    """The student as a model directory, or its adapter alone where that is asked."""
    c, shape = e.config, e.models["student"].config
    source = inputs.model_path(c.student.path)
    if c.export.adapter:
        own = c.student.lora
        made = dict(alpha=own.alpha, rank_stabilized=own.rank_stabilized)
        peft.save(path, shape, params, source=source, card=told, **made)
        return
    base = e.base
    if shape.int8:  # what is on file is the base before it was rounded
        shape, base = dataclasses.replace(shape, int8=False), hf.load(source)[1]
    shape, params = lora.merged(shape, lora.joined(params, base))
    hf.save(path, shape, params, source=source, ends=e.stop_ids, card=told)


def to_export(e: Experiment, run: Run) -> tuple[int, Any]:
    """Step and parameters of the last update, or of the best that can be read."""
    last, params = e.config.steps, run.state["train"].params
    best = run.saver.best_steps() if e.config.export.which == "best" else []
    for at in best:
        if at == last:
            break
        try:
            found = kept.read(run.directory, at, {"train": {"params": params}})[0]
            return at, found["train"]["params"]
        except ValueError as error:
            console.warn(
                f"step {at} is the best, and {error}; the next best, or the "
                "last, is exported"
            )
    return last, params
