"""The server of `llmtune serve --tuning`: opens what it must remember, goes on with unfinished jobs, and listens."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from llmtune.config import home, read_secret
from llmtune.errors import InvalidSettings, OverBudget
from llmtune.runs.api import attach
from llmtune.runs.planned import StartOptions
from llmtune.runs.store.store import open_store
from llmtune.server.server import KEY, HttpServer
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
        port: 0 takes any that is free.
        key_from: environment variable that holds the key which clients must send; there must be one.
        budget: the most that one job may be estimated to cost, in USD; an unknown cost counts as over it.
        yes: whether jobs may be started at backends that bill, without a budget.
        allow_unknown_cost: let an unknown cost pass under a budget.
        strict: refuse a job when any field that it sets would not be used.
        deploy: allow a deployment that costs money while a model is asked; None never does.
        organization: the third part of tuned models' names.

    Raises:
        InvalidSettings: no key, a wrong model map, or the address cannot be listened on.
        OverBudget: a backend of the map bills its jobs, and neither a budget nor `yes` was given.
        StoreError: another server of this home runs.
        MissingExtra: the extra `serve` is not installed.
    """

    def __init__(
        self,
        models: str | os.PathLike[str] | Mapping[str, str],
        *,
        host: str = "127.0.0.1",
        port: int = 8421,
        key_from: str = KEY,
        budget: float | None = None,
        yes: bool = False,
        allow_unknown_cost: bool = False,
        strict: bool = False,
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
        options = StartOptions(
            budget=budget, yes=yes or budget is not None, allow_unknown_cost=allow_unknown_cost, strict=strict, new=True
        )
        _agree_to_spend(model_map, options)
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


def _agree_to_spend(models: ModelMap, options: StartOptions) -> None:
    for target in models.targets:
        if target.backend().hosted and not options.yes:
            raise OverBudget(
                f"jobs for {target} are billed, and whoever holds the key can start them",
                hint="pass --budget USD (the most that one job may be estimated to cost) or --yes",
            )
