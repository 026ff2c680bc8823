"""Graders of kind `http`: an endpoint of the user's, which is asked for the score of each answer."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from llmtune.config import require_secret
from llmtune.job.graders import HttpGrader

if TYPE_CHECKING:
    import httpx

#: Bytes of a question to the endpoint, and of its answer, at most.
LARGEST_QUESTION = 1024 * 1024
LARGEST_ANSWER = 64 * 1024

#: Seconds before a call is repeated; each further pause is twice as long.
FIRST_PAUSE = 0.5
#: The longest pause that the endpoint itself may ask for (`retry-after`), in seconds.
LONGEST_PAUSE = 30.0

#: Answers in a row without a score from an endpoint that cannot be reached, before the others are given up too.
MOST_FAILURES = 3


class HttpEndpoint:
    """An endpoint that scores answers. Use as a context manager.

    Raises `MissingCredentials` where the variable of its key is not set.
    """

    def __init__(self, grader: HttpGrader) -> None:
        self._grader = grader
        self._failures = 0
        self._last_error = ""
        self._client: httpx.Client | None = None

    def __enter__(self) -> Self:
        import httpx  # not at the top: few graders need it

        # Compressed answers are not taken: a few bytes of them may stand for gigabytes.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if self._grader.key_env is not None:
            key = require_secret(self._grader.key_env, f"the grader's endpoint {_name(self._grader.url)}")
            headers["authorization"] = f"Bearer {key}"
        # A redirect is not followed: it could carry the key and the rows to somebody else.
        self._client = httpx.Client(timeout=self._grader.seconds, follow_redirects=False, headers=headers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()

    def grade(
        self, row: dict[str, Any], answer: str, tool_calls: Sequence[tuple[str, Any]]
    ) -> tuple[float | None, str]:
        """Return the score of an answer and "", or None and what went wrong."""
        if self._failures >= MOST_FAILURES:
            return None, self._last_error
        calls = [{"name": name, "arguments": arguments} for name, arguments in tool_calls]
        try:
            question = json.dumps({"row": row, "answer": answer, "tool_calls": calls}).encode()
        except (TypeError, ValueError) as problem:
            return None, f"the row cannot be written as JSON: {problem}"
        if len(question) > LARGEST_QUESTION:
            return None, f"row and answer have {len(question):,} bytes, and {LARGEST_QUESTION:,} are sent at most"
        for attempt in range(self._grader.retries + 1):
            content, error, pause = self._ask(question)
            if content is not None:
                self._failures = 0
                return read_score(content)
            if pause is None:
                break
            if attempt < self._grader.retries:
                time.sleep(min(LONGEST_PAUSE, max(pause, FIRST_PAUSE * 2**attempt)))
        self._failures += 1
        self._last_error = error
        return None, error

    def _ask(self, question: bytes) -> tuple[bytes | None, str, float | None]:
        """Return the endpoint's answer; or None, what went wrong, and after how many seconds to ask again (None: not
        at all)."""
        import httpx

        assert self._client is not None
        ends = time.monotonic() + self._grader.seconds
        too_long = f"the endpoint took longer than {self._grader.seconds:g} s"
        try:
            with self._client.stream(
                "POST", self._grader.url, content=question, headers={"content-type": "application/json"}
            ) as response:
                if response.status_code == 429 or response.status_code >= 500:
                    return None, f"the endpoint answered with {response.status_code}", _read_pause(response)
                if response.status_code != 200:
                    return None, f"the endpoint answered with {response.status_code}, not with 200", None
                if response.headers.get("content-encoding", "identity") != "identity":
                    return None, "the endpoint's answer is compressed, which was not asked for", None
                content = b""
                for part in response.iter_raw():
                    content += part
                    if len(content) > LARGEST_ANSWER:
                        return None, f"the endpoint's answer has more than {LARGEST_ANSWER:,} bytes", None
                    if time.monotonic() > ends:
                        return None, too_long, 0.0
                return content, "", None
        except httpx.TimeoutException:
            return None, too_long, 0.0
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return None, f"the endpoint {_name(self._grader.url)} cannot be reached ({type(error).__name__})", 0.0


def read_score(content: bytes) -> tuple[float | None, str]:
    """Return the score in an endpoint's answer and "", or None and what is wrong with it."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return None, "the endpoint's answer is not JSON"
    score = answer.get("score") if isinstance(answer, dict) else None
    if isinstance(score, bool) or not isinstance(score, int | float):
        return None, 'the endpoint\'s answer holds no number as "score"'
    try:
        value = float(score)
    except OverflowError:
        value = math.inf
    return (value, "") if math.isfinite(value) else (None, f"the endpoint's score is {value}")


def _read_pause(response: httpx.Response) -> float:
    try:
        pause = float(response.headers.get("retry-after", 0))
    except ValueError:
        return 0.0
    return pause if math.isfinite(pause) and pause > 0 else 0.0


def _name(url: str) -> str:
    """Return an address without its query, which may hold what is not for everybody's eyes."""
    return url.partition("?")[0]
