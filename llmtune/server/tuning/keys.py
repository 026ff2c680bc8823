"""The keys of the endpoint: the one in an environment variable, or those of a key file, by their hashes.

    ana:
      sha256: 5f70bf18a0860...            # of the key; the key itself is stored nowhere
      rights: [tune, ask, read]
      budget: 50                          # USD; the other limits have defaults
    ana-dashboard:
      sha256: 2c624232cdd22...
      rights: [read]
      owner: ana                          # works with the files, jobs and models of that key

Keys are random (256 bits), so a plain SHA-256 cannot be guessed backwards, and needs no salt.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_args

from pydantic import Field, ValidationError

from llmtune._models import DocumentedModel
from llmtune._safety.private_files import open_private
from llmtune.errors import InvalidJob, InvalidSettings, LlmtuneError, StoreError, UnknownName
from llmtune.job.base import explain_error
from llmtune.job.files import read_mapping
from llmtune.redaction.secrets import known_secrets
from llmtune.server.protocol import RequestError

log = logging.getLogger("llmtune")

#: What a key may do: upload, start, stop and delete; ask models; list, look at and download.
Right = Literal["tune", "ask", "read"]
RIGHTS: tuple[Right, ...] = get_args(Right)

#: Bytes of a gigabyte, in which storage is limited.
GIGABYTE = 1 << 30
_PREFIX = "lt-"
_KEY = re.compile(rf"{_PREFIX}[A-Za-z0-9_-]{{43}}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
#: Limits that hold for an owner, whichever of its keys is used.
_OWNERS_LIMITS = ("budget", "max_unfinished_jobs", "max_stored_gb")


class Key(DocumentedModel):
    """A key: what it may do, and its limits. A limit of None is none."""

    name: str = ""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = ""
    rights: tuple[Right, ...] = RIGHTS
    owner: str = ""
    """Whose files, jobs and models it works with: its own name, or that of another key."""

    budget: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """USD that the owner's jobs may cost in all."""

    max_unfinished_jobs: Annotated[int, Field(ge=0)] | None = None
    max_stored_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Gigabytes (2**30 bytes) that the owner's files may have in all."""

    requests_per_minute: Annotated[int, Field(ge=1)] | None = None


#: Limits of a key of a file that sets none; a budget has to be set.
DEFAULT_LIMITS: dict[str, Any] = {"max_unfinished_jobs": 20, "max_stored_gb": 20.0, "requests_per_minute": 600}


class Keys(Protocol):
    """The keys that are accepted."""

    def find(self, sent: str) -> Key | None:
        """Return the key that a request sent; None for a wrong one. Takes the same time whichever it is."""
        ...

    def get_owner(self, name: str) -> Key | None:
        """Return the key of that name, whose files and jobs bear it; None when there is none any more."""
        ...

    def find_in(self, text: str) -> str | None:
        """Return the name of a key that stands in a text; None for none."""
        ...

    @property
    def unlimited(self) -> list[str]:
        """Names of the keys that may start jobs without a budget."""
        ...


class SingleKey:
    """One key with every right and no limit. Its files and jobs have no owner."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def find(self, sent: str) -> Key | None:
        """Return the key if it was sent."""
        return Key() if hmac.compare_digest(sent.encode(), self._key) else None

    def get_owner(self, name: str) -> Key | None:
        """Return the key for what has no owner."""
        return None if name else Key()

    def find_in(self, text: str) -> str | None:
        """Return None: a key from the environment is masked and refused as every secret there."""
        return None

    @property
    def unlimited(self) -> list[str]:
        """The one key, which has no name."""
        return [""]


class KeyFile:
    """The keys of a file, which is read again when it has changed.

    Raises:
        InvalidSettings: the file cannot be read, or an entry is wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._stamp = _stamp(path)
        self._keys = read_keys(path)
        if not self._keys:
            raise InvalidSettings(f"{path} holds no key", hint=f"llmtune keys add NAME --keys {path}")

    def find(self, sent: str) -> Key | None:
        """Return the key that was sent; None for a wrong one."""
        digest = hash_key(sent)
        matching = None
        for key in self._current().values():  # every one, so that the time says nothing about which
            if hmac.compare_digest(digest, key.sha256):
                matching = key
        return matching

    def get_owner(self, name: str) -> Key | None:
        """Return the key of that name; None when it has been removed."""
        return self._current().get(name)

    def find_in(self, text: str) -> str | None:
        """Return the name of the first of these keys in a text."""
        names = {key.sha256: key.name for key in self._current().values()}
        return next((names[digest] for key in _KEY.findall(text) if (digest := hash_key(key)) in names), None)

    @property
    def unlimited(self) -> list[str]:
        """Names of the keys that may start jobs without a budget."""
        return [key.name for key in self._current().values() if "tune" in key.rights and key.budget is None]

    def _current(self) -> dict[str, Key]:
        """Return the keys as the file has them now; the last valid ones while it is damaged or away."""
        stamp = _stamp(self.path)
        with self._lock:
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._keys = read_keys(self.path)
                except LlmtuneError as error:
                    log.warning("the keys stay as they were: %s", error.message)
            return self._keys


