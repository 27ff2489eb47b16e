"""A teacher behind a server that says how probable given tokens are.

    served = connect("http://localhost:8000/v1", "name", tokenizer, name="teacher")
    (row,) = served.score([Asked([5, 6, 7, 8], first=2)])  # of the tokens 7 and 8

Asked are vLLM's ``prompt_logprobs``, which answers by token id, then ``echo`` of
OpenAI's completions, as vLLM, SGLang and others have it: whichever the server knows. A
request is token ids, so no text is cut into tokens twice. An answer that is about other
tokens, fewer of them, or no finite number ends the run with what is wrong.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jopd.data import vocabulary
from jopd.teachers import replies, servers, transport
from jopd.teachers.replies import Kept
from jopd.teachers.servers import Server
from jopd.teachers.transport import Unusable

LEAST = -9000.0  # servers write -9999 where they mean -inf
FORMS = ("prompt_logprobs", "echo")
AS_ID = "token_id:"
PATH = "completions"


class Asked(NamedTuple):
    """Token ids of prompt and response, which begins at ``first``, 1 at least."""

    tokens: Sequence[int]
    first: int


class Client(NamedTuple):
    """A server that gives log-probabilities.

    Attributes:
      score: ``Sequence[Asked]`` to f32[R] each, log-probabilities of a response's R
        tokens; None where the server did not answer.
      counts: ``() -> dict``, totals since ``connect``: ``servers.COUNTS``.
      form: how it is asked, one of ``FORMS``.
      probe: f32, what it says of the tokens of a text that all are asked about, but the
        first: by which the model is known again.
    """

    score: Callable[[Sequence[Asked]], list[np.ndarray | None]]
    counts: Callable[[], dict[str, float]]
    form: str
    probe: np.ndarray


class _Form(NamedTuple):
    """A way to ask: fields of a request."""

    name: str
    fields: Mapping[str, Any]


class Wrong(ValueError):
    """An answer that cannot be used, whatever is asked: it ends the run."""


def connect(
    url: str,
    model: str,
    tokenizer,
    *,
    name: str,
    body: Mapping | None = None,
    **way,
) -> Client:
    """Asks a server about a text of many kinds, and how it cuts it into tokens.

    Args:
      url, model, way: of ``servers.reach``, errors as there.
      tokenizer: the student's, which has to be the server's, too.
      name: of the teacher in the config, for errors.
      body: fields that every request has, too; None takes a field out.

    Raises:
      ValueError: no log-probabilities of prompts, or another tokenizer.
    """
    server = servers.reach(url, model, where=name, **way)
    totals, more = Counter(), dict(body or {})
    text = vocabulary.probe(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    form, logp = _form_of(server, totals, model, more, ids)
    _check_tokenizer(server, totals, form, model, more, text, ids)

    def score(asked: Sequence[Asked]) -> list[np.ndarray | None]:
        calls = [
            functools.partial(_answer, server, totals, form, model, more, one)
            for one in asked
        ]
        found = servers.ask(server, totals, calls, f"{name}.url")
        return [
            None if isinstance(row, Unusable) else np.asarray(row, np.float32)
            for row in found
        ]

    return Client(
        score,
        lambda: {k: totals[k] for k in servers.COUNTS},
        form.name,
        np.asarray(logp, np.float32),
    )


def forms() -> list[_Form]:
    """Ways to ask, the best first: without writing a token where that is possible."""
    by_id = {"prompt_logprobs": 1}
    echo = {"echo": True, "logprobs": 1, "return_tokens_as_token_ids": True}
    return [
        _Form(kind, fields | {"max_tokens": most})
        for kind, fields in zip(FORMS, (by_id, echo))
        for most in (0, 1)
    ]


def _request(form: _Form, model: str, body: Mapping, prompt) -> dict:
    request = {"model": model, "prompt": prompt, "temperature": 0.0, **form.fields}
    return {name: v for name, v in (request | dict(body)).items() if v is not None}


def _form_of(server: Server, totals, model, body, ids) -> tuple[_Form, list]:
    """The first way that the server knows, and its answer. Raises ValueError: none."""
    why = []
    for form in forms():
        try:
            reply = _tried(server, totals, form, model, body, ids)
            return form, _numbers(form, reply, ids, 1)
        except Unusable as error:
            why.append(f"{form.name}: {error}")
    raise ValueError(
        f"{server.where}: {server.wire.url} gives no log-probabilities of prompts "
        f"({'; '.join(dict.fromkeys(why))}); serve the model by vLLM, SGLang or jopd "
        "serve, or use a teacher that only writes text (audit.teacher='http')"
    )


def _tried(server: Server, totals, form: _Form, model, body, prompt) -> dict:
    """The reply about a prompt, ids or text; raises Unusable."""
    request = _request(form, model, body, prompt)
    post = lambda http: transport.post(http, server.wire, totals, PATH, request)
    (reply,) = transport.run(transport.gathered(server.wire, [post]))
    return reply


def _check_tokenizer(server: Server, totals, form, model, body, text, ids) -> None:
    """Raises ValueError where the server cuts a text otherwise."""
    reply = _tried(server, totals, form, model, body, text)
    for given in (ids, [None, *ids]):  # some put a BOS before it
        try:
            _numbers(form, reply, given, len(given))
            return
        except Unusable:
            continue
    raise ValueError(
        f"{server.where}: {server.wire.url} cuts {text!r} into other tokens than the "
        f"student's tokenizer, which makes {ids} of it; serve a teacher that has the "
        "student's tokenizer, or load it here with tokenizer='own'"
    )


async def _answer(server, totals, form, model, body, asked: Asked, http):
    request = _request(form, model, body, list(map(int, asked.tokens)))
    place = replies.file_of(server.cache_dir, server.wire.url, "logp", request)
    count = len(asked.tokens) - asked.first
    kept = Kept(place, "numbers", count, (float, int))

    def read(reply):
        try:
            return _numbers(form, reply, request["prompt"], asked.first)
        except Unusable as error:
            raise Wrong(f"{server.where}: {server.wire.url} answers {error}") from None

    return await servers.answer(server, totals, PATH, request, read, kept, http)


def _numbers(form: _Form, reply: Mapping, tokens: Sequence[int], first: int) -> list:
    """Log-probabilities of tokens ``first`` and on.

    Raises:
      Unusable: an answer without them, about other tokens, or with no finite ones.
    """
    read = _by_id if form.name == "prompt_logprobs" else _echoed
    try:
        found = read(form, reply["choices"][0], tokens)
    except (LookupError, TypeError, AttributeError):
        raise Unusable("without log-probabilities of the prompt") from None
    if len(found) != len(tokens):
        raise Unusable(f"for {len(found)} of {len(tokens)} tokens: it cuts prompts")
    for place, logp in enumerate(found[first:], start=first):
        good = isinstance(logp, float | int) and not isinstance(logp, bool)
        if not good or not math.isfinite(logp) or not LEAST < logp <= 1e-3:
            raise Unusable(f"{logp!r:.40} as the log-probability of token {place}")
    return [min(float(logp), 0.0) for logp in found[first:]]


def _by_id(form: _Form, choice: Mapping, tokens: Sequence[int]) -> list:
    """vLLM's: a mapping from ids at every place; nothing at the first."""
    found = []
    for place, (token, entry) in enumerate(zip(tokens, choice["prompt_logprobs"])):
        if entry is None:
            found.append(None)
            continue
        if token is not None and str(token) not in entry:
            raise Unusable(
                f"about {', '.join(entry)} where token {place} is {token}: about other "
                "tokens than it was asked for"
            )
        found.append(entry[str(token)]["logprob"] if token is not None else None)
    return found + [None] * (len(choice["prompt_logprobs"]) - len(found))


def _echoed(form: _Form, choice: Mapping, tokens: Sequence[int]) -> list:
    """OpenAI's: a list of all tokens, and what was written behind them."""
    written = form.fields["max_tokens"]
    logprobs = choice["logprobs"]
    found, said = logprobs["token_logprobs"], logprobs["tokens"]
    if len(found) < len(tokens) + written and choice.get("finish_reason") == "stop":
        written = max(len(found) - len(tokens), 0)  # its end of turn left out
    found, said = found[: len(found) - written], said[: len(said) - written]
    for place, (token, text) in enumerate(zip(tokens, said)):
        other = text.startswith(AS_ID) and text != f"{AS_ID}{token}"
        if token is not None and other:
            raise Unusable(
                f"about {text.removeprefix(AS_ID)} where token {place} is {token}: "
                "about other tokens than it was asked for"
            )
    return found
