"""What an experiment makes of models that lie on disk."""

import json
import shutil
import weakref

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import runs
from jopd.models import hf, sharding
from jopd.setup import experiment

PAD, EOS = 0, 1


def built(models, **changes):
    return experiment.build(runs.config(models, "opd", **changes))


@pytest.fixture
def swapped(models, tmp_path):
    """The teacher with two added tokens in each other's places."""
    folder = shutil.copytree(models / "teacher", tmp_path / "teacher")
    file = folder / "tokenizer.json"
    text = file.read_text().replace("<pad>", "<was>").replace("<eos>", "<pad>")
    file.write_text(text.replace("<was>", "<eos>"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": PAD}))
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensor[[PAD, EOS]] = tensor[[EOS, PAD]]
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": PAD}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_teacher_with_tokens_in_other_places_is_read_by_name(models, swapped):
    wanted = built(models)
    e = built(models, teacher__path=str(swapped))
    assert e.stop_ids == wanted.stop_ids == (EOS,)
    (note,) = [note for note in e.notes if "shared ids" in note]
    assert note.startswith("2 of 18 shared ids are other added tokens: id 0: student ")
    jax.tree.map(
        np.testing.assert_array_equal, e.frozen["teacher"], wanted.frozen["teacher"]
    )
    assert not [note for note in wanted.notes if "shared ids" in note]


def test_an_evaluation_loads_what_it_compares_with(models):
    """Whom terms name is of no use there; no teacher is one that is not named."""
    found = experiment.build(runs.config(models, "stableopd"), train=False)
    assert set(found.models) == {"student", "teacher"}
    alone = runs.config(models, "stableopd", teacher__path="")
    assert set(experiment.build(alone, train=False).models) == {"student"}


def test_a_model_is_never_whole_on_the_host(models, monkeypatch):
    """Each leaf is on its devices, and forgotten, before the next but one is read."""
    held, leaves = [], hf.leaves

    def spied(path, dtype):
        for place, leaf in leaves(path, dtype):
            if leaf.ndim > 1:  # a norm may become the CPU's own memory as it is
                held.append(weakref.ref(leaf))
            yield place, leaf
            del leaf
            alive = sum(ref() is not None for ref in held)
            assert alive <= 1, f"{alive} leaves at {'/'.join(place)}"

    monkeypatch.setattr(hf, "leaves", spied)
    built(models, mesh__data=1, mesh__fsdp=2)
    assert len(held) > 10


def test_a_reference_is_a_copy_of_the_student_that_it_begins_as(models, monkeypatch):
    read, leaves = [], hf.leaves
    spied = lambda path, dtype: read.append(path) or leaves(path, dtype)
    monkeypatch.setattr(hf, "leaves", spied)
    e = experiment.build(
        runs.config(models, "stableopd", mesh__data=1, mesh__fsdp=2, mix__gold=0.5)
    )
    assert sorted(map(str, read)) == [str(models / n) for n in ("student", "teacher")]
    for one, other in zip(
        jax.tree.leaves(e.params), jax.tree.leaves(e.frozen["reference"]), strict=True
    ):
        np.testing.assert_array_equal(one, other)
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)
    e.params["norm"].delete()  # as an update does, which is given it
    assert np.isfinite(np.asarray(e.frozen["reference"]["norm"])).all()


def test_rows_and_models_of_several_devices_know_their_mesh(models):
    e = built(models)
    assert e.shape.rows == sharding.rows(e.mesh)
    assert {model.mesh for model in e.models.values()} == {e.mesh}


def test_what_a_mesh_does_not_divide_is_said(models):
    e = built(models, mesh__data=1, mesh__tensor=2)
    odd = {
        (name, key)
        for name, model in e.models.items()
        for key in ("vocab_size", "ffn", "kv_heads")
        if getattr(model.config, key) % 2
    }
    said = [note for note in e.notes if "is not divisible by mesh.tensor=2" in note]
    assert len(said) == len(odd) > 0
    assert all(any(n.startswith(f"{m}: {k}=") for n in said) for m, k in odd)
