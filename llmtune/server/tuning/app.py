"""The routes of the fine-tuning API, each with the right that a key needs for it."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from llmtune.server.app import answer_chat, read_body
from llmtune.server.guard import (
    guard,
    guard_unknown,
    json_response,
    parse_json_object,
    require_json,
    sent_key,
    wrong_key,
)
from llmtune.server.protocol import RequestError, parse_chat_request
from llmtune.server.tuning.audit import AuditLog
from llmtune.server.tuning.chat import ModelPool
from llmtune.server.tuning.events import job_checkpoints, job_events
from llmtune.server.tuning.files import Files, file_object
from llmtune.server.tuning.jobs import Jobs
from llmtune.server.tuning.keys import Key, Keys, Right
from llmtune.server.tuning.models import Models
from llmtune.server.tuning.query import API_VERSION, paginate, read_attempt, read_choice, read_query
from llmtune.server.tuning.quotas import RateLimiter
from llmtune.server.tuning.receive import disk_errors
from llmtune.server.tuning.uploads import Uploads

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route


#: Endpoints of the API that are not served, each with the reason that a client gets instead of "not found".
_NOT_SERVED = {
    "/fine_tuning/checkpoints/{path:path}": "there are no projects here with which a checkpoint could be shared",
    "/fine_tuning/alpha/graders/{path:path}": "graders belong to reinforcement fine-tuning, which is not served here",
}
#: What a key without a right is refused, by the right.
_ACTIONS = {"tune": "upload, start, stop or delete anything", "ask": "ask models", "read": "list or read anything"}
#: Where every route is: as OpenAI's clients ask, and as those for a deployment in a cloud do, which name the version of
#: the API in the path or in each query.
_VERSIONED = "/openai"
_PREFIXES = ("/v1", f"{_VERSIONED}/v1", _VERSIONED)
#: Bytes of a file that are read at once while it is sent.
_BLOCK = 1 << 18
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?|preview|latest|v1")
Handler = Callable[["Request"], Awaitable["Response"]]


@dataclass(frozen=True)
class Endpoint:
    """The services that the routes use."""

    keys: Keys
    limiter: RateLimiter
    audit: AuditLog
    files: Files
    uploads: Uploads
    models: Models
    jobs: Jobs
    pool: ModelPool


def make_tuning_app(endpoint: Endpoint) -> Starlette:
    """Build the application. Every route but /health requires a key."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    async def health(request: Request) -> Response:
        return json_response({"status": "ok"})

    def authorize(request: Request, *rights: Right) -> None:
        key = endpoint.keys.find(sent_key(request))
        if key is None:
            raise wrong_key()
        endpoint.limiter.count(key)
        if rights and not set(rights) & set(key.rights):
            raise RequestError(
                403,
                f"the key '{key.name}' may not {_ACTIONS[rights[0]]}; its rights: {', '.join(key.rights) or 'none'}",
                code="insufficient_permissions",
            )
        request.state.key = key

    def route(path: str, handler: Handler, methods: str, *rights: Right) -> list[Route]:
        handler = _report_full_disk(handler)
        guarded = guard(handler, lambda request: authorize(request, *rights))
        with_version = guard(_require_version(handler), lambda request: authorize(request, *rights))
        return [
            Route(f"{prefix}{path}", with_version if prefix == _VERSIONED else guarded, methods=methods.split())
            for prefix in _PREFIXES
        ]

    files, uploads, jobs, models = (
        _FileRoutes(endpoint),
        _UploadRoutes(endpoint),
        _JobRoutes(endpoint),
        _ModelRoutes(endpoint),
    )
    routes = [
        route("/files", files.create, "POST", "tune"),
        route("/files", files.list, "GET", "read"),
        route("/files/{file}", files.get, "GET", "read"),
        route("/files/{file}", files.delete, "DELETE", "tune"),
        route("/files/{file}/content", files.content, "GET", "read"),
        route("/uploads", uploads.create, "POST", "tune"),
        route("/uploads/{upload}/parts", uploads.add_part, "POST", "tune"),
        route("/uploads/{upload}/complete", uploads.complete, "POST", "tune"),
        route("/uploads/{upload}/cancel", uploads.cancel, "POST", "tune"),
        route("/fine_tuning/jobs", jobs.create, "POST", "tune"),
        route("/fine_tuning/jobs", jobs.list, "GET", "read"),
        route("/fine_tuning/jobs/{job}", jobs.get, "GET", "read"),
        route("/fine_tuning/jobs/{job}/cancel", jobs.cancel, "POST", "tune"),
        route("/fine_tuning/jobs/{job}/pause", jobs.pause, "POST", "tune"),
        route("/fine_tuning/jobs/{job}/resume", jobs.resume, "POST", "tune"),
        route("/fine_tuning/jobs/{job}/events", jobs.list_events, "GET", "read"),
        route("/fine_tuning/jobs/{job}/checkpoints", jobs.list_checkpoints, "GET", "read"),
        *(route(path, _make_refusal(reason), "GET POST DELETE") for path, reason in _NOT_SERVED.items()),
        route("/models", models.list, "GET", "read", "ask"),
        route("/models/{model:path}", models.get, "GET", "read", "ask"),
        route("/models/{model:path}", models.delete, "DELETE", "tune"),
        route("/chat/completions", models.complete, "POST", "ask"),
        route("/deployments/{model:path}/chat/completions", models.complete, "POST", "ask")[1:],
    ]
    unknown = guard_unknown(authorize)
    app = Starlette(
        routes=[Route("/health", guard(health)), *(served for paths in routes for served in paths)],
        exception_handlers={404: unknown, 405: unknown},
    )
    app.router.redirect_slashes = False  # a redirect is answered before any key is asked for
    return app


