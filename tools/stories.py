"""What the models of the task in words are made with, besides the task itself."""

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from jopd.data import tasks, words

PAD, EOS = "<pad>", "<eos>"
HINTS = ("Answer: {}\n", "Solution: {}\n", "Right: {}\n", "Wrong: {}\n")
VOCABULARY = 640  # all bytes, and merges until every word of the task is one token


def build_tokenizer(size: int = VOCABULARY):
    """Byte-level BPE, trained on problems of the task in all styles.

    A ``transformers.PreTrainedTokenizerFast`` that adds no special tokens by itself.
    """
    rng = np.random.default_rng(0)
    texts = []
    for number in range(8_000):
        told = words.story(rng, words.LEVELS[number % len(words.LEVELS)])
        texts.append(words.question(rng, told))
        texts += [words.solution(rng, told, style) for style in words.STYLES]
        texts.append(HINTS[number % len(HINTS)].format(told.start))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def hinted(count: int) -> list[dict]:
    """Stories, most of them behind something that helps to solve them.

    A third of the rows are plain. The others begin with a line of `HINTS`: the answer,
    a worked solution, another attempt that was right, or one that was wrong. Responses
    are drawn alike whatever stands before them, so that none betrays what it was shown.
    """
    rng = np.random.default_rng(0)
    rows = []
    while len(rows) < count:
        told = words.story(rng, int(rng.choice(words.LEVELS)))
        if tasks.split_of(words.chain(told)) != "train":
            continue
        rows.append(
            {
                "question": _hint(rng, told) + words.question(rng, told),
                "solution": words.solution(rng, told),
                "answer": words.answer(told),
            }
        )
    return rows


def _hint(rng: np.random.Generator, told: words.Story) -> str:
    answer, solution, right, wrong = HINTS
    kind = rng.choice(["", answer, solution, right, wrong], p=[0.36, *[0.16] * 4])
    if kind == answer:
        return answer.format(words.answer(told))
    if kind == wrong:
        return wrong.format(words.solution(rng, mistaken(rng, told)))
    return kind.format(words.solution(rng, told))


def mistaken(rng: np.random.Generator, told: words.Story) -> words.Story:
    """The same story with the result of one event off, and all that follows."""
    at, value, events = int(rng.integers(len(told.events))), told.start, []
    for number, (operator, operand, _) in enumerate(told.events):
        value = words.RESULTS[operator](value, operand)
        if number == at:
            value += int(rng.choice([-2, -1, 1, 2]))
        events.append((operator, operand, value))
    return told._replace(events=tuple(events))
