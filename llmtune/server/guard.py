"""What stands before every route: who may ask, which bodies are read, and every fault in OpenAI's error shape."""

from __future__ import annotations

import hmac
import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from llmtune._safety.browser import is_foreign_page
from llmtune.errors import LlmtuneError
from llmtune.server.protocol import Refused

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    Handler = Callable[[Request], Awaitable[Response]]
    Authorize = Callable[[Request], None]

log = logging.getLogger("llmtune")


def guard(handler: Handler, authorize: Authorize | None = None) -> Handler:
    """Return the handler for callers that `authorize` lets through and that are no web page of another site.

    Whatever is raised becomes an error object of the API: a client must never meet a bare "Internal Server Error".
    """

    async def guarded(request: Request) -> Response:
        try:
            refuse_foreign_page(request)
            if authorize is not None:
                authorize(request)
            response = await handler(request)
        except Refused as error:
            response = refuse(error)
        except LlmtuneError as error:
            response = refuse(Refused.of(error))
        except Exception:
            log.exception("%s %s broke", request.method, request.url.path)
            response = refuse(Refused(500, "the server failed; its log says how", code="server_error"))
        response.headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
        return response

    return guarded


def guard_unknown(authorize: Authorize | None, hint: str = "") -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return the handler of what no route serves (404, 405), behind the same guard."""

    async def unknown(request: Request, error: Exception) -> Response:
        async def raise_it(request: Request) -> Response:
            status = getattr(error, "status_code", 404)
            raise Refused(status, f"{request.method} {request.url.path} is not served here{hint}", code="unknown_url")

        return await guard(raise_it, authorize)(request)

    return unknown


def refuse(error: Refused) -> Response:
    """Return the answer to a request that is refused."""
    from starlette.responses import Response

    headers = {"retry-after": f"{max(1, round(error.wait))}"} if error.wait is not None else None
    # In ASCII: a message may repeat what cannot be encoded, such as half a surrogate pair.
    return Response(json.dumps(error.body), error.status, headers, media_type="application/json")


def refuse_foreign_page(request: Request) -> None:
    """Refuse a browser that asks for a page of another site, whatever key it holds. Raises `Refused` (403)."""
    headers = request.headers
    if is_foreign_page(headers.get("origin"), headers.get("host", ""), headers.get("sec-fetch-site")):
        raise Refused(403, "requests from web pages of another site are not answered", code="foreign_origin")


def check_key(request: Request, key: str) -> None:
    """Refuse a request without the key. Raises `Refused` (401)."""
    sent = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if not hmac.compare_digest(sent.encode(), key.encode()):
        raise Refused(401, "the API key is missing or wrong", code="invalid_api_key")


def require_json(request: Request) -> None:
    """Refuse a body that is not declared as JSON. Raises `Refused` (415).

    A page may send text/plain to any site without asking; application/json takes a permission that is never given.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Refused(
            415, f"the body must be application/json, not {content_type or 'without a type'}", code="invalid_type"
        )


#: Levels that a body may be nested: published requests (tools with JSON Schemas) stay under 20.
DEPTH = 100


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body. Raises `Refused` (400) for what is none, or can be neither stored nor sent."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, "the body is not a JSON object")
    if _depth(value) > DEPTH:
        raise Refused(400, f"the body is nested more than {DEPTH} levels deep")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Refused(400, "the body holds half a surrogate pair, which is not a character") from None
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _depth(value: Any) -> int:
    """Return how many levels a value is nested, level by level: recursion is what a deep one would break."""
    depth, level = 0, [value]
    while level and depth <= DEPTH:
        depth += 1
        containers = [entry for entry in level if isinstance(entry, dict | list)]
        level = [child for entry in containers for child in (entry.values() if isinstance(entry, dict) else entry)]
    return depth
