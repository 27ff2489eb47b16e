"""Eight-bit matrices: error per weight, the model they make, what it costs in nats."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import runs
import tiny
from jopd.losses import divergences
from jopd.models import decoder, hf, quantize, sharding
from jopd.setup import experiment, inputs
from jopd.setup.summary import summary_rows
from jopd.training import loop as train

pytestmark = pytest.mark.usefixtures("plain_charts")

CONFIG = tiny.config(qk_norm=True, qkv_bias=True)


@pytest.fixture(scope="module")
def params():
    return jax.device_get(tiny.params(CONFIG, 5))


def restored(params):
    """The same model with each matrix as its eight bits have it, in float32."""
    layers = dict(params["layers"])
    for name in quantize.MATRICES:
        scale = layers.pop(f"{name}_scale")
        layers[name] = layers[name].astype(np.float32) * scale[:, None]
    return {**params, "layers": layers}


def run(config, params, seed=0):
    tokens_BT = np.random.default_rng(seed).integers(0, config.vocab_size, (3, 7))
    places_BT = np.broadcast_to(np.arange(7), tokens_BT.shape)
    model = decoder.Decoder(config)
    hidden, _ = model.apply({"params": params}, tokens_BT, places_BT, tokens_BT >= 0)
    return np.asarray(hidden) @ np.asarray(decoder.head(params)).T


def test_every_weight_is_within_half_a_step(params):
    _, small = quantize.int8(CONFIG, params)
    for name in quantize.MATRICES:
        whole, eight = params["layers"][name], small["layers"][name]
        scale = small["layers"][f"{name}_scale"][:, None]
        assert eight.dtype == np.int8
        assert (np.abs(eight).max(axis=1) == 127).all(), "every column has its own"
        assert (np.abs(eight * scale - whole) <= scale * 0.5001).all()
    kept = set(params["layers"]) - set(quantize.MATRICES)
    assert all(small["layers"][name] is params["layers"][name] for name in kept)
    assert decoder.count(small) == decoder.count(params)


def test_a_column_of_zeros_stays_one(params):
    layers = {name: np.array(leaf) for name, leaf in params["layers"].items()}
    layers["q"][:, :, 0] = 0
    _, small = quantize.int8(CONFIG, {**params, "layers": layers})
    assert not small["layers"]["q"][:, :, 0].any()
    assert np.isfinite(run(*quantize.int8(CONFIG, {**params, "layers": layers}))).all()


def test_the_model_is_that_of_the_restored_matrices(params):
    config, small = quantize.int8(CONFIG, params)
    got, want = run(config, small), run(CONFIG, restored(small))
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    assert np.abs(want - run(CONFIG, params)).max() > 1e-3, "something was rounded"


def test_the_bundled_teacher_loses_little():
    """Well below what separates it from the bundled student, 0.87 nats."""
    config, params = hf.load(inputs.model_path("demo:teacher"))
    exact, rounded = run(config, params), run(*quantize.int8(config, params))
    lost = divergences.forward_kl(student_logits=rounded, teacher_logits=exact)
    assert 0 < float(np.mean(lost)) < 0.01


def test_scales_lie_where_their_columns_do(params):
    _, small = quantize.int8(CONFIG, params)
    placed = sharding.of_params(small, sharding.make_mesh(1, 1, 2))["layers"]
    for name in ("q", "k", "v", "gate", "up"):
        assert placed[f"{name}_scale"].spec == P(None, placed[name].spec[2])
    assert placed["down_scale"].spec == placed["o_scale"].spec == P()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_with_a_teacher_in_eight_bits(models, tmp_path, dtype):
    keys = {"teacher__quantize": "int8", "teacher__dtype": dtype}
    built = experiment.build(runs.config(models, "opd", **keys))
    layers = built.frozen["teacher"]["layers"]
    assert layers["q"].dtype == np.int8 and layers["q_scale"].dtype == np.float32
    assert layers["mlp_norm"].dtype == dtype
    # Of what is on file, not of what the compute type leaves of it.
    path = models / "teacher"
    _, whole = quantize.int8(*hf.load(path))
    for name in ("q", "down", "q_scale"):
        np.testing.assert_array_equal(layers[name], whole["layers"][name])
    assert "matrices int8" in dict(summary_rows(built))["teacher"]
    train.run(runs.config(models, "opd", **keys), tmp_path / "run")
    rows = runs.updates(tmp_path / "run")
    assert all(np.isfinite(row["loss"]) for row in rows)
