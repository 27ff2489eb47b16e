"""Continuations from any OpenAI-compatible server: text only, no log-probabilities.

    client = remote.connect("http://localhost:8000/v1", "name", api="completions")
    client.continue_texts([Prefix("12+3=", "12+3=15;")], n=8, max_tokens=6,
                          temperature=1.0, seeds=[0])

Every reply is kept on disk under a hash of the whole request, so a run that is resumed,
or that asks the same again, pays nothing twice.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jopd.teachers import continuations, replies, secrecy, transport
from jopd.teachers.transport import Unusable, Wire

APIS = ("completions", "chat", "chat_prefill")
# What a request is about: not for ``body`` to change. A stream is another protocol.
OWN_FIELDS = ("model", "prompt", "messages", "n", "stream")
COSTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
COUNTS = ("requests", "cache_hits", "retries", "failures", *COSTS, "seconds")
KINDS = ("texts", "empty", "refused", "restated")
INSTRUCTION = (
    "{prompt}\n\nA solution was begun. Continue it from exactly where it stops, in the "
    "same style. Write only what comes next: no introduction, no comment, nothing of "
    "what is already there.\n\nThe solution so far:\n{response}"
)


class Prefix(NamedTuple):
    """What a teacher continues.

    Attributes:
      prompt: text of the prompt as the teacher reads it.
      response: text of the response before the audited chunk; may be empty.
      tokens: i32[L], the ids of both, for a teacher with the student's vocabulary.
    """

    prompt: str
    response: str
    tokens: Any = ()


class Client(NamedTuple):
    """A server that answered, and what it cost so far.

    Attributes:
      continue_texts: ``(prefixes, n, max_tokens, temperature, seeds)`` to n texts for
        each prefix, or None where fewer came back. Sample i of a prefix is drawn with
        its seed + i, as far as the server heeds seeds.
      counts: ``() -> dict``, totals since ``connect``: requests, cache_hits, retries,
        failures, ``COSTS`` (as the server reports them), seconds (spent waiting, over
        all requests), and of what came back ``KINDS``.
    """

    continue_texts: Callable[..., list[list[str] | None]]
    counts: Callable[[], dict[str, float]]


class Unpaid(Unusable):
    """A request that was not sent: the budget is used up."""


class _Settings(NamedTuple):
    wire: Wire
    model: str
    api: str
    per_request: int
    cache_dir: Path | None
    body: Mapping
    token_budget: int


def connect(
    url: str,
    model: str,
    *,
    api: str = "completions",
    key_env: str = "",
    concurrency: int = 8,
    timeout_seconds: float = 60.0,
    retries: int = 5,
    per_request: int = 0,
    cache_dir: str | Path | None = None,
    body: Mapping | None = None,
    token_budget: int = 0,
) -> Client:
    """Asks the server for its models, before anything expensive is done.

    Args:
      url: up to and with the version, e.g. ``http://localhost:8000/v1``; may have a
        login (``https://user:password@host/v1``).
      model: as the server calls it.
      api: "completions" continues prompt + response as one text. "chat_prefill" sends
        the response as an open assistant turn (``continue_final_message``, as vLLM and
        SGLang take it). "chat" works with every chat server: it asks for the rest in
        words (``INSTRUCTION``) and cuts off openers, quotes and a restated prefix.
      key_env: environment variable that holds the API key; empty: none is sent.
      concurrency: requests under way at one time.
      timeout_seconds: from a request to the end of its reply.
      retries: repetitions after a refused connection, a time-out, 429 or 5xx, with
        exponential backoff and jitter; ``Retry-After`` is heeded.
      per_request: samples asked of one request, for servers that do not know ``n``; 0:
        all in one.
      cache_dir: None: nothing is kept.
      body: fields that every request has, too; None takes a field out.
      token_budget: no request is sent once so many tokens, read and written, were paid
        since ``connect``; those under way are still answered. 0: no limit.

    Raises:
      ConnectionError: the server does not answer. ValueError: it has no such model,
      the key is refused, its variable is not set, or the cache cannot be written.
    """
    if api not in APIS:
        raise ValueError(f"remote.api={api!r} is unknown; use one of {', '.join(APIS)}")
    body = dict(body or {})
    check_body(body, per_request)
    url, login = secrecy.without_login(url.rstrip("/"))
    key = _key(key_env, login)
    wire = Wire(url, login, key, concurrency, timeout_seconds, retries)
    folder = Path(cache_dir).expanduser() if cache_dir else None
    replies.check(folder)
    ask = lambda calls: transport.run(transport.gathered(wire, calls))
    ask([functools.partial(_probe, wire, model)])
    settings = _Settings(wire, model, api, per_request, folder, body, token_budget)
    totals = Counter()

    def continue_texts(prefixes, n, max_tokens, temperature, seeds):
        per = settings.per_request or n
        sizes = [min(per, n - i) for i in range(0, n, per)]
        calls = [
            functools.partial(
                _answer,
                settings,
                totals,
                size,
                _request(settings, prefix, size, max_tokens, temperature, seed + i),
            )
            for prefix, seed in zip(prefixes, seeds, strict=True)
            for i, size in zip(range(0, n, per), sizes)
        ]
        replies = ask(calls)
        _stop_if_unpaid(replies, settings, totals)
        _stop_if_all_failed(replies, settings)
        each = len(sizes)
        return [
            _joined(totals, replies[i * each : (i + 1) * each], prefix, api)
            for i, prefix in enumerate(prefixes)
        ]

    return Client(continue_texts, lambda: {k: totals[k] for k in (*COUNTS, *KINDS)})


def check_body(body: Mapping, per_request: int) -> None:
    """Raises ValueError for a field of ``remote.body`` that a request cannot do with.

    Only ``n`` may go, where a request asks for one sample anyway.
    """
    for name in sorted(set(body) & set(OWN_FIELDS)):
        if (name, body[name], per_request) != ("n", None, 1):
            raise ValueError(
                f"remote.body.{name}={body[name]!r} cannot be: the run decides on it"
                + ("; remote.per_request=1 lets n=None" if name == "n" else "")
            )


def _key(key_env: str, login) -> str:
    """The key in a variable, empty where none is named."""
    if not key_env:
        return ""
    if key_env not in os.environ:
        raise ValueError(
            f"remote.key_env={key_env!r}: no such environment variable; export it, "
            "or set remote.key_env='' for a server without keys"
        )
    if login:
        raise ValueError(
            f"remote.key_env={key_env!r} and the login in remote.url are two ways to "
            "say who asks; leave one out"
        )
    return secrecy.usable_key(os.environ[key_env], key_env)


async def _probe(wire: Wire, model: str, http) -> None:
    remedy = "start the server, or correct remote.url"
    try:
        reply = await transport.fetch(http, wire, "GET", "models")
    except Unusable as error:
        raise ConnectionError(
            f"the teacher's server at {wire.url} does not answer ({error}); {remedy}"
        ) from None
    if reply.status in (401, 403):
        raise ValueError(transport.refused(wire, reply))
    if reply.status == 404:
        return  # no list of models is no fault; the first request will tell
    try:
        if reply.status != 200:
            raise ValueError
        known = [str(entry["id"]) for entry in reply.json()["data"]]
    except (ValueError, LookupError, TypeError):
        raise ConnectionError(
            f"{wire.url}/models answers {reply.status} "
            f"{wire.hide(reply.text)[:80]!r}, which is no OpenAI-compatible list of "
            f"models; {remedy}"
        ) from None
    if known and model not in known:
        raise ValueError(
            f"remote.model={model!r} is not on {wire.url}; it serves "
            f"{', '.join(known[:8])}"
        )


def _request(s: _Settings, prefix: Prefix, n, max_tokens, temperature, seed) -> dict:
    """One request, all that its answer depends on but the address."""
    request = {
        "model": s.model,
        "n": n,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    if s.api == "completions":
        request |= {"prompt": prefix.prompt + prefix.response}
    else:
        turns = [("user", prefix.prompt)]
        if s.api == "chat_prefill" and prefix.response:
            turns.append(("assistant", prefix.response))
            request |= {"continue_final_message": True, "add_generation_prompt": False}
        elif prefix.response:
            turns = [("user", INSTRUCTION.format(**prefix._asdict()))]
        request["messages"] = [{"role": role, "content": said} for role, said in turns]
    merged = request | dict(s.body)
    return {name: value for name, value in merged.items() if value is not None}


async def _answer(s: _Settings, totals: Counter, n: int, request: dict, http):
    """The n texts of one request, from the cache if they are there; or ``Unusable``."""
    place = replies.file_of(s.cache_dir, s.wire.url, s.api, request)
    found = replies.texts(place, n)
    if found is not None:
        totals.update(cache_hits=1)
        return found
    if s.token_budget and (totals["uncounted"] or _paid(totals) >= s.token_budget):
        return Unpaid()
    path = "completions" if s.api == "completions" else "chat/completions"
    try:
        reply = await transport.post(http, s.wire, totals, path, request)
        found = _texts(s.wire, reply, s.api, n)
    except Unusable as error:
        totals.update(failures=1)
        return error
    spent = transport.spent(reply)
    totals.update(spent, uncounted=not _paid(spent))
    if place is not None:
        shown = secrecy.hidden_within(request)
        replies.write(place, {"request": shown, "texts": found, "usage": spent})
    return found


def _paid(counts: Mapping) -> int:
    return counts["prompt_tokens"] + counts["completion_tokens"]


def _texts(wire: Wire, reply: dict, api: str, n: int) -> list[str]:
    """The n texts of a reply; fewer would be a smaller count, not a noisier one."""
    try:
        choices = reply["choices"]
        if api == "completions":
            found = [choice["text"] for choice in choices]
        else:
            found = [choice["message"]["content"] for choice in choices]
    except (LookupError, TypeError):
        why = wire.hide(", ".join(map(str, reply)))
        raise Unusable(f"a reply without texts, with the fields {why:.80}") from None
    if len(found) < n or not all(isinstance(text, str) for text in found):
        raise Unusable(f"{len(found)} choices, not {n} texts")
    # Half of a surrogate pair is no character, and nothing could write it down.
    return [text.encode("utf-8", "replace").decode() for text in found[:n]]


def _joined(totals: Counter, replies, prefix: Prefix, api: str) -> list[str] | None:
    """All samples of a prefix, or None where a part of them is missing or unusable."""
    if any(isinstance(reply, Unusable) for reply in replies):
        return None
    texts = [text for part in replies for text in part]
    refused = [False] * len(texts)
    if api == "chat":
        # Only there: an open turn is continued, and what it repeats it really repeats.
        refused = [continuations.is_refusal(text) for text in texts]
        texts = [continuations.cleaned(prefix.response, text) for text in texts]
    totals.update(
        texts=len(texts),
        empty=sum(text is not None and not text.strip() for text in texts),
        refused=sum(refused),
        restated=texts.count(None),
    )
    return None if None in texts or any(refused) else texts


def _stop_if_unpaid(replies: Sequence, s: _Settings, totals: Counter) -> None:
    kept = f"what was answered is in {s.cache_dir or 'no cache'}"
    if s.token_budget and totals["uncounted"]:
        raise ValueError(
            f"remote.token_budget={s.token_budget:,} cannot be kept: the server at "
            f"{s.wire.url} does not say how many tokens a reply took; {kept}; set it "
            "to 0"
        )
    if any(isinstance(reply, Unpaid) for reply in replies):
        raise ValueError(
            f"remote.token_budget={s.token_budget:,} is used up: {_paid(totals):,} "
            f"tokens were paid since this start, and each start counts anew; {kept}. "
            "Run the same command again for as many more, or raise it"
        )


def _stop_if_all_failed(replies: Sequence, s: _Settings) -> None:
    """One lost chunk is dropped; a server that answers nothing ends the run."""
    if replies and all(isinstance(reply, Unusable) for reply in replies):
        raise ConnectionError(
            f"the teacher's server at {s.wire.url} answered none of {len(replies)} "
            f"requests ({replies[0]}), the failed ones repeated up to {s.wire.retries} "
            f"times; what was answered before is in {s.cache_dir or 'no cache'}: start "
            "it, or correct remote.api or remote.per_request, and run the same command "
            "again"
        )
