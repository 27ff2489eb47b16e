"""Direct comparison with transformers on fresh random models of every switch."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopd.losses import heads
from jopd.models import decoder, hf
from jopd.models.decoder import Decoder
from jopd.rollouts import generate
from jopd.rollouts.sampling import Filter

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).resolve().parents[2]
tool = runpy.run_path(str(ROOT / "tools" / "make_parity_fixtures.py"))
CASES = tool["CASES"]


def make(name, folder, **changes):
    """A random model of the case, on disk and in memory, and tokens to read."""
    case = {key: value for key, value in CASES[name].items() if key != "dtype"}
    config = transformers.AutoConfig.for_model(**tool["SIZE"] | case | changes)
    model = tool["make_model"](config, seed=1234)
    model.save_pretrained(folder)
    tokens = np.random.default_rng(5).integers(0, config.vocab_size, (3, 31))
    return model, tokens.astype(np.int32)


def log_probs(config, params, tokens):
    positions = np.broadcast_to(
        np.arange(tokens.shape[1], dtype=np.int32), tokens.shape
    )
    hidden, _ = Decoder(config).apply(
        {"params": params}, tokens, positions, np.ones(tokens.shape, bool)
    )
    logits = heads.logits_of(hidden, decoder.head(params), config.logit_cap)
    return jax.nn.log_softmax(logits)


def load_in_torch(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()


@pytest.mark.parametrize("scale", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("name", CASES)
def test_log_probs(name, scale, tmp_path):
    model, tokens = make(name, tmp_path, initializer_range=scale)
    theirs = tool["answers"](model, tokens)["log_probs"]
    ours = log_probs(*hf.load(tmp_path), tokens)
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_greedy_ids(name, tmp_path):
    model, tokens = make(name, tmp_path, initializer_range=0.3)
    ids = torch.tensor(tokens, dtype=torch.long)
    model.generation_config.eos_token_id = None
    asked = dict(attention_mask=torch.ones_like(ids), pad_token_id=0)
    theirs = model.generate(ids, do_sample=False, max_new_tokens=12, **asked)
    config, params = hf.load(tmp_path)
    lengths = np.full(len(tokens), tokens.shape[1], np.int32)
    rolled = generate.generate(
        params,
        generate.request(tokens, lengths, limit=12),
        jax.random.key(0),
        model=Decoder(config),
        max_new_tokens=12,
        stop_ids=(),
        vocabulary=config.vocab_size,
        filters=Filter(temperature=0.0),
    )
    np.testing.assert_array_equal(rolled.tokens_BT, theirs.numpy())


@pytest.mark.parametrize("name", CASES)
def test_gradients(name, tmp_path):
    # At the usual 0.1 OLMo 2 hardly tells q and k apart: the gradient of their norms,
    # 1e-4, is as near to rounding as the tolerance.
    model, tokens = make(name, tmp_path / "model", initializer_range=0.2)
    theirs = tool["answers"](model, tokens)
    config, params = hf.load(tmp_path / "model")

    @jax.jit
    def loss(params):
        chosen = log_probs(config, params, tokens)[:, :-1]
        return -jnp.take_along_axis(chosen, tokens[:, 1:, None], -1).mean()

    hf.save(tmp_path / "grads", config, jax.grad(loss)(params))
    for key, ours in load_in_torch(tmp_path / "grads").named_parameters():
        scale = np.abs(theirs[key]).max()
        error = np.abs(ours.detach().numpy() - theirs[key]).max()
        # Softmax ignores what every key shares: a key bias has no gradient but noise.
        scale = 1.0 if key.endswith("k_proj.bias") else scale
        assert error < 2e-5 * scale, key


@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_transformers_loads_what_we_save(name, with_source, tmp_path):
    model, tokens = make(name, tmp_path / "model")
    config, params = hf.load(tmp_path / "model")
    source = tmp_path / "model" if with_source else None
    hf.save(tmp_path / "saved", config, params, source=source)
    again = load_in_torch(tmp_path / "saved")
    ids = torch.tensor(tokens, dtype=torch.long)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)
    assert type(model) is type(again)
    assert hf.load_config(tmp_path / "saved") == config


def test_a_changed_theta_is_seen(tmp_path):
    """Guards the tests above: a wrong rotation is far outside their tolerance."""
    model, tokens = make("qwen3", tmp_path)
    theirs = tool["answers"](model, tokens)["log_probs"]
    config, params = hf.load(tmp_path)
    wrong = decoder.DecoderConfig(**vars(config) | {"rope_theta": 1.1e6})
    assert np.abs(log_probs(wrong, params, tokens) - theirs).max() > 1e-3


def test_position_far_out(tmp_path):
    """Angles agree at positions in the thousands, where float32 starts to matter."""
    model, tokens = make("llama3", tmp_path, max_position_embeddings=8192)
    positions = np.arange(6000, 6031, dtype=np.int32)[None].repeat(3, 0)
    with torch.no_grad():
        out = model(
            torch.tensor(tokens, dtype=torch.long),
            position_ids=torch.tensor(positions, dtype=torch.long),
        )
    theirs = out.logits.log_softmax(-1).numpy()
    config, params = hf.load(tmp_path)
    hidden, _ = Decoder(config).apply(
        {"params": params}, tokens, positions, np.ones(tokens.shape, bool)
    )
    ours = jax.nn.log_softmax(hidden @ params["head"].T)
    assert np.abs(ours - theirs).max() < 1e-3
