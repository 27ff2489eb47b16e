"""A batch before and after its audit, with teachers that are functions and models."""

import functools
import json

import jax
import numpy as np
import pytest

import runs
from jopd.batches import asking
from jopd.data import dataset as datasets
from jopd.rollouts.generate import PLAIN
from jopd.setup import builders, experiment, inputs, reading
from jopd.setup import rows as row_sets
from jopd.teachers import audit, similarity
from jopd.teachers.remote import Client, Prefix
from jopd.training import control, step
from jopd.training import loop as train
from jopd.training.stages import build_stages
from jopd.training.writers import make_generate
from jopd.types import GOLD, STUDENT, Rollout
from openai_server import server, url_of

pytestmark = pytest.mark.usefixtures("plain_charts")

TOKENIZER = runs.bundled_tokenizer()
EOS = TOKENIZER.eos_token_id
TEXTS = ["1+2=", "4*2-1=", "9-3="]
RESPONSES = ["1+2=3;#3", "4*2=8;8-1=7;#7", "9"]
PLAN = audit.Plan(chunks=2, chunk_tokens=3, samples=4)


def ids_of(text: str) -> np.ndarray:
    return np.asarray(TOKENIZER(text)["input_ids"], np.int32)


PROMPTS = [ids_of(text) for text in TEXTS]


def batch_of(sources=(STUDENT, STUDENT, STUDENT)):
    """One row per response, each ending in EOS; garbage in the padding."""
    rows = [[*p, *ids_of(r), EOS] for p, r in zip(PROMPTS, RESPONSES)]
    tokens_BT = np.full((3, 24), 5, np.int32)
    for row, ids in zip(tokens_BT, rows):
        row[: len(ids)] = ids
    length_B = np.array([len(row) for row in rows], np.int32)
    rolled = Rollout(
        tokens_BT=tokens_BT,
        prompt_length_B=np.array([len(p) for p in PROMPTS], np.int32),
        length_B=length_B,
        finished_B=np.ones(3, bool),
        behavior_logp_BT=np.zeros((3, 24), np.float32),
        source_BT=np.repeat(np.asarray(sources, np.int32)[:, None], 24, axis=1),
        group_B=np.arange(3, dtype=np.int32),
        age_B=np.zeros(3, np.int32),
    )
    return asking.batch_of(rolled)


def entropy_BT() -> np.ndarray:
    """Rises along the row, and is largest where nothing may be audited."""
    return np.repeat(np.arange(24.0)[None], 3, axis=0)


def annotate(texts_of, *, plan=PLAN, phi="ned", batch=None, seed=0, step=0, **changes):
    """(batch, facts, what the teacher was asked)."""
    asked = []

    def continue_texts(prefixes, n, max_tokens, temperature, seeds):
        asked.append((prefixes, n, max_tokens, temperature, seeds))
        return [texts_of(prefix, n) for prefix in prefixes]

    counts = lambda: {"requests": 10.0 * len(asked)}
    read = {"prompts": PROMPTS, "texts": TEXTS} | changes
    rest = dict(solutions=[], finished=[], answers=[], ids=[], dropped={})
    function = audit.make_annotate(
        plan,
        Client(continue_texts, counts),
        datasets.Dataset(**read, **rest),
        entropy=lambda params, batch: entropy_BT(),
        similarity=similarity.resolve(phi),
        tokenizer=TOKENIZER,
        seed=seed,
    )
    batch, facts = function(None, batch or batch_of(), step)
    return batch, facts, asked[0]


def written(batch, b: int, number: int) -> str:
    where = batch.extra["chunk"][b] == number
    ids = np.asarray(batch.rollout.tokens_BT)[b, where]
    return TOKENIZER.decode(ids, skip_special_tokens=True)


