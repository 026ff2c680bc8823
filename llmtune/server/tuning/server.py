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
from llmtune.server.tuning.chat import ModelPool
from llmtune.server.tuning.follower import Follower
from llmtune.server.tuning.jobs import Jobs
from llmtune.server.tuning.models import ModelMap, Models
from llmtune.server.tuning.state import TuningState


class TuningServer(HttpServer):
    """OpenAI's fine-tuning API, in front of any backend. Use as a context manager, or call `serve`.

    Args:
        models: the model map: a file, or names and targets ("gpt-4.1-mini": "local:tiny"; "default": ...).
        host: address to listen on.
        port: port to listen on; 0 picks a free one.
        key_from: environment variable that holds the key which clients must send; it must be set.
        spending: what jobs may cost and whether one is refused when a field would not be used; by default no job is
            started at a backend that bills. `budget` is per job; given one, `yes` is not needed.
        deploy: allow a deployment that costs money while a model answers; None never does.
        organization: the third part of tuned models' names.

    Raises:
        InvalidSettings: no key, a wrong model map, or the address cannot be listened on.
        OverBudget: a backend of the map bills its jobs, and neither a budget nor `yes` was given.
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
        spending: StartOptions | None = None,
        deploy: bool | None = None,
        organization: str = "llmtune",
    ) -> None:
        key = read_secret(key_from)
        if key is None:
            raise InvalidSettings(
                f"whoever reaches this endpoint can start jobs, so it needs a key, and {key_from} is not set",
                hint=f"set {key_from}, or name another variable with --key-from; clients send it as their API key",
            )
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", organization):
            raise InvalidSettings(
                f"the organization {organization!r} stands in models' names: lower-case letters, digits and - only"
            )
        model_map = ModelMap(models) if isinstance(models, Mapping) else ModelMap.load(Path(models))
        spending = spending or StartOptions(yes=False)
        options = replace(spending, yes=spending.yes or spending.budget is not None, new=True)
        _check_spending(model_map, options)
        super().__init__(host, port, purpose="serving a tuning API")
        try:
            store = open_store()
            state = TuningState(home())
            self._stack.callback(state.close)
            catalog = Models(model_map, state, store, organization=organization, since=time.time())
            pool = ModelPool(deploy=deploy)
            self._stack.callback(pool.close)
            follower = Follower(state, store, options)
            self._stack.callback(follower.close)
            self.names = model_map.names
            jobs = Jobs(state, store, catalog, follower, options)
            self._run(make_tuning_app(Endpoint(key=key, state=state, models=catalog, jobs=jobs, pool=pool)))
            follower.resume([attach(target.run_id).id for target in model_map.targets if target.run_id is not None])
        except BaseException:
            self._stack.close()
            raise


def _check_spending(models: ModelMap, options: StartOptions) -> None:
    """Raise `OverBudget` when a backend of the map bills and neither a budget nor `yes` allows that."""
    for target in models.targets:
        if target.backend().hosted and not options.yes:
            raise OverBudget(
                f"jobs for {target} are billed, and whoever holds the key can start them",
                hint="pass --budget USD (the most that one job may be estimated to cost) or --yes",
            )
