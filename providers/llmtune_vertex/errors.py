"""What Google's three client libraries raise, as what llmtune raises: one clear sentence each.

google-genai raises `APIError`, google-cloud-storage and aiplatform raise `GoogleAPICallError`; below them are httpx,
requests and google-auth.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from llmtune.errors import InvalidSettings, LlmtuneError, MissingCredentials, QuotaExceeded, TransientError, VendorError
from llmtune.provider import catalog
from llmtune.provider import retry_after as seconds_to_wait
from llmtune_vertex.declarations import ADAPTER_SIZES

LOG_IN = "gcloud auth application-default login"

#: What the service says of rows, not of the base model: an example by its number, or what an example holds.
_ROWS = re.compile(r"dataset example \d|example \d+ of \d|modality|modalities|function ?(call|response)|of type jsonl")

#: Exceptions of httpx, httpx2, requests and urllib3 by name, so that none of them need be imported here.
_UNSENT = {"ConnectError", "ConnectTimeout", "NewConnectionError", "ConnectTimeoutError", "NameResolutionError"}
_BROKEN = {"TransportError", "RequestException", "HTTPError", "ConnectionError", "DataCorruption", "InvalidResponse"}


def from_answer(  # noqa: C901
    status: int | None, code: str, message: str, *, doing: str, name: str, retry_after: float | None = None
) -> LlmtuneError:
    """An error answer of Google. `doing` is what was being done ("starting the job"), for the sentence."""
    said = f"Google said {_first_violations(message)!r}" if message else f"Google said {code or status}"
    facts: dict[str, Any] = {"code": code or None, "status": status, "raw": message}
    low = message.lower()
    if status == 401:
        return MissingCredentials(f"Google does not accept the credentials ({doing}: {said})", hint=LOG_IN)
    if status == 403:
        hint = "ask for the role roles/aiplatform.user, and roles/storage.objectAdmin on the bucket"
        if "service agent" in low or "gcp-sa-aiplatform" in low:
            hint = (
                "it is Vertex AI's own service agent that lacks it, not you: grant roles/storage.objectViewer on the"
                " bucket to service-PROJECT_NUMBER@gcp-sa-aiplatform.iam.gserviceaccount.com"
            )
        elif "has not been used" in low or "disabled" in low:
            hint = "gcloud services enable aiplatform.googleapis.com storage.googleapis.com"
        return VendorError(f"Google does not allow {doing}: {said}", hint=hint, **facts)
    if status == 429:
        if "quota" in low and not re.search(r"per[ _](minute|second|user)", low):
            return QuotaExceeded(
                f"the project's quota is reached ({doing}: {said})",
                hint="one tuning job a project runs at once by default: wait for it, or ask for more quota",
                jobs="concurrent" in low or "job" in low,
            )
        return TransientError(f"Google is limiting {doing}: {said}", sent=False, retry_after=retry_after, **facts)
    if status in (408, 409, 499) or (status is not None and status >= 500):
        return TransientError(f"Google is unwell for now ({doing}: {said})", retry_after=retry_after, **facts)
    if "bucket" in low and (status == 404 or "not exist" in low):
        return InvalidSettings(f"{said} ({doing}): fix bucket under [providers.{name}] in llmtune.toml, or create it")
    if "adapter size" in low or "adaptersize" in low or "adapter_size" in low:
        return VendorError(
            f"this base model is not tuned with such an adapter ({doing}: {said})",
            hint=f"set hyperparameters.lora_rank to another of {', '.join(map(str, ADAPTER_SIZES))}, or leave it out",
            **facts,
        )
    if _ROWS.search(low):
        return VendorError(
            f"rows of the dataset are not taken for this model ({doing}: {said})",
            hint="llmtune data check FILE --provider vertex --model MODEL says what it can; other models take others",
            **facts,
        )
    if "base model" in low or "basemodel" in low or ("model" in low and "not supported" in low):
        return VendorError(
            f"the base model cannot be tuned here ({doing}: {said})",
            hint=f"known to be tunable: {', '.join(_gemini())}; and open models (publisher/model@version)",
            **facts,
        )
    if re.search(r"\b(region|location)\b", low):
        return VendorError(
            f"that does not work in this location ({doing}: {said})",
            hint=f"fix location under [providers.{name}]; llmtune plan warns of models that are tuned elsewhere",
            **facts,
        )
    if status == 404:
        return VendorError(f"not found ({doing}: {said})", **facts)
    return VendorError(f"Google refused {doing}: {said}", **facts)


def _first_violations(message: str) -> str:
    """The message, with room for more than one violated field; the rest is in `raw`."""
    return _short(message, 600)


def _gemini() -> list[str]:
    known = catalog.load("vertex", Path(__file__).with_name("catalog.toml"))
    return [id for id, entry in known.models.items() if entry.family != "open"]


def from_exception(error: Exception, *, doing: str, name: str) -> LlmtuneError | None:
    """An exception of one of Google's libraries as ours; None for anything else."""
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
            _message(error),
            doing=doing,
            name=name,
            retry_after=seconds_to_wait(getattr(answer, "headers", None)),
        )
    if module.startswith("google.auth"):
        return _credentials(error, kinds, doing)
    return _on_the_way(error, kinds, doing)


def _credentials(error: Exception, kinds: set[str], doing: str) -> LlmtuneError:
    if "TransportError" in kinds:
        return TransientError(f"Google's credentials cannot be fetched ({doing}): {_first(error)}", sent=False)
    if "DefaultCredentialsError" in kinds:
        return MissingCredentials(f"Google's credential chain found nothing usable ({doing})", hint=LOG_IN)
    return MissingCredentials(f"the Google credentials have expired ({doing}: {_first(error)})", hint=LOG_IN)


def _on_the_way(error: Exception, kinds: set[str], doing: str) -> LlmtuneError | None:
    if kinds & _UNSENT or any(each in str(error) for each in ("NewConnectionError", "Connection refused")):
        return TransientError(f"Google cannot be reached ({doing}): {_first(error)}", sent=False, raw=str(error))
    if kinds & _BROKEN:
        return TransientError(f"the connection to Google broke ({doing}): {_first(error)}", raw=str(error))
    if isinstance(error, json.JSONDecodeError) or "ValidationError" in kinds or "UnknownApiResponseError" in kinds:
        return TransientError(f"Google's answer could not be read ({doing}): {_first(error)}", raw=str(error))
    return None


def _message(error: Exception) -> str:
    """The service's own words inside a GoogleAPICallError, without the request line before them."""
    try:  # uploads put the whole answer into their message; its own message is inside
        return str(error.response.json()["error"]["message"])  # type: ignore[attr-defined]
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    listed = getattr(error, "errors", None)
    if listed and isinstance(listed[0], dict) and listed[0].get("message"):
        return str(listed[0]["message"])
    return re.sub(r"^\d{3}\s+", "", re.sub(r"(GET|POST|PUT|DELETE|PATCH) https?://\S+?:\s", "", str(error)))


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return _short(lines[0]) if lines else type(error).__name__


def _short(text: str, most: int = 240) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= most else f"{text[: most - 3].rsplit(' ', 1)[0]}..."
