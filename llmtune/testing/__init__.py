"""Tools for testing backends and pipelines: a toolkit for fake vendors, and one suite that every backend passes.

Public, and documented in docs/testing.md. `llmtune.testing.conformance` needs pytest; everything else needs nothing.
"""

from __future__ import annotations

from llmtune.testing.fake_vendor import FakeDeployment, FakeFile, FakeJob, FakeVendor, Phase
from llmtune.testing.faults import (
    Fault,
    Faults,
    accept_then_drop,
    accept_then_hold,
    calling,
    echo,
    empty_answer,
    endless,
    endless_list,
    garbled,
    odd_numbers,
    rate_limit,
    refusal,
    reset,
    server_error,
    slow,
    trickle,
    truncated,
    unknown_state,
)
from llmtune.testing.http import Call, Part, Refusal, Reply, route
from llmtune.testing.request_schema import Required
from llmtune.testing.store_faults import store_away

__all__ = [
    "Call",
    "FakeDeployment",
    "FakeFile",
    "FakeJob",
    "FakeVendor",
    "Fault",
    "Faults",
    "Part",
    "Phase",
    "Refusal",
    "Reply",
    "Required",
    "accept_then_drop",
    "accept_then_hold",
    "calling",
    "echo",
    "empty_answer",
    "endless",
    "endless_list",
    "garbled",
    "odd_numbers",
    "rate_limit",
    "refusal",
    "reset",
    "route",
    "server_error",
    "slow",
    "store_away",
    "trickle",
    "truncated",
    "unknown_state",
]
