"""A server of OpenAI's protocol: asked whether it is there, then for what is not kept.

    server = reach("http://localhost:8000/v1", "name")
    call = functools.partial(answer, server, totals, "completions", request, read, kept)
    (reply,) = ask(server, totals, [call], "teacher.url")

Every reply is kept on disk under a hash of its whole request.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jopd.teachers import replies, secrecy, transport
from jopd.teachers.replies import Kept
from jopd.teachers.transport import Unusable, Wire

# As the server reports them; ``seconds`` are spent waiting, over all requests.
COSTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
COUNTS = ("requests", "cache_hits", "retries", "failures", *COSTS, "seconds")


class Server(NamedTuple):
    """A server that answered.

    Attributes:
      where: what its keys begin with: ``<where>.url``.
      cache_dir: None: nothing is kept.
      token_budget: no request is sent once so many tokens, read and written, were paid;
        those under way are still answered. 0: no limit.
    """

    wire: Wire
    where: str = "remote"
    cache_dir: Path | None = None
    token_budget: int = 0


class Unpaid(Unusable):
    """A request that was not sent: the budget is used up."""


def reach(
    url: str,
    model: str,
    *,
    where: str = "remote",
    key_env: str = "",
    concurrency: int = 8,
    timeout_seconds: float = 60.0,
    retries: int = 5,
    cache_dir: str | Path | None = None,
    token_budget: int = 0,
) -> Server:
    """Asks a server for its models.

    Args:
      url: up to and with the version, e.g. ``http://localhost:8000/v1``; may have a
        login (``https://user:password@host/v1``).
      model: as the server calls it.
      where: what its keys begin with, as a user knows them.
      key_env: environment variable that holds the API key; empty: none is sent.
      concurrency: requests under way at one time.
      timeout_seconds: from a request to the end of its reply.
      retries: repetitions after a refused connection, a time-out, 429 or 5xx, with
        exponential backoff and jitter; ``Retry-After`` is heeded.
      cache_dir, token_budget: see ``Server``.

    Raises:
      ConnectionError: the server does not answer. ValueError: it has no such model,
      the key is refused, its variable is not set, or the cache cannot be written.
    """
    url, login = secrecy.without_login(url.rstrip("/"))
    key = _key(key_env, login, where)
    wire = Wire(url, login, key, concurrency, timeout_seconds, retries)
    folder = Path(cache_dir).expanduser() if cache_dir else None
    replies.check(folder)
    server = Server(wire, where, folder, token_budget)
    transport.run(transport.gathered(wire, [functools.partial(_probe, server, model)]))
    return server


def _key(key_env: str, login, where: str) -> str:
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
            f"remote.key_env={key_env!r} and the login in {where}.url are two ways to "
            "say who asks; leave one out"
        )
    return secrecy.usable_key(os.environ[key_env], key_env)


async def _probe(s: Server, model: str, http) -> None:
    wire, remedy = s.wire, f"start the server, or correct {s.where}.url"
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
            f"{s.where}.model={model!r} is not on {wire.url}; it serves "
            f"{', '.join(known[:8])}"
        )


async def answer(
    s: Server,
    totals: Counter,
    path: str,
    request: dict,
    read: Callable[[dict], list],
    kept: Kept,
    http,
):
    """What ``read`` finds in the reply to a request; or ``Unusable``.

    From the cache where it is there. ``read`` raises Unusable for a reply without it.
    """
    found = replies.read(kept)
    if found is not None:
        totals.update(cache_hits=1)
        return found
    if s.token_budget and (totals["uncounted"] or _paid(totals) >= s.token_budget):
        return Unpaid()
    try:
        reply = await transport.post(http, s.wire, totals, path, request)
        found = read(reply)
    except Unusable as error:
        totals.update(failures=1)
        return error
    spent = transport.spent(reply)
    totals.update(spent, uncounted=not _paid(spent))
    if kept.path is not None:
        shown = secrecy.hidden_within(request)
        replies.write(kept.path, {"request": shown, kept.field: found, "usage": spent})
    return found


def ask(s: Server, totals: Counter, calls: Sequence[Callable], blame: str) -> list:
    """Results of calls of ``answer``; one that is lost is ``Unusable``.

    ``blame``: keys that may be wrong where all are lost.

    Raises:
      ConnectionError: all of them are. ValueError: the budget is used up, or cannot be
      kept.
    """
    found = transport.run(transport.gathered(s.wire, calls))
    _stop_if_unpaid(found, s, totals)
    if found and all(isinstance(reply, Unusable) for reply in found):
        raise ConnectionError(
            f"the teacher's server at {s.wire.url} answered none of {len(found)} "
            f"requests ({found[0]}), the failed ones repeated up to {s.wire.retries} "
            f"times; what was answered before is in {s.cache_dir or 'no cache'}: start "
            f"it, or correct {blame}, and run the same command again"
        )
    return found


def _stop_if_unpaid(found: Sequence, s: Server, totals: Counter) -> None:
    kept = f"what was answered is in {s.cache_dir or 'no cache'}"
    if s.token_budget and totals["uncounted"]:
        raise ValueError(
            f"remote.token_budget={s.token_budget:,} cannot be kept: the server at "
            f"{s.wire.url} does not say how many tokens a reply took; {kept}; set it "
            "to 0"
        )
    if any(isinstance(reply, Unpaid) for reply in found):
        raise ValueError(
            f"remote.token_budget={s.token_budget:,} is used up: {_paid(totals):,} "
            f"tokens were paid since this start, and each start counts anew; {kept}. "
            "Run the same command again for as many more, or raise it"
        )


def _paid(counts: Mapping) -> int:
    return counts["prompt_tokens"] + counts["completion_tokens"]
