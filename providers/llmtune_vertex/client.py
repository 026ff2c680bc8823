"""Google's client libraries: credentials and clients for an instance, every exception turned into ours.

None of the clients retries by itself: what may be repeated is the core's to decide.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from typing import Any

from llmtune.config import read_secret
from llmtune.errors import MissingCredentials, TransientError, VendorError
from llmtune.provider import (
    Requirement,
    bound_answer,
    bound_requests_answer,
    count_pages,
    growing_pauses,
    keep_redirects_home,
    load_json,
    read_within_bounds,
    translate_errors,
)
from llmtune_vertex import errors
from llmtune_vertex.settings import VertexSettings

GENAI = Requirement(extra="vertex", module="google.genai", distribution="google-genai")
STORAGE = Requirement(extra="vertex", module="google.cloud.storage", distribution="google-cloud-storage")

#: Records a page of a list.
PAGE = 100

SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def _require_object(response: Any) -> None:
    """Refuse JSON that is no object: the SDK reads it as an object without fields, a list of jobs as an empty one.

    A search for a run's job must not end with "there is none" when its answer cannot be read.
    """
    import httpx

    if not response.is_success or "json" not in response.headers.get("content-type", ""):
        return
    with suppress(ValueError, httpx.ResponseNotRead):  # what is no JSON, or could not be read, is refused later
        if not isinstance(json.loads(response.content), dict):
            raise httpx.ReadError("the answer is not a JSON object")


_HOOKS = [keep_redirects_home, bound_answer, read_within_bounds, _require_object]


class Sdk:
    """The clients of one configured instance, made when they are first used."""

    def __init__(self, name: str, settings: VertexSettings) -> None:
        self.name = name
        self.settings = settings
        self._lock = threading.RLock()
        self._clients: dict[str, Any] = {}

    @property
    def project(self) -> str:
        """The project; raises `InvalidSettings` when none is set."""
        self.settings.require(self.name, "project")
        return str(self.settings.value_of("project"))

    @property
    def location(self) -> str:
        """The tuning location; raises `InvalidSettings` when none is set."""
        self.settings.require(self.name, "location")
        return str(self.settings.value_of("location"))

    @cached_property
    def credentials(self) -> Any:
        """Credentials of Google's application-default chain, or the token that `token_env` names."""
        if variable := self.settings.token_env:
            token = read_secret(variable)
            if not token:
                raise MissingCredentials(f"{variable}, which token_env names, is not set", hint=errors.LOG_IN)
            from google.oauth2.credentials import Credentials

            return Credentials(token=token)  # type: ignore[no-untyped-call]
        with self.translate_errors("looking for credentials"):
            import google.auth

            credentials, _ = google.auth.default(scopes=[SCOPE])
        return credentials

    def genai(self, location: str | None = None) -> Any:
        """Return google-genai's client for a location; without one, for the location where jobs are tuned."""
        where = location or self.location
        return self._get_or_make(where, lambda: self._genai(where))

    def _get_or_make(self, key: str, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key not in self._clients:
                self._clients[key] = make()
            return self._clients[key]

    def _genai(self, location: str) -> Any:
        GENAI.require("Vertex AI")
        from google import genai
        from google.genai import types

        # The SDK says once that its tuning is experimental; our users hear of it in the docs.
        warnings.filterwarnings("ignore", message="The SDK's tuning implementation is experimental")
        # A state that the SDK does not know is ours to tell, with the run it belongs to.
        warnings.filterwarnings("ignore", message=r".* is not a valid (JobState|TuningJobState)")
        with self.translate_errors("setting up google-genai"):
            return genai.Client(
                vertexai=True,
                project=self.project,
                location=location,
                credentials=self.credentials,
                http_options=types.HttpOptions(
                    base_url=self.settings.base_url,
                    api_version="v1beta1",
                    timeout=int(self.settings.timeout * 1000),
                    client_args={"event_hooks": {"response": _HOOKS}},
                ),
            )

    @cached_property
    def storage(self) -> Any:
        """google-cloud-storage's client."""
        STORAGE.require("Vertex AI")
        from google.cloud import storage  # type: ignore[attr-defined,unused-ignore]

        options = {"api_endpoint": self.settings.storage_url} if self.settings.storage_url else None
        with self.translate_errors("setting up Cloud Storage"):
            client = storage.Client(project=self.project, credentials=self.credentials, client_options=options)
            client._http.hooks["response"].append(bound_requests_answer)
            # It would read the bucket's metadata in a thread of its own, for traces alone: a request that nobody made.
            client._bucket_metadata_cache = None
            return client

    def rest(self, location: str) -> Rest:
        """Return plain calls of the REST API for a location, where google-genai has no call."""
        host = "aiplatform.googleapis.com" if location == "global" else f"{location}-aiplatform.googleapis.com"
        endpoint = self.settings.base_url or f"https://{host}"
        api: Rest = self._get_or_make(
            f"rest@{location}", lambda: Rest(self._session(), endpoint, self.settings.timeout)
        )
        return api

    def _session(self) -> Any:
        STORAGE.require("Vertex AI")
        from google.auth.transport.requests import AuthorizedSession

        session = AuthorizedSession(self.credentials)  # type: ignore[no-untyped-call,unused-ignore]
        session.hooks["response"].append(bound_requests_answer)
        return session

    def translate_errors(self, action: str) -> AbstractContextManager[None]:
        """Turn what Google's libraries raise inside into one clear sentence; `action` is what was being done."""
        return translate_errors(lambda error: errors.from_exception(error, doing=action, name=self.name))


class Rest:
    """JSON calls of Google's REST API by resource names, with the credentials of `session`; nothing is retried.

    Args:
        session: google-auth's session of `requests`.
        endpoint: the address of the service, without a path.
        timeout: seconds that a call may take.
    """

    def __init__(self, session: Any, endpoint: str, timeout: float) -> None:
        self._session = session
        self._root = endpoint.rstrip("/")
        self._timeout = timeout

    def get(self, name: str, **parameters: Any) -> dict[str, Any]:
        """Return a resource, or what a method answers, with the query's `parameters`."""
        return self._call("GET", name, params=parameters)

    def post(self, name: str, body: dict[str, Any], version: str = "v1", host: str | None = None) -> dict[str, Any]:
        """Send a body and return the answer; `host` is that of an endpoint with an address of its own."""
        return self._call("POST", name, version=version, host=host, json=body)

    def delete(self, name: str) -> dict[str, Any]:
        """Delete a resource and return the operation."""
        return self._call("DELETE", name)

    def pages(self, name: str, key: str) -> Iterator[dict[str, Any]]:
        """Yield the records of a list, which stand under `key`, page by page."""
        parameters: dict[str, Any] = {"pageSize": PAGE}
        for _ in count_pages("Google"):
            answer = self.get(name, **parameters)
            yield from (record for record in answer.get(key) or () if isinstance(record, dict))
            if not answer.get("nextPageToken"):
                return
            parameters["pageToken"] = answer["nextPageToken"]

    def wait(self, operation: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Wait for a long-running operation and return what it answers.

        Raises:
            VendorError: it has failed, in Google's words.
            TransientError: it is still running after `seconds`.
        """
        name = str(operation.get("name") or "")
        for pause in growing_pauses(seconds):
            if pause and not operation.get("done"):
                operation = self.get(name)
            if not operation.get("done"):
                continue
            if error := operation.get("error"):
                raise VendorError(f"Google: {error.get('message') or error}", code=str(error.get("code")))
            response = operation.get("response")
            return response if isinstance(response, dict) else {}
        raise TransientError(f"Google's operation {name} is still running after {seconds:.0f} s")

    def _call(
        self, method: str, name: str, version: str = "v1", host: str | None = None, **arguments: Any
    ) -> dict[str, Any]:
        from google.api_core import exceptions

        root = f"https://{host}" if host else self._root
        answer = self._session.request(method, f"{root}/{version}/{name}", timeout=self._timeout, **arguments)
        if answer.status_code >= 400:
            raise exceptions.from_http_response(answer)  # type: ignore[no-untyped-call,unused-ignore]
        data = load_json(answer.content or b"{}")
        if not isinstance(data, dict):
            raise TransientError(f"Google's answer to {method} {name} is not a JSON object")
        return data
