"""What a machine could do at most: how fast it copies and multiplies, and what a pass
of a model asks of it.

The limit of some work is the longer of two times: its products at the rate of a large
product on this machine, and its necessary bytes at the rate of a large copy. Everything
else counts as free, so nothing reaches it.
"""

import statistics
import time
from typing import NamedTuple

import numpy as np


class Sizes(NamedTuple):
    """A decoder whose head is counted as if it were tied to the embedding."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab_size: int

    @classmethod
    def of(cls, config) -> "Sizes":
        """Of a ``DecoderConfig``."""
        return cls(*(getattr(config, name) for name in cls._fields))

    def weights(self) -> tuple[int, int]:
        """Numbers in the matrices of all layers, and of the head."""
        mixing = self.width * self.head_dim * 2 * (self.heads + self.kv_heads)
        layers = self.layers * (mixing + 3 * self.width * self.ffn)
        return layers, self.width * self.vocab_size

    def looks(self) -> int:
        """FLOPs of one token looking at one other, in all layers."""
        return self.layers * 4 * self.heads * self.head_dim

    def kept(self) -> int:
        """Numbers in the cache for one token."""
        return self.layers * 2 * self.kv_heads * self.head_dim


class Rates(NamedTuple):
    """FLOP/s of a product and bytes/s, read plus written, of a copy."""

    product: float
    copy: float

    def limit(self, flops: float, moved: float) -> float:
        """Seconds."""
        return max(flops / self.product, moved / self.copy)


def rates() -> Rates:
    """Of this machine's first device, in float32; the median of some attempts."""
    import jax
    import jax.numpy as jnp

    side, numbers = 2048, 2**27
    multiply = jax.jit(lambda a: a @ a)
    # In place: fresh memory costs page faults, which are no part of the bandwidth.
    copy = jax.jit(lambda a: a + 1.0, donate_argnums=0)
    product = 2 * side**3 / _seconds(multiply, jnp.full((side, side), 1 / side))
    return Rates(product, 8 * numbers / _seconds(copy, jnp.zeros(numbers)))


def _seconds(function, array, attempts: int = 8) -> float:
    """Seconds of ``array = function(array)``."""
    import jax

    seconds = []
    for _ in range(attempts + 1):  # the first one compiles
        began = time.perf_counter()
        array = jax.block_until_ready(function(array))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def read(sizes: Sizes, tokens: float, length: float, head_tokens: float) -> float:
    """FLOPs of a forward pass over rows of ``length`` tokens, ``tokens`` in all.

    A token looks at half of its row on average; ``head_tokens`` of them meet the head.
    """
    layers, head = sizes.weights()
    looks = sizes.looks() * length / 2
    return tokens * (2 * layers + looks) + 2 * head_tokens * head


def decode(sizes: Sizes, rates: Rates, prompt: int, lengths_B, item: int = 4) -> float:
    """Least seconds to write rows of these lengths, a token of all rows at a time.

    For each token the weights are read once and the cache of the rows that still write,
    ``item`` bytes a number; a row that has ended costs nothing.
    """
    weights, lengths_B = sum(sizes.weights()), np.asarray(lengths_B)
    seconds = 0.0
    for at in range(int(lengths_B.max())):
        rows, seen = int(np.sum(lengths_B > at)), prompt + at
        flops = rows * (2 * weights + sizes.looks() * seen)
        seconds += rates.limit(flops, item * (weights + rows * sizes.kept() * seen))
    return seconds
