"""Continuations from any OpenAI-compatible server: text only, no log-probabilities.

    client = remote.connect("http://localhost:8000/v1", "name", api="completions")
    client.continue_texts([Prefix("12+3=", "12+3=15;")], n=8, max_tokens=6,
                          temperature=1.0, seeds=[0])

Every reply is kept on disk under a hash of the whole request, so a run that is resumed,
or that asks the same again, pays nothing twice.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jopd.teachers import continuations, replies, servers
from jopd.teachers.replies import Kept
from jopd.teachers.servers import Server
from jopd.teachers.transport import Unusable, Wire

APIS = ("completions", "chat", "chat_prefill")
# What a request is about: not for ``body`` to change. A stream is another protocol.
OWN_FIELDS = ("model", "prompt", "messages", "n", "stream")
BLAME = "remote.api or remote.per_request"
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
      counts: ``() -> dict``, totals since ``connect``: ``servers.COUNTS``, and of what
        came back ``KINDS``.
    """

    continue_texts: Callable[..., list[list[str] | None]]
    counts: Callable[[], dict[str, float]]


class _Settings(NamedTuple):
    server: Server
    model: str
    api: str
    per_request: int
    body: Mapping


def connect(
    url: str,
    model: str,
    *,
    api: str = "completions",
    per_request: int = 0,
    body: Mapping | None = None,
    **way,
) -> Client:
    """Asks the server for its models, before anything expensive is done.

    Args:
      url, model, way: of ``servers.reach``, errors as there.
      api: "completions" continues prompt + response as one text. "chat_prefill" sends
        the response as an open assistant turn (``continue_final_message``, as vLLM and
        SGLang take it). "chat" works with every chat server: it asks for the rest in
        words (``INSTRUCTION``) and cuts off openers, quotes and a restated prefix.
      per_request: samples asked of one request, for servers that do not know ``n``; 0:
        all in one.
      body: fields that every request has, too; None takes a field out.
    """
    if api not in APIS:
        raise ValueError(f"remote.api={api!r} is unknown; use one of {', '.join(APIS)}")
    body = dict(body or {})
    check_body(body, per_request)
    server = servers.reach(url, model, **way)
    settings = _Settings(server, model, api, per_request, body)
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
        replies = servers.ask(server, totals, calls, BLAME)
        each = len(sizes)
        return [
            _joined(totals, replies[i * each : (i + 1) * each], prefix, api)
            for i, prefix in enumerate(prefixes)
        ]

    return Client(
        continue_texts, lambda: {k: totals[k] for k in (*servers.COUNTS, *KINDS)}
    )


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
    path = "completions" if s.api == "completions" else "chat/completions"
    read = functools.partial(_texts, s.server.wire, api=s.api, n=n)
    place = replies.file_of(s.server.cache_dir, s.server.wire.url, s.api, request)
    kept = Kept(place, "texts", n, str)
    return await servers.answer(s.server, totals, path, request, read, kept, http)


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