def test_the_teacher_continues_what_stands_before_a_chunk():
    batch, facts, (prefixes, n, tokens, temperature, seeds) = annotate(
        lambda prefix, n: ["x"] * n
    )
    chunk_BT = batch.extra["chunk"]
    mask_BT = np.asarray(batch.mask_BT)
    # The last chunk that fits, then the last before it; the third row is too short.
    assert [sorted(set(row)) for row in chunk_BT] == [[-1, 0, 1], [-1, 0, 1], [-1]]
    assert (chunk_BT[~mask_BT] == -1).all() and chunk_BT.dtype == np.float32
    assert (n, tokens, temperature) == (4, 3, 1.0) and len(set(seeds)) == 4
    for i, prefix in enumerate(prefixes):
        b, number = divmod(i, 2)
        at = np.flatnonzero(chunk_BT[b] == number)
        assert len(at) == 3 and (np.diff(at) == 1).all()
        before = np.asarray(batch.rollout.tokens_BT)[b, : at[0]]
        assert prefix.tokens.tolist() == before.tolist()
        assert prefix.prompt == TEXTS[b]
        assert prefix.prompt + prefix.response == TOKENIZER.decode(before)
        assert RESPONSES[b].startswith(prefix.response)
    assert facts["audit/chunks"] == 4 and facts["audit/dropped"] == 0
    assert facts["audit/rows_without"] == 1 and facts["teacher/requests"] == 10
    own, inside = mask_BT.sum(), (chunk_BT >= 0).sum()
    assert facts["audit/tokens_share"] == pytest.approx(inside / own)
    assert facts["audit/entropy_inside"] == pytest.approx(
        entropy_BT()[chunk_BT >= 0].mean()
    )
    assert facts["audit/entropy_outside"] == pytest.approx(
        entropy_BT()[mask_BT & (chunk_BT < 0)].mean()
    )


def responses_after(prefix, n):
    """What the student itself wrote next."""
    (own,) = [
        r
        for text, r in zip(TEXTS, RESPONSES)
        if text == prefix.prompt and r.startswith(prefix.response)
    ]
    return [own[len(prefix.response) :][:3]] * n


def test_equal_texts_count_in_full_and_strangers_not_at_all():
    batch, facts, _ = annotate(responses_after)
    inside_BT = batch.extra["chunk"] >= 0
    assert (batch.extra["similarity"][inside_BT] == PLAN.samples).all()
    assert (batch.extra["similarity"][~inside_BT] == 0).all()
    assert facts["audit/similarity"] == 1
    batch, facts, _ = annotate(lambda prefix, n: ["---"] * n)
    assert (batch.extra["similarity"] == 0).all() and (inside_BT.sum() > 0)
    assert facts["audit/similarity_max"] == 0


def test_the_count_is_a_sum_over_samples_in_any_order():
    texts = ["#3", "3;#", "---", "3"]
    batch, _, _ = annotate(lambda prefix, n: texts)
    for b, number in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        where = batch.extra["chunk"][b] == number
        want = sum(similarity.ned(written(batch, b, number), text) for text in texts)
        np.testing.assert_allclose(batch.extra["similarity"][b, where], want, rtol=1e-6)
    other, _, _ = annotate(lambda prefix, n: texts[::-1])
    np.testing.assert_allclose(other.extra["similarity"], batch.extra["similarity"])


def test_an_incomplete_chunk_is_dropped_and_counted():
    seen = []

    def every_second(prefix, n):
        seen.append(prefix)
        return ["x"] * n if len(seen) % 2 else None

    batch, facts, _ = annotate(every_second)
    assert facts["audit/chunks"] == facts["audit/dropped"] == 2
    # Numbered without gaps, and what was dropped is as if never asked.
    assert [sorted(set(row)) for row in batch.extra["chunk"]] == [
        [-1, 0],
        [-1, 0],
        [-1],
    ]
    batch, facts, _ = annotate(lambda prefix, n: None)
    assert (batch.extra["chunk"] == -1).all() and facts["audit/similarity"] is None
    assert facts["audit/rows_without"] == 3


def test_only_the_students_own_tokens_are_audited():
    batch, facts, (prefixes, *_) = annotate(
        lambda prefix, n: ["x"] * n, batch=batch_of((STUDENT, GOLD, STUDENT))
    )
    assert {prefix.prompt for prefix in prefixes} == {TEXTS[0]}
    assert (batch.extra["chunk"][1] == -1).all() and facts["audit/rows_without"] == 1


def test_nothing_to_audit():
    batch, facts, (prefixes, *_) = annotate(
        lambda prefix, n: ["x"] * n, batch=batch_of((GOLD, GOLD, GOLD))
    )
    assert prefixes == [] and facts["audit/chunks"] == facts["audit/rows_without"] == 0
    assert facts["audit/similarity"] is facts["audit/entropy_inside"] is None
    assert set(batch.extra) == {"chunk", "similarity"}, "the same programs as ever"


