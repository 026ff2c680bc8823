"""The server that `benchmarks/endpoint.py` kills, in a process of its own, and a client that tries again.

The process is forked from a server that has loaded everything, so that a start takes a fraction of a second. It dies by
SIGKILL at the first passing of a failpoint, or from outside at any moment.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import openai

KEY = "benchmark-0123456789"
MODEL = "gpt-4.1-mini-2025-04-14"
CONTEXT = multiprocessing.get_context("forkserver")
#: Loaded once, so that each server is forked with everything in place.
CONTEXT.set_forkserver_preload(
    [
        "llmtune.server.tuning.server",
        "llmtune.server.connection",
        "llmtune.runs.evaluation",
        "llmtune.planning.plan",
        "llmtune.testing.fake_provider",
        "llmtune.testing.generic_vendor",
        "endpoint_kills",
        "openai",
        "httpx2",
        "sqlalchemy.dialects.sqlite",
        "starlette.applications",
        "starlette.routing",
        "uvicorn.protocols.http.h11_impl",
    ]
)


def serve(environment: dict[str, str], arrow: str, models: dict[str, str], keys: str | None, pipe: Connection) -> None:
    """Serve until killed; the URL goes through `pipe`."""
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    from llmtune.runs import failpoints, finalize, poller, settling
    from llmtune.runs.planned import StartOptions
    from llmtune.runs.poller import PollInterval
    from llmtune.server.tuning import follower
    from llmtune.server.tuning.server import TuningServer

    def die(name: str) -> None:
        if name == arrow:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.failpoint_hook = die
    finalize.DEPLOYMENT_LAG, settling.LONGEST_PAUSE, follower.PAUSE = 0.3, 0.05, 0.2
    poller.HOSTED = PollInterval(first=0.01, most=0.25)
    poller._poller = poller.Poller(polls_per_second=500)
    with TuningServer(models, port=0, keys=keys, spending=StartOptions(yes=True)) as server:
        pipe.send(server.url)
        threading.Event().wait()


class Endpoint:
    """A server that is started again whenever it has died, each time to die at the next of `arrows`."""

    def __init__(
        self,
        home: Path,
        vendor: str,
        *,
        arrows: Iterable[str] = (),
        model: str = "fake:m-1",
        keys: str | None = None,
        **environment: str,
    ) -> None:
        self._environment = {
            "LLMTUNE_HOME": str(home),
            "LLMTUNE_SERVE_KEY": KEY,
            "LLMTUNE_FAKE_BASE_URL": vendor,
            **environment,
        }
        self._arrows, self._models, self._keys = list(arrows), {MODEL: model}, keys
        self.kills = 0
        self._start()

    def _start(self) -> None:
        receiver, sender = CONTEXT.Pipe(duplex=False)
        self.arrow = self._arrows.pop(0) if self._arrows else ""
        arguments = (self._environment, self.arrow, self._models, self._keys, sender)
        self.process: BaseProcess = CONTEXT.Process(target=serve, args=arguments)
        self.process.start()
        sender.close()
        try:
            self.url: str = receiver.recv()
            self._api = openai.OpenAI(base_url=self.url, api_key=KEY, max_retries=0, timeout=60)
        except EOFError:  # it died while it went on with what was there
            self._count_kill()
            self._start()

    def kill(self) -> None:
        """Kill the server, which is started again by the next request."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)

    def _count_kill(self) -> None:
        self.process.join(20)
        if self.process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"the server ended with {self.process.exitcode}, and was not killed")
        self.kills += 1

    def ask(self, call: Callable[[openai.OpenAI, dict[str, str]], Any]) -> Any:
        """Return the answer to a call, which is given the client and the headers of this try."""
        for retry in range(12):
            try:
                return call(self._api, {"x-stainless-retry-count": str(retry)})
            except openai.APIConnectionError:
                self._api.close()
                self._count_kill()
                self._start()
        raise RuntimeError("it died twelve times during one call")

    def wait(self, job_id: str, seconds: float) -> Any:
        """Return the job when it has ended."""
        deadline = time.monotonic() + seconds
        while True:
            job = self.ask(lambda api, _: api.fine_tuning.jobs.retrieve(job_id))
            if job.status in ("succeeded", "failed", "cancelled"):
                return job
            if time.monotonic() > deadline:
                raise RuntimeError(f"job {job_id} is {job.status} after {seconds:.0f} s")
            time.sleep(0.1)

    def close(self) -> None:
        """End the server."""
        self._api.close()
        self.kill()
        self.process.join(20)


def reset_peak(pid: int) -> int:
    """Forget the highest memory of a process so far, and return what it has now, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_memory(pid)


def peak_memory(pid: int) -> int:
    """Return the highest resident memory of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
