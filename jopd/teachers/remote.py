"""Continuations from any OpenAI-compatible server: text only, no log-probabilities.

    client = remote.connect("http://localhost:8000/v1", "name", api="completions")
    client.continue_texts([Prefix("12+3=", "12+3=15;")], n=8, max_tokens=6,
                          temperature=1.0, seeds=[0])

Every reply is kept on disk under a hash of the whole request, so a run that is resumed,
or that asks the same again, pays nothing twice.
"""

import email.utils
import hashlib
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

APIS = ("completions", "chat", "chat_prefill")
# A continuation that begins with at least this much of the end of its prefix repeats it
# rather than happening to agree with it.
RESTATED_CHARACTERS = 16
BACKOFF_SECONDS = 0.5  # before the first repetition, doubled with each further one
LONGEST_WAIT_SECONDS = 60.0
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
        failures, prompt_tokens and completion_tokens (as the server reports them),
        seconds (spent waiting, over all threads).
    """

    continue_texts: Callable[..., list[list[str] | None]]
    counts: Callable[[], dict[str, float]]


class _Settings(NamedTuple):
    url: str
    model: str
    api: str
    concurrency: int
    retries: int
    per_request: int
    cache_dir: Path | None


class _Unusable(Exception):
    """A request that stays unanswered; its text says why."""


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
) -> Client:
    """Asks the server for its models, before anything expensive is done.

    Args:
      url: up to and with the version, e.g. ``http://localhost:8000/v1``.
      model: as the server calls it.
      api: "completions" continues prompt + response as one text. "chat_prefill" sends
        the response as an open assistant turn (``continue_final_message``, as vLLM and
        SGLang take it). "chat" works with every chat server: it asks for the rest in
        words (``INSTRUCTION``) and cuts off a prefix that is restated.
      key_env: environment variable that holds the API key; empty: none is sent.
      concurrency: requests under way at one time.
      timeout_seconds: for one reply.
      retries: repetitions after a refused connection, a time-out, 429 or 5xx, with
        exponential backoff and jitter; ``Retry-After`` is heeded.
      per_request: samples asked of one request, for servers that do not know ``n``; 0:
        all in one.
      cache_dir: None: nothing is kept.

    Raises:
      ConnectionError: the server does not answer. ValueError: it has no such model,
      the key is refused, or its variable is not set.
    """
    if api not in APIS:
        raise ValueError(f"remote.api={api!r} is unknown; use one of {', '.join(APIS)}")
    headers = {}
    if key_env:
        if key_env not in os.environ:
            raise ValueError(
                f"remote.key_env={key_env!r}: no such environment variable; export it, "
                "or set remote.key_env='' for a server without keys"
            )
        headers["Authorization"] = f"Bearer {os.environ[key_env]}"
    url = url.rstrip("/")
    settings = _Settings(
        *(url, model, api, concurrency, retries, per_request),
        cache_dir=Path(cache_dir).expanduser() if cache_dir else None,
    )
    limits = httpx2.Limits(max_connections=concurrency)
    http = httpx2.Client(headers=headers, timeout=timeout_seconds, limits=limits)
    _probe(http, url, model)
    counter = _Counter()

    def continue_texts(prefixes, n, max_tokens, temperature, seeds):
        per = settings.per_request or n
        bodies = [
            _body(settings, prefix, min(per, n - i), max_tokens, temperature, seed + i)
            for prefix, seed in zip(prefixes, seeds, strict=True)
            for i in range(0, n, per)
        ]
        with ThreadPoolExecutor(concurrency) as pool:
            replies = list(
                pool.map(lambda b: _answer(http, settings, counter, b), bodies)
            )
        _stop_if_all_failed(replies, settings)
        parts = -(-n // per)
        return [
            _joined(replies[i * parts : (i + 1) * parts], prefix, api)
            for i, prefix in enumerate(prefixes)
        ]

    return Client(continue_texts, counter.read)


class _Counter:
    """Totals that several threads add to."""

    def __init__(self):
        self._lock = threading.Lock()
        self._totals = Counter()

    def add(self, **amounts: float) -> None:
        with self._lock:
            self._totals.update(amounts)

    def read(self) -> dict[str, float]:
        names = ("requests", "cache_hits", "retries", "failures")
        names += ("prompt_tokens", "completion_tokens", "seconds")
        with self._lock:
            return {name: self._totals[name] for name in names}


def _probe(http, url: str, model: str) -> None:
    remedy = "start the server, or correct remote.url"
    try:
        reply = http.get(f"{url}/models")
    except (httpx2.RequestError, httpx2.InvalidURL) as error:
        raise ConnectionError(
            f"the teacher's server at {url} does not answer "
            f"({type(error).__name__}: {error}); {remedy}"
        ) from error
    if reply.status_code in (401, 403):
        raise ValueError(_refused(url, reply))
    if reply.status_code == 404:
        return  # no list of models is no fault; the first request will tell
    try:
        known = [str(entry["id"]) for entry in reply.raise_for_status().json()["data"]]
    except (httpx2.HTTPStatusError, ValueError, KeyError, TypeError) as error:
        raise ConnectionError(
            f"{url}/models answers {reply.status_code} {reply.text[:80]!r}, which is "
            f"no OpenAI-compatible list of models; {remedy}"
        ) from error
    if known and model not in known:
        raise ValueError(
            f"remote.model={model!r} is not on {url}; it serves {', '.join(known[:8])}"
        )


def _refused(url: str, reply) -> str:
    return (
        f"{url} answers {reply.status_code} {reply.text[:200]!r}; check the key in the "
        "variable that remote.key_env names, and remote.model"
    )


def _body(s: _Settings, prefix: Prefix, n, max_tokens, temperature, seed) -> dict:
    """One request, all that its answer depends on but the address."""
    body = {
        "model": s.model,
        "n": n,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    if s.api == "completions":
        return body | {"prompt": prefix.prompt + prefix.response}
    if s.api == "chat_prefill" and prefix.response:
        turns = [("user", prefix.prompt), ("assistant", prefix.response)]
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    elif prefix.response:
        turns = [("user", INSTRUCTION.format(**prefix._asdict()))]
    else:
        turns = [("user", prefix.prompt)]
    return body | {"messages": [{"role": r, "content": text} for r, text in turns]}


def _answer(http, s: _Settings, counter: _Counter, body: dict) -> list[str] | _Unusable:
    """The texts of one request, from the cache if they are there."""
    kept = _cache_file(s, body)
    if kept is not None and kept.exists():
        counter.add(cache_hits=1)
        return json.loads(kept.read_text(encoding="utf-8"))["texts"]
    try:
        reply = _post(http, s, counter, body)
        texts = _texts(reply, s.api, body["n"])
    except _Unusable as error:
        counter.add(failures=1)
        return error
    spent = _spent(reply)
    counter.add(**spent)
    if kept is not None:
        _write(kept, {"request": body, "texts": texts, "usage": spent})
    return texts


def _spent(reply: dict) -> dict[str, int]:
    """Tokens as the server counted them; 0 where it does not say, or no number."""
    usage = reply.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    given = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    return {name: n if isinstance(n, int) else 0 for name, n in given.items()}


def _cache_file(s: _Settings, body: dict) -> Path | None:
    if s.cache_dir is None:
        return None
    whole = json.dumps([s.url, s.api, body], sort_keys=True)
    name = hashlib.sha256(whole.encode()).hexdigest()
    return s.cache_dir / name[:2] / f"{name}.json"


def _write(path: Path, value: dict) -> None:
    """A reader sees the whole file or none, whoever else writes the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.{threading.get_ident()}.tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)


