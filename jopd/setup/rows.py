"""From a config to rows that everyone reads in their own way, and how wide they are."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jopd.batches import collect
from jopd.batches.asking import RowSet
from jopd.data import dataset, judging
from jopd.data.dataset import Dataset
from jopd.losses.panel import Panel
from jopd.setup import inputs, judges, lengths
from jopd.setup.reading import read_examples
from jopd.teachers import peers, roles, stored


class Rows(NamedTuple):
    """The rows of a run: ``train`` and ``held`` as the student reads them.

    ``own_prompts`` has both again for each teacher that reads other prompts, ``peers``
    is for those whose context shows other rollouts, ``served`` says of teachers and
    panels with a route which training rows are theirs. ``verifier`` judges evaluations,
    ``rewards`` training, None: nobody; ``reward_truncated`` and ``stop_strings`` are as
    in ``RowSet``.
    ``said``: what was taken of the sources, and what was left out; ``notes``: warnings;
    ``digests``: of the rows of a training run, as they were read; ``documents``: they
    are whole texts, cut into prompt and solution.
    """

    tokenizer: Any
    train: Dataset
    held: Dataset
    own_prompts: dict[str, tuple[Dataset, Dataset]]
    peers: peers.PeerPrompts | None
    served: dict[str, np.ndarray]
    verifier: judging.Judge | None
    rewards: judging.Judge | None
    reward_truncated: bool
    stop_strings: tuple[str, ...]
    said: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    digests: dict[str, str] = {}  # never changed in place
    documents: bool = False

    @property
    def training(self) -> RowSet:
        return self._rows(self.train, self.rewards)

    @property
    def left_out(self) -> list[str]:
        """What did not reach the text of some rows, each said once."""
        return list(dict.fromkeys((*self.train.notes, *self.held.notes)))

    @property
    def unread(self) -> list[str]:
        """Columns that nothing is made of."""
        return list(dict.fromkeys((*self.train.unread, *self.held.unread)))

    def read_by(self, name: str, *, held: bool = False) -> Dataset:
        """The training rows as a teacher reads them, or those that are held out."""
        return self.own_prompts.get(name, (self.train, self.held))[held]

    @property
    def held_out(self) -> RowSet:
        return self._rows(self.held, self.verifier)

    def _rows(self, dataset: Dataset, judge: judging.Judge | None) -> RowSet:
        judged = (judge, self.reward_truncated)
        return RowSet(dataset, self.tokenizer, *judged, self.stop_strings)


class Readers(NamedTuple):
    """Who reads rows, and with what: the teachers ``known`` by name, and the positions
    that each model has."""

    config: ConfigDict
    tokenizer: Any
    known: dict[str, roles.Teacher]
    positions: dict[str, int]


def read_rows(
    config,
    tokenizer,
    known: dict[str, roles.Teacher],
    panels: tuple[Panel, ...] | None,
    positions: dict[str, int],
) -> Rows:
    """Data read, tokenised for everyone, and who judges and serves it.

    Routes of ``known`` and ``panels`` say who serves which training rows; without
    panels (None) nothing is trained, and routes are not followed. ``positions`` are
    those that each model has, which limit prompts where the config does not.
    """
    picked = read_examples(config)
    examples = (picked.train, picked.held)
    limit = lengths.prompt_limit(config, positions)
    train, held = student_data(config, tokenizer, examples, limit)
    kept = tuple(
        peers.aligned(part, ours.ids)
        for part, ours in zip(examples, (train, held), strict=True)
    )
    verifier, given = judges.pick(config, train, held)
    readers = Readers(config, tokenizer, known, positions)
    return Rows(
        tokenizer=tokenizer,
        train=train,
        held=held,
        own_prompts=own_prompts(readers, kept, (train, held)),
        peers=peer_prompts(readers, kept[0], train, panels or ()),
        served={} if panels is None else roles.served(known, panels, train.fields),
        verifier=verifier,
        rewards=given,
        reward_truncated=config.eval.reward_truncated,
        stop_strings=tuple(config.rollout.stop_strings),
        said=picked.said + _left_out(config, train, held),
        notes=(*picked.notes, *judges.doubts((verifier, given), train, held)),
        digests={} if panels is None else picked.digests(),
        documents=_are_documents(picked.train),
    )


def read_stored(name: str, teacher: roles.Teacher, tokenizer, train) -> stored.Table:
    """What a teacher said of the gold rows of ``train``, all of them.

    Raises:
      ValueError: of other rows or tokens, or fewer likely ones.
    """
    table = stored.read(Path(teacher.path))
    wanted = {"tokenizer": inputs.rules_of(tokenizer), "top_k": teacher.top_k}
    rows = zip(train.ids, train.prompts, train.solutions)
    gold = [row for row in rows if row[2] is not None]
    stored.check(name, teacher.path, table, wanted, gold)
    return table


def _left_out(config, *datasets: Dataset) -> tuple[str, ...]:
    """What was too long, in words."""
    counts = {
        what: sum(data.dropped[what] for data in datasets)
        for what in ("prompt", "solution")
    }
    limit = config.rollout.max_new_tokens
    said = {
        "prompt": "prompts left out that were too long",
        "solution": f"solutions left out of more than {limit} tokens",
    }
    return tuple(f"{n:,} {said[what]}" for what, n in counts.items() if n)


def encode(config, tokenizer, examples, template_kwargs, *, limit: int) -> Dataset:
    """Rows tokenised under one role's template, prompts of at most ``limit`` tokens."""
    c = config.data
    document = _are_documents(examples)
    long_solution = c.on_long_solution
    if long_solution == "auto":
        long_solution = "truncate" if document else "drop"
    return dataset.encode(
        examples,
        tokenizer=tokenizer,
        max_prompt_tokens=limit,
        max_response_tokens=config.rollout.max_new_tokens,
        chat_template=c.chat_template,
        template_kwargs=template_kwargs.to_dict(),
        system=c.system or None,
        add_bos=c.add_bos,
        on_long_prompt=c.on_long_prompt,
        on_long_solution=long_solution,
        prefix_tokens=c.prefix_tokens if document else 0,
        date=c.date,
        ignored_keys=tuple(c.ignored_keys),
    )


