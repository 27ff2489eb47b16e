"""Replies of a teacher's server, and what its cache holds.

Right is: the texts of a reply that has them, in order; None for a chunk that has not.
"""

import json
import random
import shutil
from pathlib import Path

import httpx2

from hostile_inputs import Case, damage, dump, mutate_json, nasty
from jopd.teachers import continuations, remote, transport

URL = "http://teacher.invalid/v1"
N = 3
PREFIX = remote.Prefix("12+3=", "12+3=15; and so on it goes")
ERRORS = (
    httpx2.ConnectError("refused"),
    httpx2.ReadTimeout("slow"),
    httpx2.RemoteProtocolError("cut"),
    httpx2.ReadError("reset"),
    httpx2.DecodingError("gzip"),
    httpx2.TooManyRedirects("round"),
)
AFTER = ("nan", "inf", "-1", "x", "1e400", "Wed, 21 Oct 2099 07:28:00 GMT", "", "0.0")
CODES = (*[200] * 24, 201, 204, 301, 400, 401, 404, 418, 429, 500, 503)


class Server:
    """Answers what it was told to, and remembers the last answer with texts."""

    def __init__(self, rng: random.Random, api: str):
        self.rng, self.api, self.sent = rng, api, []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/models"):
            listed = {"data": [{"id": "model"}]}
            return self.answer(listed) if self.rng.random() < 0.2 else _json(listed)
        asked = json.loads(request.content)["n"]
        texts = [f"{i}: {self.rng.random()}" for i in range(asked)]
        named = [{"text": t} for t in texts]
        if self.api != "completions":
            named = [{"message": {"role": "assistant", "content": t}} for t in texts]
        usage = {"prompt_tokens": 5, "completion_tokens": 9}
        return self.answer({"choices": named, "usage": usage, "id": "x"})

    def answer(self, value: dict) -> httpx2.Response:
        rng = self.rng
        if rng.random() < 0.1:
            raise rng.choice(ERRORS)
        code, content = rng.choice(CODES), dump(value)
        how = rng.random()
        if how < 0.4:
            content = dump(mutate_json(rng, value)[0])
        elif how < 0.7:
            content = damage(rng, content)[0]
        headers = {"Retry-After": rng.choice(AFTER)} if rng.random() < 0.5 else {}
        if rng.random() < 0.1:
            headers["Content-Type"] = rng.choice(["text/html", "a/b; charset=x", ""])
        self.sent.append((code, content))
        return httpx2.Response(code, content=content, headers=headers)


def _json(value) -> httpx2.Response:
    return httpx2.Response(200, content=dump(value))


def prepare(scratch: Path):
    plain, transport.BACKOFF_SECONDS = httpx2.AsyncClient, 0.0
    transport.LONGEST_WAIT_SECONDS = 0.0

    def make(rng: random.Random) -> Case:
        api = rng.choice(remote.APIS)
        server = Server(rng, api)
        cache = scratch / "cache"
        shutil.rmtree(cache, ignore_errors=True)

        def client(**options):
            return plain(transport=httpx2.MockTransport(server), **options)

        def run() -> str | None:
            transport.httpx2.AsyncClient = client
            try:
                return _ask(rng, server, api, cache)
            finally:
                transport.httpx2.AsyncClient = plain

        return Case(f"{api}, {server.sent}", (URL, "remote."), run)

    return make


def _ask(rng: random.Random, server: Server, api: str, cache: Path) -> str | None:
    keep = rng.random() < 0.5
    asked = remote.connect(
        URL,
        "model",
        api=api,
        concurrency=1,
        retries=rng.randrange(2),
        cache_dir=cache if keep else None,
    )
    how = ([PREFIX], N, 6, 1.0, [0])
    server.sent.clear()
    found = asked.continue_texts(*how)
    wrong = _compare(found[0], server)
    if wrong or not keep or found[0] is None:
        return wrong
    return _from_cache(rng, asked, how, found, cache, server)


def _compare(found, server: Server) -> str | None:
    """The texts against the last reply, read apart from the project."""
    code, content = server.sent[-1]
    try:
        choices = json.loads(content)["choices"]
        if server.api == "completions":
            want = [choice["text"] for choice in choices][:N]
        else:
            want = [choice["message"]["content"] for choice in choices][:N]
    except (ValueError, KeyError, TypeError, RecursionError):
        want = None
    if want is not None:
        want = [text if isinstance(text, str) else None for text in want]
        want = [text and text.encode("utf-8", "replace").decode() for text in want]
    if server.api == "chat" and want is not None and None not in want:
        if any(map(continuations.is_refusal, want)):
            want = None
        else:
            want = [continuations.cleaned(PREFIX.response, text) for text in want]
    if found is None:
        whole = want is not None and len(want) == N and code == 200
        whole = whole and all(isinstance(text, str) for text in want)
        return f"a whole reply was dropped: {content!r:.200}" if whole else None
    if found != want:
        return f"{found} from {code} {content!r:.200}"
    return None


def _from_cache(rng, asked, how, found, cache: Path, server: Server) -> str | None:
    """Once more: the same from the cache, or asked anew where that is damaged."""
    file = next(cache.rglob("*.json"), None)
    if file is None:
        return "nothing was kept"
    damaged = rng.random() < 0.7
    if damaged:
        if rng.random() < 0.5:
            kept, _ = damage(rng, file.read_bytes())
        else:
            kept = dump(mutate_json(rng, json.loads(file.read_bytes()))[0])
        file.write_bytes(kept if rng.random() < 0.9 else dump(nasty(rng)))
    server.sent.clear()
    again = asked.continue_texts(*how)
    if server.sent:
        return _compare(again[0], server) if damaged else "asked again"
    if "sha256" not in str(file.read_bytes()):
        return None  # taken for one from before there was a sum
    return None if again == found else f"{again} from the cache, {found} before"
