"""Azure's control plane, where deployments are made and removed. It signs in apart from training and inference."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmtune.config import read_secret
from llmtune.errors import InvalidSettings, LlmtuneError, MissingCredentials, MissingExtra, TransientError, VendorError
from llmtune_openai import errors

if TYPE_CHECKING:
    from llmtune_azure.settings import AzureSettings

TITLE = "Azure's control plane"
EXTRA = "azure"
INFERENCE_SCOPE = "https://cognitiveservices.azure.com/.default"

#: A deployment takes minutes; one that is not done after this many seconds is handed back as not ready.
LONGEST_WAIT = 1800.0

_STANDING = "Succeeded"
_BROKEN = frozenset({"Failed", "Canceled", "Disabled"})


def endpoint(settings: AzureSettings) -> str | None:
    """The resource's address, without a trailing slash."""
    url = settings.endpoint or os.environ.get("AZURE_OPENAI_ENDPOINT")
    return url.rstrip("/") if url else None


def deploy_settings(settings: AzureSettings) -> dict[str, str | None]:
    """What the control plane must be told, by setting."""
    host = urlsplit(endpoint(settings) or "").hostname
    return {
        "subscription_id": settings.subscription_id or os.environ.get("AZURE_SUBSCRIPTION_ID") or None,
        "resource_group": settings.resource_group,
        "account_name": settings.account_name or (host.split(".")[0] if host else None),
    }


def installed(module: str) -> bool:
    """Whether a module is there, without importing it (its parents are)."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


class FixedToken:
    """A credential that is a ready-made token, as `az account get-access-token` prints it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *scopes: str, **_: Any) -> Any:
        """The token; it is taken to hold for an hour, and the service says when it does not."""
        from azure.core.credentials import AccessToken

        return AccessToken(self._token, int(time.time()) + 3600)


def token_provider() -> Callable[[], str]:
    """Entra tokens for training and inference, from the chain of azure-identity. Raises `MissingExtra`."""
    if not installed("azure.identity"):
        raise MissingExtra(EXTRA, "azure-identity", purpose="signing in to Azure through Entra ID")
    from azure.identity import DefaultAzureCredential, get_bearer_token_provider

    fresh = get_bearer_token_provider(DefaultAzureCredential(), INFERENCE_SCOPE)

    def token() -> str:
        with told():
            return str(fresh())

    return token


