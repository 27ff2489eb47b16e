"""Runs that train an adapter: what is kept, shared, resumed and exported."""

import shutil

import jax
import numpy as np
import pytest

import runs
from jopd.models import hf, lora, peft
from jopd.setup import builders, experiment, validation
from jopd.training import kept, stages, workdir
from jopd.training import loop as train

pytestmark = pytest.mark.usefixtures("plain_charts")
ADAPTER = {"student__lora__rank": 2, "student__lora__targets": "^(q|down)$"}
LEAVES = {"q_a", "q_b", "down_a", "down_b"}
# Teachers of every kind that are made of the student, beside one of its own.
TEACHERS = {
    "old": dict(weights="initial"),
    "now": dict(weights="live", context="{question}{answer}"),
    "mean": dict(weights="ema", rate=0.5),
    "last": dict(weights="snapshot", every_steps=1),
}


def config(models, **changes):
    built = runs.config(models, "gkd", **(ADAPTER | changes))
    built.teachers = TEACHERS
    for name in TEACHERS:
        built.loss[name] = dict(signal="reverse_kl", other=name, coef=0.5)
    return built


@pytest.fixture(scope="module")
def run(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted") / "run"
    built = config(models, steps=3, checkpoint__every_steps=1)
    train.run(built, folder)
    return folder


def trained(folder, at: int, shape):
    """The adapter of a checkpoint."""
    like = jax.eval_shape(lambda: lora.start(shape, jax.random.key(0)))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), like
    )
    return kept.read(folder, at, {"train": {"params": like}})[0]["train"]["params"]


def test_the_base_is_held_once_and_never_moves(models):
    e = experiment.build(
        config(
            models,
            reference__path="",
            loss__anchor=dict(signal="reverse_kl", other="reference"),
        )
    )
    assert e.params["layers"].keys() == LEAVES
    for name in ("old", "reference"):
        assert all(
            one is two
            for one, two in zip(
                jax.tree.leaves(e.frozen[name]), jax.tree.leaves(e.base)
            )
        )
    assert e.frozen.keys() == {"teacher", "old", "reference"}
    for name in ("old", "reference", "teacher"):
        assert not e.models[name].config.lora_rank
    for name in ("now", "mean", "last", "student"):
        assert e.models[name].config.lora_rank == 2


def test_a_gradient_is_handed_the_base_and_whole_teachers(models):
    e = experiment.build(config(models))
    found = stages.beside_base(e, e.frozen | {"mean": e.params})
    assert found["student"] is e.base
    assert found["mean"].keys() == e.base.keys()
    assert found["mean"]["layers"].keys() > LEAVES
    assert found["teacher"] is e.frozen["teacher"]
    plain = experiment.build(runs.config(models, "gkd"))
    assert stages.beside_base(plain, plain.frozen).keys() == plain.frozen.keys()


def test_a_checkpoint_and_its_export_are_of_the_adapter(models, run, tmp_path):
    source, base = hf.load(models / "student")
    shape = lora.adapted(source, rank=2, targets="^(q|down)$")
    adapter = trained(run, 3, shape)
    assert adapter["layers"].keys() == LEAVES
    assert np.abs(adapter["layers"]["q_b"]).max() > 0  # it has learnt something
    written, exported = hf.load(run / "export")
    assert written == source
    _, want = lora.merged(shape, lora.joined(adapter, base))
    jax.tree.map(
        np.testing.assert_array_equal, exported, jax.tree.map(np.asarray, want)
    )
    for name in ("embed", "norm"):
        np.testing.assert_array_equal(exported[name], base[name])
    kept.export(run, 3, tmp_path / "again")
    again = hf.load(tmp_path / "again")[1]
    jax.tree.map(np.testing.assert_array_equal, again, exported)


