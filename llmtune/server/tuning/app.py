"""The routes: who may ask, what a request may hold, and how a list is cut into pages."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtune.server.app import answer_chat, read_body
from llmtune.server.guard import check_key, guard, guard_unknown, parse_json_object, require_json
from llmtune.server.protocol import Refused, read
from llmtune.server.tuning.chat import ModelPool
from llmtune.server.tuning.events import job_checkpoints, job_events
from llmtune.server.tuning.files import file_object, find_file, receive
from llmtune.server.tuning.jobs import Jobs
from llmtune.server.tuning.models import Models
from llmtune.server.tuning.state import TuningState

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response


#: Items of a page at most, by what is listed.
_MOST = {"files": 10000, "jobs": 100, "events": 100, "checkpoints": 100}
#: Parts of the API that no backend offers in common: refused with the reason, rather than "not found".
_NOT_SERVED = {
    "/fine_tuning/jobs/{job}/pause": "not every backend can pause a job, so none is paused here",
    "/fine_tuning/jobs/{job}/resume": "not every backend can pause a job, so there is none to resume",
    "/fine_tuning/checkpoints/{path:path}": "there are no projects here with which a checkpoint could be shared",
    "/fine_tuning/alpha/graders/{path:path}": "graders belong to reinforcement fine-tuning, which is not served here",
}
Handler = Callable[["Request"], Awaitable["Response"]]


@dataclass(frozen=True)
class Endpoint:
    """Everything that the routes speak to."""

    key: str
    state: TuningState
    models: Models
    jobs: Jobs
    pool: ModelPool


def make_tuning_app(endpoint: Endpoint) -> Starlette:  # noqa: C901
    """The application. Every route but /health asks for the key."""
    from starlette.applications import Starlette
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Route

    state, models, jobs, pool = endpoint.state, endpoint.models, endpoint.jobs, endpoint.pool

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    # --- files -----------------------------------------------------------------------------------------------------
    async def create_file(request: Request) -> Response:
        retry, key = _try(request)
        return JSONResponse(file_object(await receive(request, state, retry=retry, key=key)))

    async def list_files(request: Request) -> Response:
        query = _query(request, "purpose", "limit", "order", "after")
        files = [file for file in state.files() if query.get("purpose") in (None, file.purpose)]
        if _one_of(query, "order", ("asc", "desc")) == "asc":
            files.reverse()
        page, more = _page(files, query, "files", 10000, lambda file: file.id)
        data = [file_object(file) for file in page]
        ends = {"first_id": data[0]["id"] if data else "", "last_id": data[-1]["id"] if data else ""}
        return JSONResponse({"object": "list", "data": data, "has_more": more} | ends)

    async def get_file(request: Request) -> Response:
        return JSONResponse(file_object(find_file(state, request.path_params["file"])))

    async def file_content(request: Request) -> Response:
        record = find_file(state, request.path_params["file"])
        if record.purpose == "fine-tune-results" and "text/csv" not in request.headers.get("accept", ""):
            # As the API has it: the CSV in base64. Whoever asks for text/csv gets it plain.
            content = await asyncio.to_thread(state.path(record).read_bytes)
            return Response(base64.b64encode(content), media_type="application/binary")
        return FileResponse(state.path(record), media_type="application/binary")

    async def delete_file(request: Request) -> Response:
        record = find_file(state, request.path_params["file"])
        await asyncio.to_thread(state.delete_file, record)
        return JSONResponse({"id": record.id, "object": "file", "deleted": True})

    # --- jobs ------------------------------------------------------------------------------------------------------
    async def create_job(request: Request) -> Response:
        body = await _json(request)
        retry, key = _try(request)
        return JSONResponse(await asyncio.to_thread(jobs.create, body, retry=retry, key=key))

    async def list_jobs(request: Request) -> Response:
        query = _query(request, "after", "limit", "metadata", prefixes=("metadata[",))
        metadata = {name[len("metadata[") : -1]: text for name, text in query.items() if name.startswith("metadata[")}
        if "metadata" in query and query["metadata"] != "null":
            raise Refused(400, "metadata is filtered by metadata[NAME]=TEXT, or metadata=null", param="metadata")
        listed = jobs.list(metadata, without="metadata" in query)
        page, more = _page(listed, query, "jobs", 20, lambda job: job.id)
        data = await asyncio.to_thread(lambda: [jobs.show(job) for job in page])
        return JSONResponse({"object": "list", "data": data, "has_more": more})

    async def get_job(request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(jobs.show, jobs.find(request.path_params["job"])))

    async def cancel_job(request: Request) -> Response:
        await _no_body(request)
        return JSONResponse(await asyncio.to_thread(jobs.cancel, request.path_params["job"]))

    async def list_events(request: Request) -> Response:
        query = _query(request, "after", "limit")
        job = jobs.find(request.path_params["job"])
        events = await asyncio.to_thread(lambda: job_events(job, jobs.run(job)))
        page, more = _page(events, query, "events", 20, lambda event: str(event["id"]))
        return JSONResponse({"object": "list", "data": page, "has_more": more})

    async def list_checkpoints(request: Request) -> Response:
        query = _query(request, "after", "limit")
        job = jobs.find(request.path_params["job"])
        checkpoints = await asyncio.to_thread(lambda: job_checkpoints(job, jobs.run(job)))
        page, more = _page(checkpoints, query, "checkpoints", 10, lambda checkpoint: str(checkpoint["id"]))
        ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
        return JSONResponse({"object": "list", "data": page, "has_more": more} | ends)

    # --- models and chat -------------------------------------------------------------------------------------------
    async def list_models(request: Request) -> Response:
        _query(request)
        data = await asyncio.to_thread(lambda: [model.listed(models.organization) for model in models])
        return JSONResponse({"object": "list", "data": data})

    async def get_model(request: Request) -> Response:
        model = await asyncio.to_thread(models.find, request.path_params["model"])
        return JSONResponse(model.listed(models.organization))

    async def delete_model(request: Request) -> Response:
        name = request.path_params["model"]
        model = await asyncio.to_thread(models.find, name)
        if model.job is not None:
            await asyncio.to_thread(pool.forget, model.target)
        await asyncio.to_thread(models.delete, name)
        return JSONResponse({"id": name, "object": "model", "deleted": True})

    async def completions(request: Request) -> Response:
        chat = read(await _json(request))
        model = await asyncio.to_thread(models.find, chat.model)
        line = await asyncio.to_thread(pool.line, model.target)
        return await answer_chat(request, chat, line)

    def not_served(reason: str) -> Handler:
        async def refuse_it(request: Request) -> Response:
            raise Refused(400, f"{request.method} {request.url.path}: {reason}", code="unsupported_endpoint")

        return refuse_it

    def authorize(request: Request) -> None:
        check_key(request, endpoint.key)

    def route(path: str, handler: Handler, *methods: str) -> Route:
        return Route(f"/v1{path}", guard(handler, authorize), methods=list(methods or ("GET",)))

    unknown = guard_unknown(authorize)
    return Starlette(
        routes=[
            Route("/health", guard(health)),
            route("/files", create_file, "POST"),
            route("/files", list_files),
            route("/files/{file}", get_file),
            route("/files/{file}", delete_file, "DELETE"),
            route("/files/{file}/content", file_content),
            route("/fine_tuning/jobs", create_job, "POST"),
            route("/fine_tuning/jobs", list_jobs),
            route("/fine_tuning/jobs/{job}", get_job),
            route("/fine_tuning/jobs/{job}/cancel", cancel_job, "POST"),
            route("/fine_tuning/jobs/{job}/events", list_events),
            route("/fine_tuning/jobs/{job}/checkpoints", list_checkpoints),
            *(route(path, not_served(reason), "GET", "POST", "DELETE") for path, reason in _NOT_SERVED.items()),
            route("/models", list_models),
            route("/models/{model:path}", get_model),
            route("/models/{model:path}", delete_model, "DELETE"),
            route("/chat/completions", completions, "POST"),
        ],
        exception_handlers={404: unknown, 405: unknown},
    )


async def _json(request: Request) -> dict[str, Any]:
    require_json(request)
    return parse_json_object(await read_body(request))


async def _no_body(request: Request) -> None:
    if (await read_body(request)).strip() not in (b"", b"{}"):
        raise Refused(400, "this request takes no body", code="unknown_parameter")


def _try(request: Request) -> tuple[int, str | None]:
    """Which try of the client's this is (0 is the first), and its own name of the request."""
    count = request.headers.get("x-stainless-retry-count", "0")
    return int(count) if count.isdigit() and len(count) < 4 else 0, request.headers.get("idempotency-key") or None


