"""The vendor's SDK, imported when it is first needed, asked for plain data, its failures told as llmtune's errors."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmtune import _clock
from llmtune.config import read_secret
from llmtune.errors import MissingCredentials, MissingExtra, TransientError, VendorError
from llmtune_openai import errors

if TYPE_CHECKING:
    from openai import OpenAI

#: What the SDK's transport raises when no byte of the request has left.
_NEVER_LEFT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})

PAGE = 100

#: Seconds that one call may take when nothing is configured: the SDK's own 600 would leave a lost poll hanging.
PATIENCE = 120.0


class Connection:
    """One configured instance's client. Safe for several threads; opened at first use.

    Args:
        name: the configured instance.
        title: the service's name for people.
        extra: the extra that installs the SDK.
        key_env: the environment variable that holds the key, for sentences.
        arguments: what the client is made with, found when it is needed.
        patience: seconds that any call may take, where that is configured.
    """

    def __init__(
        self,
        name: str,
        title: str,
        extra: str,
        key_env: str,
        arguments: Callable[[], dict[str, Any]],
        patience: float | None = None,
    ) -> None:
        self.name = name
        self.title = title
        self.extra = extra
        self.key_env = key_env
        self.patience = patience
        self._arguments = arguments
        self._lock = threading.Lock()
        self._client: OpenAI | None = None

    @property
    def sdk(self) -> OpenAI:
        """The SDK's client, its own retries off: a retry is llmtune's decision.

        Raises `MissingExtra`, or `MissingCredentials` when there is no key.
        """
        with self._lock:
            if self._client is None:
                if importlib.util.find_spec("openai") is None:
                    raise MissingExtra(self.extra, "openai", purpose=self.title)
                arguments = self._arguments()
                if not arguments.get("api_key"):
                    raise MissingCredentials(
                        f"no key for {self.title}: the environment variable {self.key_env} is not set",
                        hint=f"export {self.key_env}=... (or name another one: [providers.{self.name}] api_key_env)",
                    )
                import openai

                with self.told():
                    self._client = openai.OpenAI(max_retries=0, **arguments)
            return self._client

    def ask(self, call: Callable[[OpenAI], Any]) -> dict[str, Any]:
        """The JSON object that a `with_raw_response` call answers."""
        with self.told():
            content = bytes(call(self.sdk).content)
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            shown = content[:200].decode("utf-8", "replace")
            raise TransientError(f"{self.title} answered with something that is not its JSON: {shown!r}", raw=shown)
        return answer

    def content(self, call: Callable[[OpenAI], Any]) -> bytes:
        """The bytes that a `with_raw_response` call answers."""
        with self.told():
            return bytes(call(self.sdk).content)

    def pages(self, call: Callable[[OpenAI, dict[str, Any]], Any], *, size: int = PAGE) -> Iterator[dict[str, Any]]:
        """Every item of a list, page by page. `call` is given the client and the paging arguments."""
        after: str | None = None
        seen: set[str] = set()
        while True:
            paging: dict[str, Any] = {"limit": size} | ({"after": after} if after else {})
            page = self.ask(lambda sdk, paging=paging: call(sdk, paging))  # type: ignore[misc]
            items = [item for item in page.get("data") or () if isinstance(item, Mapping)]
            yield from (dict(item) for item in items)
            last = str(items[-1].get("id", "")) if items else ""
            # Some services say has_more for ever, or leave it out: an empty page or a repeated one is the end.
            if not page.get("has_more") or not last or last in seen:
                return
            seen.add(last)
            after = last

    @contextmanager
    def told(self) -> Iterator[None]:
        """Turn what the SDK raises inside into llmtune's errors."""
        try:
            yield
        except Exception as error:
            if (ours := self._ours(error)) is None:
                raise
            raise ours from error

    def _ours(self, error: Exception) -> Exception | None:
        openai = _loaded()
        if openai is None or not isinstance(error, openai.OpenAIError):
            return None
        if isinstance(error, openai.APIStatusError):
            return errors.refusal(
                error.status_code,
                error.body,
                dict(error.response.headers),
                title=self.title,
                name=self.name,
                key_env=self.key_env,
                alternatives=_alternatives,
            )
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__
            why = str(cause or error) or type(cause or error).__name__
            left = type(cause).__name__ not in _NEVER_LEFT
            late = "did not answer in time" if isinstance(error, openai.APITimeoutError) else "cannot be reached"
            return TransientError(f"{self.title} {late}: {why}", sent=left)
        return VendorError(f"{self.title}: {error}")


def _loaded() -> Any:
    import sys

    return sys.modules.get("openai")


def _alternatives() -> tuple[str, ...]:
    from llmtune.provider import open_providers

    return open_providers(_clock.today())


def key_of(env: str) -> str | None:
    """The key in that environment variable; an empty one counts as none."""
    return read_secret(env)
