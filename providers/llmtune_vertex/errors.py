"""What Google's three client libraries raise, as what llmtune raises: one clear sentence each.

google-genai raises `APIError`, google-cloud-storage and aiplatform raise `GoogleAPICallError`; below them are httpx,
requests and google-auth.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtune import errors
from llmtune.provider import catalog
from llmtune.provider import retry_after as seconds_to_wait
from llmtune_vertex.declarations import ADAPTER_SIZES

LOG_IN = "gcloud auth application-default login"

#: What the service says of rows, not of the base model: an example by its number, or what an example holds.
_ROWS = re.compile(r"dataset example \d|example \d+ of \d|modality|modalities|function ?(call|response)")

#: Exceptions of httpx, httpx2, requests and urllib3 by name, so that none of them need be imported here.
_NOT_SENT_ERRORS = {
    "ConnectError",
    "ConnectTimeout",
    "NewConnectionError",
    "ConnectTimeoutError",
    "NameResolutionError",
}
_CONNECTION_ERRORS = {
    "TransportError",
    "RequestException",
    "HTTPError",
    "ConnectionError",
    "DataCorruption",
    "InvalidResponse",
}


#: What lifts a quota of each kind at Google. A quota that names nothing else is the one on tuning jobs.
HINTS: dict[errors.LimitKind, str] = {
    **errors.LIMIT_HINTS,
    "active_jobs": "one tuning job per project runs at once by default: wait for it, or ask for more quota",
}


@dataclass(frozen=True)
class ErrorAnswer:
    """An error answer of Google, with what was being done (`doing`) at the configured instance `name`."""

    status: int | None
    code: str
    message: str
    doing: str
    name: str
    retry_after: float | None = None

    @property
    def quotation(self) -> str:
        """What the service said, in a clause."""
        if self.message:
            return f"Google said {_shorten(self.message)!r}"
        return f"Google said {self.code or self.status}"

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the answer that an error of ours keeps."""
        return {"code": self.code or None, "status": self.status, "raw": self.message}


def from_answer(
    status: int | None, code: str, message: str, *, doing: str, name: str, retry_after: float | None = None
) -> errors.LlmtuneError:
    """Convert an error answer of Google. `doing` is what was being done ("starting the job"), for the sentence."""
    answer = ErrorAnswer(status, code, message, doing, name, retry_after)
    error = _access_error(answer) or _load_error(answer) or _request_error(answer)
    if error is not None:
        return error
    if status == 404:
        return errors.VendorError(f"not found ({doing}: {answer.quotation})", **answer.fields)
    return errors.VendorError(f"Google refused {doing}: {answer.quotation}", **answer.fields)


def _access_error(answer: ErrorAnswer) -> errors.LlmtuneError | None:
    """Return the error for credentials and permissions, recognised by status; None for any other answer."""
    if answer.status == 401:
        return errors.MissingCredentials(
            f"Google does not accept the credentials ({answer.doing}: {answer.quotation})", hint=LOG_IN
        )
    if answer.status == 403:
        low = answer.message.lower()
        hint = "ask for the role roles/aiplatform.user, and roles/storage.objectAdmin on the bucket"
        if "service agent" in low or "gcp-sa-aiplatform" in low:
            hint = (
                "it is Vertex AI's own service agent that lacks it, not you: grant roles/storage.objectViewer on the"
                " bucket to service-PROJECT_NUMBER@gcp-sa-aiplatform.iam.gserviceaccount.com"
            )
        elif "has not been used" in low or "disabled" in low:
            hint = "gcloud services enable aiplatform.googleapis.com storage.googleapis.com"
        return errors.VendorError(
            f"Google does not allow {answer.doing}: {answer.quotation}", hint=hint, **answer.fields
        )
    return None


def _load_error(answer: ErrorAnswer) -> errors.LlmtuneError | None:
    """Return the error for quotas, rate limits and outages, recognised by status; None for any other answer."""
    status, doing, quotation = answer.status, answer.doing, answer.quotation
    if status == 429:
        low = answer.message.lower()
        if "quota" in low and not re.search(r"per[ _](minute|second|user)", low):
            limit: errors.LimitKind = "daily" if re.search(r"per[ _]day", low) else "active_jobs"
            return errors.QuotaExceeded(
                f"the project's quota is reached ({doing}: {quotation})", hint=HINTS[limit], limit=limit
            )
        return errors.TransientError(
            f"Google is limiting {doing}: {quotation}",
            sent=False,
            retry_after=answer.retry_after,
            limit="rate",
            **answer.fields,
        )
    if status in (408, 409, 499) or (status is not None and status >= 500):
        return errors.TransientError(
            f"Google is unavailable for now ({doing}: {quotation})", retry_after=answer.retry_after, **answer.fields
        )
    return None


