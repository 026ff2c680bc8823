"""Nothing secret is kept or shown, not even when a vendor's error message repeats the key it was given.

llmtune never asks for a credential: each vendor's SDK finds its own. The secrets that a provider read, and what stands
in the environment under a secret's name, are taken out of every text that is stored, logged or raised. Texts are
scrubbed one by one before they are serialised, and what is sent (job, request, references) is never changed: a job
that holds a secret is refused instead.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from llmtune.config import redact_url, secret_variables
from llmtune.errors import InvalidJob, LlmtuneError, VendorError

_API_KEY = re.compile(r"(^|_)API_?KEY(_|\d*$)", re.IGNORECASE)

#: Whole words of a variable's name, so that neither MONKEY nor TOKENIZER_MODEL counts; TOKEN_FILE is about a secret.
_NAMES = re.compile(
    r"(^|_)((api|access|account|private|subscription)_?key|token|secret|passphrase|passwd|[a-z]*password|credentials?)"
    r"(_|\d*$)|_(pass|pwd|pat|auth)$",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"_(model|name|file|path|dir|url|uri|(?<!access_key_)id|type|count|limit|length|env)$", re.IGNORECASE
)

#: A shorter value is an ordinary word: taking it out would garble innocent text. So is a short one of letters alone.
_SHORTEST = 8
_WORDS = re.compile(r"(?=.{1,19}$)[a-z]+([-_. ][a-z]+)*", re.IGNORECASE)

_BEARER = re.compile(r"\b(bearer\s+)(?=\S*\d)[\w.~+/=-]{8,}", re.IGNORECASE)


def _known() -> tuple[str, ...]:
    """The secrets of this process's environment, longest first."""
    return _among(tuple(os.environ.items()), secret_variables())


@functools.lru_cache(maxsize=4)
def _among(environment: tuple[tuple[str, str], ...], read: frozenset[str]) -> tuple[str, ...]:
    found = set()
    for name, value in environment:
        named = _NAMES.search(name) and not _ABOUT.search(name) and _looks_secret(value)
        if named or (name in read and len(value) >= _SHORTEST):
            found.add(value)
    if "@" in (store := dict(environment).get("LLMTUNE_STORE", "")):
        try:
            password = urlsplit(store).password
        except ValueError:
            password = None
        if password:
            found |= {password, unquote(password)}
    return tuple(sorted(found, key=len, reverse=True))


def holds_secret(name: str, value: str) -> bool:
    """Return whether an environment variable is the place of a secret: by its name, or a password in a URL."""
    if name in secret_variables() or (_NAMES.search(name) and not _ABOUT.search(name)):
        return True
    return "@" in value and "://" in value and redact_url(value) != value


def _looks_secret(value: str) -> bool:
    """Whether a value is no ordinary word, and no path of a file that holds the secret."""
    if len(value) < _SHORTEST or _WORDS.fullmatch(value):
        return False
    there = os.path.exists(value)  # noqa: PTH110 - a key may be too long for a path, which Path.exists raises for
    return not (there or (value[0] in "/~." and Path(value).suffix))


def scrub(text: str) -> str:
    """The text with every known secret, and every password in a URL, replaced by `***`. Not for serialised data."""
    return _scrub(text, _known())


def _scrub(text: str, known: tuple[str, ...]) -> str:
    for secret in known:
        if secret in text:
            text = text.replace(secret, "***")
    text = _BEARER.sub(r"\1***", text)
    return redact_url(text) if "@" in text and "://" in text else text


def scrub_leaves(data: Any) -> Any:
    """JSON data with each string in it scrubbed by itself; its shape, keys and numbers stay as they are."""
    known = _known()

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return _scrub(value, known)
        if isinstance(value, dict):
            return {name: clean(inner) for name, inner in value.items()}
        return [clean(inner) for inner in value] if isinstance(value, list | tuple) else value

    return clean(data)


def refuse_secrets(job: dict[str, Any]) -> None:
    """Refuse a job, as data, that holds the value of a key: jobs are stored and sent as they are.

    Raises `InvalidJob`, which names the field and the variable.
    """
    read = secret_variables()
    keys = {name: value for name, value in os.environ.items() if name in read or _API_KEY.search(name)}
    for where, text in _leaves(job):
        for name, value in keys.items():
            if _looks_secret(value) and value in text:
                raise InvalidJob(
                    f"it holds the secret in the environment variable {name}; a job is stored and sent as it is",
                    where=where,
                    hint="take the value out of the job",
                )


def _leaves(data: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every string of JSON data, names of entries too, with its place."""
    if isinstance(data, str):
        yield where, data
    elif isinstance(data, dict):
        for name, inner in data.items():
            yield where or "job", str(name)
            yield from _leaves(inner, f"{where}.{name}" if where else str(name))
    elif isinstance(data, list | tuple):
        for index, inner in enumerate(data):
            yield from _leaves(inner, f"{where}[{index}]")


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