def _key(request: Request) -> Key:
    key: Key = request.state.key
    return key


class _FileRoutes:
    """Handlers of /v1/files."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._files = endpoint.files

    async def create(self, request: Request) -> Response:
        record = await self._files.receive(request, _key(request), read_attempt(request))
        return json_response(file_object(record))

    async def list(self, request: Request) -> Response:
        query = read_query(request, "purpose", "limit", "order", "after")
        owned = self._files.state.files(_key(request).owner)
        files = [file for file in owned if query.get("purpose") in (None, file.purpose)]
        if read_choice(query, "order", ("asc", "desc")) == "asc":
            files.reverse()
        page, has_more = paginate(files, query, "files", 10000, lambda file: file.id)
        data = [file_object(file) for file in page]
        ends = {"first_id": data[0]["id"] if data else "", "last_id": data[-1]["id"] if data else ""}
        return json_response({"object": "list", "data": data, "has_more": has_more} | ends)

    async def get(self, request: Request) -> Response:
        return json_response(file_object(self._files.find(request.path_params["file"], _key(request))))

    async def content(self, request: Request) -> Response:
        from starlette.responses import Response, StreamingResponse

        # Opened before the answer begins: the file may be deleted while it is sent.
        record, content = await asyncio.to_thread(self._files.open, request.path_params["file"], _key(request))
        if record.purpose == "fine-tune-results" and "text/csv" not in request.headers.get("accept", ""):
            # As in OpenAI's API: the CSV in base64. A client that accepts text/csv gets it plain.
            with content:
                text = base64.b64encode(await asyncio.to_thread(content.read))
            return Response(text, media_type="application/binary")
        headers = {"content-length": str(record.bytes)}
        return StreamingResponse(_read_blocks(content), media_type="application/binary", headers=headers)

    async def delete(self, request: Request) -> Response:
        file_id = request.path_params["file"]
        await asyncio.to_thread(self._files.delete, file_id, _key(request))
        return json_response({"id": file_id, "object": "file", "deleted": True})


def _read_blocks(content: BinaryIO) -> Iterator[bytes]:
    with content:
        while block := content.read(_BLOCK):
            yield block


class _UploadRoutes:
    """Handlers of /v1/uploads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._uploads = endpoint.uploads

    async def create(self, request: Request) -> Response:
        body = await _read_json(request)
        upload = await asyncio.to_thread(self._uploads.create, body, _key(request), read_attempt(request))
        return json_response(upload)

    async def add_part(self, request: Request) -> Response:
        return json_response(await self._uploads.add_part(request, request.path_params["upload"], _key(request)))

    async def complete(self, request: Request) -> Response:
        body, upload_id = await _read_json(request), request.path_params["upload"]
        return json_response(await asyncio.to_thread(self._uploads.complete, body, upload_id, _key(request)))

    async def cancel(self, request: Request) -> Response:
        await _require_empty_body(request)
        return json_response(
            await asyncio.to_thread(self._uploads.cancel, request.path_params["upload"], _key(request))
        )