def _request_error(answer: ErrorAnswer) -> errors.LlmtuneError | None:
    """Return the error for what the request holds, recognised by the words of the message; None if none is known."""
    low, doing, quotation = answer.message.lower(), answer.doing, answer.quotation
    if "bucket" in low and (answer.status == 404 or "not exist" in low):
        return errors.InvalidSettings(
            f"{quotation} ({doing}): fix bucket under [providers.{answer.name}] in llmtune.toml, or create it"
        )
    if names_adapter_size(low):
        return errors.VendorError(
            f"this base model cannot be tuned with an adapter of this size ({doing}: {quotation})",
            hint=rank_hint(tuple(ADAPTER_SIZES)),
            **answer.fields,
        )
    if "of type jsonl" in low or "gcs object" in low:
        return errors.VendorError(
            f"a dataset in Cloud Storage is not accepted ({doing}: {quotation})",
            hint=(
                "Vertex AI reads gs://...jsonl objects only: look whether they are still in the bucket, and whether the"
                " service agent (service-PROJECT_NUMBER@gcp-sa-aiplatform.iam.gserviceaccount.com) may read them"
                " (roles/storage.objectViewer); --new uploads them again"
            ),
            **answer.fields,
        )
    if _ROWS.search(low):
        return errors.VendorError(
            f"rows of the dataset are not accepted for this model ({doing}: {quotation})",
            hint="llmtune data check FILE --provider vertex --model MODEL reports them; other models accept other rows",
            **answer.fields,
        )
    if "base model" in low or "basemodel" in low or ("model" in low and "not supported" in low):
        return errors.VendorError(
            f"the base model cannot be tuned here ({doing}: {quotation})",
            hint=f"known to be tunable: {', '.join(_gemini_models())}; and open models (publisher/model@version)",
            **answer.fields,
        )
    if re.search(r"\b(region|location)\b", low):
        return errors.VendorError(
            f"this is not available in this location ({doing}: {quotation})",
            hint=f"fix location under [providers.{answer.name}]; llmtune plan warns of models that are tuned elsewhere",
            **answer.fields,
        )
    return None


def names_adapter_size(message: str) -> bool:
    """Return whether a refusal is about the adapter's size."""
    return re.search(r"adapter[ _]?size", message.lower()) is not None


def rank_hint(sizes: tuple[int, ...]) -> str:
    """Return what to do about an adapter's size, where these are taken."""
    return f"set hyperparameters.lora_rank to another of {', '.join(map(str, sizes))}, or leave it out"


def _gemini_models() -> list[str]:
    models = catalog.load("vertex", Path(__file__).with_name("catalog.toml"))
    return [id for id, entry in models.models.items() if entry.family != "open"]


def from_exception(error: Exception, *, doing: str, name: str) -> errors.LlmtuneError | None:
    """Convert an exception of one of Google's libraries to ours; None for anything else."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    module = type(error).__module__
    if "APIError" in kinds and module.startswith("google.genai"):
        answer = getattr(error, "response", None)
        return from_answer(
            getattr(error, "code", None),
            str(getattr(error, "status", "") or ""),
            str(getattr(error, "message", "") or ""),
            doing=doing,
            name=name,
            retry_after=seconds_to_wait(getattr(answer, "headers", None)),
        )
    if "GoogleAPICallError" in kinds:
        status = getattr(error, "code", None)
        answer = getattr(error, "response", None)
        return from_answer(
            int(status) if status is not None else None,
            str(getattr(error, "grpc_status_code", "") or getattr(error, "reason", "") or ""),
            _read_message(error),
            doing=doing,
            name=name,
            retry_after=seconds_to_wait(getattr(answer, "headers", None)),
        )
    if module.startswith("google.auth"):
        return _credentials_error(error, kinds, doing)
    return _transport_error(error, kinds, doing)


def _credentials_error(error: Exception, kinds: set[str], doing: str) -> errors.LlmtuneError:
    if "TransportError" in kinds:
        return errors.TransientError(
            f"Google's credentials cannot be fetched ({doing}): {_first_line(error)}", sent=False
        )
    if "DefaultCredentialsError" in kinds:
        return errors.MissingCredentials(f"Google's credential chain found nothing usable ({doing})", hint=LOG_IN)
    return errors.MissingCredentials(
        f"the Google credentials have expired ({doing}: {_first_line(error)})", hint=LOG_IN
    )


def _transport_error(error: Exception, kinds: set[str], doing: str) -> errors.LlmtuneError | None:
    if kinds & _NOT_SENT_ERRORS or any(phrase in str(error) for phrase in ("NewConnectionError", "Connection refused")):
        return errors.TransientError(
            f"Google cannot be reached ({doing}): {_first_line(error)}", sent=False, raw=str(error)
        )
    if kinds & _CONNECTION_ERRORS:
        return errors.TransientError(f"the connection to Google broke ({doing}): {_first_line(error)}", raw=str(error))
    if isinstance(error, json.JSONDecodeError) or "ValidationError" in kinds or "UnknownApiResponseError" in kinds:
        return errors.TransientError(
            f"Google's answer could not be read ({doing}): {_first_line(error)}", raw=str(error)
        )
    return None


def _read_message(error: Exception) -> str:
    """Return the service's own words in a GoogleAPICallError, without the request line before them."""
    try:  # uploads put the whole answer into their message; its own message is inside
        return str(error.response.json()["error"]["message"])  # type: ignore[attr-defined]
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    listed = getattr(error, "errors", None)
    if listed and isinstance(listed[0], dict) and listed[0].get("message"):
        return str(listed[0]["message"])
    return re.sub(r"^\d{3}\s+", "", re.sub(r"(GET|POST|PUT|DELETE|PATCH) https?://\S+?:\s", "", str(error)))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return _shorten(lines[0]) if lines else type(error).__name__


def _shorten(text: str, max_length: int = 600) -> str:
    """Return the first whole sentences of a text, about `max_length` letters of them; all of it is in `raw`.

    A sentence is never cut: the first one is kept whatever its length.
    """
    sentences = re.split(r"(?<=[.!?;])\s+", " ".join(text.split()).rstrip("."))
    shortened = sentences[0]
    for sentence in sentences[1:]:
        if len(shortened) + len(sentence) >= max_length:
            return f"{shortened} ..."
        shortened += f" {sentence}"
    return shortened
