"""``exact``: sampler and trainer give a token the same bits, whatever is beside it."""

import functools
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import runs
import tiny
from jopd import exact
from jopd.batches import layout
from jopd.losses import divergences, heads, objective, signals
from jopd.models import attention, decoder
from jopd.rollouts import blocks, generate, sampling
from jopd.training import loop, step
from jopd.types import Batch

# Wide enough for XLA to add up few rows otherwise than many; heads of no power of two.
SHAPE = dict(vocab_size=300, width=160, heads=4, kv_heads=2, head_dim=24, ffn=288)
LAYERS = dict(qk_norm=True, sliding_window=9, sliding_layers=(True, False))
WARM = sampling.Filter(temperature=0.8)
ROWS, P, NEW = 12, 7, 57
DRAW = dict(stop_ids=(3,), vocabulary=290, filters=WARM)


def model(dtype: str, exactly: bool = True) -> decoder.Decoder:
    c = tiny.config(**SHAPE, **LAYERS, dtype=dtype, exact=exactly, remat=True)
    return decoder.Decoder(c)


@pytest.fixture(scope="module")
def params():
    return tiny.params(model("float32").config, 3, scale=0.06)


def asked(rows=range(ROWS)) -> generate.Request:
    rng, rows = np.random.default_rng(1), np.asarray(rows)
    tokens_BP, length_B = rng.integers(4, 290, (ROWS, P)), rng.integers(1, P + 1, ROWS)
    limit_B = rng.integers(4, NEW // 3, ROWS)
    limit_B[3] = NEW
    return generate.request(
        tokens_BP[rows], length_B[rows], limit=limit_B[rows], row_B=rows
    )


@functools.cache
def one_loop(model):
    bound = functools.partial(
        generate.generate, model=model, max_new_tokens=NEW, **DRAW
    )
    return jax.jit(bound)


def drawn(model, params, rows=range(ROWS)):
    return jax.device_get(one_loop(model)(params, asked(rows), jax.random.key(4)))


def batch_of(rollout) -> Batch:
    mask_BT = objective.response_mask(*rollout[:3])
    zeros_B = jnp.zeros(len(mask_BT))
    return Batch(rollout, mask_BT, zeros_B, zeros_B.astype(jnp.int32))


def again(model, params, batch: Batch, chunk: int = 32) -> np.ndarray:
    """The log-probs as the trainer has them, 0 outside of the mask."""
    shape = step.Shape(290, chunk_tokens=chunk, exact=model.config.exact)
    logp_BT = step.make_replay_logp(model, WARM, shape)(params, batch)
    return np.where(batch.mask_BT, logp_BT, 0)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def written(request, params):
    """(model, what it drew of all rows in one loop)."""
    one = model(request.param)
    return one, drawn(one, params)


@pytest.mark.parametrize("rows", [(4,), (0, 1, 2, 3, 4, 5, 6)])
def test_a_row_has_the_same_bits_in_every_batch(written, params, rows):
    one, whole = written
    part = drawn(one, params, rows)
    for name in ("tokens_BT", "behavior_logp_BT"):
        want = getattr(whole, name)[np.asarray(rows)]
        np.testing.assert_array_equal(getattr(part, name), want, err_msg=name)


@pytest.mark.parametrize(("block", "at_once"), [(9, 4)])
def test_a_row_has_the_same_bits_in_blocks_and_in_a_place_that_was_freed(
    written, params, block, at_once
):
    one, whole = written
    room = dict(max_new_tokens=NEW, block=block, at_once=at_once, devices=1)
    found = blocks.in_blocks(model=one, **room, **DRAW)(
        params, asked(), jax.random.key(4)
    )
    np.testing.assert_array_equal(found.tokens_BT, whole.tokens_BT)
    np.testing.assert_array_equal(found.behavior_logp_BT, whole.behavior_logp_BT)


@pytest.mark.parametrize(("packed", "chunk"), [(False, 32), (False, 25), (True, 32)])
def test_the_trainer_has_the_samplers_bits(written, params, packed, chunk):
    one, whole = written
    batch = batch_of(whole)
    if packed:
        batch = layout.with_packing(batch, (96,), 1, start=attention.KEYS)
        segment_RW = batch.packing[""].segment_SRW[0]
        assert (np.diff(segment_RW, axis=1) > 0).any(), "bins with several rows"
    found = again(one, params, batch, chunk)
    np.testing.assert_array_equal(found, whole.behavior_logp_BT)


@pytest.mark.parametrize("chunk", [7, 32])
def test_the_loss_has_the_samplers_bits(written, params, chunk):
    """Its log-probs are those of ratios and clips, see ``Outputs.logp``."""
    one, whole = written
    batch = batch_of(whole)
    terms = (objective.Term("nll", signals.nll),)
    _, parts = jax.jit(
        lambda params: objective.objective(
            step.hidden_states(one, params, batch),
            decoder.head(params),
            *({}, {}, batch, {"nll": objective.Weighed(batch.mask_BT, None)}),
            {"nll": 1.0},
            terms=terms,
            vocabulary=290,
            chunk_tokens=chunk,
            temperature=WARM.temperature,
            exact=True,
        )
    )(params)
    found = np.where(batch.mask_BT, parts["logp/student"], 0)
    np.testing.assert_array_equal(found, whole.behavior_logp_BT)
    np.testing.assert_array_equal(parts["loss/nll"], -found)


def test_without_it_the_bits_are_others_and_close(params):
    """What the tests above can see, and the size of it."""
    one = model("float32", exactly=False)
    whole = drawn(one, params)
    gap_BT = np.abs(again(one, params, batch_of(whole)) - whole.behavior_logp_BT)
    assert 0 < gap_BT.max() < 1e-4
    exactly = drawn(model("float32"), params)
    np.testing.assert_array_equal(exactly.tokens_BT, whole.tokens_BT)
    np.testing.assert_allclose(
        exactly.behavior_logp_BT, whole.behavior_logp_BT, atol=1e-4
    )


def test_gradients_are_those_of_the_fast_form(params):
    rollout = drawn(model("float32"), params)
    batch = batch_of(rollout)

    def loss(one, params):
        hidden = objective.align(step.hidden_states(one, params, batch))
        exactly = one.config.exact
        logits = heads.logits_of(hidden, decoder.head(params), exactly=exactly)
        logp = divergences.log_prob(logits, rollout.tokens_BT, exactly=exactly)
        return jnp.sum(jnp.where(batch.mask_BT, logp, 0))

    found = [
        jax.jit(jax.value_and_grad(functools.partial(loss, model("float32", exactly))))(
            params
        )
        for exactly in (True, False)
    ]
    close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4)
    jax.tree.map(close, *found)


