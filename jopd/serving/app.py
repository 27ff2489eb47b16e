"""The routes of a server, for any ASGI runner: ``app(model, "name")``."""

import contextlib
import hmac
import json
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from jopd.serving import desk, protocol
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

    def answering(chat: bool):
        async def answer(request: Request) -> JSONResponse:
            if not _known(request, key):
                return _refused(401, "the key is missing or wrong")
            try:
                body = await _body(request)
                asked = protocol.job(model, name, body, chat=chat)
                found = await _answer(model, request.app.state.desk, asked)
            except protocol.Unknown as error:
                return _refused(404, str(error))
            except ValueError as error:
                return _refused(400, str(error))
            return JSONResponse(found)

        return answer

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/completions", answering(False), methods=["POST"]),
            Route("/v1/chat/completions", answering(True), methods=["POST"]),
        ],
        lifespan=lifespan,
    )


async def _answer(model: Model, at: desk.Desk, asked: protocol.Job) -> dict[str, Any]:
    if asked.options["max_new_tokens"]:
        written = await at.write(asked.prompts, asked.options)
    else:
        written = protocol.nothing(asked)
    reads = []
    if asked.reads is not None:
        reads = await at.read(protocol.texts_read(asked, written), asked.reads)
    return protocol.answer(model, asked, written, reads)


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
    given = request.headers.get("Authorization", "")
    return not key or hmac.compare_digest(given.encode(), f"Bearer {key}".encode())


def _refused(status: int, why: str) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": why, "type": kind, "code": status}
    return JSONResponse({"error": error}, status_code=status)