def _are_documents(examples) -> bool:
    """Whether rows are whole texts, which become prompt and solution.

    Raises:
      ValueError: some are, and some are prompts.
    """
    kinds = {example.document for example in examples}
    if len(kinds) > 1:
        raise ValueError(
            "data.path mixes documents (a .txt, or rows with a column 'text') with "
            "prompts, which are not read alike; take one kind, or name the column of "
            "the prompt in data.prompt_column"
        )
    return True in kinds


def student_data(config, tokenizer, examples, limit: int) -> tuple[Dataset, Dataset]:
    """Training and held-out rows as the student reads them."""
    how = dict(template_kwargs=config.data.student_template_kwargs, limit=limit)
    train, held = (encode(config, tokenizer, part, **how) for part in examples)
    return train, held


def untemplated(config, tokenizer, like: Dataset) -> list[str]:
    """The prompts of ``like`` as plain text, for a server that has its own template."""
    plain = config.copy_and_resolve_references()
    with plain.unlocked():
        plain.data.chat_template = "plain"
        plain.data.student_template_kwargs = {}
    limit = plain.data.max_prompt_tokens or sys.maxsize
    raw, _ = student_data(plain, tokenizer, read_examples(plain)[:2], limit)
    texts = dict(zip(raw.ids, raw.texts))
    return [texts[name] for name in like.ids]


def own_prompts(
    readers: Readers, examples, student: tuple
) -> dict[str, tuple[Dataset, Dataset]]:
    """Training and held-out rows of the teachers that read other prompts.

    ``examples`` are those that ``student`` kept.

    Raises:
      ValueError: a context lacks its field, or the length limit kept other rows than
        it did for the student.
    """
    config, tokenizer, known, positions = readers
    c, found = config.data, {}
    kwargs = c.teacher_template_kwargs or c.student_template_kwargs
    for name, teacher in known.items():
        if roles.reads_rollouts(teacher):
            continue  # other prompts in every batch, see ``peer_prompts``
        speaks = _spoken(readers, teacher)
        alike = name == "reference" or kwargs == c.student_template_kwargs
        if alike and speaks is tokenizer and not teacher.context:
            continue
        of_context = lengths.most_of_context(config)
        asked = of_context if teacher.context else c.max_prompt_tokens
        limit = asked or lengths.room(config, positions[name], name)
        parts = []
        for rows, ours in zip(examples, student, strict=True):
            if teacher.context:
                rows = roles.in_context(name, teacher.context, rows)
            theirs = encode(config, speaks, rows, kwargs, limit=limit)
            _check_same_rows(name, limit, bool(teacher.context), c, ours, theirs)
            if teacher.template == "own":
                _check_same_end(name, tokenizer, ours, theirs)
            parts.append(theirs)
        found[name] = tuple(parts)
    return found


