"""``report.html``: one run on one page, without anything from outside of the file."""

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from jopd.reporting import metrics


class Chart(NamedTuple):
    """Title, unit, and metrics with their labels; ``*`` stands for the rest."""

    title: str
    unit: str
    series: tuple[tuple[str, str], ...]


CHARTS = (
    Chart("Loss", "", (("loss", "total"), ("loss/*", "*"))),
    Chart(
        "Divergence from the teacher",
        "nats",
        (
            ("kl/reverse", "reverse KL, on rollouts"),
            ("kl/forward", "forward KL, on rollouts"),
            ("eval/reverse_kl", "reverse KL, held out"),
            ("eval/forward_kl", "forward KL, held out"),
        ),
    ),
    Chart(
        "Evaluation",
        "%",
        (
            ("eval/accuracy", "accuracy"),
            ("eval/avg_at_k", "avg@k"),
            ("eval/pass_at_k", "pass@k"),
        ),
    ),
    Chart(
        "Reward of rollouts",
        "",
        (("reward/mean", "all"), ("reward/finished", "of those with an end")),
    ),
    Chart(
        "Peers and probes",
        "%",
        (
            ("peer/groups", "groups with a success"),
            ("peer/rows", "rows with a peer"),
            ("probes/pass", "teacher's own answers that pass"),
        ),
    ),
    Chart(
        "Response length",
        "tokens",
        (("length/mean", "rollouts"), ("eval/mean_length", "held out")),
    ),
    Chart(
        "Truncation and repetition",
        "%",
        (
            ("length/truncation_rate", "without an end"),
            ("length/stopped_rate", "stopped early"),
            ("length/repetition_rate", "repetitive"),
        ),
    ),
    Chart(
        "Entropy",
        "nats per token",
        (("entropy/student", "student"), ("entropy/teacher", "teacher")),
    ),
    Chart(
        "Log-ratio teacher to student by kind of token",
        "nats",
        (
            ("log_ratio/repeated", "repeated tokens"),
            ("log_ratio/other", "other tokens"),
            ("log_ratio/mean", "all"),
        ),
    ),
    Chart("Reverse KL to other models", "nats", (("kl/reverse_*", "*"),)),
    Chart("Share of repeated tokens", "%", (("length/repeated_token_share", "share"),)),
    Chart("Advantage", "", (("advantage/*", "*"),)),
    Chart("Gradient norm", "before clipping", (("optim/grad_norm", "norm"),)),
    Chart("Share of each term in the gradient", "%", (("grad_share/*", "*"),)),
    Chart("Learning rate", "", (("optim/learning_rate", "learning rate"),)),
    Chart("Mean weight of a token", "", (("weight/*", "*"),)),
    Chart("Tokens per term", "tokens", (("tokens/*", "*"),)),
    Chart("Coefficients", "", (("coef/*", "*"),)),
    Chart(
        "Speed",
        "tokens/s",
        (
            ("speed/tokens_per_second", "trained"),
            ("speed/sampled_per_second", "sampled"),
        ),
    ),
    Chart("Time per step", "s", (("speed/seconds_*", "*"),)),
    Chart("Programs compiled", "", (("speed/compilations", "since the start"),)),
)
PAGE = Path(__file__).parents[1] / "assets" / "report.html"  # a jinja2 template
_INK = "#010203"  # stands for the text colour of the page; replaced in _svg
# Readable on white and on near-black alike.
COLORS = ("#2f7ed8", "#e8743b", "#19a979", "#945ecf", "#d6406b", "#8a8d93")
MAX_POINTS = 400
MAX_TOKENS = 400
MAX_PROMPTS = 8
# Gap in nats at which the colour of a token is full.
FULL_GAP = 4.0
PHASES = ("before", "after")
TERM_KEYS = ("signal", "weights", "source", "coef", "normalizer", "report")


def write_report(workdir: str | Path) -> Path:
    """Writes ``report.html`` from what a run has left so far and returns its path.

    Reads ``config.json``, ``metrics.jsonl``, ``summary.json`` and ``samples.jsonl``. A
    part whose file is missing, as it is while a run goes on, is left out.

    Raises:
      FileNotFoundError: ``config.json`` and ``metrics.jsonl`` are both missing.
    """
    workdir = Path(workdir)
    config, summary = _json(workdir / "config.json"), _json(workdir / "summary.json")
    rows = _jsonl(workdir / "metrics.jsonl")
    if not config and not rows:
        raise FileNotFoundError(
            f"{workdir} has neither config.json nor metrics.jsonl; give the working "
            "directory of a run"
        )
    page = render(config, rows, summary, _jsonl(workdir / "samples.jsonl"))
    metrics.write_atomically(workdir / "report.html", page)
    return workdir / "report.html"


