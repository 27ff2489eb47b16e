"""Runs whose teacher has another tokenizer than the student."""

import jax.numpy as jnp
import numpy as np
import pytest

import runs
from jopd.batches import collect
from jopd.models import decoder
from jopd.setup import experiment, inputs, validation
from jopd.training import loop as train
from jopd.training import own_tokens, stages, step
from jopd.types import GOLD

pytestmark = pytest.mark.usefixtures("plain_charts")
OWN = {"teacher__tokenizer": "own"}
WORDS = {"data__path": "task:words", "rollout__max_new_tokens": 32}


@pytest.fixture(scope="module")
def byte_teacher(tmp_path_factory):
    """A model that reads bytes, one by one."""
    folder = tmp_path_factory.mktemp("bytes") / "teacher"
    tokenizer = runs.byte_tokenizer()
    return runs.make_model(folder, seed=5, tokenizer=tokenizer, max_positions=512)


def crossed(models, byte_teacher, method="opd", **changes):
    return runs.config(
        models, method, **(WORDS | OWN | {"teacher__path": str(byte_teacher)} | changes)
    )


def test_the_same_tokenizer_changes_nothing(models, tmp_path):
    """Letters: what begins with one is that one, so marginals are its own."""
    changes = {"loss__reference": dict(signal="k2", other="reference")}
    changes["eval__prompts"] = 0
    for name, more in (("plain", {}), ("own", OWN)):
        train.run(runs.config(models, "opd", **changes, **more), tmp_path / name)
    plain, own = (runs.updates(tmp_path / name) for name in ("plain", "own"))
    for one, other in zip(plain, own, strict=True):
        for key in ("loss/opd", "optim/grad_norm", "log_ratio/mean", "log_ratio/min"):
            assert other[key] == pytest.approx(one[key], rel=1e-4, abs=1e-5), key
        assert other["spans/teacher_one"] == 1.0
        assert "kl/reverse" in one and "kl/reverse" not in other


def batch_of(e):
    """One collected batch, before it is dealt."""
    built = stages.build_stages(e, None)
    _, got = built.collect(
        step.TrainState(0, e.params, None), collect.empty_buffer(e.mix, 64), 0
    )
    return got.batch


@pytest.mark.parametrize("method", ["opd", "stableopd"])
def test_a_finished_response_has_the_teachers_own_probability(
    models, byte_teacher, method
):
    e = experiment.build(crossed(models, byte_teacher, method, mix__gold=0.5))
    batch = batch_of(e)
    logp = np.asarray(batch.extra["logp/teacher"])
    mask, rollout = np.asarray(batch.mask_BT), batch.rollout
    whole_B = ((logp <= 0) | ~mask).all(axis=1)  # random bytes are no text
    live_B = mask.any(axis=1) & np.asarray(rollout.finished_B)
    model, params = e.models["teacher"].clone(mesh=None), e.frozen["teacher"]
    speech = own_tokens.make_pair(e, "teacher").teacher
    train_rows, _ = e.rows.own_prompts["teacher"]
    checked = 0
    for b in np.flatnonzero(whole_B & live_B):
        start, end = int(rollout.prompt_length_B[b]), int(rollout.length_B[b])
        ids = np.asarray(rollout.tokens_BT)[b, start : end - 1]
        text = e.rows.tokenizer.decode(ids)
        told = speech.tokenizer(text, add_special_tokens=False)["input_ids"]
        prompt = train_rows.prompts[int(batch.prompt_id_B[b])]
        row = jnp.asarray([*prompt, *told, train_rows.turn_end])[None]
        places = jnp.arange(row.shape[1])[None]
        hidden, _ = model.apply({"params": params}, row, places, places >= 0)
        logits = hidden[0] @ decoder.head(params).T
        own = logits - np.logaddexp.reduce(np.asarray(logits), axis=1)[:, None]
        written = range(len(prompt), row.shape[1])
        want = sum(float(own[t - 1, row[0, t]]) for t in written)
        assert logp[b, start:end].sum() == pytest.approx(want, rel=1e-4)
        checked += 1
    assert checked or method == "opd"


@pytest.mark.parametrize("method", ["opd", "tropd", "stableopd", "gndpo"])
def test_methods_of_sampled_tokens_run_with_it(models, byte_teacher, method, tmp_path):
    built = crossed(models, byte_teacher, method, mix__gold=0.5)
    if method == "tropd":
        built.rollout.prefix.source = ""
        built.loss.guide.coef = built.loss.outlier.coef = 0.0
    summary = train.run(built, tmp_path / "run")
    assert np.isfinite(summary["after"]["sampled_kl"])
    for row in runs.updates(tmp_path / "run"):
        kinds = [row[f"spans/teacher_{kind}"] for kind in own_tokens.KINDS]
        assert sum(kinds) == pytest.approx(1.0) and kinds[1] > 0
        assert np.isfinite(row["loss"]) and row["optim/grad_norm"] > 0
        assert np.isfinite(row["log_ratio/mean"])


def test_spans_are_shared_as_dpca_has_it(models, byte_teacher, tmp_path):
    share = dict(function="cross_tokenizer.proportional", share="shift")
    pull = dict(signal="policy_gradient", other=None, advantage=share)
    built = crossed(models, byte_teacher, eval__prompts=0)
    with built.unlocked():
        built.loss.opd = pull | dict(weights=dict(cross_tokenizer__by_kind={}))
    built.loss.opd = pull
    train.run(built, tmp_path / "run")
    assert all(row["optim/grad_norm"] > 0 for row in runs.updates(tmp_path / "run"))


