"""The model card of an export, ``README.md``: what the run knows, and nothing else."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jopd.data import tables
from jopd.reporting import metrics
from jopd.teachers.secrecy import hidden

UNKNOWN = "not recorded"


class Base(NamedTuple):
    """The model that was trained.

    ``hub`` is its id there, without a revision; empty where it is none. ``licence`` is
    that of ``licence_of``.
    """

    path: str
    hub: str
    licence: dict[str, str]


class Facts(NamedTuple):
    """What a run knows of itself beside its config; empty where it does not.

    Attributes:
      step: of the weights.
      before, after: evaluations, as ``metrics.compare`` takes them; the second one at
        step ``after_step``.
      rows: prompts for training, and held out.
      teachers: name -> path, or whose weights of the student.
      versions, commit: of packages, and of the source tree.
    """

    step: int
    before: Mapping[str, Any] = {}  # never changed in place
    after: Mapping[str, Any] = {}  # never changed in place
    after_step: int = 0
    rows: Sequence[int] = ()
    teachers: Mapping[str, str] = {}  # never changed in place
    versions: Mapping[str, str] = {}  # never changed in place
    commit: str | None = None


def text(config: Mapping[str, Any], base: Base, facts: Facts, mark: str) -> str:
    """The card as Markdown with a front matter that the hub reads.

    Args:
      config: all keys, plain, as a run keeps them.
      mark: a line behind the front matter, by which the card is known again.
    """
    adapter = config.get("export", {}).get("adapter", False)
    parts = (
        _front(config, base, adapter),
        mark,
        f"# {config.get('name') or 'A student'}",
        f"{'An adapter of a' if adapter else 'A'} language model, trained with jopd, a "
        "library for on-policy distillation.",
        _models(base, facts),
        _method(config, facts),
        _data(config, facts),
        _numbers(facts),
        _made_with(facts),
        _licence(base),
    )
    return hidden("\n\n".join(parts)) + "\n"


def licence_of(folder: Path) -> dict[str, str]:
    """What ``README.md`` and ``LICENSE`` beside a model say: front matter, first line.

    Keys are ``license``, ``license_name``, ``license_link`` and ``file``.
    """
    readme, found = folder / "README.md", {}
    if readme.is_file():
        front = re.match(r"---\n(.*?)\n---", _read(readme), re.DOTALL)
        line = r"^(license(?:_name|_link)?):[ \t]*['\"]?([^\s'\"#]+)"
        found |= dict(re.findall(line, front[1] if front else "", re.MULTILINE))
    for file in sorted(folder.glob("LICENSE*")):
        lines = [line.strip() for line in _read(file).splitlines() if line.strip()]
        if lines:
            return found | {"file": f"{lines[0]:.120}"}
    return found


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")


def _front(config, base: Base, adapter: bool) -> str:
    lines = [f"library_name: {'peft' if adapter else 'transformers'}"]
    lines += [f"base_model: {base.hub}"] * bool(base.hub)
    lines += [f"{k}: {v}" for k, v in base.licence.items() if k != "file"]
    ids = [one for one in _sources(config) if _on_hub(one)]
    lines += ["datasets:", *(f"- {re.split('[@:]', one)[0]}" for one in ids)] * bool(
        ids
    )
    tags = ["jopd"]
    tags += ["on-policy-distillation"] * bool(config["mix"]["student"])
    tags += ["lora"] * adapter
    lines += ["tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join(("---", *lines, "---"))


def _models(base: Base, facts: Facts) -> str:
    rows = [("student", shown(base.path))]
    rows += [(name, shown(whose)) for name, whose in facts.teachers.items()]
    if not facts.teachers:
        rows.append(("teachers", UNKNOWN))
    return "## Models\n\n" + _table(("role", "model"), rows)


def _method(config, facts: Facts) -> str:
    rows = []
    for name, term in config["loss"].items():
        coef = term.get("coef", 1.0)
        if coef == 0:
            continue
        apart = {k: v for k, v in term.items() if k not in ("signal", "coef")}
        rows.append((name, f"`{term['signal']}`", _said(coef), _said(apart)))
    head = ("term", "signal", "coefficient", "further keys")
    steps = f"Step {facts.step:,}, seed {config['seed']}, config "
    name = f"`{config.get('name') or 'of no name'}`"
    lora = config["student"].get("lora", {})
    more = f", LoRA of rank {lora['rank']}" if lora.get("rank") else ""
    return f"## Method\n\n{steps}{name}{more}.\n\n{_table(head, rows)}"


def _data(config, facts: Facts) -> str:
    said = ", ".join(f"`{_local(one)}`" for one in _sources(config))
    counts = f"rows {UNKNOWN}"
    if facts.rows:
        train, held = facts.rows
        counts = f"{train:,} prompts for training, {held:,} held out"
    return f"## Data\n\n{said}: {counts}."


def _numbers(facts: Facts) -> str:
    if not facts.before and not facts.after:
        return "## Numbers\n\nNot measured."
    compared = metrics.compare(facts.before, facts.after)
    value = lambda number, interval: f"{number} {interval}".strip()
    rows = [
        (r.label, value(r.before, r.before_interval), value(r.after, r.after_interval))
        for r in compared
    ]
    after = f"at step {facts.after_step:,}" if facts.after else "after"
    why = ""
    if not facts.after:
        why = " These weights were not evaluated with the whole set of held-out rows."
    elif facts.after_step != facts.step:
        why = f" The weights are those of step {facts.step:,}."
    asked = (facts.after or facts.before).get("prompts")
    many = f"{asked:,} of the" if asked else "the"
    return (
        f"## Numbers\n\nOn {many} held-out prompts, in brackets intervals of 95 %."
        f"{why}\n\n{_table(('', 'before', after), rows)}"
    )


def _made_with(facts: Facts) -> str:
    packages = [f"{name} {facts.versions[name]}" for name in facts.versions]
    return (
        f"## Made with\n\n{', '.join(packages) or f'Versions {UNKNOWN}'}; commit of "
        f"jopd: {facts.commit or UNKNOWN}."
    )


def _licence(base: Base) -> str:
    known = dict(base.licence)
    file = known.pop("file", None)
    said = [" ".join(known.values())] * bool(known)
    said += [f'its LICENSE begins "{file}"'] * bool(file)
    return f"## Licence\n\nOf the base model: {'; '.join(said) or 'not stated'}."


def shown(path: str) -> str:
    """A model as a card names it: of a path on this machine the folder alone."""
    if path.startswith("demo:"):
        return f"`{path}`, which comes with jopd"
    if re.fullmatch(r"the \w+ student", path):
        return path
    return f"`{_local(path)}`"


def _local(path: str) -> str:
    """The last part of a path; ids of a hub and tasks as they are."""
    name = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?(:[\w.-]+)?", path)
    if path.startswith(("task:", "demo:")) or (name and not Path(path).exists()):
        return path
    return Path(path.rstrip("/")).name or path


def _sources(config) -> list[str]:
    return [one.strip() for one in str(config["data"]["path"]).split(",")]


def _on_hub(source: str) -> bool:
    plain = not source.startswith("task:") and not tables.is_file(source)
    return (
        plain and source.partition("@")[0].count("/") == 1 and not Path(source).exists()
    )


def _said(value: Any) -> str:
    """Keys and values of a config as words of a table."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_inner(inner)}" for key, inner in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _inner(value: Any) -> str:
    return f"({_said(value)})" if isinstance(value, Mapping) else _said(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    line = lambda cells: f"| {' | '.join(c.replace('|', '/') for c in cells)} |"
    return "\n".join((line(head), "|" + "---|" * len(head), *map(line, rows)))
