"""The routes of a server, for any ASGI runner: ``app(model, "name")``."""

import contextlib
import hmac
import json
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from jopd.serving import chosen, desk, protocol
from jopd.setup.model import Model

LARGEST_BODY = 2**26  # bytes


def app(model: Model, name: str, *, key: str = "") -> Starlette:
    """Serves ``model`` as ``name``; with a ``key`` only to those who send it."""

    @contextlib.asynccontextmanager
    async def lifespan(served: Starlette):
        async with desk.opened(model) as found:
            served.state.desk = found
            yield

    async def models(request: Request) -> JSONResponse:
        if not _known(request, key):
            return _refused(401, "the key is missing or wrong")
        room = model.config.max_positions
        one = {"id": name, "object": "model", "owned_by": "jopd", "max_model_len": room}
        return JSONResponse({"object": "list", "data": [one]})

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    def answering(answer):
        async def handle(request: Request) -> JSONResponse:
            if not _known(request, key):
                return _refused(401, "the key is missing or wrong")
            try:
                found = await answer(request.app.state.desk, await _body(request))
            except protocol.Unknown as error:
                return _refused(404, str(error))
            except ValueError as error:
                return _refused(400, str(error))
            except ClientDisconnect:
                return _refused(400, "the body ended before its end")
            except Exception as error:  # one request, not the server
                return _refused(500, f"{type(error).__name__}: {error}")
            return JSONResponse(found)

        return handle

    def completing(chat: bool):
        async def answer(at: desk.Desk, body) -> dict[str, Any]:
            return await _complete(
                model, at, protocol.job(model, name, body, chat=chat)
            )

        return answering(answer)

    async def about_chosen(at: desk.Desk, body) -> dict[str, Any]:
        return await _read_chosen(at, chosen.request(model, name, body))

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/completions", completing(chat=False), methods=["POST"]),
            Route("/v1/chat/completions", completing(chat=True), methods=["POST"]),
            Route("/inference/v1/generate", answering(about_chosen), methods=["POST"]),
        ],
        lifespan=lifespan,
    )


async def _complete(model: Model, at: desk.Desk, asked: protocol.Job) -> dict[str, Any]:
    if asked.options["max_new_tokens"]:
        written = await at.write(asked.prompts, asked.options)
    else:
        written = protocol.nothing(asked)
    reads = []
    if asked.reads is not None:
        reads = await at.read(protocol.texts_read(asked, written), asked.reads)
    return protocol.answer(model, asked, written, reads)


async def _read_chosen(at: desk.Desk, asked: chosen.Chosen) -> dict[str, Any]:
    """Of the places behind ``start``; those before it are read for nothing."""
    rows, width = asked.ids.shape
    if not rows or not width:
        return chosen.answer(asked, None)
    ids = np.zeros((len(asked.tokens) - 1, width), np.int32)
    ids[asked.start :] = np.maximum(asked.ids, 0)
    (read,) = await at.read([asked.tokens], width, [ids])
    return chosen.answer(asked, read)


async def _body(request: Request) -> Any:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LARGEST_BODY:
            raise ValueError(f"a body of more than {LARGEST_BODY:,} bytes")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is no JSON: {error}") from None


def _known(request: Request, key: str) -> bool:
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    same = hmac.compare_digest(given.encode(), key.encode())
    return not key or (same and kind.lower() == "bearer")


def _refused(status: int, why: str) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": why, "type": kind, "code": status}
    return JSONResponse({"error": error}, status_code=status)
