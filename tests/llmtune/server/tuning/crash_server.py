"""The server that a kill trial kills, and a follower of its own that another one kills."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from multiprocessing.connection import Connection
from typing import Any

# Loaded here once, so that each trial's process is forked with everything in place.
import sqlalchemy.dialects.sqlite  # noqa: F401
import starlette.applications
import starlette.routing  # noqa: F401
import uvicorn  # noqa: F401

from llmtune.errors import LlmtuneError
from llmtune.runs import failpoints, finalize, poller, settling
from llmtune.runs.api import attach
from llmtune.runs.planned import StartOptions
from llmtune.runs.poller import PollInterval
from llmtune.server.tuning import follower
from llmtune.server.tuning.server import TuningServer


def _prepare(environment: dict[str, str], arrow: str) -> None:
    os.environ.update(environment)
    warnings.simplefilter("ignore")

    def die(name: str) -> None:
        if name == arrow:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.failpoint_hook = die
    finalize.DEPLOYMENT_LAG = 0.3
    settling.LONGEST_PAUSE = 0.05
    follower.PAUSE = 0.2
    poller.HOSTED = PollInterval(first=0.01, most=0.05)
    poller._poller = poller.Poller(polls_per_second=500)


def serve(
    environment: dict[str, str], arrow: str, models: dict[str, str], connection: Connection, **settings: Any
) -> None:
    """Serve until killed, at the first passing of `arrow` or from outside; the URL goes through `connection`."""
    _prepare(environment, arrow)
    with TuningServer(models, port=0, spending=StartOptions(yes=True), **settings) as server:
        connection.send(server.url)
        threading.Event().wait()


def follow(environment: dict[str, str], arrow: str, run_id: str) -> None:
    """Wait for a run as `llmtune runs attach` does, and die at the first passing of `arrow`."""
    _prepare(environment, arrow)
    try:
        attach(run_id).wait(timeout=60)
    except LlmtuneError:
        os._exit(1)
    os._exit(0)
