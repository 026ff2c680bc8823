"""The vendor's SDK: imported when it is first needed, asked for plain data, its exceptions raised as ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import llmtune.provider as core
from llmtune.config import require_secret
from llmtune.errors import TransientError

if TYPE_CHECKING:
    from together import Together

    from llmtune_together.settings import TogetherSettings

SDK = core.Requirement(extra="together", module="together", distribution="together")

#: Where a key is made, for hints.
KEYS = "(keys: api.together.ai/settings/api-keys)"

#: Answers to these questions start nothing, whatever becomes of them.
_QUESTIONS = ("/estimate-price", "/limits")


class Connection:
    """One configured instance's client, opened at first use; its own retries are off."""

    def __init__(self, name: str, settings: TogetherSettings) -> None:
        self.name = name
        self.settings = settings

    def open(self) -> Together:
        """Return a new client. Raises `MissingExtra`, or `MissingCredentials` when there is no key."""
        SDK.require(f"provider {self.name}")
        settings = self.settings
        variable = settings.api_key_env
        key = require_secret(variable, f"provider {self.name}: no API key", hint=f"export {variable}=...  {KEYS}")
        import together

        return together.Together(
            api_key=key,
            base_url=settings.base_url,
            project_id=settings.project_id,
            timeout=settings.timeout,
            max_retries=0,
            http_client=together.DefaultHttpxClient(
                event_hooks={"response": [core.keep_redirects_home, core.bound_answer, core.read_within_bounds]}
            ),
        )

    @cached_property
    def sdk(self) -> Together:
        """The client for everything but a paid call: making one costs 0.1 s, and a poll makes four calls."""
        return self.open()

    def request(self, action: str, call: Callable[[Together], Any], *, question: bool = False) -> dict[str, Any]:
        """Return what a call answers, as plain data; `action` says in errors what was being done."""
        with self.translate_errors(action):
            return self.plain(call(self.sdk), action, question=question)

    def items(self, action: str, call: Callable[[Together], Any]) -> Iterator[dict[str, Any]]:
        """Yield every item of a list that the SDK pages through."""
        with self.translate_errors(action):
            for record in call(self.sdk):
                yield self.plain(record, action)

    def plain(self, answer: Any, action: str, *, question: bool = False) -> dict[str, Any]:
        """Return an SDK object as plain data under the API's own names. Raises `TransientError` for anything else.

        `question` says that the call can have started nothing, whatever became of its answer.
        """
        if isinstance(answer, dict):
            return answer
        if not hasattr(answer, "to_dict"):
            problem = f"an answer that cannot be read: {str(answer)[:200]}"
            raise TransientError(f"{self.name}: {action}: {problem}", sent=not question)
        data: dict[str, Any] = answer.to_dict(mode="json", use_api_names=True, exclude_unset=True)
        return data

    def translate_errors(self, action: str) -> AbstractContextManager[None]:
        """Turn what the SDK raises inside into llmtune's errors."""
        return core.translate_errors(lambda error: self._translate(error, action))

    def _translate(self, error: Exception, action: str) -> Exception | None:
        import httpx
        import together

        if isinstance(error, together.APIStatusError):
            answer = (error.status_code, error.body, error.response.headers)
            refused = core.refused_answer(self.name, action, *answer, otherwise=str(error))
            if isinstance(refused, TransientError):
                refused.sent = refused.sent and _may_have_arrived(error)
            return refused
        if isinstance(error, together.APITimeoutError):
            problem = "no answer in time"
        elif isinstance(error, together.APIConnectionError):
            problem = f"the connection failed ({_innermost_message(error)})"
        elif isinstance(error, together.APIResponseValidationError):
            problem = "an answer that cannot be read"
        elif isinstance(error, httpx.HTTPError):  # file contents travel outside the SDK's own error handling
            problem = f"the connection failed ({error!r})"
        else:
            return None
        return TransientError(f"{self.name}: {action}: {problem}", sent=_may_have_arrived(error), raw=repr(error))


def _may_have_arrived(error: Exception) -> bool:
    """Return whether something may have been started: a connection never made, or a mere question, started nothing."""
    import together

    if isinstance(error, together.APIError) and error.request.url.path.endswith(_QUESTIONS):
        return False
    return core.may_have_arrived(error)


def _innermost_message(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
