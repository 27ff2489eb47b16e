"""What an experiment makes of models that lie on disk."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import runs
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