def _query(request: Request, *names: str, prefixes: tuple[str, ...] = ()) -> dict[str, str]:
    """The query's parameters; one that is not served is refused by its name."""
    query = dict(request.query_params)
    for name in query:
        if name not in names and not (name.startswith(prefixes) and name.endswith("]")):
            raise Refused(400, f"{name} is not a parameter of this request here", param=name, code="unknown_parameter")
    return query


def _one_of(query: dict[str, str], name: str, values: tuple[str, ...]) -> str | None:
    if query.get(name) not in (None, *values):
        raise Refused(400, f"{name} must be {' or '.join(values)}", param=name, code="invalid_value")
    return query.get(name)


def _page(
    items: Sequence[Any], query: dict[str, str], kind: str, default: int, name: Callable[[Any], str]
) -> tuple[list[Any], bool]:
    """The items after the one that is named, up to the limit, and whether there are more."""
    text, limit = query.get("limit", str(default)), _MOST[kind]
    if not text.isdigit() or not 1 <= int(text[:9]) <= limit:
        raise Refused(400, f"limit must be a whole number from 1 to {limit}", param="limit", code="invalid_value")
    start = 0
    if (after := query.get("after")) is not None:
        position = next((at for at, entry in enumerate(items) if name(entry) == after), None)
        if position is None:
            raise Refused(404, f"there is no {after} in this list", param="after", code="not_found")
        start = position + 1
    end = start + int(text)
    return list(items[start:end]), len(items) > end