def test_a_run_has_a_ratio_of_exactly_one(tmp_path):
    runs.make_pair(tmp_path, width=32, head_dim=16)
    words = runs.flags(
        tmp_path,
        student__exact=True,
        log__check_sampler_every_steps=1,
        rollout__at_once=2,
        eval__prompts=0,
    )
    words = [f"--workdir={tmp_path / 'run'}", *words]
    shipped = f"--config={runs.ROOT / 'configs' / 'stableopd.py'}"
    one_device = runs.environment(tmp_path) | {"XLA_FLAGS": ""}
    subprocess.run(
        runs.command("main", shipped, *words), env=one_device, check=True, timeout=300
    )
    updates = runs.updates(tmp_path / "run")
    assert [row["check/sampler_gap_max"] for row in updates] == [0.0, 0.0]
    assert [row["ratio/mean"] for row in updates] == [1.0, 1.0]
    assert (tmp_path / "run" / "export" / "model.safetensors").exists()


def test_it_is_for_one_device(tmp_path):
    runs.make_pair(tmp_path)
    config = runs.config(tmp_path, student__exact=True)
    with pytest.raises(ValueError, match="for one device, and the mesh has 2"):
        loop.run(config, str(tmp_path / "run"))


def test_tiles_know_no_row_of_the_others():
    """The function is called on ``TILE`` rows, with zeros behind the last."""
    seen = []

    def double(rows, shared):
        seen.append(rows.shape)
        return {"twice": 2 * rows + shared, "sum": jnp.sum(rows, axis=1)}

    rows = jnp.arange(1.0, 64.0).reshape(21, 3)
    found = exact.in_tiles(double, rows, jnp.float32(1))
    np.testing.assert_array_equal(found["twice"], 2 * rows + 1)
    np.testing.assert_array_equal(found["sum"], rows.sum(1))
    assert set(seen) == {(exact.TILE, 3)}
    total = lambda rows, shared: jnp.sum(exact.in_tiles(double, rows, shared)["twice"])
    for_rows, for_shared = jax.grad(total, (0, 1))(rows, jnp.float32(1))
    np.testing.assert_array_equal(for_rows, jnp.full((21, 3), 2.0))
    assert for_shared == 63


def test_a_mixture_has_no_exact_sums():
    with pytest.raises(ValueError, match="exact=True with experts=4"):
        tiny.config(exact=True, experts=4, experts_per_token=2)
