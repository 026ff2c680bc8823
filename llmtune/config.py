"""Account facts: which project, region, bucket, base URL. Never secrets, and never part of a job file.

Each value comes from the first place that has it:

1. what Python code passes (`get_provider("openai", base_url=...)`),
2. the environment (`LLMTUNE_OPENAI_BASE_URL`; for an instance named azure-eu, `LLMTUNE_AZURE_EU_REGION`),
3. `./llmtune.toml`,
4. the user's `config.toml` (`llmtune config show` prints where).

Credentials come only through each vendor SDK's usual chain.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from llmtune.errors import InvalidSettings, MissingCredentials

_SECRET = re.compile(r"(api[-_]?key|token|secret|password|passwd|credential)(?!.*_env$)", re.IGNORECASE)
_ONE_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"<>`\\]+", re.IGNORECASE)


#: The names of query parameters and variables that hold a key: whole words of them, with `_` or `-` between.
KEY_NAME = (
    "((api|access|account|private|subscription|shared_access|encryption|signing|master|secret)[-_]?key"
    "|token|secret|passphrase|passwd|[a-z]*password|credentials?)"
)
_KEY_PARAMETER = re.compile(
    rf"(^|[-_]){KEY_NAME}$|^(key|pwd|pass|auth|sig|signature|x[-_](amz|goog)[-_]signature)$", re.I
)
_PAGE = re.compile(r"page[-_]?token$|(^|[-_])(next|continuation)[-_]?token$", re.IGNORECASE)

#: Environment variables that secrets were read from, or that settings and options name as the place of one.
_secret_variables: set[str] = set()

#: Secrets that were used, wherever they came from: the newest of them.
_secret_values: dict[str, None] = {}
_MOST_SECRETS = 256


@dataclass(frozen=True)
class Instance:
    """The settings of one configured provider instance.

    `kind` is the provider behind it, `values` are its settings; `origins` says where each value came from.
    """

    name: str
    kind: str
    values: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What holds for llmtune as a whole, and the configured provider instances.

    `providers` are the configured instances by name.
    """

    home: Path
    """Where runs, encoded datasets and the store live (`LLMTUNE_HOME`, else the user's data folder)."""

    store: str
    """SQLAlchemy URL of the run store (`LLMTUNE_STORE`, else a SQLite file in `home`)."""

    providers: dict[str, Instance]
    files: tuple[Path, ...]
    """The configuration files that were read, nearest first."""


def config_files() -> tuple[Path, ...]:
    """Return the paths of the configuration files, nearest first: ./llmtune.toml and the user's config.toml."""
    if user := os.environ.get("LLMTUNE_CONFIG"):
        return (Path("llmtune.toml"), Path(user))
    from platformdirs import user_config_path

    return (Path("llmtune.toml"), user_config_path("llmtune", appauthor=False) / "config.toml")


def home() -> Path:
    """Return the folder of runs and store: `LLMTUNE_HOME`, else the user's data folder."""
    if path := os.environ.get("LLMTUNE_HOME"):
        return Path(path).expanduser()
    from platformdirs import user_data_path

    return user_data_path("llmtune", appauthor=False)


def price_file() -> Path:
    """Return the path of the user's own prices.

    It is `LLMTUNE_PRICES`, else the key `prices` of the nearest configuration file (a path from that file's folder),
    else `prices.toml` in the configuration folder. The file need not be there.
    """
    if path := os.environ.get("LLMTUNE_PRICES"):
        return Path(path).expanduser()
    for file in config_files():
        if file.is_file() and (chosen := _read(file).get("prices")) is not None:
            if not isinstance(chosen, str):
                raise InvalidSettings(f'{file}: prices is {chosen!r}: write the path of a file, as in "prices.toml"')
            return file.parent / Path(chosen).expanduser()
    from platformdirs import user_config_path

    return user_config_path("llmtune", appauthor=False) / "prices.toml"


def store_url() -> str:
    """Return the URL of the run store: `LLMTUNE_STORE`, else `store.db` in the home folder."""
    return os.environ.get("LLMTUNE_STORE") or f"sqlite:///{home() / 'store.db'}"


def origin(name: str) -> str:
    """Return where `home` or `store` comes from: the environment variable, or "default"."""
    variable = f"LLMTUNE_{name.upper()}"
    return variable if os.environ.get(variable) else "default"


def settings() -> Settings:
    """Read the configuration files and the environment. Raises `InvalidSettings` for a broken file."""
    read = [(path, _read(path)) for path in config_files() if path.is_file()]
    names = {name for _, data in read for name in data.get("providers", {})}
    return Settings(
        home=home(),
        store=store_url(),
        providers={name: instance(name) for name in sorted(names)},
        files=tuple(path for path, _ in read),
    )


