"""A teacher behind a server that says how probable given tokens are.

    served = connect("http://localhost:8000/v1", "name", tokenizer, name="teacher")
    (row,) = served.score([Asked([5, 6, 7, 8], first=2)])  # of the tokens 7 and 8

Asked are vLLM's ``prompt_logprobs``, which answers by token id, then ``echo`` of
OpenAI's completions, as vLLM, SGLang and others have it: whichever the server knows. A
request is token ids, so no text is cut into tokens twice. An answer that is about other
tokens, fewer of them, or no finite number ends the run with what is wrong.

About chosen tokens at every place vLLM's ``/inference/v1/generate`` is asked
(``prompt_logprob_token_ids``), which ``jopd serve`` has, too.
"""

import base64
import functools
import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jopd.data import vocabulary
from jopd.teachers import replies, servers, transport
from jopd.teachers.likely import Scores, alike
from jopd.teachers.replies import Kept
from jopd.teachers.servers import Server
from jopd.teachers.transport import Unusable, Wire

LEAST = -9000.0  # servers write -9999 where they mean -inf
FORMS = ("prompt_logprobs", "echo")
AS_ID = "token_id:"
PATH = "completions"
CHOSEN, CHOSEN_PATH = "prompt_logprob_token_ids", "inference/v1/generate"


class Asked(NamedTuple):
    """Token ids of prompt and response, which begins at ``first``, 1 at least; ``ids``
    i32[R, K] are those that are asked about, None: the likeliest, or where all have
    to be chosen, none."""

    tokens: Sequence[int]
    first: int
    ids: np.ndarray | None = None


class Client(NamedTuple):
    """A server that gives log-probabilities.

    Attributes:
      score: ``Sequence[Asked]`` to ``Scores`` each; None where the server did not
        answer.
      counts: ``() -> dict``, totals since ``connect``: ``servers.COUNTS``.
      form: how it is asked, one of ``FORMS`` or ``CHOSEN``.
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


class _Talk(NamedTuple):
    """A server, what every request to it has, and what it has cost; ``mark`` is a hash
    of what the model says of the probe, since names and addresses change hands."""

    server: Server
    totals: Counter
    model: str
    body: Mapping
    mark: str = ""


class Wrong(ValueError):
    """An answer that cannot be used, whatever is asked: it ends the run."""


def connect(
    url: str,
    model: str,
    tokenizer,
    *,
    name: str,
    top_k: int = 0,
    chosen: bool = False,
    body: Mapping | None = None,
    **way,
) -> Client:
    """Asks a server about a text of many kinds, and how it cuts it into tokens.

    Args:
      url, model, way: of ``servers.reach``, errors as there.
      tokenizer: the student's, which has to be the server's, too.
      name: of the teacher in the config, for errors.
      top_k: likeliest tokens that are asked for at every place; ``chosen``: so many are
        named by who asks, ``Asked.ids``.
      body: fields that every request has, too; None takes a field out.

    Raises:
      ValueError: no log-probabilities of prompts or of chosen tokens, or another
      tokenizer.
    """
    server = servers.reach(url, model, where=name, **way)
    talk = _Talk(server, Counter(), model, dict(body or {}))
    text = vocabulary.probe(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    top_k = min(top_k, len(tokenizer))
    form, found = _form_of(talk, forms(0 if chosen else top_k), ids)
    probe = _scores(found, form.top_k).logp
    _check_tokenizer(talk, form, text, ids)
    talk = talk._replace(mark=" ".join(f"{logp:.2f}" for logp in probe))
    ask, said = functools.partial(_answer, talk, form), form.name
    if chosen:
        most = _check_chosen(talk, ids, probe)
        ask, said = functools.partial(_answer_chosen, talk, most), CHOSEN

    def score(asked: Sequence[Asked]) -> list[Scores | None]:
        calls = [functools.partial(ask, one) for one in asked]
        found = servers.ask(server, talk.totals, calls, f"{name}.url")
        return [
            None if isinstance(row, Unusable) else _scores(row, _likely(one, form))
            for one, row in zip(asked, found, strict=True)
        ]

    counts = lambda: {k: talk.totals[k] for k in servers.COUNTS}
    return Client(score, counts, said, probe, top_k)


def _likely(asked: Asked, form: _Form) -> int:
    """How many tokens at a place are known besides the one that stands there."""
    return form.top_k if asked.ids is None else asked.ids.shape[1]


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


def _request(talk: _Talk, **fields) -> dict:
    request = {"model": talk.model, **fields} | dict(talk.body)
    return {name: value for name, value in request.items() if value is not None}


def _form_of(talk: _Talk, known: Sequence[_Form], ids) -> tuple[_Form, list]:
    """The first way that the server knows, and its answer. Raises ValueError: none."""
    why = []
    for form in known:
        try:
            reply = _tried(talk, form, ids)
            return form, _numbers(form, reply, ids, 1)
        except Unusable as error:
            why.append(f"{form.name}: {error!s:.80}")
    raise ValueError(
        f"{talk.server.where}.url={talk.server.wire.url!r} gives no log-probabilities "
        f"of prompts ({'; '.join(dict.fromkeys(why))}); correct it, or serve the model "
        "by vLLM, SGLang or jopd serve, or use a teacher that only writes text "
        "(audit.teacher='http')"
    )


def _tried(talk: _Talk, form: _Form, prompt) -> dict:
    """The reply about a prompt, ids or text; raises Unusable."""
    request = _request(talk, prompt=prompt, temperature=0.0, **form.fields)
    return _post(talk, talk.server.wire, PATH, request)


def _post(talk: _Talk, wire: Wire, path: str, request: dict) -> dict:
    post = lambda http: transport.post(http, wire, talk.totals, path, request)
    (reply,) = transport.run(transport.gathered(wire, [post]))
    return reply


def _check_tokenizer(talk: _Talk, form: _Form, text: str, ids) -> None:
    """Raises ValueError where the server cuts a text otherwise."""
    reply = _tried(talk, form, text)
    for given in (ids, [None, *ids]):  # some put a BOS before it
        try:
            _numbers(form, reply, given, len(given))
            return
        except Unusable:
            continue
    server = talk.server
    raise ValueError(
        f"{server.where}: {server.wire.url} cuts {text!r} into other tokens than the "
        f"student's tokenizer, which makes {ids} of it; serve a teacher that has the "
        "student's tokenizer, or load it here with tokenizer='own'"
    )


async def _answer(talk: _Talk, form: _Form, asked: Asked, http):
    """``_scores``'s numbers of one row; or Unusable."""
    tokens = list(map(int, asked.tokens))
    request = _request(talk, prompt=tokens, temperature=0.0, **form.fields)
    read = lambda reply: _numbers(form, reply, tokens, asked.first)
    count = (len(tokens) - asked.first) * (1 + 2 * form.top_k)
    return await _asked(talk, talk.server, PATH, request, read, count, http)


