"""Azure's control plane, where deployments are made and removed. It signs in apart from training and inference."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmtune.config import require_secret, setting_variable
from llmtune.errors import InvalidSettings, MissingCredentials, TransientError, VendorError
from llmtune.provider import Requirement, growing_pauses, ignore_not_found
from llmtune.provider import translate_errors as translate_with
from llmtune_openai import errors

if TYPE_CHECKING:
    from llmtune_azure.settings import AzureSettings

TITLE = "Azure's control plane"
OPENAI_SDK = Requirement(extra="azure", module="openai", distribution="openai")
IDENTITY = Requirement(extra="azure", module="azure.identity", distribution="azure-identity")
MANAGEMENT = Requirement(
    extra="azure", module="azure.mgmt.cognitiveservices", distribution="azure-mgmt-cognitiveservices"
)
INFERENCE_SCOPE = "https://cognitiveservices.azure.com/.default"

#: The operation of Azure's role definitions that makes a deployment (the roles Foundry Owner, and Cognitive Services
#: OpenAI Contributor, have it), and the version of the API that lists what the caller may do.
DEPLOY_OPERATION = "Microsoft.CognitiveServices/accounts/deployments/write"
PERMISSIONS_VERSION = "2022-04-01"

#: A deployment takes minutes; one that is not done after this many seconds is handed back as not ready.
LONGEST_WAIT = 1800.0

_BROKEN = frozenset({"Failed", "Canceled", "Disabled"})


def deploy_settings(settings: AzureSettings) -> dict[str, str | None]:
    """Return the settings that the control plane needs, by name."""
    host = urlsplit(settings.value_of("endpoint") or "").hostname
    return {
        "subscription_id": settings.value_of("subscription_id"),
        "resource_group": settings.resource_group,
        "account_name": settings.account_name or (host.split(".")[0] if host else None),
    }


class FixedToken:
    """A credential that is a ready-made token, as `az account get-access-token` prints it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *scopes: str, **_: Any) -> Any:
        """Return the token; it is assumed to be valid for an hour, and the service reports when it is not."""
        from azure.core.credentials import AccessToken

        return AccessToken(self._token, int(time.time()) + 3600)


def token_provider() -> Callable[[], str]:
    """Return a function that gets Entra tokens from the chain of azure-identity. Raises `MissingExtra`."""
    IDENTITY.require("signing in to Azure through Entra ID")
    from azure.identity import DefaultAzureCredential, get_bearer_token_provider

    read_token = get_bearer_token_provider(DefaultAzureCredential(), INFERENCE_SCOPE)

    def token() -> str:
        with translate_errors():
            return str(read_token())

    return token


