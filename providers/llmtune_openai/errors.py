"""The service's refusals as llmtune's errors: pure functions over status, body and headers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmtune.errors import (
    LimitKind,
    LlmtuneError,
    MissingCredentials,
    ProviderClosed,
    QuotaExceeded,
    TransientError,
    VendorError,
)
from llmtune.provider import NOT_FOLLOWED, retry_after

#: The organisation, or everybody, may not tune this model (any more).
CLOSED = frozenset({"training_not_available", "model_not_available"})

#: The services' codes for a limit of the account, and what it is on. Seconds of waiting lift none of them.
LIMITS: Mapping[str, LimitKind] = {
    "insufficient_quota": "spending",
    "billing_hard_limit_reached": "spending",
    "billing_not_active": "spending",
    "exceeded_quota": "spending",
    "daily_rate_limit_exceeded": "daily",
    "max_active_jobs_exceeded": "active_jobs",
    "toomanyactivejobs": "active_jobs",
    "insufficientquota": "deployments",
    "quotaexceeded": "other",
    "quota_exceeded": "other",
}

#: The words of a rate limit, which lifts in seconds: what it is on does not matter.
_RATE_WORDS = re.compile(r"rate limit|per[ -](second|minute|min|hour)\b|try again in|slow down")

#: The words by which a limit is recognised whose code is new, or says nothing of its kind.
_LIMIT_WORDS: tuple[tuple[LimitKind, str], ...] = (
    ("active_jobs", r"maximum.*\bactive\b|\bactive\b.*maximum|(active|running|concurrent) (fine[- ]tun\w+ )?jobs"),
    ("files", r"\bfiles?\b.*\b(quota|maximum|limit)\b|\b(quota|maximum|limit)\b.*\bfiles?\b"),
    ("daily", r"\bdaily (limit|quota|maximum)\b|\b(limit|quota|maximum)\b.*\b(per|a) day\b"),
    ("spending", r"hard limit|billing|spend(ing)? (limit|cap)|\bcredits?\b|current quota"),
)


def body_of(payload: Any) -> dict[str, Any]:
    """Return the error in an answer: `{"error": {...}}`, the inner object, problem+json, or text."""
    if isinstance(payload, Mapping):
        inner = payload.get("error", payload)
        if isinstance(inner, Mapping):
            return dict(inner)
        return {"message": str(inner)}
    return {"message": str(payload)} if payload else {}


def refusal(
    status: int,
    payload: Any,
    headers: Mapping[str, str],
    *,
    title: str,
    name: str,
    key_env: str,
    alternatives: Callable[[], Sequence[str]] = tuple,
) -> LlmtuneError:
    """Return the error for an answer that is a refusal.

    Args:
        status: the HTTP status.
        payload: its body, parsed where it was JSON.
        headers: its headers.
        title: the service's name for people.
        name: the configured instance.
        key_env: where the key was looked for.
        alternatives: names the backends that still take jobs; asked only when the service is closed.
    """
    body = body_of(payload)
    message = str(body.get("message") or (NOT_FOLLOWED if 300 <= status < 400 else f"status {status} without a word"))
    code = str(body["code"]) if body.get("code") else None
    param = f" (field {body['param']})" if body.get("param") else ""
    raw = str(payload)[:2000]
    if code in CLOSED:
        hint, providers = "check the model's id", [provider for provider in alternatives() if provider != name]
        if providers:
            hint += f", or tune elsewhere: {', '.join(providers)} take jobs"
            hint += f" (llmtune plan JOB --provider {','.join(providers)})"
        return ProviderClosed(
            f"{title} does not let this organisation tune this model: {message}",
            provider=name,
            alternatives=providers,
            hint=hint,
        )
    if limit := limit_of(status, code, message, str(body.get("type") or "")):
        return QuotaExceeded(f"{title}: {message}", limit=limit)
    facts: dict[str, Any] = {"code": code, "status": status, "raw": raw}
    if status == 429:
        wait = retry_after(headers)
        text = f"{title} asks us to slow down: {message}"
        return TransientError(text, retry_after=wait, sent=False, limit="rate", **facts)
    if status == 401:
        return MissingCredentials(f"{title} does not accept the credentials in {key_env}: {message}")
    if status in (408, 409) or status >= 500:
        wait = retry_after(headers)
        return TransientError(f"{title} could not answer ({status}): {message}", retry_after=wait, **facts)
    return VendorError(f"{title} refused ({status}): {message}{param}", hint=_hint(status, body, key_env), **facts)


def limit_of(status: int, code: str | None, message: str, type: str = "") -> LimitKind | None:
    """Return what the limit behind a refusal is on; None where it is none, or one that seconds of waiting lift.

    Args:
        status: the HTTP status.
        code: the service's code, in any case.
        message: its words, which count where the code is new or general.
        type: the service's word for the type of error, which some give in place of a code.
    """
    limit = LIMITS.get((code or "").lower()) or LIMITS.get(type.lower())
    if limit not in (None, "other"):
        return limit
    low = message.lower()
    if limit is None and (status not in (402, 429) or _RATE_WORDS.search(low)):
        return None
    by_words = next((kind for kind, words in _LIMIT_WORDS if re.search(words, low)), None)
    return by_words or limit or ("spending" if status == 402 else None)


def names_no_model(refused: VendorError) -> bool:
    """Return whether a refusal says that there is no such model."""
    text = refused.message.lower()
    return refused.code in ("model_not_found", "invalid_model") or (
        "model" in text and re.search(r"does not exist|not found|not available|unknown model", text) is not None
    )


def _hint(status: int, body: Mapping[str, Any], key_env: str) -> str | None:
    """Return the next step after a refusal that names none."""
    if status == 403 and not body.get("message"):
        return (
            f"the service gives no reason: look at the account's balance, at the project that is chosen, and whether"
            f" the key in {key_env} may tune there"
        )
    return None