async def _asked(talk, server: Server, path, request, read, count: int, http):
    of = server.wire.url, "logp", talk.mark, request
    place = replies.file_of(server.cache_dir, *of)
    kept = Kept(place, "numbers", count, (float, int))

    def numbers(reply):
        try:
            return read(reply)
        except Unusable as error:
            raise Wrong(f"{server.where}: {server.wire.url} answers {error}") from None

    return await servers.answer(server, talk.totals, path, request, numbers, kept, http)


def _beside(server: Server) -> Server:
    """The same server at the root of its address, without the version."""
    root = server.wire.url.removesuffix("/v1")
    return server._replace(wire=server.wire._replace(url=root))


def _about(talk: _Talk, most: int, tokens, first: int, ids) -> dict:
    """A request about chosen tokens; what stands there is asked about first."""
    own = np.asarray(tokens[first:])[:, None]
    params = {
        "max_tokens": most,
        "temperature": 0.0,
        "prompt_logprob_start": first - 1,
        "prompt_logprob_token_ids": np.concatenate([own, ids], axis=1).tolist(),
    }
    return _request(talk, token_ids=list(map(int, tokens)), sampling_params=params)


def _check_chosen(talk: _Talk, ids: Sequence[int], probe: np.ndarray) -> int:
    """The fewest tokens that the server writes where it is asked about chosen ones.

    Raises:
      ValueError: it cannot be asked so, or says something else than before.
    """
    some, why, server = np.asarray(ids[1:])[:, None], "", _beside(talk.server)
    for most in (0, 1):
        request = _about(talk, most, ids, 1, some)
        try:
            reply = _post(talk, server.wire, CHOSEN_PATH, request)
            rows = np.asarray(_chosen(reply, 1, request)).reshape(len(some), 3)
        except (Unusable, ValueError) as error:
            why = str(error)
            continue
        for column in (0, 2):
            if not alike(rows[:, column], probe):
                why = "other log-probabilities than as prompt_logprobs: shifted rows?"
                break
        else:
            return most
    raise ValueError(
        f"{talk.server.where}.support='student': {server.wire.url}/{CHOSEN_PATH} gives "
        f"no log-probabilities of chosen tokens ({why}); vLLM has them from 0.29 on "
        "with its V2 runner, and jopd serve; or use support='teacher'"
    )


async def _answer_chosen(talk: _Talk, most: int, asked: Asked, http):
    rows = len(asked.tokens) - asked.first
    ids = np.zeros((rows, 0), np.int32) if asked.ids is None else asked.ids
    request, k = _about(talk, most, asked.tokens, asked.first, ids), ids.shape[1]
    read = lambda reply: _chosen(reply, k, request)
    count = rows * (1 + 2 * k)
    server = _beside(talk.server)
    return await _asked(talk, server, CHOSEN_PATH, request, read, count, http)


def _chosen(reply: Mapping, k: int, request: Mapping) -> list:
    """``_scores``'s numbers; raises Unusable for no such matrix."""
    ids = np.asarray(request["sampling_params"]["prompt_logprob_token_ids"])
    try:
        content = base64.b64decode(reply["prompt_token_id_logprobs"], validate=True)
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except (LookupError, TypeError, ValueError, EOFError):
        raise Unusable("without log-probabilities of chosen tokens") from None
    if found.shape != ids.shape or found.dtype.kind != "f":
        raise Unusable(
            f"with {found.dtype}{list(found.shape)} for {list(ids.shape)} tokens"
        )
    bad = ~(np.isfinite(found) & (found <= 1e-3) & (found > LEAST))
    if bad.any():
        at = np.argwhere(bad)[0]
        raise Unusable(f"{found[tuple(at)]} as a log-probability at place {at[0]}")
    found = np.minimum(found.astype(float), 0.0)
    rows = np.concatenate([found[:, :1], ids[:, 1:], found[:, 1:]], axis=1)
    return [
        int(x) if 1 <= n % (1 + 2 * k) <= k else x
        for n, x in enumerate(rows.ravel().tolist())
    ]


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
