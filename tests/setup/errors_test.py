"""Bad input: one clear error that names the thing, the values and the remedy.

Each comes before anything is compiled.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import runs
from jopd.data import tasks
from jopd.losses import binding
from jopd.setup import config
from jopd.training import control, workdir
from jopd.training import loop as train

TASK = {"prompt": "1+2=", "solution": "1+2=3;#3", "answer": "3"}


# What a case needs on disk; each returns overrides.


def copy(models: Path, tmp: Path) -> Path:
    return Path(shutil.copytree(models / "student", tmp / "model"))


def nowhere(models, tmp):
    return {"student__path": str(tmp / "nowhere")}


def without_config(models, tmp):
    folder = copy(models, tmp)
    (folder / "config.json").unlink()
    return {"teacher__path": str(folder)}


def half_written(models, tmp):
    folder = copy(models, tmp)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return {"teacher__path": str(folder)}


def without_weights(models, tmp):
    folder = copy(models, tmp)
    (folder / "model.safetensors").unlink()
    return {"student__path": str(folder)}


def without_tokenizer(models, tmp):
    folder = copy(models, tmp)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    return {"student__path": str(folder)}


def cut_tokenizer(models, tmp):
    folder = copy(models, tmp)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text()[:200])
    return {"student__path": str(folder)}


def changed_config(models, tmp, **changes):
    folder = copy(models, tmp)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return {"teacher__path": str(folder)}


def other_architecture(models, tmp):
    return changed_config(models, tmp, model_type="gpt2", architectures=["GPT2"])


def wrong_shape(models, tmp):
    folder = copy(models, tmp)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = np.ones(17, np.float32)
    save_file(tensors, file)
    return {"student__path": str(folder)}


def other_tokenizer(models, tmp):
    folder = copy(models, tmp)
    file = folder / "tokenizer.json"
    swapped = file.read_text().replace('"3": 5', '"3": 6').replace('"4": 6', '"4": 5')
    assert swapped != file.read_text()
    file.write_text(swapped)
    return {"teacher__path": str(folder)}


def only_the_student(models, tmp):
    student = other_tokenizer(models, tmp)["teacher__path"]
    return {"student__path": student, "teacher__path": "demo:teacher"}


def same_teacher(models, tmp):
    return {"teacher__path": str(models / "student")}


def lines(*rows, raw: str = ""):
    def write(models, tmp):
        file = tmp / "data.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows) + raw)
        return {"data__path": str(file)}

    return write


def with_term(**spec):
    """A term of its own beside those of the config."""
    return lambda models, tmp: {"TERM": spec}


def with_group_reward(**changes):
    spec = dict(signal="policy_gradient", other=None, advantage="group_reward")
    return lambda models, tmp: {"TERM": spec} | changes


def unanswered(models, tmp):
    rows = [{"prompt": f"{n}+1="} for n in range(1, 10)]
    return lines(*rows)(models, tmp) | with_group_reward()(models, tmp)


def with_prefix(**changes):
    keys = {f"rollout__prefix__{key}": value for key, value in changes.items()}
    return lambda models, tmp: keys


def with_self(**keys):
    """A teacher made of the student, and a term that names it."""
    spec = dict(signal="forward_kl", other="self")
    return lambda models, tmp: {"TERM": spec, "TEACHER": keys}


def stopping(**keys):
    """Rollouts that a rule may end."""
    keys = {"limit": 0.5} | keys
    changes = {f"rollout__early_stop__{key}": value for key, value in keys.items()}
    return changes | {"rollout__block_tokens": 5}


def remembering(function, **arguments):
    """A horizon of a memory that a term reads."""
    report = {"function": "adwin.levels", "memory": "window"}
    if function != "adwin.window":
        report = {"function": "kat.levels", "memory": "window", "spared": 0.5}
    return {
        "memory__window": {"function": function, **arguments},
        "rollout__horizon": {"memory": "window"},
        "TERM": dict(signal="reverse_kl", report=report),
    }


def with_peers(term=(), **changes):
    """A term whose teacher reads other rollouts."""
    weights = {"has_context": {"of": "self"}}
    spec = dict(signal="forward_kl", other="self", weights=weights)
    own = dict(weights="ema", context="{question}{peer}")
    return lambda models, tmp: {"TERM": spec | dict(term), "TEACHER": own} | changes


def gold(*rows):
    def write(models, tmp):
        return lines(*rows)(models, tmp) | {"mix__student": 0.5, "mix__gold": 0.5}

    return write


GUIDED = dict(kind="guided", members="reference", plus="teacher", minus="self")
PLAIN = {key: TASK[key] for key in ("prompt", "answer")}
CASES = {
    # name: (changes or what makes them, pieces of the message)
    "unknown signal": (
        {"loss__opd__signal": "reverse_k"},
        ("signal of loss.opd 'reverse_k'", "known:", "reverse_kl"),
    ),
    "private name": ({"loss__opd__signal": "_sampled"}, ("'_sampled'", "known:")),
    "unknown weight": (
        with_term(signal="nll", weights={"staleness": {"decay": 0.5}, "newness": {}}),
        ("weight of loss.planted 'newness'", "known:", "staleness"),
    ),
    "unknown method": (
        {"loss__opd__signal": "nope.f"},
        ("'nope.f'", "no module jopd.methods.nope nor nope"),
    ),
    "unknown advantage": (
        with_term(signal="policy_gradient", advantage="grpo"),
        ("advantage of loss.planted 'grpo'", "known:", "log_ratio"),
    ),
    "wrong argument": (
        with_term(signal="jsd", gamma=3),
        ("loss.planted", "jsd takes no 'gamma'", "it takes beta, other"),
    ),
    "wrong argument of a weight": (
        with_term(signal="nll", weights={"staleness": {"factor": 0.5}}),
        ("staleness takes no 'factor'", "it takes decay"),
    ),
    "no signal": (with_term(coef=1.0), ("loss.planted has no signal", "nll")),
    "unknown source": (
        with_term(signal="nll", source="oracle"),
        ("loss.planted.source='oracle'", "student, teacher, gold, any"),
    ),
    "unknown model": (
        with_term(signal="reverse_kl", other="mentor"),
        ("'mentor'", "known: reference, teacher", "config.teachers"),
    ),
    "unknown coefficient schedule": (
        with_term(signal="nll", coef={"schedule": "zigzag", "value": 1.0}),
        ("loss.planted.coef.schedule='zigzag'", "constant, linear, cosine"),
    ),
    "half a coefficient schedule": (
        with_term(signal="nll", coef={"schedule": "linear", "peak": 1.0}),
        ("loss.planted.coef=", "dict(schedule=..., value=..."),
    ),
    "hold without its update": (
        with_term(signal="nll", coef={"schedule": "hold", "value": 1.0}),
        ("loss.planted.coef", "has no hold", "is for schedule='hold'"),
    ),
    "an update to hold without it": (
        with_term(signal="nll", coef={"schedule": "cosine", "value": 1.0, "hold": 3}),
        ("schedule='cosine' has hold", "is for schedule='hold'"),
    ),
    "hold beyond the end": (
        with_term(signal="nll", coef=dict(schedule="hold", value=1, hold=9, steps=9)),
        ("loss.planted.coef.hold=9", "coef.steps=9", "lower it"),
    ),
    "rewards without a verifier": (
        with_group_reward(eval__verifier="none"),
        ("loss.planted reads rewards", "eval.verifier='none'", "name a verifier"),
    ),
    "rewards without answers": (
        unanswered,
        ("loss.planted reads rewards", "no answers in", "data.answer_column"),
    ),
    "a context without its field": (
        with_self(weights="live", context="{question}{hint}"),
        ("self.context", "no field 'hint'", "question, answer, solution", "peer2"),
    ),
    "a column that is called as a rollout": (
        lambda models, tmp: with_peers()(models, tmp) | {"data__fields": ("peer",)},
        ("{peer} is another rollout", "data.fields=('peer',)", "rename"),
    ),
    "more peers than a group has": (
        lambda models, tmp: (
            with_peers()(models, tmp)
            | {"TEACHER": dict(weights="ema", context="{question}{failure4}{peer}")}
        ),
        ("'self' uses {failure4}", "group_size=2 makes 1", "at least 5"),
    ),
    "a teacher of evaluation that reads peers": (
        {"teacher__context": "{question}{peer}"},
        ("teacher.context uses {peer}", "config.teachers"),
    ),
    "peers in a group of one": (
        with_peers(rollout__prompts_per_step=4, rollout__group_size=1),
        ("'self' uses {peer}", "rollout.group_size=1", "at least 2"),
    ),
    "peers without a verifier": (
        with_peers(eval__verifier="none"),
        ("loss.planted reads rewards", "eval.verifier='none'", "name a verifier"),
    ),
    "peers without answers": (
        lambda models, tmp: unanswered(models, tmp) | with_peers()(models, tmp),
        ("loss.planted reads rewards", "no answers in", "data.answer_column"),
    ),
    "rows without a peer that are taught": (
        with_self(weights="ema", context="{question}{peer}"),
        ("loss.planted compares with 'self'", "dict(has_context=dict(of='self'))"),
    ),
    "peers that nobody reads": (
        with_term(signal="nll", weights={"has_context": {"of": "reference"}}),
        ("loss.planted asks which rows 'reference' reads", "use {peer}"),
    ),
    "a context of nobody": (
        with_term(signal="nll", weights={"has_context": {}}),
        ("loss.planted asks which rows 'teacher' reads", "use {peer}"),
    ),
    "gold rows with peers": (
        with_peers({"source": "any"}),
        ("loss.planted.source='any'", "only student rows have other rollouts"),
    ),
    "a bad argument of a signal": (
        with_peers({"signal": "sdpo.distil", "alpha": 1.5}),
        ("0 <= alpha <= 1, got alpha=1.5",),
    ),
    "a leak pattern that is none": (
        {"log__leak_pattern": "(reference"},
        ("log.leak_pattern='(reference'", "no regular expression"),
    ),
    "a key that teachers lack": (
        with_self(weights="ema", decay=0.9),
        ("teachers.self has no key 'decay'", "rate"),
    ),
    "a prefix of an unknown teacher": (
        with_prefix(source="mentor"),
        ("rollout.prefix.source='mentor'", "gold, teacher"),
    ),
    "a prefix longer than its response": (
        with_prefix(source="gold", share=1.5),
        ("rollout.prefix.share=1.5", "[0, 1]"),
    ),
    "teacher tokens that nobody writes": (
        with_term(signal="nll", source="teacher"),
        ("loss.planted speaks of teacher tokens", "rollout.prefix.source"),
    ),
    "a group of one": (
        with_group_reward(rollout__prompts_per_step=4, rollout__group_size=1),
        ("loss.planted", "rollout.group_size=1", "a group_size of at least 2"),
    ),
    "a share of tokens above 1": (
        with_term(signal="nll", weights={"entropy_top_share": {"share": 1.5}}),
        ("0 < share <= 1, got 1.5",),
    ),
    "an unknown divergence of an advantage": (
        with_term(
            signal="policy_gradient",
            advantage={"function": "opd_plus.corrected", "divergence": "kl"},
        ),
        ("divergence='kl'", "forward_kl, reverse_kl, jsd"),
    ),
    "every coefficient zero": (
        lambda models, tmp: {"COEF": 0.0},
        ("every term of config.loss has coefficient 0",),
    ),
    "JSD at 0": (
        with_term(signal="jsd", beta=0.0),
        ("loss.planted.beta=0.0", "inside (0, 1)", "signal='forward_kl'"),
    ),
    "JSD at 1": (
        with_term(signal="jsd", beta=1.0),
        ("loss.planted.beta=1.0", "inside (0, 1)", "signal='reverse_kl'"),
    ),
    "JSD at -1": (
        with_term(signal="jsd", beta=-1.0),
        ("loss.planted.beta=-1.0", "inside (0, 1)", "signal='forward_kl'"),
    ),
    "missing model": (nowhere, ("student: ", "nowhere is not a directory", "hub id")),
    "model without config.json": (without_config, ("model has no config.json",)),
    "half-written model": (
        half_written,
        ("model.safetensors is truncated", "fetch it again"),
    ),
    "model without weights": (without_weights, ("has no *.safetensors",)),
    "no tokenizer": (
        without_tokenizer,
        ("no tokenizer can be loaded from", "model", "put tokenizer.json"),
    ),
    "half a tokenizer": (cut_tokenizer, ("no tokenizer can be loaded from", "model")),
    "unsupported architecture": (other_architecture, ("gpt2", "support")),
    "tensor of another shape": (
        wrong_shape,
        ("model.norm.weight is (17,), expected (16,)",),
    ),
    "other tokenizer": (
        other_tokenizer,
        ("id 5: student '3', teacher '4'", "differ in 2 of 18", "take a pair"),
    ),
    "half a route of a teacher that no term names": (
        {"teachers__math": {"path": "x", "route": {"field": "domain"}}},
        ("math.route={'field': 'domain'} must be dict(field=..., equals=...)",),
    ),
    "a teacher that was not named": (
        only_the_student,
        ("the teacher is the bundled one, name yours with teacher.path",),
    ),
    "no teacher": (
        {"teacher__path": ""},
        ("a term compares with 'teacher', but teacher.path is empty", "initial, live"),
    ),
    "teacher is the student": (
        same_teacher,
        ("teacher.path and student.path are both", "identically zero"),
    ),
    "long prompt": (
        {"data__max_prompt_tokens": 3},
        ("40 of 40 prompts", "=3 tokens", "row 0", "longest 7", "truncate_left"),
    ),
    "missing data file": (
        {"data__path": "nowhere.jsonl"},
        ("nowhere.jsonl does not exist",),
    ),
    "unknown task": ({"data__path": "task:chess"}, ("'task:chess'", "task:arithmetic")),
    "empty data": (lines(), ("data.jsonl: no rows", "add some")),
    "one row": (lines(TASK), ("data.jsonl has 1 rows", "give data.eval_path")),
    "more held out than there is": (
        lambda models, tmp: lines(*[TASK] * 6)(models, tmp) | {"data__eval_rows": 6},
        ("has 6 rows: too few to hold 6 out", "a lower data.eval_rows"),
    ),
    "a split of a file": (
        lambda models, tmp: lines(TASK)(models, tmp) | {"data__eval_split": "test"},
        ("data.eval_split='test'", "data.jsonl is a file", "in data.eval_path"),
    ),
    "broken row": (
        lines(TASK, raw='{"prompt": "1+\n'),
        ("data.jsonl, line 2: not JSON", "correct or remove the line"),
    ),
    "missing column": (
        lines({"body": "1+2="}),
        ("data.jsonl: no column 'prompt', 'messages'", "the columns are 'body'"),
    ),
    "character outside of the vocabulary": (
        lines(*[TASK | {"prompt": "two?"}] * 4),
        ("cannot be tokenised",),
    ),
    "answers in some rows": (
        lines(
            *[TASK | {"prompt": f"{n}+2="} for n in range(6)],
            *[{"prompt": f"{n}+1="} for n in range(2)],
        ),
        ("needs answers", "column 'answer'", "in 2 of 8 rows", "data.answer_column"),
    ),
    "no answers for a verifier": (
        lambda models, tmp: (
            lines(*[{"prompt": "1+1="}] * 8)(models, tmp) | {"eval__verifier": "exact"}
        ),
        ("eval.verifier='exact' needs answers", "in 8 of 8 rows"),
    ),
    "unknown verifier": ({"eval__verifier": "oracle"}, ("'oracle'", "numeric, math")),
    "gold without solutions": (
        gold(*[PLAIN] * 8),
        ("asks for gold rows", "no row of", "solution", "data.solution_column"),
    ),
    "gold that is too long": (
        lambda models, tmp: (
            gold(*[TASK] * 8)(models, tmp) | {"rollout__max_new_tokens": 4}
        ),
        ("asks for gold rows", "rollout.max_new_tokens=4"),
    ),
    "gold term without gold": (
        with_term(signal="nll", source="gold"),
        ("loss.planted speaks of gold tokens", "mix.gold=0.0", "above 0"),
    ),
    "rows not divisible": (
        {"rollout__prompts_per_step": 3, "rollout__group_size": 1},
        ("has 3 rows", "not divisible by 2", "to give 4 rows"),
    ),
    "accumulation does not divide": (
        {"optimizer__accumulate": 3},
        ("has 4 rows", "6 = 2 data devices x optimizer.accumulate=3", "give 6 rows"),
    ),
    "mesh of another size": ({"mesh__data": 3}, ("needs 3 devices", "2 are present")),
    "replay buffer too small": (
        {"mix__replay": 1.0, "mix__capacity": 2},
        ("mix.capacity=2", "4 fresh and 4 replayed", "at least 4"),
    ),
    "buckets too small": (
        {"rollout__prompt_buckets": (4,)},
        ("rollout.prompt_buckets=(4,)", "a bucket of at least"),
    ),
    "positions exceeded": (
        {"rollout__max_new_tokens": 124},
        ("up to 132 positions", "student has 128", "lower rollout.max_new_tokens"),
    ),
    "positions exceeded behind a prefix": (
        {
            "rollout__max_new_tokens": 70,
            "rollout__prefix__source": "gold",
            "rollout__prefix__share": 0.5,
            "rollout__prefix__end": 0.9,
        },
        ("student has 128", "max_new_tokens=70 behind a prefix of up to 63"),
    ),
    "no room for a prompt": (
        {"rollout__max_new_tokens": 128, "data__on_long_prompt": "drop"},
        ("max_new_tokens=128 leaves no room", "in 128 positions", "lower it"),
    ),
    "unknown optimizer": ({"optimizer__name": "adamax"}, ("'adamax'", "adamw")),
    "unknown schedule": ({"optimizer__schedule": "steps"}, ("'steps'", "cosine")),
    "unknown precision": ({"student__dtype": "float16"}, ("'float16'", "bfloat16")),
    "unknown normaliser": (
        {"objective__normalizer": "pages"},
        ("'pages'", "rows"),
    ),
    "unknown generator": ({"rollout__parallel": "vmap"}, ("'vmap'", "pmap")),
    "unknown quantisation": (
        {"teacher__quantize": "int4"},
        ("teacher.quantize='int4'", "int8"),
    ),
    "quantised weights that move": (
        with_self(weights="ema", quantize="int8"),
        ("self.quantize='int8'", "self.weights='ema'"),
    ),
    "half a group at once": (
        {"rollout__at_once": 3},
        ("rollout.at_once=3", "rollout.group_size=2", "use 4"),
    ),
    "rows that wait under jit": (
        {"rollout__at_once": 4, "rollout__parallel": "jit"},
        ("rollout.at_once=4 needs rollouts under pmap", "at_once=0"),
    ),
    "unknown reason to stop": (
        stopping(function="boredom"),
        ("unknown rollout.early_stop 'boredom'", "divergence, repetition"),
    ),
    "a reason that needs a teacher": (
        stopping(function="divergence"),
        ("rollout.early_stop: divergence", "rollout.early_stop.teacher"),
    ),
    "no limit": (
        stopping(function="repetition", window=9, limit=0.0),
        ("rollout.early_stop.limit=0.0", "above 0"),
    ),
    "a window that holds too little": (
        stopping(function="repetition", window=4),
        ("a window of 4 tokens has no two 8-grams", "rollout.early_stop.window"),
    ),
    "a window as long as the rollout": (
        stopping(function="repetition", window=20),
        ("rollout.early_stop.window=20", "rollout.max_new_tokens=20"),
    ),
    "never looks": (
        stopping(function="repetition", window=9) | {"rollout__block_tokens": 0},
        ("rollout.block_tokens=0", "at most 20"),
    ),
    "a teacher that moves reads along": (
        stopping(function="repetition", window=9, teacher="teacher")
        | {"teacher__weights": "ema"},
        ("rollout.early_stop.teacher='teacher'", "reference"),
    ),
    "a rule that remembers what no term does": (
        stopping(function="kat.agreement", window=0, limit=0.0, teacher="teacher")
        | {
            "rollout__early_stop__memory": "minima",
            "memory__minima": {"function": "kat.minima"},
        },
        ("rollout.early_stop.memory='minima' is read by no term", "let a weight"),
    ),
    "a rule that remembers nothing": (
        stopping(function="kat.agreement", window=0, limit=0.0, teacher="teacher")
        | {"rollout__early_stop__memory": "minima"},
        ("reads the memory 'minima'; known: none", "memory.minima=dict(function="),
    ),
    "a rule that sees too little": (
        stopping(
            function="kat.agreement",
            window=6,
            limit=0.0,
            teacher="teacher",
            threshold=0.1,
            mean_over=4,
            patience=3,
        )
        | {"rollout__block_tokens": 4},
        ("rollout.early_stop.window=6", "are seen in 9 tokens", "at least 9"),
    ),
    "a rule that spares more than all": (
        stopping(
            function="kat.agreement",
            window=0,
            limit=0.0,
            teacher="teacher",
            threshold=0.1,
            spared=1.5,
        ),
        ("rollout.early_stop.spared=1.5", "a number in [0, 1]"),
    ),
    "a horizon to nothing": (
        {"rollout__horizon": {"schedule": "linear", "value": 4}},
        ("rollout.horizon.end=0", "from 1 to 20"),
    ),
    "a horizon without a beginning": (
        {"rollout__horizon": {"schedule": "linear", "end": 4}},
        ("rollout.horizon={'end': 4", "dict(schedule=..., value=..."),
    ),
    "a horizon of no memory": (
        {"rollout__horizon": {"memory": "window"}},
        ("rollout.horizon.memory='window' is read by no term",),
    ),
    "a horizon twice": (
        {"rollout__horizon": {"memory": "window", "value": 4}},
        ("rollout.horizon=", "has a memory", "leave out one"),
    ),
    "a horizon of a memory that knows none": (
        remembering("kat.minima", window=4),
        ("rollout.horizon.memory='window' says of no length", "adwin.window"),
    ),
    "a horizon of windows that do not grow": (
        remembering("adwin.window", grid=(8, 4)),
        ("memory.window: grid=(8, 4)", "in ascending order"),
    ),
    "a horizon of rollouts that are used again": (
        remembering("adwin.window", grid=(4, 8))
        | {"mix__updates_per_rollout": 2, "mix__capacity": 16},
        ("rollout.horizon.memory='window'", "mix.updates_per_rollout=2"),
    ),
    "a rule that compares with nobody": (
        stopping(function="kat.agreement", window=0, limit=0.0, threshold=0.1),
        ("agreement compares with a teacher", "rollout.early_stop.teacher"),
    ),
    "a window of nothing": (
        stopping(function="repetition", window=0),
        ("rollout.early_stop.window=0", "at least 1"),
    ),
    "an unknown way to draw": (
        {"rollout__behavior__function": "mix"},
        ("unknown rollout.behavior 'mix'", "blend, replace"),
    ),
    "a share of no way to draw": (
        {"rollout__behavior__k": 5},
        ("rollout.behavior.k is given to no rule", "rollout.behavior.function"),
    ),
    "a likelihood that is none": (
        {"rollout__behavior__function": "replace", "rollout__behavior__k": 0},
        ("rollout.behavior: replace has k=0",),
    ),
    "a teacher that moves draws along": (
        {"rollout__behavior__function": "blend", "teacher__weights": "ema"},
        ("rollout.behavior.teacher='teacher'", "reference"),
    ),
    "the same bits of another distribution": (
        {"rollout__behavior__function": "blend", "student__exact": True},
        ("student.exact=True", "rollout.behavior.function='blend'"),
    ),
    "an argument that no rule has": (
        stopping(function="repetition", window=9, grams=2),
        ("takes no 'grams'", "limit, ngram"),
    ),
    "an argument without a rule": (
        stopping(grams=2),
        ("rollout.early_stop.grams is given to no rule", "early_stop.function"),
    ),
    "a panel of nothing": (
        {"panels": {"p": {"members": None}}},
        ("panels.p.members=None must be a tuple of names",),
    ),
    "a panel with one weight": (
        {"panels": {"p": {"members": ("teacher",), "weights": 1.0}}},
        ("panels.p.weights=1.0 must be a tuple of numbers",),
    ),
    "a guided panel in a group of one": (
        {
            "TEACHER": dict(weights="ema", context="{question}{peer}"),
            "panels": {"p": GUIDED},
            "loss__opd__other": "p",
            "rollout__prompts_per_step": 4,
            "rollout__group_size": 1,
        },
        ("'self' uses {peer}", "rollout.group_size=1", "at least 2"),
    ),
    "a guided panel with a route": (
        lambda models, tmp: {
            "panels": {"p": GUIDED},
            "TEACHER": dict(weights="ema"),
            "data__fields": ("level",),
            "teacher__route": {"field": "level", "equals": "2"},
        },
        ("panels.p: kind='guided'", "'teacher' has a route", "leave that out"),
    ),
    "a strength that is no number": (
        lambda models, tmp: {
            "panels": {"p": GUIDED | {"strength": "much"}},
            "TEACHER": dict(weights="ema"),
        },
        ("panels.p.strength='much' must be a number",),
    ),
    "a verifier that is no name": (
        {"eval__verifier": ".."},
        ("unknown verifier of eval.verifier '..': no dotted name",),
    ),
    "early stop under jit": (
        stopping(function="repetition", window=9) | {"rollout__parallel": "jit"},
        ("rollout.early_stop.function='repetition'", "under pmap only"),
    ),
    "evaluations of nothing": (
        {"eval__prompts": 0, "eval__every_steps": 2},
        ("eval.every_steps=2 asks for evaluations", "eval.prompts=0", "raise"),
    ),
    "the best of none": (
        {"eval__prompts": 0, "export__which": "best"},
        ("export.which='best' asks for evaluations", "use export.which='last'"),
    ),
    "no steps": ({"steps": 0}, ("steps=0 must be a whole number, at least 1",)),
    "no rows": ({"mix__student": 0.0}, ("mix.student and mix.gold are both 0",)),
    "top-p": (
        {"rollout__top_p": 0.0},
        ("rollout.top_p=0.0 must be a number in (0, 1]",),
    ),
    "temperature": (
        {"objective__temperature": 0.0},
        ("objective.temperature=0.0 must be above 0",),
    ),
    "negative strip": (
        {"objective__strip_tokens": -1},
        ("objective.strip_tokens=-1 must be a whole number, at least 0",),
    ),
    "negative seed": ({"seed": -1}, ("seed=-1 must be a whole number, from 0 to",)),
    "log never": (
        {"log__every_steps": 0},
        ("log.every_steps=0 must be a whole number, at least 1",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, models, tmp_path):
    changes, pieces = CASES[name]
    if callable(changes):
        changes = changes(models, tmp_path)
    spec, coef = changes.pop("TERM", None), changes.pop("COEF", None)
    teacher = changes.pop("TEACHER", None)
    built = runs.config(models, **changes)
    with built.unlocked():
        if spec is not None:
            built.loss.planted = spec
        if teacher is not None:
            built.teachers.self = teacher
        if coef is not None:
            built.loss.opd.coef = coef
    with (
        control.CompileCounter() as compiled,
        pytest.raises((ValueError, FileNotFoundError)) as caught,
    ):
        train.run(built, tmp_path / "run")
    message = str(caught.value)
    print(f"{name}: {message}")
    for piece in pieces:
        assert piece in message
    assert len(message) < 600 and "\n" not in message
    assert compiled.count == 0
    # Nothing stands in the way of a second try with the right value.
    assert list((tmp_path / "run").glob("*")) == []


# The working directory.


def refused(models, directory, **changes) -> str:
    with control.CompileCounter() as compiled, pytest.raises(ValueError) as caught:
        train.run(runs.config(models, **changes), directory)
    assert compiled.count == 0
    print(caught.value)
    return str(caught.value)


def test_workdir_of_another_config(models, tmp_path):
    workdir.write_config(tmp_path, runs.config(models).to_dict())
    before = (tmp_path / "config.json").read_text()
    message = refused(models, tmp_path, rollout__temperature=0.5, seed=3)
    assert "rollout.temperature was 1.0 and is now 0.5; seed was 0" in message
    assert "--workdir=DIR" in message and str(tmp_path) in message
    assert (tmp_path / "config.json").read_text() == before


def test_workdir_that_is_not_a_run(models, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("dear")
    message = refused(models, tmp_path)
    assert "is not empty and holds no run" in message and "--workdir=DIR" in message
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_resume_false_on_a_run(models, tmp_path):
    workdir.write_config(tmp_path, runs.config(models).to_dict())
    message = refused(models, tmp_path, resume=False)
    assert "holds a run already and config.resume is False" in message


def test_workdir_that_cannot_be_written(models, tmp_path):
    (tmp_path / "file").write_text("")
    message = refused(models, tmp_path / "file" / "run")
    assert "cannot be written (Not a directory)" in message


# Names that do not exist.


def test_a_misspelt_key_in_a_config_file_is_an_error_there():
    c = config.base_config()
    with pytest.raises(AttributeError, match='Did you mean "learning_rate"'):
        c.optimizer.learning_rat = 1.0
    c.loss.mine = {"signal": "nll"}
    c.data.student_template_kwargs.enable_thinking = False


def test_a_method_whose_own_import_fails_says_so(monkeypatch, tmp_path):
    import jopd.methods

    (tmp_path / "needy.py").write_text("import package_that_is_not_there\n")
    monkeypatch.setattr(jopd.methods, "__path__", [str(tmp_path)])
    with pytest.raises(ValueError, match=r"'needy.f': .*package_that_is_not_there"):
        binding.resolve("needy.f", None, "signal")


# What must work although it looks wrong, and a disk that fills up.


@pytest.fixture
def padded(models, tmp_path) -> dict:
    """Changes of a run whose teacher has a wider head over the same tokenizer."""
    runs.make_model(tmp_path / "teacher", seed=4, vocab_size=24)
    return {"teacher__path": str(tmp_path / "teacher"), "checkpoint__every_steps": 1}


# A file of more bytes than this cannot be written, as on a disk that is full.
LIMITED = (
    "import os, resource, sys; n = int(sys.argv[1]);"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); os.execv(sys.argv[2], "
    "sys.argv[2:])"
)


def launch(models, tmp, *, limit: int | None = None, **changes):
    before = [sys.executable, "-c", LIMITED, str(limit)] if limit else []
    words = (f"--config={runs.ROOT / 'configs' / 'opd.py'}", f"--workdir={tmp / 'run'}")
    return subprocess.run(
        before + runs.command("main", *words, *runs.flags(models, **changes)),
        env=runs.environment(Path(os.environ["XDG_CACHE_HOME"])),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp,
    )


@pytest.mark.usefixtures("plain_charts")
def test_heads_of_different_width_are_cut_and_it_is_said_once(
    models, padded, tmp_path, capfd
):
    summary = train.run(runs.config(models, **padded), tmp_path / "run")
    said = "heads cut to the 18 shared columns (teacher 24)"
    assert "".join(capfd.readouterr()).count(said) == 1
    assert np.isfinite(summary["after"]["reverse_kl"])
    assert len(tasks.VOCABULARY) == 18


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(
    models, padded, tmp_path
):
    child = launch(models, tmp_path, **padded)
    assert child.returncode == 0, child.stderr
    kept = sorted((tmp_path / "run" / "checkpoints" / "2").rglob("*"))
    contents = [path.read_bytes() for path in kept if path.is_file()]
    child = launch(models, tmp_path, limit=12_000, **padded | {"steps": 4})
    assert child.returncode == 1, child.stdout + child.stderr
    errors = [line for line in child.stderr.splitlines() if line.startswith("error: ")]
    print(errors)
    assert len(errors) == 1
    assert "the checkpoint of step 3 could not be written" in errors[0]
    assert "step 2 is complete" in errors[0] and "run the same command" in errors[0]
    assert child.stderr.splitlines()[-1] == errors[0]
    assert [path.read_bytes() for path in kept if path.is_file()] == contents
    child = launch(models, tmp_path, **padded | {"steps": 4})
    assert child.returncode == 0, child.stderr
    assert "resumed from step 2" in child.stdout
