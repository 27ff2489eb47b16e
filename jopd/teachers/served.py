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
from jopd.teachers.likely import Scores
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
      score: ``Sequence[Asked]`` to ``Scores`` each; None where the server did not
        answer.
      counts: ``() -> dict``, totals since ``connect``: ``servers.COUNTS``.
      form: how it is asked, one of ``FORMS``.
      top_k: likely tokens that it gives at every place.
      probe: f32, what it says of the tokens of a text that all are asked about, but the
        first: by which the model is known again.
    """

    score: Callable[[Sequence[Asked]], list[Scores | None]]
    counts: Callable[[], dict[str, float]]
    form: str
    probe: np.ndarray
    top_k: int


class _Form(NamedTuple):
    """A way to ask: fields of a request."""

    name: str
    fields: Mapping[str, Any]
    top_k: int


class Wrong(ValueError):
    """An answer that cannot be used, whatever is asked: it ends the run."""


def connect(
    url: str,
    model: str,
    tokenizer,
    *,
    name: str,
    top_k: int = 0,
    body: Mapping | None = None,
    **way,
) -> Client:
    """Asks a server about a text of many kinds, and how it cuts it into tokens.

    Args:
      url, model, way: of ``servers.reach``, errors as there.
      tokenizer: the student's, which has to be the server's, too.
      name: of the teacher in the config, for errors.
      top_k: likeliest tokens that are asked for at every place.
      body: fields that every request has, too; None takes a field out.

    Raises:
      ValueError: no log-probabilities of prompts, or another tokenizer.
    """
    server = servers.reach(url, model, where=name, **way)
    totals, more = Counter(), dict(body or {})
    text = vocabulary.probe(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    top_k = min(top_k, len(tokenizer))
    form, found = _form_of(server, totals, forms(top_k), model, more, ids)
    _check_tokenizer(server, totals, form, model, more, text, ids)

    def score(asked: Sequence[Asked]) -> list[Scores | None]:
        calls = [
            functools.partial(_answer, server, totals, form, model, more, one)
            for one in asked
        ]
        found = servers.ask(server, totals, calls, f"{name}.url")
        return [
            None if isinstance(row, Unusable) else _scores(row, top_k) for row in found
        ]

    return Client(
        score,
        lambda: {k: totals[k] for k in servers.COUNTS},
        form.name,
        _scores(found, top_k).logp,
        top_k,
    )


def forms(top_k: int) -> list[_Form]:
    """Ways to ask, the best first: without writing a token where that is possible."""
    k = max(top_k, 1)
    by_id = {"prompt_logprobs": k}
    echo = {"echo": True, "logprobs": k, "return_tokens_as_token_ids": True}
    return [
        _Form(kind, fields | {"max_tokens": most}, top_k)
        for kind, fields in zip(FORMS, (by_id, echo))
        for most in (0, 1)
    ]


def _request(form: _Form, model: str, body: Mapping, prompt) -> dict:
    request = {"model": model, "prompt": prompt, "temperature": 0.0, **form.fields}
    return {name: v for name, v in (request | dict(body)).items() if v is not None}


def _form_of(server: Server, totals, known, model, body, ids) -> tuple[_Form, list]:
    """The first way that the server knows, and its answer. Raises ValueError: none."""
    why = []
    for form in known:
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
    count = (len(asked.tokens) - asked.first) * (1 + 2 * form.top_k)
    kept = Kept(place, "numbers", count, (float, int))

    def read(reply):
        try:
            return _numbers(form, reply, request["prompt"], asked.first)
        except Unusable as error:
            raise Wrong(f"{server.where}: {server.wire.url} answers {error}") from None

    return await servers.answer(server, totals, PATH, request, read, kept, http)


def _scores(numbers: Sequence, top_k: int) -> Scores:
    """From what is kept: (logp, ids, their log-probabilities) at every place."""
    rows = np.asarray(numbers, np.float64).reshape(-1, 1 + 2 * top_k)
    logp, ids, likely = np.split(rows, (1, 1 + top_k), axis=1)
    return Scores(
        logp[:, 0].astype(np.float32), ids.astype(np.int32), likely.astype(np.float32)
    )


class _Place(NamedTuple):
    """What an answer has of a token: None of the first, and likely ones by id."""

    logp: Any
    likely: Mapping[int, float]


def _numbers(form: _Form, reply: Mapping, tokens: Sequence[int], first: int) -> list:
    """``_scores``'s numbers of the tokens ``first`` and on.

    Raises:
      Unusable: an answer without them, about other tokens, or with no finite ones.
    """
    read = _by_id if form.name == "prompt_logprobs" else _echoed
    try:
        places = read(form, reply["choices"][0], tokens)
    except (LookupError, TypeError, AttributeError, ValueError):
        raise Unusable("without log-probabilities of the prompt") from None
    if len(places) != len(tokens):
        raise Unusable(f"for {len(places)} of {len(tokens)} tokens: it cuts prompts")
    found = []
    for at, place in enumerate(places[first:], start=first):
        for logp in (place.logp, *place.likely.values()):
            good = isinstance(logp, float | int) and not isinstance(logp, bool)
            if not good or not math.isfinite(logp) or not LEAST < logp <= 1e-3:
                raise Unusable(f"{logp!r:.40} as a log-probability at token {at}")
        likely = sorted(place.likely.items(), key=lambda pair: -pair[1])[: form.top_k]
        if len(likely) < form.top_k:
            raise Unusable(
                f"with {len(likely)} likely tokens at token {at} where "
                f"{form.top_k} were asked for"
            )
        found.append(min(float(place.logp), 0.0))
        found += [token for token, _ in likely]
        found += [min(float(logp), 0.0) for _, logp in likely]
    return found


def _by_id(form: _Form, choice: Mapping, tokens: Sequence[int]) -> list[_Place]:
    """vLLM's: a mapping from ids at every place; nothing at the first."""
    found, entries = [], choice["prompt_logprobs"]
    for at, (token, entry) in enumerate(zip(tokens, entries)):
        if entry is None:
            found.append(_Place(None, {}))
            continue
        if token is not None and str(token) not in entry:
            raise _other_tokens(", ".join(entry), at, token)
        likely = {int(i): one["logprob"] for i, one in entry.items()}
        found.append(_Place(likely.get(token), likely))
    return found + [_Place(None, {})] * (len(entries) - len(found))


def _echoed(form: _Form, choice: Mapping, tokens: Sequence[int]) -> list[_Place]:
    """OpenAI's: lists of all tokens, and of what was written behind them."""
    found = choice["logprobs"]
    written = form.fields["max_tokens"]
    if len(found["tokens"]) == len(tokens) and choice.get("finish_reason") == "stop":
        written = 0  # the end of a turn, which some leave out
    size, places = len(found["tokens"]) - written, []
    most = found.get("top_logprobs") or [None] * size
    for at, said in enumerate(found["tokens"][:size]):
        token = tokens[at] if at < len(tokens) else None
        if token is not None and said.startswith(AS_ID) and said != f"{AS_ID}{token}":
            raise _other_tokens(said.removeprefix(AS_ID), at, token)
        by_id = (most[at] or {}) if form.top_k else {}
        if not all(key.startswith(AS_ID) for key in by_id):
            raise Unusable("with likely tokens as texts, not as ids")
        likely = {int(key.removeprefix(AS_ID)): logp for key, logp in by_id.items()}
        places.append(_Place(found["token_logprobs"][at], likely))
    return places


def _other_tokens(said: str, at: int, token: int) -> Unusable:
    return Unusable(
        f"about {said:.80} where token {at} is {token}: about other tokens than it was "
        "asked for"
    )