class ControlPlane:
    """Deployments of one Azure OpenAI resource. Opened at first use."""

    def __init__(self, name: str, settings: AzureSettings) -> None:
        self.name = name
        self.settings = settings
        self._lock = threading.Lock()
        self._client: Any = None

    def create(self, deployment: str, model: str, *, pause: Callable[[float], None] = time.sleep) -> None:
        """Make a deployment (or find it being made) and wait until Azure says that it stands."""
        from azure.mgmt.cognitiveservices.models import Deployment, DeploymentModel, DeploymentProperties, Sku

        wanted = Deployment(
            sku=Sku(name=self.settings.deployment_sku, capacity=self.settings.deployment_capacity),
            properties=DeploymentProperties(model=DeploymentModel(format="OpenAI", name=model, version="1")),
        )
        operations, where = self._operations()
        with told():
            operations.begin_create_or_update(**where, deployment_name=deployment, deployment=wanted, polling=False)
        delay, waited = 0.1, 0.0
        while (state := self.state(deployment)) != _STANDING:
            if state is None or state in _BROKEN:
                raise VendorError(f"the deployment {deployment} of {model} ended as {state or 'gone'}", code=state)
            if waited >= LONGEST_WAIT:
                raise TransientError(f"the deployment {deployment} is still {state} after {waited:.0f} seconds")
            pause(delay)
            waited += delay
            delay = min(delay * 2, 10.0)

    def get(self, deployment: str) -> dict[str, str | None] | None:
        """A deployment's model, kind and state as the control plane tells them, or None."""
        operations, where = self._operations()
        try:
            with told():
                found = operations.get(**where, deployment_name=deployment)
        except VendorError as error:
            if error.status == 404:
                return None
            raise
        inside = found.properties
        state = inside.provisioning_state if inside else None
        return {
            "model": inside.model.name if inside and inside.model else None,
            "sku": found.sku.name if found.sku else None,
            "state": str(getattr(state, "value", state)) if state else None,
        }

    def state(self, deployment: str) -> str | None:
        """Its provisioning state; None when there is no such deployment."""
        found = self.get(deployment)
        if found is None:
            return None
        return found["state"] or "without a state"

    def delete(self, deployment: str, *, pause: Callable[[float], None] = time.sleep) -> None:
        """Remove a deployment and wait until it is gone, for it costs money until then."""
        operations, where = self._operations()
        try:
            with told():
                operations.begin_delete(**where, deployment_name=deployment, polling=False)
        except VendorError as error:
            if error.status == 404:
                return
            raise
        delay, waited = 0.1, 0.0
        while self.state(deployment) is not None:
            if waited >= LONGEST_WAIT:
                raise TransientError(f"the deployment {deployment} is still there {waited:.0f} seconds after its end")
            pause(delay)
            waited += delay
            delay = min(delay * 2, 10.0)

    def _operations(self) -> tuple[Any, dict[str, Any]]:
        facts = deploy_settings(self.settings)
        unset = [name for name, value in facts.items() if not value]
        if unset:
            raise InvalidSettings(
                f"deploying a tuned model on Azure needs {', '.join(unset)}",
                hint=f"set {unset[0]} under [providers.{self.name}] in llmtune.toml, or"
                f" LLMTUNE_{self.name.upper().replace('-', '_')}_{unset[0].upper()}",
            )
        where: dict[str, Any] = {
            "resource_group_name": facts["resource_group"],
            "account_name": facts["account_name"],
        }
        if (self.settings.management_url or "").startswith("http://"):
            where["enforce_https"] = False  # a control plane on this machine
        return self._open(str(facts["subscription_id"])).deployments, where

    def _open(self, subscription: str) -> Any:
        with self._lock:
            if self._client is None:
                if not installed("azure.mgmt.cognitiveservices"):
                    raise MissingExtra(EXTRA, "azure-mgmt-cognitiveservices", purpose="deploying on Azure")
                from azure.mgmt.cognitiveservices import CognitiveServicesManagementClient

                self._client = CognitiveServicesManagementClient(
                    self._credential(), subscription, base_url=self.settings.management_url, retry_total=0
                )
            return self._client

    def _credential(self) -> Any:
        env = self.settings.management_token_env
        if env is not None:
            token = read_secret(env)
            if not token:
                raise MissingCredentials(f"no token for {TITLE}: the environment variable {env} is not set")
            return FixedToken(token)
        if not installed("azure.identity"):
            raise MissingExtra(EXTRA, "azure-identity", purpose="signing in to Azure")
        from azure.identity import DefaultAzureCredential

        return DefaultAzureCredential()


@contextmanager
def told() -> Iterator[None]:
    """Turn what Azure's libraries raise inside into llmtune's errors."""
    from azure.core import exceptions

    try:
        yield
    except exceptions.HttpResponseError as error:
        raise _refused(error) from error
    except exceptions.ServiceRequestError as error:
        raise TransientError(f"{TITLE} cannot be reached: {error}", sent=False) from error
    except exceptions.ServiceResponseError as error:
        raise TransientError(f"{TITLE} broke off: {error}") from error
    except exceptions.AzureError as error:
        raise VendorError(f"{TITLE}: {error}") from error


def _refused(error: Any) -> LlmtuneError:
    if not getattr(error, "status_code", None):  # azure-identity's chain found nothing; it says what it tried
        first = str(error).splitlines()[0] if str(error) else "nothing was found"
        return MissingCredentials(f"no Azure sign-in: {first}", hint="az login")
    inner = getattr(error, "error", None)
    payload: dict[str, Any] = {"message": getattr(inner, "message", None) or error.message}
    payload["code"] = getattr(inner, "code", None)
    headers = dict(error.response.headers) if error.response is not None else {}
    return errors.refusal(
        int(error.status_code),
        payload,
        headers,
        title=TITLE,
        name="azure",
        key_env="Azure's sign-in (az login)",
    )
