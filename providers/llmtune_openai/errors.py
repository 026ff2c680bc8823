"""The service's refusals as llmtune's errors: pure functions over status, body and headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmtune.errors import LlmtuneError, MissingCredentials, ProviderClosed, QuotaExceeded, TransientError, VendorError
from llmtune.provider import NOT_FOLLOWED, retry_after

#: The organisation, or everybody, may not tune this model (any more).
CLOSED = frozenset({"training_not_available", "model_not_available"})

#: A limit of the account that waiting seconds does not lift.
EXHAUSTED = frozenset(
    {
        "insufficient_quota",
        "insufficientquota",
        "billing_hard_limit_reached",
        "billing_not_active",
        "quota_exceeded",
        "exceeded_quota",
        "quotaexceeded",
        "daily_rate_limit_exceeded",
        "max_active_jobs_exceeded",
        "toomanyactivejobs",
    }
)


#: Those of them that lift when a job ends.
ACTIVE_JOBS = frozenset({"max_active_jobs_exceeded", "toomanyactivejobs"})

#: Those of them that money lifts.
MONEY = frozenset(
    {
        "insufficient_quota",
        "insufficientquota",
        "billing_hard_limit_reached",
        "billing_not_active",
        "exceeded_quota",
    }
)


def body_of(payload: Any) -> dict[str, Any]:
    """The error inside an answer: `{"error": {...}}`, the inner object, problem+json, or text."""
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
    """The error for an answer that is a refusal.

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
    words = str(body.get("message") or (NOT_FOLLOWED if 300 <= status < 400 else f"status {status} without a word"))
    code = str(body["code"]) if body.get("code") else None
    param = f" (field {body['param']})" if body.get("param") else ""
    raw = str(payload)[:2000]
    if code in CLOSED:
        hint, providers = "check the model's id", [provider for provider in alternatives() if provider != name]
        if providers:
            hint += f", or tune elsewhere: {', '.join(providers)} take jobs"
            hint += f" (llmtune plan JOB --provider {','.join(providers)})"
        return ProviderClosed(
            f"{title} does not let this organisation tune this model: {words}",
            provider=name,
            alternatives=providers,
            hint=hint,
        )
    if (code or "").lower() in EXHAUSTED or (status == 429 and "maximum" in words and "active" in words):
        return QuotaExceeded(
            f"{title}: {words}",
            hint=_way_out((code or "").lower(), words.lower()),
            jobs=(code or "").lower() in ACTIVE_JOBS or ("maximum" in words and "active" in words),
        )
    facts: dict[str, Any] = {"code": code, "status": status, "raw": raw}
    if status == 429:
        wait = retry_after(headers)
        return TransientError(f"{title} asks us to slow down: {words}", retry_after=wait, sent=False, **facts)
    if status == 401:
        return MissingCredentials(f"{title} does not accept the credentials in {key_env}: {words}")
    if status in (408, 409) or status >= 500:
        wait = retry_after(headers)
        return TransientError(f"{title} could not answer ({status}): {words}", retry_after=wait, **facts)
    return VendorError(f"{title} refused ({status}): {words}{param}", hint=_hint(status, body, key_env), **facts)


def _way_out(code: str, words: str) -> str:
    """What lifts a limit: each has its own way, and waiting is one for few of them."""
    if "file" in words:
        return "llmtune runs cleanup removes uploads that no unfinished run uses; others go in the vendor's console"
    if code == "daily_rate_limit_exceeded" or "per day" in words or "daily" in words:
        return "the limit is a day's: start the same job again tomorrow, or ask for a higher one"
    if code in MONEY or "billing" in words or "hard limit" in words or "credit" in words:
        return "waiting does not lift it: raise the spending limit, or add credit, in the account's billing settings"
    return "wait until running jobs have ended, or raise the limit there"


def _hint(status: int, body: Mapping[str, Any], key_env: str) -> str | None:
    """The next step after a refusal that names none."""
    if status == 403 and not body.get("message"):
        return f"look at the account's balance, and whether the key in {key_env} may tune in this project"
    return None