def render(
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
) -> str:
    """The page as text. Pure: equal arguments give equal pages."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    terms, shared = term_rows(config.get("loss") or {}), config.get("objective") or {}
    return environment.from_string(PAGE.read_text("utf-8")).render(
        name=summary.get("config_name") or config.get("name") or "run",
        facts=_facts(summary, rows),
        versions=summary.get("versions") or {},
        commit=summary.get("git_commit"),
        comparison=metrics.compare(
            summary.get("before") or {}, summary.get("after") or {}
        ),
        otherwise=metrics.asked_otherwise(
            summary.get("before") or {}, summary.get("after") or {}
        ),
        intervals=any((summary.get(p) or {}).get("intervals") for p in PHASES),
        terms=terms,
        shared=shared,
        charts=[(c.title, c.unit, svg) for c in CHARTS if (svg := draw(c, rows))],
        prompts=pair_samples(samples),
        full_gap=FULL_GAP,
        config=json.dumps(config, indent=2, default=str) if config else "",
    )


def term_rows(loss: Mapping[str, Any]) -> list[dict[str, str]]:
    """The terms of the loss as text; keys that a term has beside go to its signal."""
    found = []
    for name, spec in loss.items():
        if not isinstance(spec, Mapping):
            continue
        rest = {k: v for k, v in spec.items() if k not in TERM_KEYS and v is not None}
        weights = spec.get("weights") or {}
        if not isinstance(weights, Mapping):
            weights = {name: {} for name in weights}
        found.append(
            {
                "name": name,
                "signal": _call(str(spec.get("signal", metrics.NONE)), rest),
                "weights": " × ".join(_call(w, a) for w, a in weights.items()) or "1",
                "source": str(spec.get("source") or "student"),
                "coef": _compact(spec.get("coef", 1.0)),
                "normalizer": str(spec.get("normalizer") or ""),
            }
        )
    return found


def series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list, list]:
    """Steps and values of a metric, thinned to the means of ``MAX_POINTS`` buckets."""
    known = [(r["step"], r[name]) for r in rows if _is_number(r.get(name))]
    if len(known) <= MAX_POINTS:
        return [s for s, _ in known], [v for _, v in known]
    buckets = np.array_split(np.asarray(known, float), MAX_POINTS)
    means = [bucket.mean(axis=0) for bucket in buckets]
    return [m[0] for m in means], [m[1] for m in means]


def draw(chart: Chart, rows: Sequence[Mapping[str, Any]]) -> str:
    """A chart as inline SVG that takes its text colour from the page; "" if no data."""
    lines = [(label, *series(rows, name)) for name, label in _expand(chart, rows)]
    lines = [line for line in lines if line[1]]
    if not lines:
        return ""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": chart.title}):
        figure = Figure(figsize=(4.0, 2.25), layout="constrained")
        axes = figure.add_subplot()
        scale = 100 if chart.unit == "%" else 1
        for index, (label, steps, values) in enumerate(lines):
            axes.plot(
                steps,
                [v * scale for v in values],
                color=COLORS[index % len(COLORS)],
                linestyle="-" if index < len(COLORS) else "--",
                marker="o" if len(steps) <= 12 else "",
                markersize=3.5,
                linewidth=1.6,
                label=label,
            )
        _style(axes, chart, lines)
        return _svg(figure)


def _style(axes, chart: Chart, lines) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    axes.spines["bottom"].set_alpha(0.4)
    axes.tick_params(colors=_INK, labelsize=8.5, length=0)
    axes.grid(axis="y", color=_INK, alpha=0.13, linewidth=0.7)
    axes.set_xlabel("step", fontsize=8.5, color=_INK)
    axes.locator_params(axis="y", nbins=5)
    axes.margins(x=0.02)
    smallest = min(v for _, _, values in lines for v in values)
    if chart.unit == "%" and smallest >= 0:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    if len(lines) > 1:
        wide = max(len(line[0]) for line in lines) > 16
        axes.figure.legend(
            loc="outside upper left",
            ncols=min(len(lines), 2 if wide else 4),
            fontsize=8.5,
            frameon=False,
            labelcolor=_INK,
            handlelength=1.0,
            columnspacing=1.0,
            borderaxespad=0.1,
        )


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px inherit", text)
    return re.sub(
        r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", text, count=1
    )


def _expand(chart: Chart, rows) -> list[tuple[str, str]]:
    """Metric names and labels, with ``*`` filled by what was logged."""
    logged = dict.fromkeys(name for row in rows for name in row)
    found = []
    for pattern, label in chart.series:
        if "*" not in pattern:
            found.append((pattern, label))
            continue
        prefix = pattern.removesuffix("*")
        found += [(n, n.removeprefix(prefix)) for n in logged if n.startswith(prefix)]
    return found


def pair_samples(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per prompt: its first rollout before and after training."""
    prompts: dict[str, dict[str, Any]] = {}
    for row in samples:
        entry = prompts.setdefault(row.get("prompt", ""), {})
        if row.get("phase") in PHASES:
            entry.setdefault(row["phase"], _sample(row))
            entry.setdefault("answer", row.get("answer"))
    entries = [{"prompt": p, **entry} for p, entry in prompts.items() if entry]
    return entries[:MAX_PROMPTS]


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    tokens = row.get("tokens") or []
    student, teacher = row.get("student_logp") or [], row.get("teacher_logp") or []
    gaps = [s - t for s, t in zip(student, teacher) if _is_number(s) and _is_number(t)]
    return {
        "tokens": [
            token_cell(
                token,
                student[i] if i < len(student) else None,
                teacher[i] if i < len(teacher) else None,
            )
            for i, token in enumerate(tokens[:MAX_TOKENS])
        ],
        "text": "" if tokens else row.get("response", ""),
        "more": max(len(tokens) - MAX_TOKENS, 0),
        "facts": _sample_facts(row, len(tokens), gaps),
    }


