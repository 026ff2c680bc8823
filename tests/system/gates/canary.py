"""A canary key and escape sequences, a vendor whose every text holds them, and the look for them in what comes out."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from llmtune.testing.fake_vendor import Phase
from llmtune.testing.generic_vendor import Fake
from llmtune.testing.http import Call, route

KEY = "canary/9f8e+7d6c-5b4a3210=x"
HOSTILE = f"\x1b]0;t\x07\x1b[2J\x9b31m\u202e {KEY} https://me:pw-{KEY}@host/?api_key={KEY}"
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Vendor(Fake):
    """Everything it says is hostile."""

    walks = {"success": (Phase("succeeded"),), "failure": (Phase("failed"),)}
    failure_message = HOSTILE
    model_suffix = HOSTILE
    """What the ids of its tuned models end in."""

    @route("GET", "/v1/jobs/{job}", role="poll")
    def get_job(self, call: Call) -> Any:
        """As the fake's own, with an event and a state."""
        answer = super().get_job(call)
        event = {"id": 1, "time": 1.0, "message": HOSTILE}
        return answer | {"events": [event] if call.query.get("after_event", "0") == "0" else []}

    def _job(self, job: Any) -> dict[str, Any]:
        answer = super()._job(job)
        return answer | {"model": answer["model"] and f"ft:{self.model_suffix}"}

    def say(self, prompt: str, *, tuned: bool) -> str:
        """An answer with the key in it."""
        return f"{prompt} {HOSTILE}"


class Output(NamedTuple):
    """What a command printed."""

    code: int
    stdout: str
    stderr: str


def check(text: str, where: object) -> None:
    """No canary, whole or as it stands in an address, and nothing that a terminal obeys."""
    for spelling in (KEY, json.dumps(KEY)[1:-1], KEY.replace("/", "%2F").replace("+", "%2B").replace("=", "%3D")):
        at = text.find(spelling)
        assert at < 0, f"{where}: {text[max(0, at - 200) : at + 60]!a}"
    found = CONTROLS.search(text)
    assert found is None, f"{where}: {text[max(0, found.start() - 80) : found.start() + 80]!a}"
