"""A service that speaks the protocol of the `fake` provider, as it was when the stored things were made.

It uses nothing of llmtune's, so that what is stored keeps meeting the same service whatever becomes of the modules.
What becomes of a job depends on its name: `waits` and `stopped` stay in the queue, `half` stays at its fifth step,
`fails` fails, anything else has succeeded when it is first looked at.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

STEPS = 10
STATES = {"waits": "queued", "stopped": "queued", "half": "training", "fails": "failed"}
LABELS = ("billing", "returns", "shipping")


class Service:
    """Files, jobs and answers on a loopback port."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        """SHA-256 of each file's content, by the file's id."""

        self.jobs: dict[str, dict[str, Any]] = {}
        self.calls: Counter[str] = Counter()
        """Requests by what they want, answers by the model as well: "generate m-1"."""

        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def save(self, path: Path) -> None:
        """Write down what the service knows."""
        path.write_text(json.dumps({"files": self.files, "jobs": self.jobs}, indent=1) + "\n")

    def remember(self, path: Path) -> None:
        """Know what an earlier service has written down."""
        known = json.loads(path.read_text())
        self.files |= known["files"]
        self.jobs |= known["jobs"]
        self._numbers = itertools.count(len(self.files) + len(self.jobs) + 1)

    def ends(self, name: str) -> None:
        """Let the jobs of that name succeed."""
        for job in self.jobs.values():
            if job["body"].get("name") == name:
                job["status"] = "succeeded"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(asked.query).items()}
                with service._lock:
                    reply = service.reply(self.command, unquote(asked.path), query, body, self.headers)
                content = json.dumps({"error": {"message": "no such thing"}} if reply is None else reply).encode()
                self.send_response(404 if reply is None else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                """Nothing is logged."""

        return Handler

    def reply(self, method: str, path: str, query: dict[str, str], body: bytes, headers: Any) -> Any:
        """The answer to a request; None is "no such thing"."""
        parts = path.strip("/").split("/")[1:]
        match method, *parts:
            case "POST", "files":
                self.calls["upload"] += 1
                name = f"file-{next(self._numbers):06d}"
                self.files[name] = hashlib.sha256(body).hexdigest()
                return self._file(name)
            case "GET", "files":
                return {"data": [self._file(name) for name, held in self.files.items() if held == query["sha256"]]}
            case "POST", "jobs":
                return self._job(self._submit(json.loads(body), headers["Idempotency-Key"]))
            case "GET", "jobs":
                return {"data": []}
            case "GET", "jobs", name if name in self.jobs:
                return self._looked_at(name, int(query.get("after_step", 0)), int(query.get("after_event", 0)))
            case "POST", "jobs", name, "cancel" if name in self.jobs:
                self.jobs[name]["status"] = "cancelled"
                return self._job(name)
            case "GET", "models":
                tuned = [name for name, job in self.jobs.items() if job["status"] == "succeeded"]
                return {
                    "data": [
                        {"id": f"tuned:{name}", "base": self.jobs[name]["body"]["model"], "job": name} for name in tuned
                    ]
                }
            case "GET", "deployments":
                return {"data": []}
            case "POST", "generate":
                return self._answer(json.loads(body))
        return None

    def _file(self, name: str) -> dict[str, Any]:
        return {"id": name, "sha256": self.files[name], "bytes": 0, "name": name}

    def _submit(self, body: dict[str, Any], token: str | None) -> str:
        for name, job in self.jobs.items():
            if token is not None and job["token"] == token:
                return name
        self.calls["submit"] += 1
        name = f"job-{next(self._numbers):06d}"
        status = {"waits": "queued", "stopped": "queued", "half": "training", "fails": "failed"}.get(
            body.get("name", ""), "succeeded"
        )
        self.jobs[name] = {"body": body, "token": token, "status": status}
        return name

    def _job(self, name: str) -> dict[str, Any]:
        job = self.jobs[name]
        model = f"tuned:{name}" if job["status"] == "succeeded" else None
        return {"id": name, "status": job["status"], "model": model, "body": job["body"]}

    def _looked_at(self, name: str, after_step: int, after_event: int) -> dict[str, Any]:
        job = self.jobs[name]
        status = job["status"]
        steps = {"queued": 0, "training": STEPS // 2, "cancelled": 0}.get(status, STEPS)
        rate = job["body"].get("hyperparameters", {}).get("learning_rate") or 1e-3
        away = abs(math.log10(rate) + 3)  # 1e-3 is the best there is
        metrics = []
        for step in range(after_step + 1, steps + 1):
            row = {"step": step, "train_loss": round(0.5 + 2 * math.exp(-step / 4) + away, 6)}
            if "validation" in job["body"]["files"] and step % 5 == 0:
                row["valid_loss"] = round(row["train_loss"] + 0.1, 6)
            metrics.append(row)
        events = [{"id": at, "time": 1.0 + at, "message": f"step {at} done"} for at in range(1, steps + 1)]
        return self._job(name) | {
            "step": steps,
            "total_steps": STEPS,
            "metrics": metrics,
            "events": events[after_event:],
            "error": "row 3 could not be processed" if status == "failed" else None,
            "billed_tokens": 1000 * STEPS if status == "succeeded" else None,
        }

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        model = body["model"]
        self.calls[f"generate {model}"] += 1
        asked = [each["content"] for each in body["messages"] if each["role"] == "user"][-1]
        text = "I am not sure."
        if model.removeprefix("tuned:") in self.jobs:
            text = next((label for label in LABELS if label in asked), LABELS[0])
        elif len(body["messages"]) > 2:  # with examples, the base model knows one of the labels
            text = LABELS[1]
        return {"text": text, "prompt_tokens": len(asked.split()), "completion_tokens": len(text.split())}
