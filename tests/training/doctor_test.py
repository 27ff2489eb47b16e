"""``jopd doctor``: broken pairs are told, with what to do; healthy ones are let be."""

import json
import subprocess

import numpy as np
import pytest

import runs
from jopd.setup import experiment, pairing
from jopd.setup.pairing import FAIL, OK, WARN
from jopd.training import doctor, readings

SOON = {"eval__prompts": 16, "eval__k": 1, "data__size": 64}
DEMO = {"student__path": "demo:student", "teacher__path": "demo:teacher"}
CHAT = {"data__path": "rows.jsonl", "rollout__max_new_tokens": 40}
LONG = {"data__levels": (2, 3, 4, 5, 6, 7), "rollout__max_new_tokens": 64}
OTHER = runs.TEMPLATE.replace("<|im_start|>{{ m.role }}\n", "[{{ m.role }}] ")
THINKS = runs.TEMPLATE.replace(
    "<|im_start|>assistant\n",
    "<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>\n"
    "{% endif %}",
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Random models: of the task in digits, and of bytes with chat templates."""
    folder = tmp_path_factory.mktemp("pairs")
    runs.make_pair(folder)
    for name, template in (
        ("plain", runs.TEMPLATE),
        ("copy", runs.TEMPLATE),
        ("other", OTHER),
    ):
        _bytes_model(folder / name, template, seed=1)
    _bytes_model(folder / "thinks", THINKS, seed=2)
    _bytes_model(folder / "same", runs.TEMPLATE, seed=3)
    _bytes_model(folder / "ends", runs.TEMPLATE, seed=3, eos="<|endoftext|>")
    _bytes_model(folder / "short", runs.TEMPLATE, seed=3, max_positions=32)
    for name, answer in (("rows", "4"), ("wrong", "5"), ("long", "4")):
        said = "It is so. " * 9 * (name == "long") + "2 + 2 = 4"
        row = {"question": "2 + 2", "solution": said, "answer": answer}
        rows = [row | {"question": f"2 + 2, {i}"} for i in range(24)]
        file = folder / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
    return folder


def _bytes_model(path, template, *, seed, eos="<|im_end|>", **changes):
    tokenizer = runs.byte_tokenizer()
    tokenizer.chat_template, tokenizer.eos_token = template, eos
    runs.make_model(path, seed=seed, tokenizer=tokenizer, **changes)


def _config(pairs, method="opd", **overrides):
    """Files of ``pairs`` by their names."""
    named = ("student__path", "teacher__path", "data__path")
    there = {k: pairs / v for k, v in overrides.items() if k in named and ":" not in v}
    paths = {key: str(file) for key, file in there.items()}
    return runs.config(pairs, method, **(SOON | overrides | paths))


def _chat(student, teacher, **more):
    return CHAT | {"student__path": student, "teacher__path": teacher} | more


# What is broken -> (method, overrides, check, state, part of the line).
BROKEN = {
    "other words": (
        ("opd", {"student__path": "demo:student", "teacher__path": "plain"}),
        ("config", FAIL, "tokenizer"),
    ),
    "another layout": (
        ("opd", _chat("plain", "other")),
        ("templates", WARN, "'[user] What is"),
    ),
    "a teacher that thinks": (
        ("opd", _chat("plain", "thinks")),
        ("thinking", WARN, "data.teacher_template_kwargs=dict(enable_thinking=False)"),
    ),
    "answers that the verifier refuses": (
        ("opd", _chat("plain", "same", data__path="wrong.jsonl")),
        ("gold", FAIL, "accepts 0 of 22 gold solutions: of '0' it wants '5'"),
    ),
    "gold that is too long": (
        ("opd", _chat("plain", "same", data__path="long.jsonl")),
        ("budget", WARN, "rollout.max_new_tokens=40, 100% of them; raise it"),
    ),
    "a rounded teacher": (
        ("opd", DEMO | {"teacher__dtype": "bfloat16"}),
        ("precision", WARN, "set teacher.dtype='float32'"),
    ),
    "other ends": (
        ("opd", _chat("plain", "ends")),
        ("start", WARN, "for other ends set rollout.stop_ids"),
    ),
    "the student itself": (
        ("opd", _chat("plain", "copy")),
        ("start", WARN, "every divergence begins at zero; name another model"),
    ),
    "too few positions": (
        ("opd", _chat("plain", "short")),
        ("config", FAIL, "the teacher has 32"),
    ),
    "a student that is far": (
        ("opd", DEMO | LONG | {"student__path": "demo:early"}),
        ("distance", WARN, "begin with gold rows (mix.gold)"),
    ),
    "a teacher that knows less": (
        ("opd", {"student__path": "demo:teacher", "teacher__path": "demo:early"}),
        ("gold text", WARN, "it may be the wrong teacher for these rows"),
    ),
    "another style": (
        (
            "opd",
            {
                "student__path": "demo:words_hinted",
                "teacher__path": "demo:words_brief",
                "data__path": "task:words",
                "rollout__max_new_tokens": 64,
            },
        ),
        ("first", WARN, "the first token of gold"),
    ),
    "nothing to earn": (
        ("grpo", DEMO | {"student__path": "student", "data__path": "task:arithmetic"}),
        ("rewards", WARN, "groups of equal rewards teach nothing"),
    ),
    "no end": (
        ("opd", DEMO | {"rollout__ignore_eos": True}),
        ("rollouts", WARN, "100% of the student's rollouts have no end by"),
    ),
    "a wild rate": (
        ("opd", DEMO | {"optimizer__learning_rate": 0.5}),
        ("rate", WARN, "begin with 0.0005 to 0.002"),
    ),
}
STATIC = ("config", "templates", "thinking", "gold", "budget", "precision", "start")


def _examined(config, check):
    try:
        e = experiment.build(config)
    except ValueError as error:
        return [pairing.Finding("config", FAIL, str(error))]
    parts = doctor.examine(e, 0 if check in STATIC else 16)
    return [one for part in parts for one in part["findings"]]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pair_is_told_with_what_to_do(pairs, name):
    (method, overrides), (check, state, part) = BROKEN[name]
    looked = _examined(_config(pairs, method, **overrides), check)
    lines = [one.line for one in looked if (one.check, one.state) == (check, state)]
    assert len(lines) == 1, looked
    assert part in lines[0] and "\n" not in lines[0]


HEALTHY = {
    "digits": ("opd", DEMO),
    "words": (
        "ta_opd",
        {
            "student__path": "demo:words_student",
            "teacher__path": "demo:words_teacher",
            "data__levels": (2, 3, 4, 5),
            "rollout__max_new_tokens": 64,
        },
    ),
    "hinted": (
        "opsd",
        {
            "student__path": "demo:words_hinted",
            "teacher__path": "demo:words_teacher",
            "data__levels": (2, 3, 4, 5),
            "rollout__max_new_tokens": 64,
        },
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_pair_is_let_be(pairs, name):
    method, overrides = HEALTHY[name]
    config = _config(pairs, method, optimizer__warmup=1, **overrides)
    e = experiment.build(config)
    found = doctor.plain(list(doctor.examine(e, 16)))
    assert [one for one in found["findings"] if one["state"] != OK] == []
    kinds = {(row["text"], row["kind"]) for row in found["nats"]}
    assert {("gold", "body"), ("gold", "end"), ("its own", "first")} <= kinds
    assert any("optimizer.learning_rate=" in line for line in found["advice"])


def test_nats_by_kind_are_those_of_the_whole(pairs):
    """Kinds part the tokens, and headers are of chats alone."""
    e = experiment.build(_config(pairs, **_chat("plain", "same")))
    found = readings.measure(e, 8)
    gold = found.gold
    counts = {kind: int((gold.kind_N == kind).sum()) for kind in readings.KINDS}
    header = pairing.header(e.config, e.rows)
    behind = "<|im_end|>\n<|im_start|>assistant\n"
    whole = e.rows.tokenizer(behind, add_special_tokens=False)["input_ids"]
    assert header == len(whole)
    rows = len(e.rows.held.prompts[:8])
    solutions = sum(map(len, e.rows.held.solutions[:8]))
    assert counts["header"] == rows * header
    assert counts["first"] == counts["end"] == rows
    assert sum(counts.values()) == rows * header + solutions
    # The mean over the response is that of its kinds, by their tokens.
    parts = [
        gold.mean("logp/teacher", kind) * counts[kind] for kind in readings.KINDS[1:]
    ]
    np.testing.assert_allclose(
        gold.mean("logp/teacher"), sum(parts) / solutions, rtol=1e-5
    )


def test_the_cost_of_estimates_by_enumeration(pairs):
    """Of a KL of one place the variance is E[r^2] - KL^2; over places it adds up."""
    kl_N, square_N = np.asarray([0.5, 1.5, 1.0]), np.asarray([1.0, 4.0, 2.0])
    facts = {"kl/reverse": kl_N, "fact/square/teacher": square_N}
    own = readings.Text(np.asarray(["body"] * 3), facts)
    found = readings.Measured(3, None, own, 0.0, None)
    kl, sampled, exact = doctor._spread(found, "teacher")
    # One token at a random place: E[r^2] - (E r)^2.
    np.testing.assert_allclose(kl, 1.0)
    np.testing.assert_allclose(sampled, square_N.mean() - 1.0)
    np.testing.assert_allclose(exact, kl_N.var())


def test_the_command_says_it_fails_and_keeps_all(pairs, tmp_path):
    words = ["--config=opd", "--prompts=0", f"--json={tmp_path / 'found.json'}"]
    files = {"data.path": "wrong.jsonl", "student.path": "plain"}
    files |= {"teacher.path": "same"}
    words += [f"--config.{key}={pairs / file}" for key, file in files.items()]
    done = subprocess.run(
        runs.command("doctor", *words),
        env=runs.environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert " fail  gold " in done.stdout
    kept = json.loads((tmp_path / "found.json").read_text())
    assert {"check", "state", "found", "remedy"} == kept["findings"][0].keys()
    assert any(one["state"] == "fail" for one in kept["findings"])


def test_a_teacher_is_measured_on_the_rows_that_it_serves(pairs):
    route = dict(path="demo:teacher", route=dict(field="level", equals=2))
    changes = {"data__fields": ("level",), "teachers__short": route}
    changes |= {"loss__short": dict(signal="reverse_kl", other="short")}
    e = experiment.build(_config(pairs, **(DEMO | LONG | changes)))
    found = readings.measure(e, 16)
    said = {name: found.own.of(f"logp/{name}") for name in ("teacher", "short")}
    levels = [int(row["level"]) for row in e.rows.held.fields[:16]]
    assert 0 < levels.count(2) < 16
    assert 0 < len(said["short"]) < len(said["teacher"])
    whole = found.own.facts["logp/teacher"]
    there = ~np.isnan(found.own.facts["logp/short"])
    np.testing.assert_allclose(said["short"], whole[there], atol=1e-5)
    assert not np.isnan(found.own.of("kl/reverse_short")).any()


def test_documents_have_no_layout_and_no_budget(pairs, tmp_path):
    file = tmp_path / "texts.jsonl"
    texts = [{"text": f"Once there were {n} stories. " * 9} for n in range(30)]
    file.write_text("\n".join(map(json.dumps, texts)))
    changes = {"data__path": str(file), "data__prefix_tokens": 8}
    changes |= {"eval__verifier": "none"}
    built = _config(pairs, **(_chat("plain", "other") | changes))
    built.update_from_flattened_dict({"data.path": str(file)})
    e = experiment.build(built)
    checks = {one.check for one in e.looked}
    assert checks == {"precision"}
    assert "header" not in readings.measure(e, 2).gold.kind_N
