"""The chat endpoint: routes, keys, body limits, streams, and clients that disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune._safety.browser import host_name, is_loopback
from llmtune.provider.generation import Generation, GenerationRequest, LabelScorer
from llmtune.server.decisions import (
    DecisionRequest,
    parse_decision_request,
    read_model_name,
    write_decisions,
)
from llmtune.server.guard import check_key, guard, guard_unknown, json_response, parse_json_object, require_json
from llmtune.server.protocol import ChatRequest, RequestError, StopFilter, Writer, parse_chat_request
from llmtune.server.queue import BatchQueue, QueuedRequest

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from llmtune.metrics.decisions import DecisionRules

#: Bytes that a body may have. A larger one is read and discarded up to the second limit, so that its sender gets a 413.
MAX_BODY_BYTES, MAX_DISCARDED_BYTES = 10 << 20, 256 << 20
#: Seconds within which a body must arrive.
BODY_SECONDS = 60.0


@dataclass(frozen=True)
class Served:
    """A model of the endpoint: its name, its creation time in Unix seconds, and its queue."""

    name: str
    created: int
    queue: BatchQueue
    rules: DecisionRules | None = None
    """How its labels are decided; None where it was not calibrated."""

    def describe(self) -> dict[str, Any]:
        """Return the model object of GET /v1/models."""
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "llmtune"}


def make_app(models: Mapping[str, Served], key: str | None) -> Starlette:
    """Build the application. `models` are keyed by every name they answer to; `key` is None for no authentication."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    def authorize(request: Request) -> None:
        if key is not None:
            check_key(request, key)
            return
        # DNS rebinding: another site's name may resolve to this machine, and its pages must not get answers.
        host = request.headers.get("host", "")
        if not is_loopback(host_name(host)):
            raise RequestError(
                403, f"without a key, only requests from this machine are answered, not for the host {host!r}"
            )

    def find(name: str) -> Served:
        model = models.get(name)
        if model is None:
            names = ", ".join(sorted({served.name for served in models.values()}))
            raise RequestError(404, f"there is no model {name!r} here; there are {names}", code="model_not_found")
        return model

    async def health(request: Request) -> Response:
        return json_response({"status": "ok"})

    async def list_models(request: Request) -> Response:
        by_name = {served.name: served for served in models.values()}
        return json_response({"object": "list", "data": [by_name[name].describe() for name in sorted(by_name)]})

    async def get_model(request: Request) -> Response:
        return json_response(find(request.path_params["model"]).describe())

    async def completions(request: Request) -> Response:
        require_json(request)
        chat = parse_chat_request(parse_json_object(await read_body(request)))
        return await answer_chat(request, chat, find(chat.model).queue)

    async def decisions(request: Request) -> Response:
        require_json(request)
        body = parse_json_object(await read_body(request))
        model = find(read_model_name(body))
        return await answer_decisions(request, parse_decision_request(body, model.rules), model.queue)

    routes = [
        Route("/health", guard(health)),
        Route("/v1/models", guard(list_models, authorize)),
        Route("/v1/models/{model:path}", guard(get_model, authorize)),
        Route("/v1/chat/completions", guard(completions, authorize), methods=["POST"]),
        Route("/v1/decisions", guard(decisions, authorize), methods=["POST"]),
    ]
    unknown = guard_unknown(authorize, hint="; see GET /v1/models")
    app = Starlette(routes=routes, exception_handlers={404: unknown, 405: unknown})
    app.router.redirect_slashes = False  # a redirect is answered before any key is asked for
    return app


async def answer_chat(request: Request, chat: ChatRequest, queue: BatchQueue) -> Response:
    """Answer a chat completion, in one piece or as a stream. Raises `RequestError`."""
    from starlette.responses import Response, StreamingResponse

    events = _submit(queue, chat.request)
    if chat.stream:
        return StreamingResponse(
            _stream(events, chat), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )
    answer = await _wait_unless_disconnected(request, events)
    if answer is None:
        return Response(status_code=499)
    assert isinstance(answer, Generation)
    return json_response(Writer(chat.model).completion(answer, chat))