def instance(name: str, fields: tuple[str, ...] = (), **passed: Any) -> Instance:
    """Resolve the settings of one provider instance.

    Args:
        name: the instance ("openai", "azure-eu").
        fields: the names of the provider's settings, which are also looked for in the environment.
        passed: what Python code gave; wins over everything else.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    kind = name
    for path in reversed(config_files()):
        if not path.is_file():
            continue
        section = _read(path).get("providers", {}).get(name, {})
        if not isinstance(section, dict):
            raise InvalidSettings(f"{path}: [providers.{name}] must be a table")
        for key, value in section.items():
            if key == "kind":
                kind = str(value)
            else:
                values[key], origins[key] = value, str(path)
    for key in fields:
        variable = setting_variable(name, key)
        if (value := os.environ.get(variable)) is not None:
            values[key], origins[key] = value, variable
    for key, value in passed.items():
        values[key], origins[key] = value, "python"
    return Instance(name=name, kind=kind, values=values, origins=origins)


def setting_variable(name: str, key: str) -> str:
    """Return the environment variable that sets an account setting of an instance: LLMTUNE_NAME_KEY."""
    return f"LLMTUNE_{re.sub(r'[^A-Z0-9]', '_', name.upper())}_{key.upper()}"


def redact(key: str, value: Any) -> Any:
    """Return the value as it may be shown: secrets by name, and credentials inside URLs, become `***`."""
    if isinstance(value, dict):
        return {inner: redact(inner, inner_value) for inner, inner_value in value.items()}
    if _SECRET.search(key):
        return "***"
    return redact_url(value) if isinstance(value, str) else value


def redact_url(text: str) -> str:
    """Replace user, password and the values of key-like query parameters in every URL of a text by `***`."""
    if _ONE_URL.fullmatch(text):  # its password may hold what ends a URL inside a text
        return _mask_url(text)
    return _URL.sub(lambda match: _mask_url(match[0]), text)


def _mask_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # it is not known which part is the password
        return f"{url.partition('://')[0]}://***" if "@" in url else url
    user, at, host = parts.netloc.rpartition("@")
    if at:
        masked = "***:***" if ":" in user else "***"
        url = url.replace(f"//{parts.netloc}", f"//{masked}@{host}", 1)
    if parts.query:
        head, _, tail = url.partition("?")
        query, mark, fragment = tail.partition("#")
        url = f"{head}?{re.sub('[^&;]+', _mask_parameter, query)}{mark}{fragment}"
    return url


def _mask_parameter(match: re.Match[str]) -> str:
    name, _, value = match[0].partition("=")
    snake_name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", unquote(name))
    return f"{name}=***" if value and _KEY_PARAMETER.search(snake_name) and not _PAGE.search(snake_name) else match[0]


def read_secret(variable: str) -> str | None:
    """Return the secret in an environment variable, and mask it in every text from now on; None when it is empty."""
    _secret_variables.add(variable)
    value = os.environ.get(variable) or None
    if value:
        note_secret(value)
    return value


def note_secret(value: str) -> None:
    """Remember a credential that is used, so that it is masked in every text from now on."""
    value = value.strip()
    if value and value not in _secret_values:
        while len(_secret_values) >= _MOST_SECRETS:
            del _secret_values[next(iter(_secret_values))]
        _secret_values[value] = None


def require_secret(variable: str, purpose: str, *, hint: str = "") -> str:
    """Return the secret in that environment variable. Raises `MissingCredentials`, which begins with its `purpose`."""
    secret = read_secret(variable)
    if not secret:
        raise MissingCredentials(
            f"{purpose}: the environment variable {variable} is not set", hint=hint or f"export {variable}=..."
        )
    return secret


def note_secrets(values: Iterable[tuple[str, Any]]) -> None:
    """Remember the variables that settings or options name as the place of a secret (`api_key_env`)."""
    _secret_variables.update(value for name, value in values if name.endswith("_env") and isinstance(value, str))


def secret_variables() -> frozenset[str]:
    """Return the environment variables that this process has read secrets from, or that settings name for one."""
    return frozenset(_secret_variables)


def secret_values() -> tuple[str, ...]:
    """Return the credentials that this process has used, wherever they came from."""
    return tuple(_secret_values)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(f"{path}: broken TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path}: cannot be read: {error}") from None
    unknown = set(data) - {"providers", "prices"}
    if unknown:
        from llmtune.errors import UnknownName

        known = ["providers", "prices"]
        raise InvalidSettings(UnknownName("section", sorted(unknown)[0], known, where=str(path)).message)
    return data
