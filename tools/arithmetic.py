"""What the models of the arithmetic task are made with, besides the task itself."""

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jopd.data import tasks


def loop(
    rng: np.random.Generator, text: str, length: int, longest_period: int = 16
) -> str:
    """`text` up to a random place, then its last few characters repeated to `length`.

    A document that never ends. A share of such documents gives a teacher the prior
    of large models to go on with a loop once it is in one.
    """
    end = int(rng.integers(1, len(text) + 1))
    period = int(rng.integers(1, min(end, longest_period) + 1))
    chunk = text[end - period : end]
    return (text[:end] + chunk * length)[:length]


def build_tokenizer():
    """The task's tokenizer: `tasks.VOCABULARY` in order, one token per character.

    A ``transformers.PreTrainedTokenizerFast``. Adds no special tokens by itself. A
    character outside the vocabulary is an error when encoded. ``save_pretrained``
    writes what ``AutoTokenizer`` reads offline.
    """
    ids = {token: index for index, token in enumerate(tasks.VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(ids))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=tasks.PAD,
        eos_token=tasks.EOS,
        clean_up_tokenization_spaces=False,
    )
