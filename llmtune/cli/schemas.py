"""JSON documents of the command line itself, besides the library's own results."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ErrorDetails(BaseModel):
    """Why a command failed: the class of the error, its message, what to do next, and the exit code."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    message: str
    hint: str | None
    exit_code: int


class ErrorDocument(BaseModel):
    """The last line of standard error of a command that failed under `--json`."""

    model_config = ConfigDict(extra="forbid")

    error: ErrorDetails
