"""Requests wait in a line, and what can be read together is.

One thread has the model: programs run one after the other. All texts that wait for
their log-probabilities are read at one time; what is written is drawn request by
request, as each has its own stream of random numbers.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from jopd.serving import reading
from jopd.setup.model import Model, Written
from jopd.teachers.likely import Scores


class Desk(NamedTuple):
    """``read(rows, k, asked)`` and ``write(prompts, options)``, both to be awaited."""

    read: Callable[..., Any]
    write: Callable[..., Any]


class _Texts(NamedTuple):
    rows: Sequence[Sequence[int]]
    k: int
    asked: Sequence[np.ndarray] | None
    answer: asyncio.Future


@contextlib.asynccontextmanager
async def opened(model: Model) -> AsyncIterator[Desk]:
    """A desk, until it is closed; what waits then is cancelled."""
    line: asyncio.Queue[_Texts] = asyncio.Queue()
    loop, pool = asyncio.get_running_loop(), ThreadPoolExecutor(1)

    async def read(rows, k: int = 0, asked=None) -> list[Scores]:
        given = _Texts(rows, k, asked, loop.create_future())
        line.put_nowait(given)
        return await given.answer

    async def write(prompts, options) -> list[list[Written]]:
        work = lambda: model.complete(prompts, **options)
        return await loop.run_in_executor(pool, work)

    async def serve() -> None:
        while True:
            waiting = [await line.get()]
            while not line.empty():
                waiting.append(line.get_nowait())
            await loop.run_in_executor(pool, _together, model, waiting, loop)

    worker = asyncio.create_task(serve())
    try:
        yield Desk(read, write)
    finally:
        worker.cancel()
        pool.shutdown(wait=True, cancel_futures=True)


def _together(model: Model, waiting: Sequence[_Texts], loop) -> None:
    """Reads what waits: requests for likely tokens as one, the others each alone."""
    likely = [one for one in waiting if one.asked is None]
    groups = [[one] for one in waiting if one.asked is not None]
    for group in [likely, *groups] if likely else groups:
        rows = [row for one in group for row in one.rows]
        asked = group[0].asked
        try:
            reads = reading.read(model, rows, max(one.k for one in group), asked)
        except Exception as error:
            _tell(loop, group, [error] * len(group))
            continue
        sizes = np.cumsum([0, *(len(one.rows) for one in group)])
        _tell(loop, group, [reads[a:b] for a, b in itertools.pairwise(sizes)])


def _tell(loop, group: Sequence[_Texts], results: Sequence) -> None:
    for one, result in zip(group, results, strict=True):
        loop.call_soon_threadsafe(_settle, one.answer, result)


def _settle(answer: asyncio.Future, result) -> None:
    if answer.cancelled():  # whoever asked has gone
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)
