"""A randomly initialised model directory, without torch and without network.

    python tools/make_random_model.py out/qwen3 --family=qwen3 --layers=4 --width=128 \
        --tokenizer=path/to/qwen3/tokenizer

The result loads in transformers, in inference servers and in ``jopd.models.hf.load``.
The vocabulary is the tokenizer's unless ``--vocab-size`` is given, for instance the
151,936 rows that Qwen3 pads its head to.
"""

import argparse
import json
from pathlib import Path

import jax

from jopd.models import decoder, hf

# Defaults by family: what makes it that family, and its usual rope base.
FAMILIES = {
    "llama": dict(rope_theta=5e5),
    "mistral": dict(rope_theta=1e6, sliding_window=4096),
    "qwen2": dict(rope_theta=1e6, qkv_bias=True),
    "qwen3": dict(rope_theta=1e6, qk_norm=True),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("--family", choices=FAMILIES, default="qwen3")
    parser.add_argument("--tokenizer", help="directory to copy tokenizer files from")
    parser.add_argument("--vocab-size", type=int, help="rows of embedding and head")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, help="default: width / heads")
    parser.add_argument("--ffn", type=int, help="default: 3 x width")
    parser.add_argument("--max-positions", type=int, default=4096)
    parser.add_argument("--rope-theta", type=float, help="default: the family's")
    parser.add_argument("--sliding-window", type=int, help="0: none (mistral: llama)")
    parser.add_argument("--untied", action="store_true", help="a head of its own")
    parser.add_argument("--dtype", default="float32", help="of the weights on file")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def tokenizer_size(folder: str) -> int:
    """Largest id of a tokenizer plus one, added tokens included."""
    from transformers import AutoTokenizer

    return max(AutoTokenizer.from_pretrained(folder).get_vocab().values()) + 1


def make_config(args: argparse.Namespace) -> decoder.DecoderConfig:
    family = dict(FAMILIES[args.family])
    for name in ("rope_theta", "sliding_window"):
        if getattr(args, name) is not None:
            family[name] = getattr(args, name)
    if args.vocab_size is None and args.tokenizer is None:
        raise SystemExit("give --vocab-size, or --tokenizer to take its size")
    return decoder.DecoderConfig(
        vocab_size=args.vocab_size or tokenizer_size(args.tokenizer),
        width=args.width,
        layers=args.layers,
        heads=args.heads,
        kv_heads=args.kv_heads,
        head_dim=args.head_dim or args.width // args.heads,
        ffn=args.ffn or 3 * args.width,
        max_positions=args.max_positions,
        tied=not args.untied,
        **family,
    )


def main() -> None:
    args = parse_arguments()
    config = make_config(args)
    params = decoder.init(config, jax.random.key(args.seed), args.dtype)
    hf.save(args.target, config, params, tokenizer=args.tokenizer)
    size = decoder.count(params)
    print(json.dumps({"path": str(args.target), "parameters": size}))


if __name__ == "__main__":
    main()