def _sample_facts(row: Mapping[str, Any], length: int, gaps: list[float]) -> list[str]:
    facts = [f"{length} tokens"] if length else []
    if row.get("finished") is not None:
        facts.append("finished" if row["finished"] else "cut at the limit")
    if row.get("reward") is not None:
        facts.append(f"reward {_compact(row['reward'])}")
    if gaps:
        facts.append(f"mean gap {float(np.mean(gaps)):+.2f} nats")
    return facts


def token_cell(token: str, student: float | None, teacher: float | None) -> tuple:
    """``(token, css class, title)``; the class says how far the two models differ.

    ``s1`` to ``s5``: the student finds the token likelier than the teacher does;
    ``t1`` to ``t5``: the teacher does; an empty class: about equal, or not known.
    """
    if not _is_number(student) or not _is_number(teacher):
        return token, "", ""
    gap = student - teacher
    level = min(round(abs(gap) / FULL_GAP * 5), 5)
    title = f"student {student:.2f}, teacher {teacher:.2f}, gap {gap:+.2f} nats"
    return token, f"{'s' if gap > 0 else 't'}{level}" if level else "", title


def _facts(summary, rows) -> list[tuple[str, str]]:
    """Name and value of the figures at the top of the page."""
    steps = summary.get("steps") or max((r.get("step", 0) for r in rows), default=None)
    seconds = [summary.get(k) for k in ("wall_seconds", "seconds_to_first_step")]
    facts = [
        ("steps", _count(steps)),
        ("tokens sampled", _count(summary.get("tokens_sampled"))),
        ("tokens read or written by teachers", _count(summary.get("teacher_tokens"))),
        ("wall time", _time(seconds[0])),
        ("to first step", _time(seconds[1])),
        ("compilations", _count(summary.get("compilations"))),
        ("seed", None if summary.get("seed") is None else str(summary["seed"])),
    ]
    return [(name, value) for name, value in facts if value is not None]


def _count(value) -> str | None:
    return f"{value:,}" if _is_number(value) else None


def _time(seconds) -> str | None:
    if not _is_number(seconds):
        return None
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _call(name: str, arguments) -> str:
    if not isinstance(arguments, Mapping) or not arguments:
        return name
    inner = ", ".join(f"{k}={_compact(v)}" for k, v in arguments.items())
    return f"{name}({inner})"


def _compact(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_number(value) -> bool:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and math.isfinite(value)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _jsonl(path: Path) -> list[dict[str, Any]]:
    return metrics.read(path) if path.exists() else []