def _post(http, s: _Settings, counter: _Counter, body: dict) -> dict:
    """The decoded reply, after as many repetitions as it takes and are allowed."""
    path = "completions" if s.api == "completions" else "chat/completions"
    why = ""
    for attempt in range(s.retries + 1):
        began = time.perf_counter()
        reply, wait = None, _backoff(attempt)
        try:
            reply = http.post(f"{s.url}/{path}", json=body)
        except httpx2.RequestError as error:
            why = f"{type(error).__name__}: {error}"
        finally:
            counter.add(requests=1, seconds=time.perf_counter() - began)
        if reply is not None:
            if reply.status_code in (401, 403, 404):
                raise ValueError(_refused(s.url, reply))
            if reply.status_code == 429 or reply.status_code >= 500:
                wait = _asked_wait(reply.headers.get("Retry-After"), wait)
            elif reply.status_code != 200:
                raise _Unusable(f"{reply.status_code} {reply.text[:200]!r}")
            else:
                return _decoded(reply)
            why = f"{reply.status_code} {reply.text[:200]!r}"
        if attempt < s.retries:
            counter.add(retries=1)
            time.sleep(wait)
    raise _Unusable(why)


def _backoff(attempt: int) -> float:
    """Seconds, doubling, spread over their upper half so that threads part."""
    longest = min(BACKOFF_SECONDS * 2**attempt, LONGEST_WAIT_SECONDS)
    return longest * random.uniform(0.5, 1.0)


