"""Is a bug between sampler and trainer above what rounding explains?

    python tools/bench/sampler_gap.py --model=DIR --type=bfloat16

The model continues random prompts of several lengths, right and with one fault of each
kind planted in the sampler; the trainer recomputes the log-probabilities. Printed are
the mean gap in nats, and multiples of what ``observe.tolerance_of`` allows.
"""

import argparse
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopd.batches import asking
from jopd.losses.objective import Shape
from jopd.models import decoder, hf
from jopd.rollouts import generate as rollouts
from jopd.rollouts import sampling
from jopd.setup import inputs
from jopd.training import observe, step


class Fault(NamedTuple):
    """A fault of the sampler: of its model, its temperature, or its weights.

    ``temperature`` and ``moved``, how far every weight is from the trainer's, by its
    sign at random, are what is wrong; ``model`` wraps the right one.
    """

    model: Any = None
    temperature: float = 1.0
    moved: float = 0.0


class Late(NamedTuple):
    """The model, one position too far in every token that it is fed."""

    right: decoder.Decoder

    @property
    def config(self):
        return self.right.config

    def apply(self, variables, tokens, positions, valid, *cache):
        return self.right.apply(
            variables, tokens, positions + bool(cache), valid, *cache
        )


class Open(NamedTuple):
    """The model, which also sees the padding of its prompt."""

    right: decoder.Decoder

    @property
    def config(self):
        return self.right.config

    def apply(self, variables, tokens, positions, valid, *cache):
        if cache:
            kv, places_BS, seen_BS, slot = cache
            cache = kv, places_BS, seen_BS | (places_BS < positions[:, :1]), slot
        return self.right.apply(variables, tokens, positions, valid, *cache)


FAULTS = {
    "none": Fault(),
    "position": Fault(model=Late),
    "mask": Fault(model=Open),
    "temperature": Fault(temperature=1.01),
    "stale weights": Fault(moved=1e-5),  # as one update at a learning rate of that
}


def gaps(shape: decoder.DecoderConfig, params, *, rows=4, width=16, new=24) -> dict:
    """Fault -> (mean, largest) gap in nats."""
    model, vocabulary = decoder.Decoder(shape), shape.vocab_size
    rng = np.random.default_rng(0)
    length_B = np.linspace(width // 4, width, rows).astype(np.int32)
    tokens_BP = rng.integers(0, vocabulary, (rows, width)).astype(np.int32)
    asked = rollouts.request(tokens_BP, length_B, limit=new)
    cut = Shape(vocabulary=vocabulary, chunk_tokens=256)
    replay = step.make_replay_logp(model, sampling.Filter(), cut)
    found = {}
    for name, fault in FAULTS.items():
        write = jax.jit(
            functools.partial(
                rollouts.generate,
                model=fault.model(model) if fault.model else model,
                max_new_tokens=new,
                stop_ids=(),
                vocabulary=vocabulary,
                filters=sampling.Filter(fault.temperature),
            )
        )
        drawn = write(moved(params, fault.moved), asked, jax.random.key(0))
        batch = asking.batch_of(drawn)
        gap_BT = jnp.abs(replay(params, batch) - drawn.behavior_logp_BT)
        gaps_N = np.asarray(gap_BT)[np.asarray(batch.mask_BT)]
        found[name] = float(gaps_N.mean()), float(gaps_N.max())
    return found


def moved(params, by: float):
    """Every weight ``by`` up or down."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(1)
    sign = lambda leaf: rng.choice(np.float32([-1, 1]), leaf.shape)
    return jax.tree.unflatten(tree, [leaf + by * sign(leaf) for leaf in leaves])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo:student", help="as student.path")
    parser.add_argument("--type", default="float32", choices=observe.ROUNDING)
    args = parser.parse_args()
    shape, params = hf.load(inputs.model_path(args.model))
    shape = dataclasses.replace(shape, dtype=args.type)
    allowed = observe.tolerance_of(shape.layers, shape.vocab_size, shape.dtype)
    stops = f", {observe.BUG:g} times that stop" * (args.type == "float32")
    print(f"allowed: {allowed:.1e} nats in the mean{stops}\n")
    print("| fault | mean gap | of what is allowed | largest |\n|---|---|---|---|")
    for name, (mean, largest) in gaps(shape, params).items():
        print(f"| {name} | {mean:.1e} | {mean / allowed:.2g} | {largest:.1e} |")


if __name__ == "__main__":
    main()
