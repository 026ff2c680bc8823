"""The service's own routes beside training: sessions, capabilities, checkpoints, usage, and answers.

One request is one call here, never repeated, so that an unclear start can be told apart from a refused one; the SDK,
which repeats for minutes, carries the training itself (`tinker_loop.py`). Routes and bodies are those of the SDK's
0.38.0 (its resources and REST client, read 2026-12-02).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import llmtune.provider as core
from llmtune.config import require_secret
from llmtune.errors import QuotaExceeded, TransientError, VendorError
from llmtune.provider.http import Client

#: The service's own address, as the SDK has it.
ADDRESS = "https://tinker.thinkingmachines.dev/services/tinker-prod"
#: The SDK whose routes these are.
SDK_VERSION = "0.38.0"
SDK = core.Requirement(extra="tinker", module="tinker", distribution="tinker")
#: What a loss of our own is computed with, on this machine: supervised runs do without.
TORCH = core.Requirement(extra="tinker-dpo", module="torch", distribution="torch")
#: Where a key is made, for hints.
KEYS = "(keys: tinker-console.thinkingmachines.ai)"
#: The name under which a session carries the run key.
RUN_KEY = "llmtune_run"
#: Seconds for which a token that the key was exchanged for is used.
TOKEN_SECONDS = 60.0
#: What a session's id is made of; it stands in routes, and in messages.
_SESSION = re.compile(r"[A-Za-z0-9][\w:.-]{0,199}")
#: Entries of a page, and pages that are read.
PAGE, MOST_PAGES = 100, 50
#: Days that one question about usage may span.
USAGE_DAYS = 14


class TinkerClient:
    """The routes of one account.

    Args:
        name: name of the configured instance, for errors.
        base_url: address of the service.
        key_variable: name of the environment variable that holds the key.
        timeout: seconds that connecting, and each wait for an answer, may take.
        project_id: project of new sessions; None is the account's default.
    """

    def __init__(
        self, name: str, base_url: str, key_variable: str, *, timeout: float = 60.0, project_id: str | None = None
    ) -> None:
        self.name = name
        self.base_url = base_url
        self.key_variable = key_variable
        self.project_id = project_id
        self._http = Client(base_url, timeout=timeout)
        self._exchanges: bool | None = None
        self._token, self._token_time = "", 0.0

    @property
    def key(self) -> str:
        """The API key. Raises `MissingCredentials`."""
        variable = self.key_variable
        return require_secret(variable, f"provider {self.name}: no API key", hint=f"export {variable}=...  {KEYS}")

    # --- sessions ----------------------------------------------------------------------------------------------------
    def create_session(self, metadata: Mapping[str, str], display_name: str | None) -> str:
        """Open a session; return its id. One call, never repeated. Raises `TransientError` where it is unclear."""
        body: dict[str, Any] = {
            "tags": ["llmtune"],
            "user_metadata": dict(metadata),
            "sdk_version": SDK_VERSION,
            "type": "create_session",
        }
        if self.project_id:
            body["project_id"] = self.project_id
        if display_name:
            body["display_name"] = display_name
        answer = self._send("POST", "/create_session", body, action="opening the session")
        session, refused = answer.get("session_id"), answer.get("error_message")
        if _is_session(session):
            return str(session)
        if session is None and isinstance(refused, str) and refused:
            raise VendorError(f"{self.name}: opening the session: {refused}", raw=refused)
        raise TransientError(f"{self.name}: the answer to the new session could not be read", raw=str(answer)[:200])

    def find_sessions(self, key: str) -> list[dict[str, Any]]:
        """Return the sessions that carry a run key, newest first."""
        return self._search({"user_metadata": {RUN_KEY: key}}, "looking for the run's session")

    def read_session(self, session: str) -> dict[str, Any]:
        """Return a session as the service summarises it. Raises `VendorError` where there is none of that id."""
        for summary in self._search({"session_id": session}, "reading the session"):
            if summary.get("session_id") == session:
                return summary
        raise VendorError(f"{self.name}: there is no session {session}", status=404)

    def _search(self, query: dict[str, Any], action: str) -> list[dict[str, Any]]:
        answer = self._send("POST", "/sessions/search", {**query, "limit": 50}, action=action, safe=True)
        sessions = answer.get("sessions")
        if not isinstance(sessions, list):
            raise TransientError(f"{self.name}: {action}: an answer that cannot be read", raw=str(answer)[:200])
        return [entry for entry in sessions if isinstance(entry, dict) and _is_session(entry.get("session_id"))]

    def finish_session(self, session: str, outcome: str, detail: str) -> None:
        """End a session. The first reason stands; one that has ended is left as it is."""
        body = {"reason": {"type": outcome}, "detail": detail[:500]}
        try:
            self._send("POST", f"/sessions/{quote(session, safe='')}/finish", body, action="ending the session")
        except VendorError as refused:
            if isinstance(refused, TransientError) or refused.status not in (404, 409, 410):
                raise

    # --- the account -------------------------------------------------------------------------------------------------
    def read_capabilities(self) -> list[dict[str, Any]]:
        """Return the models that the account can use: model_name, max_context_length, trainable, sampleable."""
        answer = self._send("GET", "/get_server_capabilities", action="reading the models", safe=True)
        models = answer.get("supported_models")
        if not isinstance(models, list):
            raise TransientError(f"{self.name}: the list of models could not be read", raw=str(answer)[:200])
        return [entry for entry in models if isinstance(entry, dict) and isinstance(entry.get("model_name"), str)]

    def read_usage(self, sessions: set[str], since: float) -> tuple[int, float | None, bool]:
        """Return what was billed to sessions since a time (Unix seconds).

        Returns:
            training tokens, USD (None while the service has priced only a part), and whether any event is there yet.
        """
        end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        start = datetime.fromtimestamp(since, UTC).replace(minute=0, second=0, microsecond=0)
        start = max(start, end - timedelta(days=USAGE_DAYS))
        query = {"starting_on": _rfc3339(start), "ending_before": _rfc3339(end)}
        answer = self._send("GET", "/billing/usage/events", query=query, action="reading the usage", safe=True)
        listed = answer.get("data")
        events = [event for event in listed if isinstance(event, dict)] if isinstance(listed, list) else []
        tokens, amounts = 0, list[float | None]()
        for event in events:
            if event.get("session_id") not in sessions:
                continue
            info = event.get("event_info")
            info = info if isinstance(info, dict) else {}
            if info.get("type") == "training":
                tokens += int(core.read_number(info.get("token_count")) or 0)
            if info.get("type") != "checkpoint":
                amounts.append(core.read_number(event.get("estimated_cost_usd")))
        priced = [amount for amount in amounts if amount is not None]
        return tokens, sum(priced) if amounts and len(priced) == len(amounts) else None, bool(amounts)

    def list_checkpoints(self) -> Iterator[dict[str, Any]]:
        """Yield every checkpoint of the account."""
        for page in range(MOST_PAGES):
            query = {"limit": str(PAGE), "offset": str(page * PAGE)}
            answer = self._send("GET", "/checkpoints", query=query, action="listing checkpoints", safe=True)
            listed = answer.get("checkpoints")
            entries = listed if isinstance(listed, list) else []
            yield from (entry for entry in entries if isinstance(entry, dict))
            if len(entries) < PAGE:
                return

    def read_training_run(self, run: str) -> dict[str, Any]:
        """Return a training run: base_model, lora_rank, user_metadata."""
        return self._send("GET", f"/training_runs/{quote(run, safe='')}", action="reading the training run", safe=True)

    def delete_checkpoint(self, address: str) -> None:
        """Delete what `tinker://...` names; quietly done when it is gone."""
        with core.ignore_not_found():
            self._send("DELETE", _checkpoint_path(address), action="deleting the checkpoint", safe=True)

    def read_download_urls(self, address: str) -> dict[str, str]:
        """Return a signed address for each file of exported weights, by its name."""
        path = f"{_checkpoint_path(address)}/external_weights_urls"
        urls = self._send("GET", path, action="asking for the files", safe=True).get("urls")
        if not isinstance(urls, dict) or not urls:
            raise VendorError(f"{self.name}: {address} has no files to download")
        return {str(name): str(url) for name, url in urls.items()}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Ask a model by the service's OpenAI-compatible endpoint."""
        headers = {"Authorization": f"Bearer {self.key}"}
        with self._named("asking the model"):
            answer = self._http.send("POST", "/oai/api/v1/chat/completions", body, headers=headers, safe=True)
        if not isinstance(answer, dict) or not answer.get("choices"):
            raise TransientError(f"{self.name}: asking the model: an answer without choices", raw=str(answer)[:200])
        return answer

    # --- inside ------------------------------------------------------------------------------------------------------
    def _send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        action: str,
        query: Mapping[str, str] | None = None,
        safe: bool = False,
    ) -> dict[str, Any]:
        with self._named(action):
            headers = {"X-API-Key": self._credential()}
            answer = self._http.send(method, f"/api/v1{path}", body, query=query, headers=headers, safe=safe)
        if not isinstance(answer, dict):
            raise TransientError(f"{self.name}: {action}: an answer that cannot be read", raw=str(answer)[:200])
        return answer

    def _credential(self) -> str:
        """Return what goes out as the key: the key itself, or a token that it is exchanged for where the service says
        so. What breaks here broke before the call proper."""
        key = self.key
        try:
            if self._exchanges is None:
                body = {"sdk_version": SDK_VERSION}
                answer = self._http.send("POST", "/api/v1/client/config", body, headers={"X-API-Key": key}, safe=True)
                self._exchanges = bool(answer.get("pjwt_auth_enabled")) if isinstance(answer, dict) else False
            if not self._exchanges or key.startswith("eyJ"):
                return key
            if time.monotonic() - self._token_time > TOKEN_SECONDS or not self._token:
                answer = self._http.send("POST", "/api/v1/auth/token", {}, headers={"X-API-Key": key}, safe=True)
                if not isinstance(answer, dict) or not isinstance(answer.get("jwt"), str):
                    raise TransientError("the answer to the key could not be read", sent=False)
                self._token, self._token_time = answer["jwt"], time.monotonic()
            return self._token
        except TransientError as broken:
            broken.sent = False
            raise

    @contextmanager
    def _named(self, action: str) -> Iterator[None]:
        """Say in errors which instance refused what; a bill that is not paid is a quota."""
        try:
            yield
        except VendorError as error:
            if error.status == 402:
                raise QuotaExceeded(f"{self.name}: {action}: {error.message}", limit="spending") from error
            error.message = f"{self.name}: {action}: {error.message}"
            error.args = (error.message,)
            raise


def _is_session(value: Any) -> bool:
    return isinstance(value, str) and _SESSION.fullmatch(value) is not None


def _checkpoint_path(address: str) -> str:
    """Return the route of a checkpoint by its address, `tinker://RUN/KIND/NAME`."""
    run, _, checkpoint = address.removeprefix("tinker://").partition("/")
    return f"/training_runs/{quote(run, safe=':')}/checkpoints/{quote(checkpoint, safe='/')}"


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