def test_a_resumed_run_ends_where_the_whole_one_did(models, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for left in ("checkpoints/2", "checkpoints/3", "export"):
        shutil.rmtree(tmp_path / "run" / left)
    train.run(config(models, steps=3, checkpoint__every_steps=1), tmp_path / "run")
    whole, again = (hf.load(folder / "export")[1] for folder in (run, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, whole, again)


def test_the_adapter_alone_is_exported_where_asked(models, tmp_path):
    built = config(models, export__adapter=True)
    train.run(built, tmp_path / "run")
    assert (tmp_path / "run" / "export" / peft.CONFIG).exists()
    assert not (tmp_path / "run" / "export" / "config.json").exists()


def test_an_adapter_that_is_not_there_cannot_be_exported(models):
    built = runs.config(models, "gkd", export__adapter=True)
    with pytest.raises(ValueError, match=r"export.adapter=True, but .*rank=0"):
        validation.validate(built)
    built = runs.config(models, "gkd", student__lora__targets="zz")
    with pytest.raises(ValueError, match=r"student.lora.targets='zz' finds none"):
        validation.validate(built)


def test_the_start_table_says_what_is_trained(models, run):
    import jopd.setup.summary as summary

    rows = dict(summary.summary_rows(experiment.build(config(models))))
    assert rows["adapter"].endswith("parameters, the trained ones: rank 2 on q, down")
    assert workdir.read_config(run)["student"]["lora"]["rank"] == 2


FILES = sorted((runs.ROOT / "configs").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_method_trains_an_adapter(file, models, tmp_path):
    # Rows of every source that two devices can share, whatever the shares of a config.
    splits = {"rollout__prompts_per_step": 8, "rollout__group_size": 2}
    splits["eval__prompts"] = 0
    built = runs.config(models, file.stem, **ADAPTER, **splits)
    rewarded = any(validation.needs_rewards(t) for t in builders.build_terms(built))
    built.eval.verifier = "runs.is_even" if rewarded else "none"
    built.eval.reward_truncated = rewarded  # random models do not end
    built.data.max_context_tokens = 104 * rewarded  # and write what is read as more
    train.run(built, tmp_path / "run")
    rows = runs.updates(tmp_path / "run")
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert sum(row["optim/grad_norm"] for row in rows) > 0


def test_a_base_in_eight_bits(models, tmp_path):
    """It is read so by all that the student is, and what is written is not rounded."""
    built = config(models, steps=2, student__quantize="int8")
    e = experiment.build(built)
    assert e.base["layers"]["q"].dtype == np.int8
    assert e.frozen["old"] is e.base
    for name in ("student", "now", "mean", "last", "old"):
        assert e.models[name].config.int8
    assert not e.models["teacher"].config.int8
    train.run(built, tmp_path / "run")
    source, base = hf.load(models / "student")
    shape = lora.adapted(source, rank=2, targets="^(q|down)$")
    adapter = trained(tmp_path / "run", 2, shape)
    assert np.abs(adapter["layers"]["q_b"]).max() > 0
    _, want = lora.merged(shape, lora.joined(adapter, base))
    exported = hf.load(tmp_path / "run" / "export")[1]
    jax.tree.map(
        np.testing.assert_array_equal, exported, jax.tree.map(np.asarray, want)
    )


def test_eight_bits_are_not_trained(models):
    alone = runs.config(models, "gkd", student__quantize="int8")
    with pytest.raises(ValueError, match=r"student.quantize='int8'.*lora.rank=0"):
        validation.validate(alone, train=True)


@pytest.fixture(scope="module")
def begun(models, tmp_path_factory):
    """The directory of an adapter that a run has left."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    train.run(config(models, steps=2, export__adapter=True), folder)
    return folder / "export"


def further(models, begun, **changes):
    own = {"student__lora__rank": 0, "student__lora__targets": "."}
    changes = own | {"student__adapter": str(begun), "reference__path": ""} | changes
    anchor = {"loss__anchor": dict(signal="reverse_kl", other="reference")}
    return config(models, **changes, **anchor)


def test_an_adapter_is_trained_further(models, begun, tmp_path):
    """It begins as base and adapter together, and so does what it began as."""
    whole = hf.load(begun)[1]
    e = experiment.build(further(models, begun))
    assert e.params["layers"].keys() == LEAVES
    for name in ("old", "reference"):
        assert e.models[name].config.lora_rank == 2
        _, found = lora.merged(e.models[name].config, e.frozen[name])
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, whole
        )
        assert e.frozen[name]["embed"] is e.base["embed"]
    summary = train.run(further(models, begun, export__adapter=True), tmp_path / "run")
    assert summary["steps"] == 2
    [first, *_] = runs.updates(tmp_path / "run")
    assert first["loss/anchor"] == 0
    kept_as = workdir.read_config(tmp_path / "run")["student"]
    assert kept_as["lora"] | {"rank": 2} == kept_as["lora"]
    assert hf.load_config(tmp_path / "run" / "export") == hf.load_config(begun)
    moved = hf.load(tmp_path / "run" / "export")[1]["layers"]["q"]
    assert np.abs(moved - whole["layers"]["q"]).max() > 0
    kept.export(tmp_path / "run", 2, tmp_path / "again")
    np.testing.assert_allclose(
        hf.load(tmp_path / "again")[1]["layers"]["q"], moved, atol=1e-6
    )


def test_what_an_adapter_says_of_itself_is_not_said_otherwise(models, begun, tmp_path):
    with pytest.raises(ValueError, match=r"student.lora.rank=3, and .*has 2 .*export"):
        experiment.build(further(models, begun, student__lora__rank=3))
    deeper = further(models, begun, student__path=str(models / "teacher"))
    with pytest.raises(ValueError, match=r"export, of .*student, adapts q in 1 layers"):
        experiment.build(deeper)
    again = shutil.copytree(models / "student", tmp_path / "again")
    own = {"student__path": str(again), "teacher__path": str(again)}
    e = experiment.build(further(models, begun, **own))
    [note] = [note for note in e.notes if "are they one model" in note]
    assert str(models / "student") in note
    assert not any("own weights" in note for note in e.notes)
