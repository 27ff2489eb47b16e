"""What the models and the rows of a run say of each other, seen before anything runs.

Each check is one line: ok, warn or fail, and what to set. Those of this file read
tokenizers, templates, settings and rows, no weights, and are made at the start of every
run; ``training.doctor`` measures the rest.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jopd.data import chat, dataset, judging
from jopd.data.sources import Example
from jopd.models import files, hf
from jopd.setup import inputs
from jopd.setup.cast import Cast
from jopd.setup.rows import Rows
from jopd.teachers import roles

OK, WARN, FAIL = "ok", "warn", "fail"
JUDGED = 32  # gold solutions that are shown to the verifier
MOST_LOST = 0.05  # share of the gold solutions that may be too long
ASKED, REPLY = "What is 2 + 3?", "It is 5."
DRAWS = ("temperature", "top_p", "top_k", "repetition_penalty")


class Finding(NamedTuple):
    """One check: what was found, and what to do where it is not ``OK``."""

    check: str
    state: str
    found: str
    remedy: str = ""

    @property
    def line(self) -> str:
        return self.found + f"; {self.remedy}" * bool(self.remedy)


def look(config, cast: Cast, rows: Rows) -> list[Finding]:
    """All checks of a run that need no weights, the models' first."""
    found, read = [], {cast.paths["student"]: rows.tokenizer}
    for name, path in cast.paths.items():
        teacher = cast.teachers.get(name)
        if teacher is None or teacher.weights == "path":
            found += [precision(config, cast, name, path)]
            if path not in read and inputs.has_tokenizer(path):
                read[path] = inputs.load_tokenizer(path)
            if path in read and not rows.documents:
                found += thinking(config, name, read[path])
    found += generation(config, cast.paths["student"]) + gold(config, rows)
    if rows.documents:  # no template is used, and texts are cut as they may be
        return found
    return found + templates(config, cast, read) + budget(config, rows)


def precision(config, cast: Cast, name: str, path: str) -> Finding:
    """Whether a model is read in fewer bits than its file has."""
    role = config.student if name == "student" else cast.teachers[name]
    file, used = hf.dtype_named(path), hf.dtype_named(path, role.dtype)
    # A student that is trained is held in float32 whatever it computes in.
    if name != "student" and file == "float32" and used != "float32":
        key = f"{roles.key(name)}.dtype"
        return Finding(
            "precision",
            WARN,
            f"{name}: its file has {file}, {key}={role.dtype!r} rounds it to {used}",
            f"set {key}='float32'",
        )
    return Finding("precision", OK, f"{name}: {used}, its file has {file}")


def templates(config, cast: Cast, read: dict[str, Any]) -> list[Finding]:
    """Whether each teacher reads prompts laid out as it would lay them out.

    ``read``: tokenizers by path; a model may have none of its own.
    """
    shown, found = _shown(_layout(config, read[cast.paths["student"]])), []
    for name, role in cast.teachers.items():
        path = cast.paths.get(name)
        itself = path == cast.paths["student"]
        if role.weights != "path" or itself or path not in read:
            continue
        layout = _layout(config, read[path], name)
        theirs = _shown(layout)
        how = repr(theirs[-64:]) if layout.form == "template" else "plain text"
        if "own" in (role.tokenizer, role.template) or theirs == shown:
            whose = "the student's layout" if theirs == shown else "a layout of its own"
            found.append(Finding("templates", OK, f"{name} reads {whose}, {how}"))
            continue
        at = next((i for i, (a, b) in enumerate(zip(shown, theirs)) if a != b), 0)
        at = max(at - 8, 0)
        own = "template" if layout.form == "template" else "tokenizer"
        found.append(
            Finding(
                "templates",
                WARN,
                f"{name} would read {_cut(theirs, at)} where the student's layout has "
                f"{_cut(shown, at)}, and is given the student's",
                f"set {roles.key(name)}.{own}='own' to have it read its own",
            )
        )
    return found


def thinking(config, name: str, tokenizer) -> list[Finding]:
    """Whether a template that can think has been told whether to."""
    layout = _layout(config, tokenizer, name)
    knows = "enable_thinking" in str(tokenizer.chat_template)
    if layout.form != "template" or not knows or "enable_thinking" in layout.kwargs:
        return []
    told = {value: _shown(layout, enable_thinking=value) for value in (True, False)}
    unasked = _shown(layout)
    if told[True] == told[False] or unasked == told[False]:
        return []
    key = "student" if name == "student" else "teacher"
    return [
        Finding(
            "thinking",
            WARN,
            f"{name}: its template thinks unless it is told not to",
            f"set data.{key}_template_kwargs=dict(enable_thinking=False), or True",
        )
    ]


