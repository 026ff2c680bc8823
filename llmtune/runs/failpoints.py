"""The arrows of a run's flow, by name. A crash test hangs its killer here; in real life nothing happens."""

from __future__ import annotations

from collections.abc import Callable

#: Every place at which a test kills the process. `llmtune.runs` calls `checkpoint` with each, in about this order.
ARROWS: tuple[str, ...] = (
    "planned",
    "uploading",
    "before-upload",
    "after-upload",
    "upload-kept",
    "before-submitting",
    "submitting",
    "after-submit",
    "job-kept",
    "polled",
    "snapshot-kept",
    "finalizing",
    "last-metrics",
    "before-deploy",
    "after-deploy",
    "deployment-kept",
    "evaluated",
    "before-undeploy",
    "after-undeploy",
    "undeployed",
    "reported",
    "finished",
)

#: The same of a rescue, which starts ordinary runs in the end.
RESCUE_ARROWS: tuple[str, ...] = (
    "rescue-listed",
    "rescue-fetching",
    "rescue-fetched",
    "rescue-deploying",
    "rescue-deployed",
    "rescue-answered",
    "rescue-recorded",
    "rescue-undeployed",
    "rescue-job-written",
)

#: Called with the name of each arrow as it is passed.
hook: Callable[[str], None] | None = None


def checkpoint(name: str) -> None:
    """Pass one arrow."""
    if hook is not None:
        hook(name)
