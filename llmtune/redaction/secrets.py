"""Masking of secrets in everything stored or shown, also where a vendor's error message repeats the key.

llmtune never asks for a credential: each vendor's SDK finds its own. The credentials that were used, and the
environment variables with a secret's name, are masked in every text that is stored, logged, raised or printed. Texts
are scrubbed one by one before they are serialised, and what is sent (job, request, references) is never changed: a job
that holds a secret is refused instead.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from llmtune.config import KEY_NAME, redact_url, secret_values, secret_variables
from llmtune.errors import InvalidJob, LlmtuneError, VendorError
from llmtune.redaction.control_chars import escape_controls

#: Whole words of a variable's name, so that neither MONKEY nor TOKENIZER_MODEL counts; TOKEN_FILE is about a secret.
_NAMES = re.compile(rf"(^|_){KEY_NAME}(_|\d*$)|_(pass|pwd|pat|auth|webhook_url)$", re.IGNORECASE)
_ABOUT = re.compile(
    r"_(model|name|file|path|dir|(?<!webhook_)url|uri|(?<!access_key_)id|type|count|limit|length|env)$", re.IGNORECASE
)
_CREDENTIALS = re.compile(r"credentials?(_|\d*$)", re.IGNORECASE)

#: A shorter value may be an ordinary word: it is only masked in the place of a credential.
SHORTEST = 8

#: A longer value is masked everywhere, a shorter one only as a separate token, not inside a longer word.
_LONG = 20

#: What comes before a credential in a header, or in a message that repeats one.
_HEADER = r"\b(?:(?:bearer|basic|token)\s+|(?:api[-_ ]?key|authorization|password|secret|token)[\"']?\s*[:=]\s*[\"']?)"
_BEARER = re.compile(r"\b(bearer\s+)(?=\S*\d)[\w.~+/=-]{8,}", re.IGNORECASE)


class Secrets:
    """The secrets known at one moment, by value, each with its source; and the patterns that find them."""

    def __init__(self, sources: dict[str, str]) -> None:
        self.sources = sources
        spellings = {
            spelling: value
            for value in sources
            for spelling in (value, quote(value, safe=""), json.dumps(value)[1:-1], value.replace("[", "\\["))
        }
        ordered = sorted(spellings, key=len, reverse=True)
        longer = [re.escape(spelling) for spelling in ordered if len(spelling) >= _LONG]
        tokens = [re.escape(spelling) for spelling in ordered if SHORTEST <= len(spelling) < _LONG]
        short = [re.escape(spelling) for spelling in ordered if len(spelling) < SHORTEST]
        branches = [f"(?:{'|'.join(longer)})"] if longer else []
        if tokens:  # the character before it may be the letter of an escape: "\n"
            branches.append(rf"(?:(?<![^\W_])|(?<=\\[abfnrtv]))(?:{'|'.join(tokens)})(?![^\W_])")
        self.pattern = re.compile("|".join(branches)) if branches else None
        self.header = re.compile(rf"({_HEADER})(?:{'|'.join(short)})(?![^\W_])", re.IGNORECASE) if short else None
        self._spellings = spellings

    def find_source(self, text: str) -> str | None:
        """Return the source of the first secret in a text; None when it holds none."""
        match = self.pattern.search(text) if self.pattern is not None else None
        return None if match is None else self.sources[self._spellings[match[0]]]


def known_secrets() -> Secrets:
    """Return the secrets of this process: those it has used, and those of its environment."""
    return _collect_secrets(tuple(os.environ.items()), secret_variables(), secret_values())


@functools.lru_cache(maxsize=4)
def _collect_secrets(environment: tuple[tuple[str, str], ...], read: frozenset[str], used: tuple[str, ...]) -> Secrets:
    sources: dict[str, str] = dict.fromkeys(used, "a credential that is in use")
    for name, value in environment:
        if value.strip() and (name in read or _names_secret(name, value)):
            sources[value.strip()] = f"the environment variable {name}"
    if "@" in (store := dict(environment).get("LLMTUNE_STORE", "")):
        try:
            password = urlsplit(store).password
        except ValueError:
            password = None
        if password:
            sources |= dict.fromkeys((password, unquote(password)), "the environment variable LLMTUNE_STORE")
    return Secrets(sources)


def _names_secret(name: str, value: str) -> bool:
    """Return whether a variable has a secret's name. `..._CREDENTIALS` may be the path of a file instead."""
    if not _NAMES.search(name) or _ABOUT.search(name):
        return False
    return not (_CREDENTIALS.search(name) and value[:1] in "/~." and Path(value).suffix)


