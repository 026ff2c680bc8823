"""The routes of the fine-tuning API: authentication, query parameters, and pagination."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.server.app import answer_chat, read_body
from llmtune.server.guard import check_key, guard, guard_unknown, json_response, parse_json_object, require_json
from llmtune.server.protocol import RequestError, parse_chat_request
from llmtune.server.tuning.chat import ModelPool
from llmtune.server.tuning.events import job_checkpoints, job_events
from llmtune.server.tuning.files import file_object, find_file, receive_file
from llmtune.server.tuning.jobs import Jobs
from llmtune.server.tuning.models import Models
from llmtune.server.tuning.state import TuningState

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response


#: Largest page size of each list.
_MAX_PAGE = {"files": 10000, "jobs": 100, "events": 100, "checkpoints": 100}
#: Endpoints of the API that are not served, each with the reason that a client gets instead of "not found".
_NOT_SERVED = {
    "/fine_tuning/jobs/{job}/pause": "not every backend can pause a job, so none is paused here",
    "/fine_tuning/jobs/{job}/resume": "not every backend can pause a job, so there is none to resume",
    "/fine_tuning/checkpoints/{path:path}": "there are no projects here with which a checkpoint could be shared",
    "/fine_tuning/alpha/graders/{path:path}": "graders belong to reinforcement fine-tuning, which is not served here",
}
Handler = Callable[["Request"], Awaitable["Response"]]


@dataclass(frozen=True)
class Endpoint:
    """The services that the routes use."""

    key: str
    state: TuningState
    models: Models
    jobs: Jobs
    pool: ModelPool


def make_tuning_app(endpoint: Endpoint) -> Starlette:
    """Build the application. Every route but /health requires the key."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    async def health(request: Request) -> Response:
        return json_response({"status": "ok"})

    def authorize(request: Request) -> None:
        check_key(request, endpoint.key)

    def route(path: str, handler: Handler, *methods: str) -> Route:
        return Route(f"/v1{path}", guard(handler, authorize), methods=list(methods or ("GET",)))

    files, jobs, models = _FileRoutes(endpoint), _JobRoutes(endpoint), _ModelRoutes(endpoint)
    unknown = guard_unknown(authorize)
    return Starlette(
        routes=[
            Route("/health", guard(health)),
            route("/files", files.create, "POST"),
            route("/files", files.list),
            route("/files/{file}", files.get),
            route("/files/{file}", files.delete, "DELETE"),
            route("/files/{file}/content", files.content),
            route("/fine_tuning/jobs", jobs.create, "POST"),
            route("/fine_tuning/jobs", jobs.list),
            route("/fine_tuning/jobs/{job}", jobs.get),
            route("/fine_tuning/jobs/{job}/cancel", jobs.cancel, "POST"),
            route("/fine_tuning/jobs/{job}/events", jobs.list_events),
            route("/fine_tuning/jobs/{job}/checkpoints", jobs.list_checkpoints),
            *(route(path, _make_refusal(reason), "GET", "POST", "DELETE") for path, reason in _NOT_SERVED.items()),
            route("/models", models.list),
            route("/models/{model:path}", models.get),
            route("/models/{model:path}", models.delete, "DELETE"),
            route("/chat/completions", models.complete, "POST"),
        ],
        exception_handlers={404: unknown, 405: unknown},
    )


class _FileRoutes:
    """Handlers of /v1/files."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._state = endpoint.state

    async def create(self, request: Request) -> Response:
        retry, key = _read_retry(request)
        return json_response(file_object(await receive_file(request, self._state, retry=retry, key=key)))

    async def list(self, request: Request) -> Response:
        query = _read_query(request, "purpose", "limit", "order", "after")
        files = [file for file in self._state.files() if query.get("purpose") in (None, file.purpose)]
        if _read_choice(query, "order", ("asc", "desc")) == "asc":
            files.reverse()
        page, has_more = _paginate(files, query, "files", 10000, lambda file: file.id)
        data = [file_object(file) for file in page]
        ends = {"first_id": data[0]["id"] if data else "", "last_id": data[-1]["id"] if data else ""}
        return json_response({"object": "list", "data": data, "has_more": has_more} | ends)

    async def get(self, request: Request) -> Response:
        return json_response(file_object(find_file(self._state, request.path_params["file"])))

    async def content(self, request: Request) -> Response:
        from starlette.responses import FileResponse, Response

        record = find_file(self._state, request.path_params["file"])
        path = self._state.path(record)
        if record.purpose == "fine-tune-results" and "text/csv" not in request.headers.get("accept", ""):
            # As in OpenAI's API: the CSV in base64. A client that accepts text/csv gets it plain.
            content = await asyncio.to_thread(path.read_bytes)
            return Response(base64.b64encode(content), media_type="application/binary")
        return FileResponse(path, media_type="application/binary")

    async def delete(self, request: Request) -> Response:
        record = find_file(self._state, request.path_params["file"])
        await asyncio.to_thread(self._state.delete_file, record)
        return json_response({"id": record.id, "object": "file", "deleted": True})


class _JobRoutes:
    """Handlers of /v1/fine_tuning/jobs."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._jobs = endpoint.jobs

    async def create(self, request: Request) -> Response:
        body = await _read_json(request)
        retry, key = _read_retry(request)
        return json_response(await asyncio.to_thread(self._jobs.create, body, retry=retry, key=key))

    async def list(self, request: Request) -> Response:
        query = _read_query(request, "after", "limit", "metadata", prefixes=("metadata[",))
        metadata = {name[len("metadata[") : -1]: text for name, text in query.items() if name.startswith("metadata[")}
        if "metadata" in query and query["metadata"] != "null":
            raise RequestError(400, "metadata is filtered by metadata[NAME]=TEXT, or metadata=null", param="metadata")
        jobs = self._jobs.list(metadata, without="metadata" in query)
        page, has_more = _paginate(jobs, query, "jobs", 20, lambda job: job.id)
        data = await asyncio.to_thread(lambda: [self._jobs.describe(job) for job in page])
        return json_response({"object": "list", "data": data, "has_more": has_more})

    async def get(self, request: Request) -> Response:
        job = self._jobs.find(request.path_params["job"])
        return json_response(await asyncio.to_thread(self._jobs.describe, job))

    async def cancel(self, request: Request) -> Response:
        await _require_empty_body(request)
        return json_response(await asyncio.to_thread(self._jobs.cancel, request.path_params["job"]))

    async def list_events(self, request: Request) -> Response:
        query = _read_query(request, "after", "limit")
        job = self._jobs.find(request.path_params["job"])
        events = await asyncio.to_thread(lambda: job_events(job, self._jobs.run(job)))
        page, has_more = _paginate(events, query, "events", 20, lambda event: str(event["id"]))
        return json_response({"object": "list", "data": page, "has_more": has_more})

    async def list_checkpoints(self, request: Request) -> Response:
        query = _read_query(request, "after", "limit")
        job = self._jobs.find(request.path_params["job"])
        checkpoints = await asyncio.to_thread(lambda: job_checkpoints(job, self._jobs.run(job)))
        page, has_more = _paginate(checkpoints, query, "checkpoints", 10, lambda checkpoint: str(checkpoint["id"]))
        ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
        return json_response({"object": "list", "data": page, "has_more": has_more} | ends)