def test_chunks_longer_than_every_response():
    plan = PLAN._replace(chunk_tokens=20)
    batch, facts, (prefixes, *_) = annotate(lambda prefix, n: ["x"] * n, plan=plan)
    assert prefixes == [] and (batch.extra["chunk"] == -1).all()
    assert facts["audit/chunks"] == facts["audit/dropped"] == 0
    assert facts["audit/rows_without"] == 3 and facts["audit/tokens_share"] == 0


def percent(a: str, b: str) -> float:
    """A similarity in the wrong unit."""
    return 100 * similarity.ned(a, b)


def only_here(a: str, b: str) -> float:
    """Wrong for texts that no one tried before the run."""
    return 1.5 if "#" in a else similarity.ned(a, b)


def test_a_similarity_out_of_range_ends_the_audit():
    with pytest.raises(
        ValueError, match=r"only_here' gave 1\.5 .*must lie in \[0, 1\]"
    ):
        annotate(lambda prefix, n: ["x"] * n, phi=f"{__name__}.only_here")


def test_seeds_depend_on_seed_step_row_and_place():
    seeds = lambda **at: annotate(lambda prefix, n: ["x"] * n, **at)[2][4]
    assert seeds() == seeds()
    others = [seeds(), seeds(step=1), seeds(seed=1)]
    assert len({s for found in others for s in found}) == 12
    assert all(0 <= s < 2**30 for found in others for s in found)


def test_the_teacher_reads_its_own_prompt():
    own = [ids_of(f"0+{text}") for text in TEXTS]
    _, _, (prefixes, *_) = annotate(
        lambda prefix, n: ["x"] * n,
        prompts=own,
        texts=[f"0+{text}" for text in TEXTS],
    )
    for prefix in prefixes:
        assert prefix.prompt.startswith("0+")
        assert TOKENIZER.decode(prefix.tokens) == prefix.prompt + prefix.response


def test_long_continuations_are_cut_to_the_students_tokens():
    assert audit.cut_to(TOKENIZER, "1+2=3;#3", 3) == "1+2"
    assert audit.cut_to(TOKENIZER, "1+", 3) == "1+"
    assert audit.cut_to(TOKENIZER, "the answer", 3) == "the answer"
    # So what a teacher writes after the chunk's length changes nothing.
    short, _, _ = annotate(lambda prefix, n: ["3;#"] * n)
    long, _, _ = annotate(lambda prefix, n: ["3;#1+2+3"] * n)
    np.testing.assert_array_equal(long.extra["similarity"], short.extra["similarity"])


# A model of this process.


@functools.cache
def built(**overrides):
    settings = {"rollout__prompts_per_step": 4, "rollout__group_size": 2}
    config = runs.config(
        _MODELS, "omniopd", **runs.DIGITS, **settings | dict(overrides)
    )
    return experiment.build(config)


@pytest.fixture(autouse=True, scope="module")
def _models(models):
    global _MODELS
    _MODELS = models
    yield
    built.cache_clear()


def teacher_of(e, rows: int = 8, copies: int = 1):
    generate = make_generate(e, PLAIN, name="teacher", max_new_tokens=6, copies=copies)
    return audit.local_teacher(
        functools.partial(generate, e.frozen["teacher"]),
        e.rows.tokenizer,
        widths=(8, 16),
        batch_rows=rows,
        copies=copies,
    )