def _spoken(readers: Readers, teacher: roles.Teacher):
    """The tokenizer, with its chat template, of what a teacher reads."""
    if teacher.tokenizer == "own":
        return inputs.speech(teacher.path).tokenizer
    if teacher.template == "own":
        return inputs.templated_as(readers.tokenizer, teacher.path)
    return readers.tokenizer


def peer_prompts(
    readers: Readers, examples, train: Dataset, panels: tuple[Panel, ...] = ()
) -> peers.PeerPrompts | None:
    """For the teachers whose context shows other rollouts; None if there are none.

    ``examples`` are those that ``train`` kept. Where the config sets no limit, the
    longest prompt is that of a row and of rollouts as long as may be, as far as
    positions go.

    Raises:
      ValueError: a row lacks another field of a context.
    """
    config, tokenizer, known, positions = readers
    contexts = {
        name: teacher.context
        for name, teacher in known.items()
        if roles.reads_rollouts(teacher)
    }
    if not contexts:
        return None
    c = config.data
    kwargs = c.teacher_template_kwargs or c.student_template_kwargs

    def encode_prompts(rows):
        # Only the prompt is wanted, of any length: who asks counts what is too long.
        rows = [row._replace(solution=None, reply=None) for row in rows]
        return encode(config, tokenizer, rows, kwargs, limit=sys.maxsize).prompts

    response = lengths.longest_response(config)
    bare = []  # rows with empty rollouts, and how many a context names
    for name, context in contexts.items():
        others = roles.rollouts_of(context)
        empty = [dict.fromkeys(others, "")] * len(examples)
        rows = roles.in_context(name, context, list(examples), empty)
        count = sum(field in others for field in roles.fields_of(name, context))
        bare += [(rows, count)] * ((rows, count) not in bare)
    most = lengths.most_of_context(config, max(count for _, count in bare))
    if not most:
        lengths_of = lambda rows: map(len, encode_prompts(rows))
        most = max(max(lengths_of(rows)) + count * response for rows, count in bare)
        room = min(positions[name] for name in contexts) - response
        most = min(most, room // 8 * 8)  # as ``auto_buckets`` rounds
    longest = max(most, *(len(prompt) for prompt in train.prompts))
    return peers.PeerPrompts(
        contexts,
        examples,
        encode_prompts,
        lengths.auto_buckets(longest),
        success=config.peer.success,
        remove=config.peer.remove,
        panels=panels,
        own_failure=config.peer.own_failure,
    )


def _check_same_rows(name: str, limit: int, in_context: bool, c, ours, theirs) -> None:
    if ours.ids != theirs.ids:
        key = "context" if in_context else "prompt"
        raise ValueError(
            f"data.on_long_prompt={c.on_long_prompt!r} keeps {len(ours)} rows as the "
            f"student reads them and {len(theirs)} as {name!r} does, whose prompts may "
            f"have {limit} tokens; raise data.max_{key}_tokens"
        )


def _check_same_end(name: str, tokenizer, ours, theirs) -> None:
    ends = [ours.turn_end, theirs.turn_end]
    if ends[0] != ends[1]:
        told = tokenizer.convert_ids_to_tokens([i for i in ends if i is not None])
        raise ValueError(
            f"{name}.template='own': the student and {name} end turns otherwise "
            f"({' and '.join(told)}), and an end is a token of the response; use "
            f"{name}.tokenizer='own', which maps one to the other"
        )


def check_gold(config, mix: collect.Mix, train: Dataset) -> None:
    needed = mix.gold or mix.on_policy_probability < 1
    if needed and not any(solution is not None for solution in train.solutions):
        raise ValueError(
            f"the mix asks for gold rows, but no row of {config.data.path} has a "
            f"solution in column {config.data.solution_column or 'solution'!r} of at "
            f"most rollout.max_new_tokens={config.rollout.max_new_tokens} tokens; "
            "name the column in data.solution_column, raise the limit, or set "
            "mix.gold=0"
        )