def holds_secret(name: str, value: str) -> bool:
    """Return whether an environment variable is the place of a secret: by its name, or a password in a URL."""
    if name in secret_variables() or (_NAMES.search(name) and not _ABOUT.search(name)):
        return True
    return "@" in value and "://" in value and redact_url(value) != value


def list_short_secrets() -> list[str]:
    """List the environment variables whose secret is too short to be distinguished from an ordinary word."""
    read = secret_variables()
    return sorted(
        name
        for name, value in os.environ.items()
        if 0 < len(value.strip()) < SHORTEST and (name in read or _names_secret(name, value))
    )


def scrub(text: str) -> str:
    """Replace every known secret in a text, and every credential in a URL, by `***`. Not for serialised data."""
    return _scrub(text, known_secrets())


def _scrub(text: str, secrets: Secrets) -> str:
    if secrets.pattern is not None:
        text = secrets.pattern.sub("***", text)
    if secrets.header is not None:
        text = secrets.header.sub(r"\1***", text)
    text = _BEARER.sub(r"\1***", text)
    return redact_url(text) if "://" in text and ("@" in text or "?" in text) else text


def scrub_leaves(data: Any) -> Any:
    """Scrub each string of JSON data by itself; its shape and numbers stay as they are."""
    secrets = known_secrets()

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return _scrub(value, secrets)
        if isinstance(value, dict):
            return {clean(name): clean(inner) for name, inner in value.items()}
        return [clean(inner) for inner in value] if isinstance(value, list | tuple) else value

    return clean(data)


def refuse_secrets(job: dict[str, Any]) -> None:
    """Refuse a job, as data, that holds the value of a secret: jobs are stored and sent as they are.

    Raises `InvalidJob`, which names the field and the variable.
    """
    secrets = known_secrets()
    for where, text in _iter_strings(job):
        if source := secrets.find_source(text):
            raise InvalidJob(
                f"it holds the secret in {source}; a job is stored and sent as it is",
                where=where,
                hint="take the value out of the job",
            )


def _iter_strings(data: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string of JSON data, keys included, with its path."""
    if isinstance(data, str):
        yield where, data
    elif isinstance(data, dict):
        for name, inner in data.items():
            yield where or "job", str(name)
            yield from _iter_strings(inner, f"{where}.{name}" if where else str(name))
    elif isinstance(data, list | tuple):
        for index, inner in enumerate(data):
            yield from _iter_strings(inner, f"{where}[{index}]")


def scrub_error(error: BaseException) -> None:
    """Take the secrets out of an error before it is raised again."""
    error.args = tuple(scrub(argument) if isinstance(argument, str) else argument for argument in error.args)
    if isinstance(error, LlmtuneError):
        error.message = scrub(error.message)
        error.hint = scrub(error.hint) if error.hint else error.hint
    if isinstance(error, VendorError) and error.raw:
        error.raw = scrub(error.raw)
    for inner in (error.__cause__, error.__context__):
        if inner is not None:
            scrub_error(inner)


class ScrubbingFilter(logging.Filter):
    """Takes secrets and control characters out of what llmtune logs, tracebacks included."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, scrubbed."""
        record.msg, record.args = escape_controls(scrub(record.getMessage())), ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = escape_controls(scrub("".join(traceback.format_exception(*record.exc_info)).rstrip()))
            record.exc_info = None
        return True


def guard_logs() -> None:
    """Put the filter on llmtune's logger, once."""
    logger = logging.getLogger("llmtune")
    if not any(isinstance(log_filter, ScrubbingFilter) for log_filter in logger.filters):
        logger.addFilter(ScrubbingFilter())