async def answer_decisions(request: Request, decision: DecisionRequest, queue: BatchQueue) -> Response:
    """Answer a batch of decisions, when all of them are made. Raises `RequestError`."""
    from starlette.responses import Response

    if not isinstance(queue.generator, LabelScorer):
        raise RequestError(
            400,
            f"the backend of {decision.model!r} reports no likelihoods of answers, so it decides nothing",
            param="model",
            code="unsupported_model",
        )
    waiting: list[_AnswerEvents] = []
    try:
        waiting.extend(_submit(queue, entry, decision.plan.labels) for entry in decision.requests)
        scores = []
        for events in waiting:
            answer = await _wait_unless_disconnected(request, events)
            if answer is None:
                return Response(status_code=499)
            assert isinstance(answer, list)
            scores.append(answer)
    except RequestError as error:
        if error.body["error"]["param"] == "messages":  # that is what chat calls an input
            error.body["error"]["param"] = "input"
        raise
    finally:
        for events in waiting:
            events.abandon()
    return json_response(write_decisions(decision, scores))


async def read_body(request: Request) -> bytes:
    """Read the body, holding at most `MAX_BODY_BYTES` in memory. Raises `RequestError` if it is too large or slow."""
    from starlette.requests import ClientDisconnect

    declared = request.headers.get("content-length", "")
    size, parts = 0, []
    if declared.isdigit() and int(declared) > MAX_DISCARDED_BYTES:
        raise _too_large()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_DISCARDED_BYTES:
                    raise _too_large()
                if size <= MAX_BODY_BYTES:
                    parts.append(part)
                else:
                    parts.clear()
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {BODY_SECONDS:.0f} seconds") from None
    except ClientDisconnect:
        raise RequestError(400, "the client disconnected") from None
    if size > MAX_BODY_BYTES:
        raise _too_large()
    return b"".join(parts)


def _too_large() -> RequestError:
    return RequestError(413, f"the body is larger than {MAX_BODY_BYTES >> 20} MB", code="request_too_large")


class _AnswerEvents:
    """The pieces of one answer on their way from the model's thread to one client."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[str | Generation | list[float] | Exception] = asyncio.Queue()
        self.request: QueuedRequest | None = None

    def put(self, event: str | Generation | list[float] | Exception) -> None:
        """Add a piece, the answer or an error; called from the model's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.queue.put_nowait, event)

    def abandon(self) -> None:
        """Stop waiting: the model need not finish the answer."""
        if self.request is not None:
            self.request.abandon()


def _submit(queue: BatchQueue, request: GenerationRequest, labels: tuple[str, ...] | None = None) -> _AnswerEvents:
    events = _AnswerEvents()
    events.request = QueuedRequest(request=request, on_piece=events.put, on_done=events.put, labels=labels)
    queue.submit(events.request)
    return events


async def _wait_for_answer(events: _AnswerEvents) -> Generation | list[float]:
    while True:
        event = await events.queue.get()
        if isinstance(event, Exception):
            raise RequestError.of(event) from event
        if isinstance(event, Generation | list):
            return event


async def _wait_unless_disconnected(request: Request, events: _AnswerEvents) -> Generation | list[float] | None:
    """Wait for the complete answer; None when the client disconnects before that."""
    answer = asyncio.ensure_future(_wait_for_answer(events))
    disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({answer, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        events.abandon()
        answer.cancel()
        disconnect.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(events: _AnswerEvents, chat: ChatRequest) -> AsyncIterator[bytes]:
    """Yield server-sent events. The answer of a backend that does not stream is sent as one piece."""
    writer, stop_filter = Writer(chat.model), StopFilter(chat.stop)
    sent = False
    try:
        yield writer.first()
        while True:
            event = await events.queue.get()
            if isinstance(event, Exception):
                yield writer.error(RequestError.of(event))
                return
            assert not isinstance(event, list)  # a stream asks for texts
            text = event if isinstance(event, str) else "" if sent else event.text
            sent = True
            out = stop_filter.feed(text)
            if isinstance(event, Generation):
                out += stop_filter.flush()
            if out:
                yield writer.piece(out)
            if stop_filter.ended:
                events.abandon()  # the model may stop; its final event still comes
            if isinstance(event, Generation):
                yield writer.last(event, stop_filter, usage=chat.usage)
                return
    finally:
        events.abandon()
