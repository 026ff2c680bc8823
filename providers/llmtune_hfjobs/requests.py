"""The body of `POST /api/jobs/{namespace}`. Pure."""

from __future__ import annotations

from typing import Any

from llmtune_local.rented.vendor import Launch

#: Where the machine sees the storage.
INPUTS, RUN = "/llmtune/inputs", "/llmtune/run"
#: How often the service starts a job again that was preempted, the first time counted.
ATTEMPTS = 3
#: The time is noted before the trainer is installed, for its machine is billed from then on.
_SCRIPT = 'export LLMTUNE_STARTED=$(date +%s); exec "$@"'


def build_job(launch: Launch, *, image: str, bucket: str) -> dict[str, Any]:
    """Return the body that starts a job. `bucket` is NAMESPACE/NAME."""
    wheel = f"{INPUTS}/{launch.wheel.removeprefix(f'{launch.inputs}/')}"
    trainer = ["python", "-m", "llmtune_local.rented.entry", "--inputs", INPUTS, "--run", RUN]
    install = ["uv", "run", "--no-project", "--with", f"llmtune-sdk[local,qlora,images] @ file://{wheel}"]
    volume = {"type": "bucket", "source": bucket}
    body: dict[str, Any] = {
        "dockerImage": image,
        "command": ["sh", "-c", _SCRIPT, "sh", *install, *trainer],
        "arguments": [],
        "environment": {"PYTHONUNBUFFERED": "1"},
        "flavor": launch.machine.name,
        "timeoutSeconds": launch.seconds,
        "attempts": ATTEMPTS,
        "labels": dict(launch.labels),
        "volumes": [
            volume | {"mountPath": INPUTS, "readOnly": True, "path": launch.inputs},
            volume | {"mountPath": RUN, "readOnly": False, "path": launch.run},
        ],
    }
    if launch.secrets:
        body["secrets"] = dict(launch.secrets)
    return body