def generation(config, path: str) -> list[Finding]:
    """How the student's own settings would have it write; rollouts are the config's."""
    file = Path(path, "generation_config.json")
    known = files.read_json(file) if file.is_file() else {}
    asked = {name: known[name] for name in DRAWS if known.get(name) is not None}
    if not asked or known.get("do_sample") is False:
        return []
    said = ", ".join(f"{name} {json.dumps(value)}" for name, value in asked.items())
    c = config.rollout
    return [
        Finding(
            "drawing",
            OK,
            f"the student's generation_config.json draws with {said}; rollouts are "
            f"drawn with temperature {c.temperature:g}, top_p {c.top_p:g}",
        )
    ]


def gold(config, rows: Rows) -> list[Finding]:
    """Whether the verifier accepts gold solutions, the first that are whole."""
    data, judge = rows.train, rows.verifier
    whole = [
        row
        for row, (solution, ended) in enumerate(zip(data.solutions, data.finished))
        if solution is not None and ended
    ][:JUDGED]
    if judge is None or not whole:
        return []
    width = max(len(data.prompts[i]) + len(data.solutions[i]) for i in whole)
    texts = rows.training.texts(dataset.gold_rows(data, whole, width=width))
    reward_N, _ = judging.judge(judge, judging.of_rows(data, np.asarray(whole), texts))
    right_N = np.asarray(reward_N) >= 1
    said = f"the verifier accepts {right_N.sum()} of {len(whole)} gold solutions"
    if right_N.all():
        return [Finding("gold", OK, said)]
    first = int(np.argmin(right_N))
    return [
        Finding(
            "gold",
            FAIL if not right_N.any() else WARN,
            f"{said}: of {data.ids[whole[first]]!r} it wants "
            f"{str(data.answers[whole[first]])!r:.60} and is given "
            f"...{texts[first][-60:]!r}",
            "change eval.verifier, or the answers",
        )
    ]


def budget(config, rows: Rows) -> list[Finding]:
    """Whether gold solutions fit into the response limit."""
    data, limit = rows.train, config.rollout.max_new_tokens
    kept = [len(x) for x in data.solutions if x is not None]
    lost = data.dropped["solution"] + sum(
        not ended and x is not None for x, ended in zip(data.solutions, data.finished)
    )
    if not kept and not lost:
        return []
    share = lost / (len(kept) + data.dropped["solution"])
    said = f"{lost:,} gold solutions are longer than rollout.max_new_tokens={limit}"
    if share <= MOST_LOST:
        long = int(np.quantile(kept, 0.95)) if kept else 0
        return [Finding("budget", OK, f"{said}, 95 % of the others end by {long}")]
    return [
        Finding(
            "budget",
            WARN,
            f"{said}, {share:.0%} of them",
            "raise it: rollouts of that length are cut, too",
        )
    ]


def header(config, rows: Rows) -> int:
    """Tokens that the chat template puts between a question and its response."""
    tokenizer = rows.tokenizer
    layout = _layout(config, tokenizer)
    if layout.form != "template" or rows.documents:
        return 0
    behind = _shown(layout).rpartition(ASKED)[2]
    return len(tokenizer(behind, add_special_tokens=False)["input_ids"])


def _layout(config, tokenizer, name: str = "student") -> chat.Layout:
    """How a role with this tokenizer lays a conversation out."""
    c = config.data
    ours, theirs = c.student_template_kwargs, c.teacher_template_kwargs
    kwargs = ours if name == "student" else theirs or ours
    form = chat.form_of(tokenizer, c.chat_template, 0)
    system = c.system or None
    return chat.Layout(tokenizer, form, kwargs.to_dict(), system, c.date)


def _shown(layout: chat.Layout, **kwargs: Any) -> str:
    """A short conversation as a layout has it; what it says where it refuses."""
    layout = chat.Layout(
        layout.tokenizer,
        layout.form,
        layout.kwargs | kwargs,
        layout.system,
        layout.date,
    )
    asked = [{"role": "user", "content": ASKED}]
    try:
        return chat.lay_out(layout, Example(asked, REPLY, None, "a question"), "")[0]
    except ValueError as error:
        return str(error)


def _cut(text: str, at: int) -> str:
    return repr(text[at : at + 48])
