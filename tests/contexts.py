"""Two rows, and other prompts before the same responses, for several test files."""

import jax
import numpy as np

from jopd.batches import asking
from jopd.data import dataset as data
from jopd.models import decoder

CONFIG = decoder.DecoderConfig(
    vocab_size=11,
    width=16,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=8,
    ffn=24,
    max_positions=64,
)
MODEL = decoder.Decoder(CONFIG)
PARAMS = decoder.init(CONFIG, jax.random.key(0))
PROMPTS = [np.array(p, np.int32) for p in ([3, 4, 5], [6])]
OWN = [np.array(p, np.int32) for p in ([7, 8], [9, 9, 2, 3, 4])]
RESPONSES = [[5, 6, 1], [2, 1]]


def dataset(prompts) -> data.Dataset:
    rows = len(prompts)
    return data.Dataset(
        prompts=prompts,
        solutions=[np.array(r, np.int32) for r in RESPONSES],
        finished=[True] * rows,
        answers=[None] * rows,
        texts=[""] * rows,
        ids=["0", "1"],
        dropped={},
    )


def batch():
    return asking.batch_of(data.gold_rows(dataset(PROMPTS), [0, 1], width=8))
