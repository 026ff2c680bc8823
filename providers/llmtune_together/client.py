"""Calls through the SDK, with its exceptions turned into ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmtune.errors import TransientError
from llmtune_together import responses


@contextmanager
def speaking(name: str, action: str) -> Iterator[None]:
    """Turn what the SDK raises inside into our errors; `action` says what was being done."""
    import httpx
    import together

    try:
        yield
    except together.APITimeoutError as error:
        raise TransientError(f"{name}: {action}: no answer in time", sent=reached(error), raw=repr(error)) from error
    except together.APIConnectionError as error:
        raise TransientError(
            f"{name}: {action}: the connection failed ({cause(error)})", sent=reached(error), raw=repr(error)
        ) from error
    except together.APIStatusError as error:
        headers = dict(error.response.headers)
        found = responses.refusal(name, action, error.status_code, error.body, headers, str(error))
        if isinstance(found, TransientError) and not reached(error):
            found.sent = False
        raise found from error
    except together.APIResponseValidationError as error:
        raise TransientError(f"{name}: {action}: an answer that cannot be read", raw=repr(error)) from error
    except httpx.HTTPError as error:  # file contents travel outside the SDK's own error handling
        raise TransientError(f"{name}: {action}: the connection failed ({error!r})", raw=repr(error)) from error


def reached(error: BaseException) -> bool:
    """Whether something may have been started: a connection never made, or a mere question, started nothing."""
    import httpx

    request = getattr(error, "request", None)
    if request is not None and request.url.path.endswith(("/estimate-price", "/limits")):
        return False
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)):
            return False
        seen = seen.__cause__
    return True


def cause(error: BaseException) -> str:
    """The innermost reason in a few words."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def plain(answer: Any, name: str, action: str, *, question: bool = False) -> dict[str, Any]:
    """An SDK object as plain data under the API's own names; anything unreadable is a `TransientError`.

    `question` says that the call can have started nothing, whatever became of its answer.
    """
    if isinstance(answer, dict):
        return answer
    if not hasattr(answer, "to_dict"):
        raise TransientError(f"{name}: {action}: an answer that cannot be read: {str(answer)[:200]}", sent=not question)
    found: dict[str, Any] = answer.to_dict(mode="json", use_api_names=True, exclude_unset=True)
    return found
