"""Checks before every route: who may send requests and which bodies are read; every error in OpenAI's error format."""

from __future__ import annotations

import hmac
import json
import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from llmtune._safety.browser import is_foreign_page
from llmtune.errors import LlmtuneError
from llmtune.redaction.documents import dump_json
from llmtune.server.protocol import RequestError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    Handler = Callable[[Request], Awaitable[Response]]
    Authorize = Callable[[Request], None]

log = logging.getLogger("llmtune")


def guard(handler: Handler, authorize: Authorize | None = None) -> Handler:
    """Wrap a handler: refuse callers that `authorize` rejects and web pages of other sites.

    Every exception becomes an error object of the API: a client must never get a bare "Internal Server Error".
    """

    async def guarded(request: Request) -> Response:
        try:
            refuse_foreign_page(request)
            if authorize is not None:
                authorize(request)
            response = await handler(request)
        except RequestError as error:
            response = refuse(error)
        except LlmtuneError as error:
            response = refuse(RequestError.of(error))
        except Exception:
            log.exception("%s %r failed", request.method, request.scope["path"])
            response = refuse(RequestError(500, "the server failed; see its log", code="server_error"))
        response.headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
        return response

    return guarded


def guard_unknown(authorize: Authorize | None, hint: str = "") -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return the handler for URLs and methods that no route serves (404, 405), behind the same guard."""

    async def unknown(request: Request, error: Exception) -> Response:
        async def raise_error(request: Request) -> Response:
            status = getattr(error, "status_code", 404)
            raise RequestError(
                status, f"{request.method} {request.scope['path']} is not served here{hint}", code="unknown_url"
            )

        return await guard(raise_error, authorize)(request)

    return unknown


def json_response(data: Mapping[str, Any]) -> Response:
    """Return an answer of JSON: secrets masked, control characters as escapes that JSON reads back."""
    from starlette.responses import Response

    return Response(dump_json(data, indent=False), media_type="application/json")


def refuse(error: RequestError) -> Response:
    """Return the error response to a refused request."""
    from starlette.responses import Response

    headers = None
    if error.wait is not None:
        headers = {"retry-after": f"{max(1, math.ceil(error.wait))}"}
    elif error.status == 429:
        headers = {"x-should-retry": "false"}  # read by OpenAI's clients, which try every other 429 again
    # A message may quote the request: a secret, a control character, a lone surrogate.
    return Response(dump_json(error.body, indent=False), error.status, headers, media_type="application/json")


def refuse_foreign_page(request: Request) -> None:
    """Refuse requests that a browser sends for a page of another site, with or without a key.

    Raises:
        RequestError: 403.
    """
    headers = request.headers
    if is_foreign_page(headers.get("origin"), headers.get("host", ""), headers.get("sec-fetch-site")):
        raise RequestError(403, "requests from web pages of another site are not answered", code="foreign_origin")


def check_key(request: Request, key: str) -> None:
    """Refuse a request without the key. Raises `RequestError` (401)."""
    if not hmac.compare_digest(sent_key(request).encode(), key.encode()):
        raise wrong_key()


def sent_key(request: Request) -> str:
    """Return the key that a request sends: `Authorization: Bearer KEY`, or `api-key: KEY`; "" for none."""
    authorization = request.headers.get("authorization")
    if authorization is None:
        return request.headers.get("api-key", "").strip()
    return authorization.removeprefix("Bearer ").strip()


def wrong_key() -> RequestError:
    """Return the error of a request whose key is missing or wrong."""
    return RequestError(401, "the API key is missing or wrong", code="invalid_api_key")


def require_json(request: Request) -> None:
    """Refuse a body that is not declared as JSON. Raises `RequestError` (415).

    A browser sends text/plain to any site; application/json needs a CORS permission, which is never given.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise RequestError(
            415,
            f"the body must be application/json, not {content_type or 'without a content type'}",
            code="invalid_type",
        )


#: Most levels of nesting in a body: published requests (tools with JSON Schemas) stay under 20.
DEPTH = 100


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Parse a body as a JSON object. Raises `RequestError` (400) for any other, or one nested too deeply."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not JSON") from None
    if not isinstance(value, dict):
        raise RequestError(400, "the body is not a JSON object")
    if _depth(value) > DEPTH:
        raise RequestError(400, f"the body is nested more than {DEPTH} levels deep")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestError(400, "the body holds a lone surrogate, which is not a character") from None
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _depth(value: Any) -> int:
    """Count the levels of nesting, without recursion, which a deep value would exhaust."""
    depth, level = 0, [value]
    while level and depth <= DEPTH:
        depth += 1
        containers = [entry for entry in level if isinstance(entry, dict | list)]
        level = [child for entry in containers for child in (entry.values() if isinstance(entry, dict) else entry)]
    return depth