def refuse_keys(keys: Keys, text: str, param: str | None = None) -> None:
    """Refuse a text that is written down and listed, and holds a key of this endpoint or a secret of its environment.

    Raises:
        RequestError: 400; it names the key, or where the secret comes from, and not its value.
    """
    name, source = keys.find_in(text), known_secrets().find_source(text)
    if name is not None or source is not None:
        secret = f"the key '{name}'" if name is not None else f"the secret in {source}"
        raise RequestError(
            400, f"it holds {secret}: take it out, as this is stored and listed", param=param, code="invalid_value"
        )


def hash_key(key: str) -> str:
    """Return the SHA-256 of a key, as a hexadecimal string."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> dict[str, Key]:
    """Read a key file. Raises `InvalidSettings` with the entry that is wrong."""
    try:
        entries = read_mapping(path)
    except InvalidJob as error:
        message = error.message.replace("no such job file", "no such key file").replace("a job file", "a key file")
        raise InvalidSettings(message, hint=f"llmtune keys add NAME --keys {path} writes one") from None
    keys = {name: _read_entry(path, name, entry) for name, entry in entries.items()}
    hashes = [key.sha256 for key in keys.values()]
    for name, key in keys.items():
        if hashes.count(key.sha256) > 1:
            raise InvalidSettings(f"{path}, {name}: another entry has the same key", hint="every name has its own key")
        if key.owner == name:
            continue
        owner = keys.get(key.owner)
        if owner is None or owner.owner != owner.name:
            reason = "is no key of this file" if owner is None else f"belongs to {owner.owner} itself"
            raise InvalidSettings(f"{path}, {name}: its owner {key.owner!r} {reason}", hint="name a key without owner")
        keys[name] = key.model_copy(update={field: getattr(owner, field) for field in _OWNERS_LIMITS})
    return keys


def _read_entry(path: Path, name: Any, entry: Any) -> Key:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidSettings(f"{path}: {name!r} is no name for a key", hint=_NAME_HINT)
    if not isinstance(entry, Mapping) or not entry.get("sha256"):
        raise InvalidSettings(
            f"{path}, {name}: an entry is a mapping with the key's sha256", hint=f"llmtune keys add {name} writes one"
        )
    for field in _OWNERS_LIMITS:
        if entry.get("owner") not in (None, name) and field in entry:
            raise InvalidSettings(
                f"{path}, {name}: {field} is the owner's, {entry['owner']}", hint=f"remove {field}, or owner"
            )
    try:
        return Key.model_validate({**DEFAULT_LIMITS, **entry, "name": name, "owner": entry.get("owner") or name})
    except ValidationError as error:
        raise InvalidSettings(f"{path}, {name}: {explain_error(Key, error).message}") from None


_NAME_HINT = "letters, digits, and after the first . _ @ -; at most 64"


def add_key(path: Path, name: str, **fields: Any) -> str:
    """Make a new key, add its hash and `fields` to the file (which is made where there is none), and return the key.

    The key cannot be read again from anywhere.

    Raises:
        InvalidSettings: the name is taken, or a field is wrong; the file is as it was.
    """
    key = f"{_PREFIX}{secrets.token_urlsafe(32)}"

    def add(entries: dict[str, Any]) -> None:
        if name in entries:
            raise InvalidSettings(
                f"{path} has a key {name!r} already", hint=f"llmtune keys remove {name} --keys {path}, or another name"
            )
        entries[name] = {"sha256": hash_key(key)} | {
            field: value for field, value in fields.items() if value is not None
        }

    _change(path, add, new=True)
    return key


def remove_key(path: Path, name: str) -> None:
    """Remove a key. A running endpoint refuses it from its next request on.

    Raises:
        UnknownName: there is no key of that name.
        InvalidSettings: another key belongs to it.
    """

    def remove(entries: dict[str, Any]) -> None:
        if name not in entries:
            raise UnknownName("key", name, list(entries), where=str(path))
        dependent = [key for key, entry in entries.items() if key != name and entry.get("owner") == name]
        if dependent:
            raise InvalidSettings(
                f"{path}: {', '.join(dependent)} work{'s' if len(dependent) == 1 else ''} with the jobs of {name}",
                hint="remove those first",
            )
        del entries[name]

    _change(path, remove)


def _change(path: Path, change: Callable[[dict[str, Any]], None], *, new: bool = False) -> None:
    """Apply a change to the file, comments and all, and replace it by one that was read back first."""
    from ruamel.yaml import YAML

    if path.exists():
        read_keys(path)  # a damaged file is not touched
    elif not new:
        raise InvalidSettings(f"{path}: no such key file", hint=f"llmtune keys add NAME --keys {path} writes one")
    yaml = YAML()
    yaml.width = 1000
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        entries = (yaml.load(path.read_text(encoding="utf-8-sig")) if path.exists() else None) or {}
        change(entries)
        text = io.StringIO()
        if path.suffix == ".json":
            json.dump(entries, text, indent=2)
        else:
            yaml.dump(entries, text)
        with open_private(temporary, "wb") as file:
            file.write(text.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            read_keys(temporary)
        except InvalidSettings as error:
            raise InvalidSettings(error.message.replace(str(temporary), str(path)), hint=error.hint) from None
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}", hint="name another file with --keys") from None
    finally:
        temporary.unlink(missing_ok=True)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with a file's content; None while it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
