"""The server: opens the models, listens, and lets go of everything in order."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from llmtune._safety.browser import is_loopback
from llmtune.errors import InvalidSettings, LlmtuneError, MissingExtra
from llmtune.provider.abilities import Exporting
from llmtune.runs.api import attach
from llmtune.runs.run import Run
from llmtune.server.app import Served, make_app
from llmtune.server.queue import Line

if TYPE_CHECKING:
    from starlette.applications import Starlette

#: Where the key is looked for, where nothing else is said.
KEY = "LLMTUNE_SERVE_KEY"
#: Seconds that answers under way are given when the server is told to end.
GRACE = 30


class HttpServer:
    """An application on a socket. Use as a context manager (a thread of its own), or call `serve`.

    A subclass opens what it needs on `_stack`, then calls `_run`; closing lets go of it in the opposite order.
    """

    names: list[str]
    """What the models are called."""

    def __init__(self, host: str, port: int, *, purpose: str) -> None:
        try:
            import uvicorn  # noqa: F401
        except ImportError:
            raise MissingExtra("serve", "uvicorn", purpose=purpose) from None
        self._stack = contextlib.ExitStack()
        self._thread: threading.Thread | None = None
        self._socket = self._listen(host, port)

    def _run(self, app: Starlette) -> None:
        """Answer with this application from now on."""
        import uvicorn

        from llmtune.server.connection import Connection

        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=GRACE,
            server_header=False,
        )
        self._server = uvicorn.Server(config)

    def _listen(self, host: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Named as TCP, so that asyncio sends each piece of a stream at once: else each waits 40 ms for the last one's
        # acknowledgement.
        found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._stack.callback(found.close)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((host, port))
            found.listen(512)
        except OSError as error:
            raise InvalidSettings(
                f"{host}:{port} cannot be listened on: {error.strerror or error}", hint="take another --port"
            ) from None
        self.port = int(found.getsockname()[1])
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}/v1"
        return found

    def serve(self) -> None:
        """Answer until Ctrl-C or SIGTERM; answers under way are finished first."""
        self._server.run([self._socket])

    def close(self) -> None:
        """End it, and let go of models and deployments."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(GRACE + 10)
        self._stack.close()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve, name="llmtune-serve-http", daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                self._stack.close()
                raise LlmtuneError(f"the server at {self.url} did not start")
            self._thread.join(0.01)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Server(HttpServer):
    """Tuned models behind one endpoint. Use as a context manager (a thread of its own), or call `serve`.

    Args:
        runs: runs (ids, their beginnings, or names) whose models are served. Each is called by its run's name, where
            that is one run's alone, and by its id.
        host: address to listen on; off loopback a key is required.
        port: 0 takes any that is free.
        key_from: environment variable that holds the key which clients must send. The key is read from there and
            written nowhere.
        deploy: allow a deployment that costs money while the server runs; None asks the job.

    Raises:
        InvalidSettings: no key off loopback, or the address cannot be listened on.
        MissingExtra: the extra `serve` is not installed.
        RunNotFound, LlmtuneError: a run does not exist, or its model cannot be asked.
    """

    def __init__(
        self,
        runs: Sequence[str | Run],
        *,
        host: str = "127.0.0.1",
        port: int = 8421,
        key_from: str = KEY,
        deploy: bool | None = None,
    ) -> None:
        if not runs:
            raise InvalidSettings("there is no run to serve")
        key = os.environ.get(key_from) or None
        if key is None and not is_loopback(host):
            raise InvalidSettings(
                f"off this machine ({host}) a key is required and {key_from} is not set",
                hint=f"set {key_from}, or name another variable with --key-from",
            )
        self.runs = [run if isinstance(run, Run) else attach(run) for run in runs]
        self.keyed = key is not None
        super().__init__(host, port, purpose="serving a model")
        try:
            models = self._open(deploy)
            self.names = sorted({served.name for served in models.values()})
            self._run(make_app(models, key))
        except BaseException:
            self._stack.close()
            raise

    def _open(self, deploy: bool | None) -> dict[str, Served]:
        models: dict[str, Served] = {}
        self.lines: list[Line] = []
        named = [run.name for run in self.runs]
        for run in self.runs:
            opened = self._stack.enter_context(run.model(deploy=deploy))
            line = Line(opened.generator)
            self.lines.append(line)
            self._stack.callback(line.close)
            name = run.name if named.count(run.name) == 1 else run.id
            served = Served(name=name, created=int(run.record.created), line=line)
            models |= {name: served, run.id: served}
        return models


def hand_over(run: Run) -> str | None:
    """How to serve the model with an engine that is made for many clients; None where its provider knows of none."""
    model = run.model_ref
    if model is None or not isinstance(run.provider, Exporting):
        return None
    return run.provider.serving_command(model, run.name.replace(" ", "-"))
