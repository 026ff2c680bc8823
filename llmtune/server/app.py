"""The endpoint itself: routes, keys, the size of bodies, streams, and clients that go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune._safety.browser import host_name, is_loopback
from llmtune.provider.generation import Generation
from llmtune.server.guard import check_key, guard, guard_unknown, parse_json_object, require_json
from llmtune.server.protocol import Asked, Cutter, Refused, Writer, read
from llmtune.server.queue import Line, Question

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

#: Bytes that a request may have, and up to which a larger one is read (and thrown away) so that its sender hears why.
LARGEST, READ_AWAY = 10 << 20, 256 << 20
#: Seconds in which a body must be here.
BODY_SECONDS = 60.0


@dataclass(frozen=True)
class Served:
    """A model of the endpoint: what it is called, when it was made, and the line before it."""

    name: str
    created: int
    line: Line

    def listed(self) -> dict[str, Any]:
        """As GET /v1/models has it."""
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "llmtune"}


def make_app(models: Mapping[str, Served], key: str | None) -> Starlette:
    """The application. `models` by every name they answer to; `key` is None where none is asked for."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    def authorize(request: Request) -> None:
        if key is not None:
            check_key(request, key)
            return
        # Another site's name may be made to point at this machine: its pages must not be able to ask.
        host = request.headers.get("host", "")
        if not is_loopback(host_name(host)):
            raise Refused(403, f"without a key only this machine is answered, not the host {host!r}")

    def find(name: str) -> Served:
        found = models.get(name)
        if found is None:
            known = ", ".join(sorted({each.name for each in models.values()}))
            raise Refused(404, f"there is no model {name!r} here; there are {known}", code="model_not_found")
        return found

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def list_models(request: Request) -> Response:
        by_name = {served.name: served for served in models.values()}
        return JSONResponse({"object": "list", "data": [by_name[name].listed() for name in sorted(by_name)]})

    async def get_model(request: Request) -> Response:
        return JSONResponse(find(request.path_params["model"]).listed())

    async def completions(request: Request) -> Response:
        require_json(request)
        asked = read(parse_json_object(await read_body(request)))
        return await answer_chat(request, asked, find(asked.model).line)

    routes = [
        Route("/health", guard(health)),
        Route("/v1/models", guard(list_models, authorize)),
        Route("/v1/models/{model:path}", guard(get_model, authorize)),
        Route("/v1/chat/completions", guard(completions, authorize), methods=["POST"]),
    ]
    unknown = guard_unknown(authorize, hint="; see GET /v1/models")
    return Starlette(routes=routes, exception_handlers={404: unknown, 405: unknown})


async def answer_chat(request: Request, asked: Asked, line: Line) -> Response:
    """Answer a chat completion, whole or as a stream. Raises `Refused`."""
    from starlette.responses import JSONResponse, Response, StreamingResponse

    answers = _ask(line, asked)
    if asked.stream:
        return StreamingResponse(
            _stream(answers, asked), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )
    answer = await _unless_gone(request, answers)
    if answer is None:
        return Response(status_code=499)
    return JSONResponse(Writer(asked.model).whole(answer, asked))


async def read_body(request: Request) -> bytes:
    """The body, never more of it in memory than `LARGEST`. Raises `Refused` when it is too large or too slow."""
    from starlette.requests import ClientDisconnect

    told = request.headers.get("content-length", "")
    size, parts = 0, []
    if told.isdigit() and int(told) > READ_AWAY:
        raise _too_large()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > READ_AWAY:
                    raise _too_large()
                if size <= LARGEST:
                    parts.append(part)
                else:
                    parts.clear()
    except TimeoutError:
        raise Refused(408, f"the body did not come within {BODY_SECONDS:.0f} seconds") from None
    except ClientDisconnect:
        raise Refused(400, "the client went away") from None
    if size > LARGEST:
        raise _too_large()
    return b"".join(parts)


def _too_large() -> Refused:
    return Refused(413, f"the body is larger than {LARGEST >> 20} MB", code="request_too_large")


class _Answers:
    """What comes of one question, for one client; leaving it tells the model that nobody waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[str | Generation | Exception] = asyncio.Queue()
        self.question: Question | None = None

    def put(self, event: str | Generation | Exception) -> None:
        """From the model's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)

    def leave(self) -> None:
        """Nobody waits any more."""
        if self.question is not None:
            self.question.leave()


def _ask(line: Line, asked: Asked) -> _Answers:
    answers = _Answers()
    answers.question = Question(request=asked.request, piece=answers.put, done=answers.put)
    line.ask(answers.question)
    return answers


async def _whole(answers: _Answers) -> Generation:
    while True:
        event = await answers.events.get()
        if isinstance(event, Exception):
            raise Refused.of(event) from event
        if isinstance(event, Generation):
            return event


async def _unless_gone(request: Request, answers: _Answers) -> Generation | None:
    """The whole answer; None when the client went away before it was there."""
    answer = asyncio.ensure_future(_whole(answers))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        answers.leave()
        answer.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(answers: _Answers, asked: Asked) -> AsyncIterator[bytes]:
    """Server-sent events. A backend that tells nothing while it answers is sent as one piece."""
    writer, cutter = Writer(asked.model), Cutter(asked.stop)
    sent = False
    try:
        yield writer.first()
        while True:
            event = await answers.events.get()
            if isinstance(event, Exception):
                yield writer.broken(Refused.of(event))
                return
            text = event if isinstance(event, str) else "" if sent else event.text
            sent = True
            out = cutter.more(text)
            if isinstance(event, Generation):
                out += cutter.rest()
            if out:
                yield writer.piece(out)
            if cutter.ended:
                answers.leave()  # the model may stop; how it ended still comes
            if isinstance(event, Generation):
                yield writer.last(event, cutter, usage=asked.usage)
                return
    finally:
        answers.leave()