def _asked_wait(header: str | None, otherwise: float) -> float:
    """Seconds that a ``Retry-After`` names, as a number or as a date."""
    if not header:
        return otherwise
    try:
        seconds = float(header)
    except ValueError:
        try:
            then = email.utils.parsedate_to_datetime(header)
        except ValueError:
            return otherwise
        seconds = then.timestamp() - time.time()
    return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)


def _decoded(reply) -> dict:
    try:
        value = reply.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _Unusable(f"a reply that is no JSON object: {reply.text[:80]!r}")
    return value


def _texts(reply: dict, api: str, n: int) -> list[str]:
    """The n texts of a reply; fewer would be a smaller count, not a noisier one."""
    try:
        choices = reply["choices"]
        if api == "completions":
            found = [choice["text"] for choice in choices]
        else:
            found = [choice["message"]["content"] for choice in choices]
    except (KeyError, TypeError):
        raise _Unusable(f"a reply without texts: {str(reply)[:80]}") from None
    if len(found) < n or not all(isinstance(text, str) for text in found):
        raise _Unusable(f"{len(found)} choices, not {n} texts")
    return found[:n]


def _joined(replies: Sequence, prefix: Prefix, api: str) -> list[str] | None:
    """All samples of a prefix, or None where a part of them is missing."""
    if any(isinstance(reply, _Unusable) for reply in replies):
        return None
    texts = [text for part in replies for text in part]
    if api == "chat":
        # Only there: an open turn is continued, and what it repeats it really repeats.
        texts = [without_restated(prefix.response, text) for text in texts]
    return None if None in texts else texts


def without_restated(prefix: str, text: str) -> str | None:
    """``text`` without a beginning that repeats ``prefix`` or its end.

    None if the limit was reached while the prefix was still being repeated. Agreements
    of fewer than ``RESTATED_CHARACTERS`` are left alone: they may be meant.
    """
    if len(prefix) < RESTATED_CHARACTERS:
        return text
    if len(text) >= RESTATED_CHARACTERS and prefix.startswith(text):
        return None
    for start in range(len(prefix) - RESTATED_CHARACTERS + 1):
        if text.startswith(prefix[start:]):
            return text[len(prefix) - start :]
    return text


def _stop_if_all_failed(replies: Sequence, s: _Settings) -> None:
    """One lost chunk is dropped; a server that answers nothing ends the run."""
    if replies and all(isinstance(reply, _Unusable) for reply in replies):
        raise ConnectionError(
            f"the teacher's server at {s.url} answered none of {len(replies)} requests "
            f"({replies[0]}), the failed ones repeated up to {s.retries} times; what "
            f"was answered before is in {s.cache_dir or 'no cache'}: start it, or "
            "correct remote.api or remote.per_request, and run the same command again"
        )