ULD = dict(
    signal="cross_tokenizer.sorted_l1",
    weights=dict(begins=dict(function="cross_tokenizer.begins")),
    normalizer="weights",
)


def test_a_signal_is_given_the_tokens_that_both_have(models, byte_teacher, tmp_path):
    hybrid = ULD | dict(signal="cross_tokenizer.hybrid")
    built = crossed(models, byte_teacher, loss__opd__coef=0.0, loss__gold=hybrid)
    built.steps, built.eval.prompts = 1, 0
    e = experiment.build(built)
    ours, theirs = e.terms[0].signal.keywords["shared"]
    paths = built.student.path, str(byte_teacher)
    student, teacher = (inputs.speech(path).pieces for path in paths)
    assert [student[i] for i in ours] == [teacher[j] for j in theirs]
    assert set(student) & set(teacher) - {None} == {student[i] for i in ours}
    assert len(ours) > 10
    train.run(built, tmp_path / "run")
    (row,) = runs.updates(tmp_path / "run")
    assert np.isfinite(row["loss/gold"]) and row["optim/grad_norm"] > 0


def test_sorted_distributions_of_the_same_tokenizer_are_those_of_its_logits(
    models, tmp_path
):
    """Whole distributions reach the signal as if they were not of other tokens."""
    plain = {key: ULD[key] for key in ULD if key != "weights"}
    for name, more, term in (("plain", {}, plain), ("own", OWN, ULD)):
        more = more | {"loss__opd__coef": 0.0, "loss__uld": term, "eval__prompts": 0}
        built = runs.config(models, "opd", **more)
        train.run(built, tmp_path / name)
    plain, own = (runs.updates(tmp_path / name) for name in ("plain", "own"))
    for one, other in zip(plain, own, strict=True):
        for key in ("loss/uld", "optim/grad_norm"):
            assert other[key] == pytest.approx(one[key], rel=1e-4), key
        assert other["weight/uld"] == 1.0 and one["loss/uld"] > 0.01


@pytest.mark.parametrize("accumulate", [1, 2])
def test_states_are_the_teachers_where_tokens_begin_together(
    models, byte_teacher, tmp_path, accumulate
):
    built = crossed(models, byte_teacher, loss__uld=ULD, mix__gold=1.0)
    built.optimizer.accumulate = accumulate
    e = experiment.build(built)
    batch = batch_of(e)
    states = np.asarray(batch.extra["states/teacher"])
    begins = np.asarray(batch.extra["begins/teacher"])
    rollout, model = batch.rollout, e.models["teacher"].clone(mesh=None)
    train_rows, _ = e.rows.own_prompts["teacher"]
    speech = own_tokens.make_pair(e, "teacher").teacher
    gold = np.flatnonzero(np.asarray(rollout.source_BT)[:, 0] == GOLD)
    for b in gold:
        start, end = int(rollout.prompt_length_B[b]), int(rollout.length_B[b])
        ids = np.asarray(rollout.tokens_BT)[b, start : end - 1]
        pieces = [e.rows.tokenizer.decode([i]) for i in ids]
        told = speech.tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]
        prompt = train_rows.prompts[int(batch.prompt_id_B[b])]
        row = jnp.asarray([*prompt, *told, train_rows.turn_end])[None]
        places = jnp.arange(row.shape[1])[None]
        params = {"params": e.frozen["teacher"]}
        hidden, _ = model.apply(params, row, places, places >= 0)
        sizes = [len(piece.encode()) for piece in pieces]
        # A token a byte begins everywhere; spans of more than six are left out.
        some = np.asarray([size <= 6 for size in sizes] + [True])
        np.testing.assert_array_equal(begins[b, start:end], some)
        want = np.asarray(hidden[0])[len(prompt) - 1 + np.cumsum([0, *sizes])]
        got = states[b, start - 1 : end - 1]
        np.testing.assert_allclose(got[some], want[some], atol=1e-4)
    assert len(gold) and not begins[~np.asarray(batch.mask_BT)].any()
    summary = train.run(built, tmp_path / "run")
    for row in runs.updates(tmp_path / "run"):
        assert 0 < row["loss/uld"] < 2 and row["optim/grad_norm"] > 0
    assert np.isfinite(summary["after"]["sampled_kl"])


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {
                "teacher__tokenizer": "student",
                "loss__opd__weights": dict(
                    begins=dict(function="cross_tokenizer.begins")
                ),
            },
            "loss.opd reads begins/teacher, how the student's tokens lie",
        ),
        ({"loss__opd": dict(signal="reverse_kl")}, "loss.opd compares whole"),
        (
            {
                "loss__opd__weights": dict(
                    entropy_above=dict(of="teacher", threshold=1.0)
                )
            },
            "loss.opd compares whole distributions with 'teacher'",
        ),
        ({"rollout__prefix__source": "teacher"}, "rollout.prefix.source has 'teacher'"),
        ({"objective__temperature": 2.0}, "objective.temperature=2.0 divides"),
        ({"teacher__weights": "ema"}, "teacher.tokenizer='own' is for weights='path'"),
        (
            {"panels__both": dict(members=("teacher", "reference"))},
            "panels.both compares whole",
        ),
    ],
)
def test_what_such_a_teacher_cannot_do(models, byte_teacher, changes, said):
    with pytest.raises(ValueError, match=said) as caught:
        validation.validate(crossed(models, byte_teacher, **changes))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_changes_its_text_is_refused(models, tmp_path):
    from tokenizers import normalizers

    tokenizer = runs.byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    teacher = runs.make_model(tmp_path / "low", tokenizer=tokenizer, max_positions=512)
    with pytest.raises(ValueError, match=r"low changes what it reads .*in 2024"):
        experiment.build(crossed(models, teacher))