def test_a_local_teacher_writes_as_its_model_would():
    e = built()
    texts = ["1+2=", "4*2-1=4*2=8", "3", "9-3=9-3"]
    prefixes = [Prefix(text, "", ids_of(text)) for text in texts]
    client = teacher_of(e)
    found = client.continue_texts(prefixes, 3, 6, 1.0, [10, 20, 30, 40])
    assert [len(row) for row in found] == [3] * 4
    assert len({text for row in found for text in row}) > 6
    counts = client.counts()
    assert counts["prompt_tokens"] == 3 * sum(len(text) for text in texts)
    # Neither the order, nor the rows beside it, nor the size of a batch matters.
    again = teacher_of(e, 4).continue_texts(prefixes[::-1], 3, 6, 1.0, [40, 30, 20, 10])
    assert again == found[::-1]
    assert client.continue_texts(prefixes[:1], 1, 6, 1.0, [12]) == [[found[0][2]]]
    # Nor whether a prefix is read once for two of its samples; two devices here.
    shared = teacher_of(e, 12, copies=2)
    assert shared.continue_texts(prefixes, 3, 6, 1.0, [10, 20, 30, 40]) == found
    assert shared.counts()["completion_tokens"] == counts["completion_tokens"]
    # Fewer tokens are the beginning of more.
    short = client.continue_texts(prefixes, 3, 2, 1.0, [10, 20, 30, 40])
    for row, begin in zip(found, short):
        assert all(text.startswith(start) for text, start in zip(row, begin))
    assert max(len(text) for row in short for text in row) == 2


def test_an_audited_batch_reaches_the_loop():
    e = built()
    built_stages = build_stages(e, builders.build_optimizer(e.config)[1])
    student = step.TrainState(0, e.params, None)
    _, got = built_stages.collect(student, None, 0)
    assert got.batch.extra["chunk"].shape == got.batch.mask_BT.shape
    assert got.fresh.extra == {}, "a buffer keeps rollouts, not their audits"
    assert got.facts["audit/chunks"] > 0 and got.facts["teacher/completion_tokens"] > 0
    _, again = built_stages.collect(student, None, 0)
    jax.tree.map(np.testing.assert_array_equal, got.batch, again.batch)
    # The anchors are peaks of the student's entropy.
    facts = step.make_facts({"student": e.models["student"]}, e.shape)
    entropy = np.asarray(facts(e.params, {}, got.batch)["entropy/student"])
    inside_BT = np.asarray(got.batch.extra["chunk"]) >= 0
    assert got.facts["audit/entropy_inside"] == pytest.approx(
        entropy[inside_BT].mean(), rel=1e-5
    )


# A server.


def test_a_run_with_a_server_and_without_a_teachers_model(
    models, tmp_path, monkeypatch
):
    log, probes, connect = tmp_path / "log", [], inputs.connect
    monkeypatch.setattr(inputs, "connect", lambda c: probes.append(c) or connect(c))
    changes = {
        "audit__teacher": "http",
        "remote__model": "tiny",
        "remote__cache_dir": str(tmp_path / "cache"),
        "teacher__path": "",
        "audit__judge_first": False,  # canned texts are no continuations
        "eval__verifier": "none",
        "rollout__prompts_per_step": 4,
    }
    with server(log, "--canned=1+2=3;4", "--garbage=4") as (port, _):
        changes["remote__url"] = url_of(port)
        config = runs.config(models, "omniopd", **runs.DIGITS, **changes)
        summary = train.run(config, tmp_path / "run")
        assert len(probes) == 1
        rows = runs.updates(tmp_path / "run")
        sent = runs.rows(log)
        assert len(sent) == sum(row["teacher/requests"] for row in rows) > 8
        garbage = sum("garbage" in row for row in sent)
        assert garbage == sum(row["audit/dropped"] for row in rows) > 0
        assert all(np.isfinite(row["loss"]) for row in rows)
        assert summary["after"]["reverse_kl"] is None
        # The same run again, elsewhere: the server is asked only what failed.
        train.run(config, tmp_path / "again")
        first = runs.updates(tmp_path / "again")[0]
        assert first["teacher/cache_hits"] == rows[0]["audit/chunks"]
        bodies = [json.dumps(r["body"], sort_keys=True) for r in runs.rows(log)]
        done = [b for b, r in zip(bodies, runs.rows(log)) if "garbage" not in r]
        assert len(done) == len(set(done)), "nothing answered was asked again"


def test_a_chat_server_gets_plain_prompts(models):
    config = runs.config(models, "omniopd", **runs.DIGITS)
    tokenizer = inputs.load_tokenizer(str(models / "student"))
    tokenizer.chat_template = "{% for m in messages %}+{{ m.content }}={% endfor %}"
    examples = reading.read_examples(config)[:2]
    train_data, _ = row_sets.student_data(config, tokenizer, examples, 64)
    assert all(text.startswith("+") for text in train_data.texts)
    plain = row_sets.untemplated(config, tokenizer, train_data)
    assert [f"+{text}=" for text in plain] == train_data.texts
    assert isinstance(train_data, datasets.Dataset)


