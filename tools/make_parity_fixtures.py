"""Tiny random models with torch's answers, for tests that run without torch.

    python tools/make_parity_fixtures.py [tests/fixtures] [--only=gemma3]

Each ``parity_<case>/`` is a directory as transformers writes it, plus ``golden.npz``:
``tokens [2, 24]``, ``log_probs [2, 24, V]`` and, for some, the gradient of the mean
next-token loss by tensor name. Norm scales and biases are drawn too: at their usual 1
and 0 a swap of two of them would pass. Needs torch and transformers.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import transformers

SIZE = dict(
    vocab_size=48,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.1,
    bos_token_id=1,
    eos_token_id=2,
)
THETA = {"rope_theta": 1e6}
LINEAR = dict(rope_type="linear", factor=4.0)
FULL, SLIDING = "full_attention", "sliding_attention"
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=5e5,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = dict(
    rope_type="yarn",
    rope_theta=1e4,
    factor=4.0,
    original_max_position_embeddings=2048,
)
CASES = {
    "llama": dict(model_type="llama", head_dim=6),
    "llama_tied_bias": dict(
        model_type="llama",
        tie_word_embeddings=True,
        attention_bias=True,
        num_key_value_heads=4,
        rms_norm_eps=1e-5,
    ),
    "llama3": dict(model_type="llama", head_dim=16, rope_parameters=LLAMA3),
    "linear": dict(
        model_type="llama",
        rope_parameters=LINEAR | dict(rope_theta=1e4),
    ),
    "yarn": dict(model_type="qwen3", head_dim=16, rope_parameters=YARN),
    "yarn_attention_factor": dict(
        model_type="llama",
        head_dim=16,
        rope_parameters=YARN
        | dict(attention_factor=0.7, beta_fast=8.0, truncate=False),
    ),
    "qwen2": dict(model_type="qwen2", rope_parameters=THETA, tie_word_embeddings=True),
    "qwen2_window": dict(
        model_type="qwen2",
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=1,
    ),
    "qwen3": dict(
        model_type="qwen3",
        head_dim=16,
        rope_parameters=THETA,
        tie_word_embeddings=True,
        dtype="bfloat16",
    ),
    "qwen3_bias": dict(model_type="qwen3", head_dim=8, attention_bias=True),
    "mistral": dict(model_type="mistral", head_dim=8, sliding_window=7),
    "gemma3": dict(
        pad_token_id=None,
        model_type="gemma3_text",
        head_dim=8,
        num_hidden_layers=3,
        layer_types=[SLIDING, FULL, SLIDING],
        sliding_window=5,
        query_pre_attn_scalar=20,
        rope_parameters={FULL: LINEAR | THETA, SLIDING: dict(rope_theta=1e2)},
        dtype="bfloat16",
    ),
    "gemma3_cap": dict(
        pad_token_id=None,
        model_type="gemma3_text",
        head_dim=10,
        layer_types=[SLIDING, SLIDING],
        sliding_window=6,
        attention_bias=True,
        tie_word_embeddings=False,
        final_logit_softcapping=3.0,
    ),
    "gemma2": dict(
        model_type="gemma2",
        pad_token_id=None,
        head_dim=8,
        num_hidden_layers=3,
        sliding_window=4,
        query_pre_attn_scalar=6,
        attn_logit_softcapping=0.5,
        final_logit_softcapping=2.0,
    ),
    "olmo2": dict(
        model_type="olmo2",
        pad_token_id=None,
        attention_bias=True,
        rope_parameters=dict(rope_theta=5e5),
    ),
    "olmo3": dict(
        model_type="olmo3",
        pad_token_id=None,
        num_hidden_layers=3,
        layer_types=[SLIDING, FULL, SLIDING],
        sliding_window=5,
        rope_parameters={
            FULL: YARN | dict(original_max_position_embeddings=16),
            SLIDING: dict(rope_theta=1e4),
        },
    ),
    "smollm3": dict(
        model_type="smollm3",
        pad_token_id=None,
        num_hidden_layers=3,
        no_rope_layers=[1, 0, 1],
        use_sliding_window=True,
        sliding_window=6,
        rope_parameters=THETA,
    ),
    "phi3": dict(
        model_type="phi3",
        pad_token_id=None,
        num_attention_heads=3,
        num_key_value_heads=1,
        sliding_window=7,
        rope_parameters=dict(rope_theta=1e4, partial_rotary_factor=0.75),
    ),
    "granite": dict(
        model_type="granite",
        attention_bias=True,
        tie_word_embeddings=True,
        embedding_multiplier=12.0,
        attention_multiplier=0.25,
        residual_multiplier=0.22,
        logits_scaling=0.6,
    ),
    "qwen3_moe": dict(
        model_type="qwen3_moe",
        head_dim=8,
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        norm_topk_prob=True,
        rope_parameters=THETA,
    ),
    "qwen3_moe_sums": dict(
        model_type="qwen3_moe",
        head_dim=6,
        num_experts=4,
        num_experts_per_tok=3,
        moe_intermediate_size=12,
        attention_bias=True,
        tie_word_embeddings=True,
    ),
    "phi3_long": dict(
        model_type="phi3",
        pad_token_id=None,
        num_attention_heads=3,
        num_key_value_heads=1,
        original_max_position_embeddings=48,
        rope_parameters=dict(
            rope_type="longrope",
            rope_theta=1e4,
            partial_rotary_factor=0.75,
            short_factor=[1.0, 1.2, 1.7],
            long_factor=[2.0, 3.0, 4.0],
        ),
    ),
    "mixtral": dict(
        model_type="mixtral",
        num_local_experts=4,
        sliding_window=6,
        dtype="bfloat16",
    ),
}


GRADIENTS = ("qwen3_bias", "mistral", "gemma3")


def make_model(config: transformers.PretrainedConfig, seed: int):
    """A float32 model: weights fit the config's dtype and none is at its default."""
    kept = config.dtype or torch.float32
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
            parameter.copy_(parameter.to(kept).float())
    return model.eval()


def answers(model, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Log-probabilities, and the gradient of the mean next-token loss."""
    model.zero_grad()
    ids = torch.tensor(tokens, dtype=torch.long)
    log_probs = model(ids).logits.log_softmax(-1)
    chosen = log_probs[:, :-1].gather(-1, ids[:, 1:, None])
    (-chosen.mean()).backward()
    grads = {name: p.grad.numpy() for name, p in model.named_parameters()}
    return {"tokens": tokens, "log_probs": log_probs.detach().numpy(), **grads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", default="tests/fixtures", type=Path)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    args = parser.parse_args()
    target = args.target
    tokens = np.random.default_rng(0).integers(0, SIZE["vocab_size"], (2, 24))
    for seed, (name, case) in enumerate(CASES.items()):
        if args.only not in name:
            continue
        config = transformers.AutoConfig.for_model(**SIZE | case)
        model = make_model(config, seed)
        golden = answers(model, tokens.astype(np.int32))
        if name not in GRADIENTS:
            golden = {key: golden[key] for key in ("tokens", "log_probs")}
        folder = target / f"parity_{name}"
        # The mistral case comes in several files with an index.
        shard = "20KB" if name == "mistral" else "1GB"
        model.to(getattr(torch, case.get("dtype", "float32")))
        model.save_pretrained(folder, max_shard_size=shard)
        np.savez_compressed(folder / "golden.npz", **golden)
        print(f"{folder}: {model.num_parameters()} parameters")


if __name__ == "__main__":
    main()