class ControlPlane:
    """Deployments of one Azure OpenAI resource. Opened at first use."""

    def __init__(self, name: str, settings: AzureSettings) -> None:
        self.name = name
        self.settings = settings
        self._lock = threading.Lock()
        self._client: Any = None

    def create(self, deployment: str, model: str) -> None:
        """Make a deployment (or find it being made) and wait until Azure says that it stands."""
        from azure.mgmt.cognitiveservices.models import Deployment, DeploymentModel, DeploymentProperties, Sku

        body = Deployment(
            sku=Sku(name=self.settings.deployment_sku, capacity=self.settings.deployment_capacity),
            properties=DeploymentProperties(model=DeploymentModel(format="OpenAI", name=model, version="1")),
        )
        operations, account = self._operations()
        with translate_errors():
            operations.begin_create_or_update(**account, deployment_name=deployment, deployment=body, polling=False)
        for _ in growing_pauses(LONGEST_WAIT):
            state = self.state(deployment)
            if state == "Succeeded":
                return
            if state is None or state in _BROKEN:
                raise VendorError(f"the deployment {deployment} of {model} ended as {state or 'gone'}", code=state)
        raise TransientError(f"the deployment {deployment} is still {state} after {LONGEST_WAIT:.0f} seconds")

    def get(self, deployment: str) -> dict[str, str | None] | None:
        """Return a deployment's model, kind and state as the control plane reports them, or None."""
        operations, account = self._operations()
        with ignore_not_found():
            with translate_errors():
                answer = operations.get(**account, deployment_name=deployment)
            properties = answer.properties
            state = properties.provisioning_state if properties else None
            return {
                "model": properties.model.name if properties and properties.model else None,
                "sku": answer.sku.name if answer.sku else None,
                "state": str(getattr(state, "value", state)) if state else None,
            }
        return None

    def may_deploy(self) -> bool:
        """Return whether the sign-in has the permission to make deployments on this resource."""
        from azure.core.rest import HttpRequest

        _, account = self._operations()
        subscription = deploy_settings(self.settings)["subscription_id"]
        path = (
            f"/subscriptions/{subscription}/resourceGroups/{account['resource_group_name']}/providers/"
            f"Microsoft.CognitiveServices/accounts/{account['account_name']}"
            "/providers/Microsoft.Authorization/permissions"
        )
        request = HttpRequest("GET", path, params={"api-version": PERMISSIONS_VERSION})
        more = {"enforce_https": False} if "enforce_https" in account else {}
        with translate_errors():
            response = self._open_client(str(subscription))._send_request(request, **more)
            response.raise_for_status()
            permissions = [entry for entry in response.json().get("value") or () if isinstance(entry, Mapping)]
        return any(
            _names_deploying(entry.get("actions")) and not _names_deploying(entry.get("notActions"))
            for entry in permissions
        )

    def state(self, deployment: str) -> str | None:
        """Return a deployment's provisioning state; None if there is no such deployment."""
        answer = self.get(deployment)
        return None if answer is None else answer["state"] or "without a state"

    def delete(self, deployment: str) -> None:
        """Remove a deployment and wait until it is gone, for it costs money until then."""
        operations, account = self._operations()
        with ignore_not_found(), translate_errors():
            operations.begin_delete(**account, deployment_name=deployment, polling=False)
        for _ in growing_pauses(LONGEST_WAIT):
            if self.state(deployment) is None:
                return
        raise TransientError(f"the deployment {deployment} is still there {LONGEST_WAIT:.0f} seconds after its end")

    def _operations(self) -> tuple[Any, dict[str, Any]]:
        values = deploy_settings(self.settings)
        unset = [name for name, value in values.items() if not value]
        if unset:
            raise InvalidSettings(
                f"deploying a tuned model on Azure needs {', '.join(unset)}",
                hint=f"set {unset[0]} under [providers.{self.name}] in llmtune.toml, or"
                f" {setting_variable(self.name, unset[0])}",
            )
        account: dict[str, Any] = {
            "resource_group_name": values["resource_group"],
            "account_name": values["account_name"],
        }
        if (self.settings.management_url or "").startswith("http://"):
            account["enforce_https"] = False  # a control plane on this machine
        return self._open_client(str(values["subscription_id"])).deployments, account

    def _open_client(self, subscription: str) -> Any:
        with self._lock:
            if self._client is None:
                MANAGEMENT.require("deploying on Azure")
                from azure.mgmt.cognitiveservices import CognitiveServicesManagementClient

                self._client = CognitiveServicesManagementClient(
                    self._credential(), subscription, base_url=self.settings.management_url, retry_total=0
                )
            return self._client

    def _credential(self) -> Any:
        env = self.settings.management_token_env
        if env is not None:
            return FixedToken(require_secret(env, f"no token for {TITLE}"))
        IDENTITY.require("signing in to Azure")
        from azure.identity import DefaultAzureCredential

        return DefaultAzureCredential()


def _names_deploying(patterns: Any) -> bool:
    """Return whether a list of operations, with `*` for any text, names the one that makes deployments."""
    return any(fnmatchcase(DEPLOY_OPERATION.lower(), str(pattern).lower()) for pattern in patterns or ())


def translate_errors() -> AbstractContextManager[None]:
    """Turn what Azure's libraries raise inside into llmtune's errors."""
    return translate_with(_translate)


def _translate(error: Exception) -> Exception | None:
    from azure.core import exceptions

    if isinstance(error, exceptions.HttpResponseError):
        return _refused(error)
    if isinstance(error, exceptions.ServiceRequestError):
        return TransientError(f"{TITLE} cannot be reached: {error}", sent=False)
    if isinstance(error, exceptions.ServiceResponseError):
        return TransientError(f"{TITLE} broke off: {error}")
    return VendorError(f"{TITLE}: {error}") if isinstance(error, exceptions.AzureError) else None


def _refused(error: Any) -> Exception:
    if not getattr(error, "status_code", None):  # azure-identity's chain found nothing; it says what it tried
        first = str(error).splitlines()[0] if str(error) else "nothing was found"
        return MissingCredentials(f"no Azure sign-in: {first}", hint="az login")
    inner = getattr(error, "error", None)
    payload = {"message": getattr(inner, "message", None) or error.message, "code": getattr(inner, "code", None)}
    headers = dict(error.response.headers) if error.response is not None else {}
    sign_in = "Azure's sign-in (az login)"
    return errors.refusal(int(error.status_code), payload, headers, title=TITLE, name="azure", key_env=sign_in)
