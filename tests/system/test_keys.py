"""No command shows a key, whatever a gateway repeats of it."""

from __future__ import annotations

import json
import sys
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmtune.cli import main


class Parrot(BaseHTTPRequestHandler):
    """Refuses every request, and repeats the key it was given."""

    def do_GET(self) -> None:
        key = self.headers.get("Authorization")
        body = json.dumps({"error": {"message": f"Incorrect API key provided: {key}", "code": "invalid_api_key"}})
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def gateway() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Parrot) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("variable", "key"),
    [("OPENAI_API_KEY", "sk-canary-0123456789"), ("TEAM_LOGIN", "canary/with+slash=="), ("TEAM_LOGIN", "onlyletters")],
)
@pytest.mark.parametrize(
    "command",
    [
        "doctor --provider openai --online",
        "doctor --provider openai --lifecycle",
        "doctor --provider openai --lifecycle --json",
        "rescue ft:some-model --from openai",
        "import ftjob-abc --from openai",
        "import ftjob-abc --from openai --json",
        "import ftjob-abc",
    ],
)
def test_a_key_is_not_shown(
    gateway: str,
    command: str,
    variable: str,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, key)
    monkeypatch.setenv("LLMTUNE_OPENAI_API_KEY_ENV", variable)
    monkeypatch.setenv("LLMTUNE_OPENAI_BASE_URL", gateway)
    monkeypatch.setenv("LLMTUNE_DEBUG", "1")  # tracebacks too
    monkeypatch.setattr(sys, "argv", ["llmtune", *command.split()])
    with warnings.catch_warnings(), pytest.raises(SystemExit):
        main()
    shown = "".join(capfd.readouterr())
    assert "Incorrect API key provided" in shown
    assert "***" in shown
    assert key not in shown
