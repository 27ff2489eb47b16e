"""What the models of the task in words are made with, besides the task itself."""

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from jopd.data import tasks, words

PAD, EOS = "<pad>", "<eos>"
HINTS = ("Answer: {}\n", "Solution: {}\n", "Right: {}\n", "Wrong: {}\n")
SHARES = (0.34, 0.1, 0.22, 0.22, 0.12)  # of rows behind nothing, then behind each hint
INVENTED = 0.7  # of answers and solutions that are shown as right
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
    a worked solution, another attempt that was right, or one that was wrong. Most of
    what is shown as right is invented, and so is the response: who could sum up would
    else never learn to read. Responses are worded alike whatever stands before them, so
    that none betrays what it was shown.
    """
    rng = np.random.default_rng(0)
    rows = []
    while len(rows) < count:
        told = words.story(rng, int(rng.choice(words.LEVELS)))
        if tasks.split_of(words.chain(told)) == "train":
            rows.append(_behind_a_hint(rng, told))
    return rows


def _behind_a_hint(rng: np.random.Generator, told: words.Story) -> dict:
    answer, solution, right, wrong = HINTS
    hint = rng.choice(["", answer, solution, right, wrong], p=SHARES)
    if hint in (answer, solution, right) and rng.random() < INVENTED:
        told = invented(rng, told, 1 if hint == answer else len(told.events))
    shown = mistaken(rng, told) if hint == wrong else told
    text = words.answer(told) if hint == answer else words.solution(rng, shown)
    return {
        "question": hint.format(text) + words.question(rng, told),
        "solution": words.solution(rng, told),
        "answer": words.answer(told),
    }


def invented(rng: np.random.Generator, told: words.Story, last: int) -> words.Story:
    """The same story, the results of its ``last`` events drawn at random."""
    first = len(told.events) - last
    results = rng.integers(0, words.LARGEST_VALUE + 1, size=len(told.events))
    events = [
        (operator, operand, int(drawn) if number >= first else result)
        for number, ((operator, operand, result), drawn) in enumerate(
            zip(told.events, results, strict=True)
        )
    ]
    return told._replace(events=tuple(events))


def mistaken(rng: np.random.Generator, told: words.Story) -> words.Story:
    """The same story with the result of one event off, and all that follows."""
    at, value, events = int(rng.integers(len(told.events))), told.start, []
    for number, (operator, operand, _) in enumerate(told.events):
        value = words.RESULTS[operator](value, operand)
        if number == at:
            value += int(rng.choice([-2, -1, 1, 2]))
        events.append((operator, operand, value))
    return told._replace(events=tuple(events))
