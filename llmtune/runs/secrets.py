"""Nothing secret is kept or shown, not even when a vendor's error message repeats the key it was given.

llmtune never asks for a credential: each vendor's SDK finds its own. What stands in the environment under a secret's
name is taken out of every text that is stored, logged or raised.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import traceback
from urllib.parse import unquote, urlsplit

from llmtune.errors import LlmtuneError, VendorError
from llmtune.settings import redact_url

_NAMES = re.compile(r"(key|token|secret|password|passwd|credential)", re.IGNORECASE)

#: A shorter value, or one without a digit, is an ordinary word: taking it out would garble innocent text.
_SHORTEST = 12


def _known() -> tuple[str, ...]:
    """The secrets of this process's environment, longest first."""
    return _among(tuple(os.environ.items()))


@functools.lru_cache(maxsize=4)
def _among(environment: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    found = set()
    for name, value in environment:
        if _NAMES.search(name) and len(value) >= _SHORTEST and any(map(str.isdigit, value)) and os.sep not in value:
            found.add(value)
    if "@" in (store := dict(environment).get("LLMTUNE_STORE", "")):
        try:
            password = urlsplit(store).password
        except ValueError:
            password = None
        if password:
            found |= {password, unquote(password)}
    return tuple(sorted(found, key=len, reverse=True))


def scrub(text: str) -> str:
    """The text with every secret of the environment, and every password in a URL, replaced by `***`."""
    for secret in _known():
        if secret in text:
            text = text.replace(secret, "***")
    return redact_url(text) if "@" in text and "://" in text else text


def scrub_error(error: BaseException) -> None:
    """Take the secrets out of an error that is about to be raised further."""
    error.args = tuple(scrub(each) if isinstance(each, str) else each for each in error.args)
    if isinstance(error, LlmtuneError):
        error.message = scrub(error.message)
        error.hint = scrub(error.hint) if error.hint else error.hint
    if isinstance(error, VendorError) and error.raw:
        error.raw = scrub(error.raw)
    for inner in (error.__cause__, error.__context__):
        if inner is not None:
            scrub_error(inner)


class ScrubbingFilter(logging.Filter):
    """Takes secrets out of what llmtune logs, tracebacks included."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, scrubbed."""
        record.msg, record.args = scrub(record.getMessage()), ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = scrub("".join(traceback.format_exception(*record.exc_info)).rstrip())
            record.exc_info = None
        return True


def guard_logs() -> None:
    """Put the filter on llmtune's logger, once."""
    logger = logging.getLogger("llmtune")
    if not any(isinstance(each, ScrubbingFilter) for each in logger.filters):
        logger.addFilter(ScrubbingFilter())
