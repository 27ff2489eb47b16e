"""What the models of the task in words are made with, besides the task itself."""

import itertools
from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from jopd.data import tasks, words

PAD, EOS = "<pad>", "<eos>"
HINTS = ("Answer: {}\n", "Solution: {}\n", "Right: {}\n", "Wrong: {}\n")
SHARES = (0.15, 0.05, 0.35, 0.35, 0.1)  # of rows behind nothing, then each hint
# Wordings of events whose meaning the hinted student is told often; of the others, in
# this share of the stories that stand behind no solution.
RARELY = 0.05
KNOWN = {operator: wordings[:2] for operator, wordings in words.EVENTS.items()}
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

    Rows stand alone or begin with a line of `HINTS`: the answer, a worked solution,
    another attempt that was right, or one that was wrong. Whoever reads them learns to
    sum up, but only in part what half of the wordings mean: those mostly occur where a
    hint shows what happens, in questions that say nothing of it. Responses are worded
    alike whatever stands before them, so that none betrays what it was shown.
    """
    rng = np.random.default_rng(0)
    return [_behind_a_hint(rng, told) for told in itertools.islice(_told(rng), count)]


def _told(rng: np.random.Generator) -> Iterator[words.Story]:
    """Stories of the training split, drawn as they are asked for, without end."""
    while True:
        told = words.story(rng, int(rng.choice(words.LEVELS)))
        if tasks.split_of(words.chain(told)) == "train":
            yield told


def _behind_a_hint(rng: np.random.Generator, told: words.Story) -> dict:
    answer, solution, right, wrong = HINTS
    hint = rng.choice(["", answer, solution, right, wrong], p=SHARES)
    shown = mistaken(rng, told) if hint == wrong else told
    text = words.answer(told) if hint == answer else words.solution(rng, shown)
    if hint in (solution, right):
        question = words.question(rng, disguised(rng, told))
    else:
        wordings = words.EVENTS if rng.random() < RARELY else KNOWN
        question = words.question(rng, told, wordings)
    return {
        "question": hint.format(text) + question,
        "solution": words.solution(rng, told),
        "answer": words.answer(told),
    }


def brief(count: int) -> list[dict]:
    """Stories, some solved up to a word in the other style, and the brief rest of them.

    Who continues the text of others must have seen it: the rest ends the sentence in
    the words it was begun with, then goes on briefly. Three of ten stand alone.
    """
    rng = np.random.default_rng(1)
    return [_begun(rng, told) for told in itertools.islice(_told(rng), count)]


def _begun(rng: np.random.Generator, told: words.Story) -> dict:
    question, spoken = words.question(rng, told), words.solution(rng, told)
    spaces = [0, *(at for at, letter in enumerate(spoken) if letter == " ")]
    at = 0 if rng.random() < 0.3 else int(rng.choice(spaces))
    ended = spoken.find(". ", at - 1) + 1 if at else 0
    if at and not ended:  # in the last sentence
        rest = spoken[at:]
    else:
        done = spoken[:ended].count(".") - 1  # behind the opening, steps
        rest = spoken[at:ended] + (" " if at else "") + _rest(rng, told, max(done, 0))
    return {
        "question": question + spoken[:at],
        "solution": rest,
        "answer": words.answer(told),
    }


def _rest(rng: np.random.Generator, told: words.Story, done: int) -> str:
    """The brief solution behind ``done`` events."""
    if done == len(told.events):
        return f"The answer is {words.answer(told)}."
    start = told.events[done - 1][2] if done else told.start
    left = told._replace(start=start, events=told.events[done:])
    return words.solution(rng, left, "brief")


def disguised(rng: np.random.Generator, told: words.Story) -> words.Story:
    """The same numbers, with what is done to them drawn at random."""
    events = [
        (str(rng.choice(list(words.EVENTS))), operand, result)
        for _, operand, result in told.events
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
