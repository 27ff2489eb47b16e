"""Contents of a ``config.json`` that several test files share."""

import transformers

from jopd.models import hf_config
from jopd.models.families import FAMILIES

CLASSES = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "gemma2": transformers.Gemma2Config,
    "gemma3_text": transformers.Gemma3TextConfig,
    "olmo2": transformers.Olmo2Config,
    "olmo3": transformers.Olmo3Config,
    "smollm3": transformers.SmolLM3Config,
    "phi3": transformers.Phi3Config,
    "granite": transformers.GraniteConfig,
    "qwen3_moe": transformers.Qwen3MoeConfig,
    "mixtral": transformers.MixtralConfig,
}


def own(family: str) -> frozenset[str]:
    """Keys that are read in few families, this one among them."""
    return hf_config.keys_of(FAMILIES[family])


def small(family: str, **changes) -> dict:
    """A config.json of two layers; None drops a key."""
    raw = {
        "architectures": [FAMILIES[family].model],
        "model_type": family,
        "vocab_size": 48,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return {k: v for k, v in (raw | changes).items() if v is not None}


def outcome(raw: dict):
    try:
        return hf_config.parse(raw)
    except ValueError as error:
        return str(error)
