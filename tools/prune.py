"""A student from a teacher: the same model without some of its layers.

    python tools/prune.py HuggingFaceTB/SmolLM2-135M-Instruct runs/student --layers=17

Layers are dropped evenly, the first and last two kept: they are missed most. What comes
out writes nonsense until it is taught. Tokenizer and chat template come along.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import numpy as np

from jopd.models import decoder, hf
from jopd.setup import inputs

ENDS = 2  # layers kept at either end


def kept(layers: int, left: int) -> list[int]:
    """Which of ``layers`` stay, ``left`` of them.

    Raises:
      ValueError: more than there are, or too few for the ends.
    """
    if not 2 * ENDS < left <= layers:
        raise ValueError(f"--layers={left} of {layers}; use {2 * ENDS + 1} to {layers}")
    inner = np.linspace(ENDS, layers - ENDS - 1, left - 2 * ENDS).round().astype(int)
    return [*range(ENDS), *inner.tolist(), *range(layers - ENDS, layers)]


def pruned(config: decoder.DecoderConfig, params: dict, left: int):
    """Config and parameters with ``left`` layers."""
    places = kept(config.layers, left)
    layers = jax.tree.map(lambda leaf: np.asarray(leaf)[places], params["layers"])
    own = {
        name: tuple(np.asarray(value)[places].tolist())
        for name in ("sliding_layers", "nope_layers")
        if (value := getattr(config, name))
    }
    config = dataclasses.replace(config, layers=left, **own)
    return config, params | {"layers": layers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="directory, hub id or demo:teacher")
    parser.add_argument("target", type=Path, help="directory to write")
    parser.add_argument("--layers", type=int, required=True, help="how many stay")
    args = parser.parse_args()
    source = inputs.model_path(args.model)
    config, params = pruned(*hf.load(source, dtype=None), args.layers)
    tokenizer = inputs.load_tokenizer(source)
    ends = hf.end_ids(source)
    hf.save(args.target, config, params, tokenizer=tokenizer, ends=ends)
    numbers = decoder.count(params)
    print(f"{args.target}: {config.layers} layers, {numbers:,} parameters")


if __name__ == "__main__":
    main()