class _ModelRoutes:
    """Handlers of /v1/models and /v1/chat/completions."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._models, self._pool = endpoint.models, endpoint.pool

    async def list(self, request: Request) -> Response:
        _read_query(request)
        data = await asyncio.to_thread(lambda: [model.describe(self._models.organization) for model in self._models])
        return json_response({"object": "list", "data": data})

    async def get(self, request: Request) -> Response:
        model = await asyncio.to_thread(self._models.find, request.path_params["model"])
        return json_response(model.describe(self._models.organization))

    async def delete(self, request: Request) -> Response:
        name = request.path_params["model"]
        model = await asyncio.to_thread(self._models.find, name)
        if model.job is not None:
            await asyncio.to_thread(self._pool.close_run, model.target)
        await asyncio.to_thread(self._models.delete, name)
        return json_response({"id": name, "object": "model", "deleted": True})

    async def complete(self, request: Request) -> Response:
        chat = parse_chat_request(await _read_json(request))
        model = await asyncio.to_thread(self._models.find, chat.model)
        queue = await asyncio.to_thread(self._pool.get_queue, model.target)
        return await answer_chat(request, chat, queue)


def _make_refusal(reason: str) -> Handler:
    async def refuse_request(request: Request) -> Response:
        raise RequestError(400, f"{request.method} {request.url.path}: {reason}", code="unsupported_endpoint")

    return refuse_request


async def _read_json(request: Request) -> dict[str, Any]:
    require_json(request)
    return parse_json_object(await read_body(request))


async def _require_empty_body(request: Request) -> None:
    if (await read_body(request)).strip() not in (b"", b"{}"):
        raise RequestError(400, "this request takes no body", code="unknown_parameter")


def _read_retry(request: Request) -> tuple[int, str | None]:
    """Return the number of the client's retry (0 is the first attempt), and its idempotency key."""
    count = request.headers.get("x-stainless-retry-count", "0")
    return int(count) if count.isdigit() and len(count) < 4 else 0, request.headers.get("idempotency-key") or None


def _read_query(request: Request, *names: str, prefixes: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the query parameters. Raises `RequestError` for one that is not supported."""
    query = dict(request.query_params)
    for name in query:
        if name not in names and not (name.startswith(prefixes) and name.endswith("]")):
            raise RequestError(
                400, f"{name} is not a parameter of this request here", param=name, code="unknown_parameter"
            )
    return query


def _read_choice(query: dict[str, str], name: str, values: tuple[str, ...]) -> str | None:
    if query.get(name) not in (None, *values):
        raise RequestError(400, f"{name} must be {' or '.join(values)}", param=name, code="invalid_value")
    return query.get(name)


def _paginate(
    entries: Sequence[Any], query: dict[str, str], kind: str, default: int, get_id: Callable[[Any], str]
) -> tuple[list[Any], bool]:
    """Return the entries after the one named by `after`, up to `limit`, and whether there are more."""
    text, limit = query.get("limit", str(default)), _MAX_PAGE[kind]
    if not text.isdigit() or not 1 <= int(text[:9]) <= limit:
        raise RequestError(400, f"limit must be a whole number from 1 to {limit}", param="limit", code="invalid_value")
    start = 0
    if (after := query.get("after")) is not None:
        position = next((index for index, entry in enumerate(entries) if get_id(entry) == after), None)
        if position is None:
            raise RequestError(404, f"there is no {after} in this list", param="after", code="not_found")
        start = position + 1
    end = start + int(text)
    return list(entries[start:end]), len(entries) > end
