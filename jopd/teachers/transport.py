"""Requests to a server, many at a time: a deadline for each, repetitions, totals.

wire = Wire("http://localhost:8000/v1", seconds=60.0, retries=5)
call = lambda http: post(http, wire, totals, "completions", {"prompt": "1+2="})
(reply,) = run(gathered(wire, [call]))  # a dict; raises Unusable
"""

import asyncio
import email.utils
import json
import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import httpx2

from jopd.teachers.secrecy import hidden

BACKOFF_SECONDS = 0.5  # before the first repetition, doubled with each further one
LONGEST_WAIT_SECONDS = 60.0
AGAIN = {429, *range(500, 600)} - {501, 505}  # that may be answered another time
LARGEST_REPLY = 2**26  # bytes, decompressed


class Unusable(Exception):
    """A request that stays unanswered; its text says why."""


class Wire(NamedTuple):
    """The way to a server.

    Attributes:
      url: without a login, and without a slash at its end.
      login: user and password, or None.
      key: bearer token; empty: none is sent.
      concurrency: requests under way at one time.
      seconds: from sending a request to the last byte of its reply.
      retries: repetitions of a request.
    """

    url: str
    login: tuple[str, str] | None = None
    key: str = ""
    concurrency: int = 8
    seconds: float = 60.0
    retries: int = 5

    def hide(self, text: str) -> str:
        return hidden(text, self.key, self.login[1] if self.login else "")


class Reply(NamedTuple):
    status: int
    headers: httpx2.Headers
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    def json(self):
        """The value; ValueError where it is none, or one nested too deeply."""
        try:
            return json.loads(self.content)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def run(coroutine):
    """Its result; in a notebook, whose thread has a loop already, from another one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def opened(wire: Wire) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {wire.key}"} if wire.key else {}
    limits = httpx2.Limits(max_connections=wire.concurrency)
    # Time is limited once, for the whole: a limit for every byte can be trickled past.
    return httpx2.AsyncClient(
        headers=headers, auth=wire.login, timeout=None, limits=limits
    )


async def fetch(http, wire: Wire, method: str, path: str, body=None) -> Reply:
    """One reply, read to its end.

    Raises:
      Unusable: refused, broken off, undecodable, too long, or not in time.
    """
    try:
        async with (
            asyncio.timeout(wire.seconds),
            http.stream(method, f"{wire.url}/{path}", json=body) as reply,
        ):
            content = bytearray()
            async for part in reply.aiter_bytes():
                content += part
                if len(content) > LARGEST_REPLY:
                    raise Unusable(f"a reply of more than {LARGEST_REPLY:,} bytes")
            return Reply(reply.status_code, reply.headers, bytes(content))
    except TimeoutError:
        raise Unusable(
            f"no whole reply within remote.timeout_seconds={wire.seconds:g}"
        ) from None
    except (httpx2.RequestError, httpx2.InvalidURL, UnicodeError) as error:
        why = wire.hide(f"{type(error).__name__}: {error}")
        raise Unusable(why) from None


async def post(http, wire: Wire, totals: Counter, path: str, body: dict) -> dict:
    """The decoded reply, after as many repetitions as it takes and are allowed.

    Raises:
      Unusable: all failed. ValueError: the server refuses key, address or model.
    """
    why = ""
    for attempt in range(wire.retries + 1):
        began, wait = time.perf_counter(), backoff(attempt)
        try:
            reply = await fetch(http, wire, "POST", path, body)
        except Unusable as error:
            why = str(error)
        else:
            if reply.status == 200:
                return decoded(wire, reply)
            why = f"{reply.status} {wire.hide(reply.text)[:200]!r}"
            if reply.status in (401, 403, 404):
                raise ValueError(refused(wire, reply))
            if reply.status not in AGAIN:
                raise Unusable(why)
            wait = asked_wait(reply.headers.get("Retry-After"), wait)
        finally:
            totals.update(requests=1, seconds=time.perf_counter() - began)
        if attempt < wire.retries:
            totals.update(retries=1)
            await asyncio.sleep(wait)
    raise Unusable(why)


def refused(wire: Wire, reply: Reply) -> str:
    doubt = "the address, which ends in its version, such as /v1, and the model's name"
    if reply.status != 404:
        doubt = "the key in the variable that remote.key_env names"
    said = wire.hide(reply.text)[:200]
    return f"{wire.url} answers {reply.status} {said!r}; check {doubt}"


def decoded(wire: Wire, reply: Reply) -> dict:
    try:
        value = reply.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        why = wire.hide(reply.text)[:80]
        raise Unusable(f"a reply that is no JSON object: {why!r}")
    return value


def backoff(attempt: int) -> float:
    """Seconds, doubling, spread over their upper half so that requests part."""
    longest = min(BACKOFF_SECONDS * 2 ** min(attempt, 20), LONGEST_WAIT_SECONDS)
    return longest * random.uniform(0.5, 1.0)


def asked_wait(header: str | None, otherwise: float) -> float:
    """Seconds that a ``Retry-After`` names, as a number or as a date."""
    if not header:
        return otherwise
    try:
        seconds = float(header)
        if seconds < 0 or math.isnan(seconds):
            return otherwise
    except ValueError:
        try:
            then = email.utils.parsedate_to_datetime(header)
            seconds = then.timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, IndexError):
            return otherwise
    return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)


def spent(reply: dict) -> dict[str, int]:
    """Tokens that cost money, as the server counted them; 0 where it does not say.

    Cached ones are among those of the prompt, those of reasoning among the
    completion's.
    """
    usage = reply.get("usage")
    read = lambda group, name: _count(group.get(name)) if isinstance(group, dict) else 0
    inside = lambda name: usage.get(name) if isinstance(usage, dict) else None
    return {
        "prompt_tokens": read(usage, "prompt_tokens"),
        "completion_tokens": read(usage, "completion_tokens"),
        "cached_tokens": read(inside("prompt_tokens_details"), "cached_tokens"),
        "reasoning_tokens": read(
            inside("completion_tokens_details"), "reasoning_tokens"
        ),
    }


def _count(value) -> int:
    return value if isinstance(value, int) and value > 0 else 0


async def gathered(wire: Wire, calls: Sequence) -> list:
    """Results of ``calls``, functions of a client, ``concurrency`` at a time."""
    gate = asyncio.Semaphore(wire.concurrency)

    async def one(http, call):
        async with gate:
            return await call(http)

    async with opened(wire) as http:
        return await asyncio.gather(*(one(http, call) for call in calls))
