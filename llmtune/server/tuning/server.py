"""The server of `llmtune serve --tuning`: opens its state, continues unfinished jobs, and listens."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from llmtune.config import home, read_secret
from llmtune.errors import InvalidSettings, OverBudget
from llmtune.runs.api import attach
from llmtune.runs.planned import StartOptions
from llmtune.runs.store.store import open_store
from llmtune.server.server import KEY_VARIABLE, HttpServer
from llmtune.server.tuning.app import Endpoint, make_tuning_app
from llmtune.server.tuning.audit import AuditLog
from llmtune.server.tuning.chat import ModelPool
from llmtune.server.tuning.files import Files
from llmtune.server.tuning.follower import Follower
from llmtune.server.tuning.jobs import Jobs, JobServices
from llmtune.server.tuning.keys import KeyFile, Keys, SingleKey
from llmtune.server.tuning.models import ModelMap, Models
from llmtune.server.tuning.quotas import Budgets, RateLimiter
from llmtune.server.tuning.state import TuningState
from llmtune.server.tuning.uploads import Uploads


class TuningServer(HttpServer):
    """OpenAI's fine-tuning API, in front of any backend. Use as a context manager, or call `serve`.

    Args:
        models: the model map: a file, or names and targets ("gpt-4.1-mini": "local:tiny"; "default": ...).
        host: address to listen on.
        port: port to listen on; 0 picks a free one.
        key_from: environment variable that holds the key which clients must send; it must be set, unless there is a
            key file.
        keys: a key file, as `llmtune keys add` writes it: each key with its rights, its budget and its limits. It is
            read again when it changes.
        spending: what jobs may cost and whether one is refused when a field would not be used; by default no job is
            started at a backend that bills. `budget` is per job; given one, or a budget with every key, `yes` is not
            needed.
        deploy: allow a deployment that costs money while a model answers; None never does.
        organization: the third part of tuned models' names.

    Raises:
        InvalidSettings: no key, a wrong key file or model map, or the address cannot be listened on.
        OverBudget: a backend of the map bills its jobs, and neither budgets nor `yes` were given.
        StoreError: another server already uses this home folder.
        MissingExtra: the extra `serve` is not installed.
    """

    def __init__(
        self,
        models: str | os.PathLike[str] | Mapping[str, str],
        *,
        host: str = "127.0.0.1",
        port: int = 8421,
        key_from: str = KEY_VARIABLE,
        keys: str | os.PathLike[str] | None = None,
        spending: StartOptions | None = None,
        deploy: bool | None = None,
        organization: str = "llmtune",
    ) -> None:
        accepted = _read_single_key(key_from) if keys is None else KeyFile(Path(keys))
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", organization):
            raise InvalidSettings(
                f"the organization {organization!r} stands in models' names: lower-case letters, digits and - only"
            )
        model_map = ModelMap(models) if isinstance(models, Mapping) else ModelMap.load(Path(models))
        spending = spending or StartOptions(yes=False)
        options = replace(spending, yes=spending.yes or spending.budget is not None, new=True)
        _check_spending(model_map, options, accepted)
        super().__init__(host, port, purpose="serving a tuning API")
        try:
            store = open_store()
            state = TuningState(home())
            self._stack.callback(state.close)
            audit = AuditLog(state.folder / "audit.jsonl")
            catalog = Models(model_map, state, store, organization=organization, since=time.time())
            pool = ModelPool(deploy=deploy)
            self._stack.callback(pool.close)
            budgets = Budgets(state.jobs, store)
            follower = Follower(state, store, options, accepted, budgets)
            self._stack.callback(follower.close)
            self.names = model_map.names
            uploads = Uploads(state, accepted, audit)
            endpoint = Endpoint(
                keys=accepted,
                limiter=RateLimiter(),
                audit=audit,
                files=Files(state, accepted, audit, uploads.remaining_bytes),
                uploads=uploads,
                models=catalog,
                jobs=Jobs(JobServices(state, store, catalog, follower, options, accepted, budgets, audit)),
                pool=pool,
            )
            self._run(make_tuning_app(endpoint))
            follower.resume([attach(target.run_id).id for target in model_map.targets if target.run_id is not None])
        except BaseException:
            self._stack.close()
            raise


def _read_single_key(variable: str) -> SingleKey:
    """Return the key in an environment variable. Raises `InvalidSettings` where there is none."""
    key = read_secret(variable)
    if key is None:
        raise InvalidSettings(
            f"whoever reaches this endpoint can start jobs, so it needs a key, and {variable} is not set",
            hint=f"set {variable}, name another variable with --key-from, or give each member a key with --keys FILE;"
            " clients send it as their API key",
        )
    return SingleKey(key)


def _check_spending(models: ModelMap, options: StartOptions, keys: Keys) -> None:
    """Raise `OverBudget` when a backend of the map bills and neither budgets nor `yes` allow that."""
    unlimited = keys.unlimited
    for target in models.targets:
        if target.backend().hosted and not options.yes and unlimited:
            names = ", ".join(name for name in unlimited if name)
            key = f"the key of {names}" if names else "the key"
            raise OverBudget(
                f"jobs for {target} are billed, and whoever holds {key} can start them",
                hint="pass --budget USD (the most that one job may be estimated to cost), --yes, or a key file in which"
                " every key has a budget",
            )