# What is refused before anything is compiled.

HTTP = {"audit__teacher": "http", "remote__url": "http://localhost:9/v1"}
HTTP |= {"remote__model": "tiny", "teacher__path": ""}
REFUSED = {
    "long chunk": ({"audit__chunk_tokens": 21}, ("=21 is longer than", "tokens=20")),
    "no chunks": (
        {"audit__chunks": 0},
        ("reads what a text teacher wrote", "audit.chunks=0", "above 0"),
    ),
    "no samples": ({"audit__samples": 0}, ("audit.samples=0 must be a whole number",)),
    "other count": (
        {"loss__chunks__weights__rate__samples": 5, "audit__samples": 4},
        ("samples=5", "audit.samples=4", "make them equal"),
    ),
    "unknown phi": ({"audit__similarity": "bleu"}, ("'bleu'", "ned, rouge1")),
    "phi in percent": (
        {"audit__similarity": f"{__name__}.percent"},
        ("percent' gave 100", "must lie in [0, 1]"),
    ),
    "phi of no module": (
        {"audit__similarity": "no.such.function"},
        ("unknown similarity 'no.such.function'", "no module no.such"),
    ),
    "no encoder": ({"audit__similarity": "embedding"}, ("set audit.encoder",)),
    "unknown anchors": ({"audit__anchors": "high"}, ("'high'", "lowest")),
    "an anchor outside of its chunk": (
        {"audit__chunk_tokens": 3, "audit__lead": 3},
        ("audit.lead=3", "audit.chunk_tokens=3"),
    ),
    "unknown teacher": ({"audit__teacher": "grpc"}, ("'grpc'", "local, http")),
    "no model": ({"teacher__path": ""}, ("teacher.path, which is empty",)),
    "no url": (HTTP | {"remote__url": ""}, ("needs remote.url", "localhost:8000")),
    "no name": (HTTP | {"remote__model": ""}, ("needs remote.model",)),
    "unknown api": (HTTP | {"remote__api": "rpc"}, ("'rpc'", "chat_prefill")),
    "no patience": (
        HTTP | {"remote__timeout_seconds": 0.0},
        ("must be a number in (0",),
    ),
    "log-probs": (
        HTTP | {"loss__anchor__other": "teacher", "teacher__path": "somewhere"},
        ("loss.anchor", "text-only teacher, which has none", "'local'"),
    ),
    "server down": (HTTP, ("localhost:9/v1 does not answer", "start the server")),
}


@pytest.mark.parametrize("method", ["opd", "grpo"])
def test_a_text_only_teacher_for_another_method(method, models, tmp_path):
    """Not taken for granted, and not forgotten in silence."""
    found = runs.config(models, method, **HTTP)
    with pytest.raises(ValueError) as caught:
        train.run(found, tmp_path / "run")
    message = str(caught.value)
    if method == "opd":
        assert "loss.opd compares with the teacher's log-probabilities" in message
        assert "text-only teacher, which has none" in message
    else:
        assert "audit.chunks=0 asks it for nothing" in message
    assert list((tmp_path / "run").glob("*")) == []


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, models, tmp_path):
    changes, pieces = REFUSED[name]
    config = runs.config(models, "omniopd", **runs.DIGITS)
    with config.unlocked():
        for key, value in changes.items():
            # A plain number in the place of the reference to audit.samples.
            if key == "loss__chunks__weights__rate__samples":
                del config.loss.chunks.weights.rate.samples
                config.loss.chunks.weights.rate.samples = value
            else:
                config.update_from_flattened_dict({key.replace("__", "."): value})
    with (
        control.CompileCounter() as compiled,
        pytest.raises((ValueError, ConnectionError)) as caught,
    ):
        train.run(config, tmp_path / "run")
    print(f"{name}: {caught.value}")
    for piece in pieces:
        assert piece in str(caught.value)
    assert compiled.count == 0 and list((tmp_path / "run").glob("*")) == []


def test_one_key_changes_the_samples_of_audit_and_loss(models):
    config = runs.config(models, "omniopd", **runs.DIGITS, audit__samples=5)
    assert config.to_dict()["loss"]["chunks"]["weights"]["rate"]["samples"] == 5
