"""The code interpreter of a sandbox, on port 49999: runs cells in contexts and streams what they do as JSON lines.

Started as `python3 -m uvicorn main:app`. It does not listen before the default contexts are warm, so that a template
that is snapshotted once /health answers gives clones whose first cell runs at once. Started again after a crash it listens
immediately, and cells wait for their kernels.
"""

import asyncio
import contextlib
import json
import logging
import os
import re

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

import languages
from context import Contexts, UnknownLanguage

KEEPALIVE_SECONDS = float(os.environ.get("CUBE_KEEPALIVE_SECONDS", "5"))
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

contexts = Contexts()


class BadRequest(Exception):
    pass


async def body_of(request: Request) -> dict:
    raw = await request.body()
    try:
        body = json.loads(raw) if raw else {}
    except ValueError as error:
        raise BadRequest(f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object")
    return body


def text_of(body: dict, name: str) -> str:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"'{name}' must be a string")
    return value or ""


def environment_of(body: dict) -> dict[str, str]:
    variables = body.get("env_vars") or {}
    if not isinstance(variables, dict):
        raise BadRequest("'env_vars' must be an object")
    for name, value in variables.items():
        if not ENVIRONMENT_NAME.fullmatch(name) or not isinstance(value, str) or "\0" in value:
            raise BadRequest(f"'env_vars' has a bad entry: {name!r}")
    return variables


async def health(_: Request):
    return JSONResponse("OK")


async def execute(request: Request):
    body = await body_of(request)
    if not isinstance(body.get("code"), str):
        raise BadRequest("'code' must be a string")
    context_id, language = text_of(body, "context_id"), text_of(body, "language")
    variables = environment_of(body)
    if context_id and language:
        return PlainTextResponse("Only one of context_id or language can be provided", status_code=400)
    if context_id:
        context = contexts.find(context_id)
        if context is None:
            return PlainTextResponse(f"Context {context_id} not found", status_code=404)
    else:
        try:
            context = await contexts.default_for(languages.normalize(language))
        except Exception as error:  # noqa: BLE001 whatever a kernel's start-up fails with
            return PlainTextResponse(str(error), status_code=500)
    execution = context.submit(body["code"], variables, request.headers.get("x-access-token", ""))
    return Events(execution)


class Events(StreamingResponse):
    """Ends when the client is gone; the cell is interrupted then."""

    def __init__(self, execution):
        super().__init__(lines(execution), media_type="application/x-ndjson")
        self._execution = execution

    async def __call__(self, scope, receive, send):
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._execution.abandon()


async def lines(execution):
    while True:
        try:
            event = await asyncio.wait_for(execution.next_event(), KEEPALIVE_SECONDS)
        except asyncio.TimeoutError:
            # Also finds out whether a client that vanished without a word is still there.
            yield '{"type": "keepalive"}\n'
            continue
        if event is None:
            break
        yield json.dumps(event) + "\n"
    yield '{"type": "end_of_execution"}\n'


async def create_context(request: Request):
    body = await body_of(request)
    language = languages.normalize(text_of(body, "language"))
    cwd = text_of(body, "cwd") or languages.HOME
    if not os.path.isdir(cwd) or not os.access(cwd, os.X_OK):
        raise BadRequest(f"'cwd' is not a directory the interpreter can enter: {cwd}")
    try:
        context = await contexts.create(language, cwd)
    except UnknownLanguage as error:
        raise BadRequest(str(error)) from error
    except Exception as error:  # noqa: BLE001
        return PlainTextResponse(str(error), status_code=500)
    return JSONResponse(context.description())


async def list_contexts(_: Request):
    return JSONResponse([context.description() for context in await contexts.all()])


async def restart_context(request: Request):
    return await on_context(request, "restart", contexts.restart)


async def remove_context(request: Request):
    return await on_context(request, "remove", contexts.remove)


async def on_context(request: Request, name: str, action):
    context = contexts.find(request.path_params["id"])
    if context is None:
        return PlainTextResponse(f"Context {request.path_params['id']} not found", status_code=404)
    try:
        await action(context)
    except Exception as error:  # noqa: BLE001
        return PlainTextResponse(f"Failed to {name} context {context.id}: {error}", status_code=500)
    return JSONResponse(None)


async def bad_request(_: Request, error: Exception):
    return PlainTextResponse(str(error), status_code=400)


@contextlib.asynccontextmanager
async def lifespan(_: Starlette):
    logging.basicConfig(level=logging.WARNING)
    await contexts.prepare()
    try:
        yield
    finally:
        await contexts.close()


app = Starlette(
    routes=[
        Route("/health", health),
        Route("/execute", execute, methods=["POST"]),
        Route("/contexts", list_contexts, methods=["GET"]),
        Route("/contexts", create_context, methods=["POST"]),
        Route("/contexts/{id}", remove_context, methods=["DELETE"]),
        Route("/contexts/{id}/restart", restart_context, methods=["POST"]),
    ],
    middleware=[Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])],
    exception_handlers={BadRequest: bad_request},
    lifespan=lifespan,
)
