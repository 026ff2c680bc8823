"""The vendor's SDK: imported when it is first needed, asked for plain data, its exceptions raised as ours."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from llmtune import _clock
from llmtune.config import redact_url
from llmtune.errors import MissingCredentials, TransientError, VendorError
from llmtune.provider import (
    Requirement,
    bound_answer,
    count_pages,
    keep_redirects_home,
    load_json,
    may_have_arrived,
    open_providers,
    read_within_bounds,
    translate_errors,
)
from llmtune_openai import errors

if TYPE_CHECKING:
    from openai import OpenAI

_Json = TypeVar("_Json", dict[str, Any], list[Any])

PAGE = 100

#: Seconds that one call may take when nothing is configured: the SDK's own 600 would leave a lost poll hanging.
TIMEOUT = 120.0


@dataclass(eq=False)
class Connection:
    """One configured instance's client. Safe for several threads; opened at first use.

    Args:
        name: the configured instance.
        title: the service's name for people.
        requirement: the SDK.
        key_variable: the environment variable that holds the key, for sentences.
        arguments: what the client is made with, asked for when it is needed.
        timeout: seconds that any call may take, where that is configured.
    """

    name: str
    title: str
    requirement: Requirement
    key_variable: str
    arguments: Callable[[], dict[str, Any]]
    timeout: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _client: OpenAI | None = None

    @property
    def sdk(self) -> OpenAI:
        """The SDK's client, its own retries off: a retry is llmtune's decision.

        Raises `MissingExtra`, or `MissingCredentials` when there is no key.
        """
        with self._lock:
            if self._client is None:
                self.requirement.require(self.title)
                arguments = self.arguments()
                if not arguments.get("api_key"):
                    raise MissingCredentials(
                        f"no key for {self.title}: the environment variable {self.key_variable} is not set",
                        hint=f"export {self.key_variable}=..."
                        f" (or name another one: [providers.{self.name}] api_key_env)",
                    )
                # The SDK looks into a loaded httpx at every answer, even one that another thread has half imported.
                import httpx  # noqa: F401
                import openai

                with self.translate_errors():
                    hooks = {"response": [keep_redirects_home, bound_answer, read_within_bounds]}
                    http = openai.DefaultHttpxClient(event_hooks=hooks)
                    self._client = openai.OpenAI(max_retries=0, http_client=http, **arguments)
            return self._client

    def request(self, call: Callable[[OpenAI], Any]) -> dict[str, Any]:
        """Return the JSON object that a `with_raw_response` call answers."""
        return self._read_json(self.content(call), dict, "its JSON")

    def items(self, call: Callable[[OpenAI], Any]) -> list[dict[str, Any]]:
        """Return the records of a bare JSON array that a raw call answers; what is no record in it is left out."""
        answer = self._read_json(self.content(call), list, "its JSON list")
        return [dict(record) for record in answer if isinstance(record, Mapping)]

    def _read_json(self, content: bytes, kind: type[_Json], title: str) -> _Json:
        """Return the JSON of an answer, which must be of this type."""
        try:
            answer = load_json(content)
        except ValueError:
            answer = None
        if not isinstance(answer, kind):
            start = content[:200].decode("utf-8", "replace")
            raise TransientError(f"{self.title} answered with something that is not {title}: {start!r}", raw=start)
        return answer

    def content(self, call: Callable[[OpenAI], Any]) -> bytes:
        """Return the bytes that a `with_raw_response` call answers."""
        with self.translate_errors():
            return bytes(call(self.sdk).content)

    def pages(self, call: Callable[[OpenAI, dict[str, Any]], Any], *, size: int = PAGE) -> Iterator[dict[str, Any]]:
        """Yield every item of a list, page by page. `call` is given the client and the paging arguments."""
        after: str | None = None
        last_ids: set[str] = set()
        for _ in count_pages(self.title):
            paging: dict[str, Any] = {"limit": size} | ({"after": after} if after else {})
            page = self.request(lambda sdk, paging=paging: call(sdk, paging))  # type: ignore[misc]
            items = [record for record in page.get("data") or () if isinstance(record, Mapping)]
            yield from (dict(record) for record in items)
            last = str(items[-1].get("id", "")) if items else ""
            # Some services say has_more for ever, or leave it out: an empty page or a repeated one is the end.
            if not page.get("has_more") or not last or last in last_ids:
                return
            last_ids.add(last)
            after = last

    def translate_errors(self) -> AbstractContextManager[None]:
        """Turn what the SDK raises inside into llmtune's errors."""
        return translate_errors(self._translate)

    def _translate(self, error: Exception) -> Exception | None:
        openai: Any = sys.modules.get("openai")  # what was not imported has raised nothing
        if openai is None or not isinstance(error, openai.OpenAIError):
            return None
        if isinstance(error, openai.APIStatusError):
            return errors.refusal(
                error.status_code,
                error.body,
                dict(error.response.headers),
                title=self.title,
                name=self.name,
                key_env=self.key_variable,
                alternatives=lambda: open_providers(_clock.today()),
            )
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__
            why = str(cause or error) or type(cause or error).__name__
            sent = may_have_arrived(error)
            address = f" at {redact_url(str(self._client.base_url))}" if self._client is not None else ""
            timed_out = isinstance(error, openai.APITimeoutError)
            problem = f"{address} did not answer in time" if timed_out else f" cannot be reached{address}"
            return TransientError(f"{self.title}{problem}: {why}", sent=sent)
        return VendorError(f"{self.title}: {error}")
