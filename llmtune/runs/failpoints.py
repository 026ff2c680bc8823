"""Failpoints: named steps of a run at which a crash test kills the process. In production they do nothing."""

from __future__ import annotations

from collections.abc import Callable

#: The failpoints of a run, in about this order.
FAILPOINTS: tuple[str, ...] = (
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

#: Those of a rescue, which starts ordinary runs in the end.
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

#: Called with the name of each failpoint as it is passed.
failpoint_hook: Callable[[str], None] | None = None


def failpoint(name: str) -> None:
    """Call the hook, if a test has set one."""
    if failpoint_hook is not None:
        failpoint_hook(name)