class _JobRoutes:
    """Handlers of /v1/fine_tuning/jobs."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._jobs = endpoint.jobs

    async def create(self, request: Request) -> Response:
        body = await _read_json(request)
        return json_response(await asyncio.to_thread(self._jobs.create, body, _key(request), read_attempt(request)))

    async def list(self, request: Request) -> Response:
        query = read_query(request, "after", "limit", "metadata", prefixes=("metadata[",))
        metadata = {name[len("metadata[") : -1]: text for name, text in query.items() if name.startswith("metadata[")}
        if "metadata" in query and query["metadata"] != "null":
            raise RequestError(400, "metadata is filtered by metadata[NAME]=TEXT, or metadata=null", param="metadata")
        jobs = self._jobs.list(_key(request), metadata, without="metadata" in query)
        page, has_more = paginate(jobs, query, "jobs", 20, lambda job: job.id)
        data = await asyncio.to_thread(lambda: [self._jobs.describe(job) for job in page])
        return json_response({"object": "list", "data": data, "has_more": has_more})

    async def get(self, request: Request) -> Response:
        job = self._jobs.find(request.path_params["job"], _key(request))
        return json_response(await asyncio.to_thread(self._jobs.describe, job))

    async def cancel(self, request: Request) -> Response:
        return await self._act(request, self._jobs.cancel)

    async def pause(self, request: Request) -> Response:
        return await self._act(request, self._jobs.pause)

    async def resume(self, request: Request) -> Response:
        return await self._act(request, self._jobs.resume)

    async def _act(self, request: Request, action: Callable[[str, Key], dict[str, Any]]) -> Response:
        await _require_empty_body(request)
        return json_response(await asyncio.to_thread(action, request.path_params["job"], _key(request)))

    async def list_events(self, request: Request) -> Response:
        query = read_query(request, "after", "limit")
        job = self._jobs.find(request.path_params["job"], _key(request))
        events = await asyncio.to_thread(lambda: job_events(job, self._jobs.run(job)))
        page, has_more = paginate(events, query, "events", 20, lambda event: str(event["id"]))
        return json_response({"object": "list", "data": page, "has_more": has_more})

    async def list_checkpoints(self, request: Request) -> Response:
        query = read_query(request, "after", "limit")
        job = self._jobs.find(request.path_params["job"], _key(request))
        checkpoints = await asyncio.to_thread(lambda: job_checkpoints(job, self._jobs.run(job)))
        page, has_more = paginate(checkpoints, query, "checkpoints", 10, lambda checkpoint: str(checkpoint["id"]))
        ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
        return json_response({"object": "list", "data": page, "has_more": has_more} | ends)


class _ModelRoutes:
    """Handlers of /v1/models and /v1/chat/completions."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._models, self._pool, self._audit = endpoint.models, endpoint.pool, endpoint.audit

    async def list(self, request: Request) -> Response:
        read_query(request)
        owner, organization = _key(request).owner, self._models.organization
        data = await asyncio.to_thread(lambda: [model.describe(organization) for model in self._models.list(owner)])
        return json_response({"object": "list", "data": data})

    async def get(self, request: Request) -> Response:
        model = await asyncio.to_thread(self._models.find, request.path_params["model"], _key(request).owner)
        return json_response(model.describe(self._models.organization))

    async def delete(self, request: Request) -> Response:
        name, key = request.path_params["model"], _key(request)
        model = await asyncio.to_thread(self._models.find, name, key.owner)
        if model.job is not None:
            self._audit.record(key, "model.delete", id=name, job=model.job.id)
            await asyncio.to_thread(self._pool.close_run, model.target)
        await asyncio.to_thread(self._models.delete, name, key.owner)
        return json_response({"id": name, "object": "model", "deleted": True})

    async def complete(self, request: Request) -> Response:
        key = _key(request)
        body = await _read_json(request)
        if "model" in request.path_params:  # a deployment's name in the path says more than the body
            body["model"] = request.path_params["model"]
        chat = parse_chat_request(body)
        model = await asyncio.to_thread(self._models.find, chat.model, key.owner)

        def record_opening() -> None:
            self._audit.record(key, "model.open", id=chat.model, target=str(model.target))

        queue = await asyncio.to_thread(self._pool.get_queue, model.target, record_opening)
        return await answer_chat(request, chat, queue)


def _make_refusal(reason: str) -> Handler:
    async def refuse_request(request: Request) -> Response:
        path = request.scope["path"]
        raise RequestError(400, f"{request.method} {path}: {reason}", code="unsupported_endpoint")

    return refuse_request


def _report_full_disk(handler: Handler) -> Handler:
    """Wrap a handler: a full disk is no fault of the request, and the answer to the client says so."""

    async def with_disk_errors(request: Request) -> Response:
        with disk_errors():
            return await handler(request)

    return with_disk_errors


def _require_version(handler: Handler) -> Handler:
    """Wrap a handler: refuse a request whose query does not name the version of the API."""

    async def with_version(request: Request) -> Response:
        version = request.query_params.get(API_VERSION, "")
        if not _VERSION.fullmatch(version):
            raise RequestError(
                400,
                f"{API_VERSION} must be the date of a version, such as 2025-04-01-preview",
                param=API_VERSION,
                code="invalid_value",
            )
        return await handler(request)

    return with_version


async def _read_json(request: Request) -> dict[str, Any]:
    require_json(request)
    return parse_json_object(await read_body(request))


async def _require_empty_body(request: Request) -> None:
    if (await read_body(request)).strip() not in (b"", b"{}"):
        raise RequestError(400, "this request takes no body", code="unknown_parameter")
