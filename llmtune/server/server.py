"""The server: opens the models, listens, and closes everything in order."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
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
from llmtune.server.queue import BatchQueue

if TYPE_CHECKING:
    from starlette.applications import Starlette

#: Environment variable of the key, by default.
KEY_VARIABLE = "LLMTUNE_SERVE_KEY"
#: Seconds that running answers get to finish when the server stops.
SHUTDOWN_SECONDS = 30


class HttpServer:
    """An application on a socket. Use it as a context manager (in its own thread), or call `serve`.

    A subclass opens its resources on `_stack`, then calls `_run`; `close` closes them in the opposite order.
    """

    names: list[str]
    """Names of the models."""

    def __init__(self, host: str, port: int, *, purpose: str) -> None:
        try:
            import uvicorn  # noqa: F401
        except ImportError:
            raise MissingExtra("serve", "uvicorn", purpose=purpose) from None
        self._stack = contextlib.ExitStack()
        self._thread: threading.Thread | None = None
        self._socket = self._listen(host, port)

    def _run(self, app: Starlette) -> None:
        """Set up the HTTP server of this application."""
        import uvicorn

        from llmtune.server.connection import Connection

        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            server_header=False,
        )
        self._server = uvicorn.Server(config)

    def _listen(self, host: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # IPPROTO_TCP lets asyncio set TCP_NODELAY: otherwise each piece of a stream waits 40 ms for the previous one's
        # acknowledgement.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._stack.callback(listener.close)
        try:
            if sys.platform != "win32":  # there it would let another process take the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(512)
        except OSError as error:
            raise InvalidSettings(
                f"cannot listen on {host}:{port}: {error.strerror or error}", hint="choose another --port"
            ) from None
        self.port = int(listener.getsockname()[1])
        address = f"[{host}]" if ":" in host else host
        self.url = f"http://{address}:{self.port}/v1"
        return listener

    def serve(self) -> None:
        """Serve until Ctrl-C or SIGTERM; running answers are finished first."""
        self._server.run([self._socket])

    def close(self) -> None:
        """Stop serving, close the models, and remove deployments."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(SHUTDOWN_SECONDS + 10)
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
    """Tuned models behind one endpoint. Use it as a context manager (in its own thread), or call `serve`.

    Args:
        runs: runs (ids, their beginnings, or names) whose models are served. A model's name is its run's name, if
            that is unique, or its run's id.
        host: address to listen on; off loopback a key is required.
        port: port to listen on; 0 picks a free one.
        key_from: environment variable that holds the key which clients must send. The key is written nowhere.
        deploy: allow a deployment that costs money while the server runs; None asks the job.

    Raises:
        InvalidSettings: no key off loopback, or the address cannot be listened on.
        MissingExtra: the extra `serve` is not installed.
        RunNotFound: a run does not exist.
        LlmtuneError: a run's model cannot be opened.
    """

    def __init__(
        self,
        runs: Sequence[str | Run],
        *,
        host: str = "127.0.0.1",
        port: int = 8421,
        key_from: str = KEY_VARIABLE,
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
        self.requires_key = key is not None
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
        self.queues: list[BatchQueue] = []
        names = [run.name for run in self.runs]
        for run in self.runs:
            opened = self._stack.enter_context(run.model(deploy=deploy))
            queue = BatchQueue(opened.generator)
            self.queues.append(queue)
            self._stack.callback(queue.close)
            name = run.name if names.count(run.name) == 1 else run.id
            served = Served(name=name, created=int(run.record.created), queue=queue, rules=opened.rules)
            models |= {name: served, run.id: served}
        return models


def find_serving_command(run: Run) -> str | None:
    """Return the command that serves the model with a high-throughput engine; None where its provider has none."""
    model = run.model_ref
    if model is None or not isinstance(run.provider, Exporting):
        return None
    return run.provider.serving_command(model, run.name.replace(" ", "-"))
