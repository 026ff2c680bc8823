"""Tools for testing backends and pipelines: a toolkit for fake vendors, and the suite that every backend must pass.

Public, and documented in docs/testing.md. Only `llmtune.testing.conformance` needs pytest.
"""

from __future__ import annotations

from llmtune.testing.fake_vendor import FakeDeployment, FakeFile, FakeJob, FakeVendor, Phase
from llmtune.testing.faults import (
    Fault,
    FaultKind,
    Faults,
    Role,
    accept_then_drop,
    accept_then_hold,
    call_action,
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
from llmtune.testing.folder_faults import Damage, damage_file, disk_full
from llmtune.testing.http import Call, Part, Refusal, Reply, route
from llmtune.testing.request_schema import Required
from llmtune.testing.store_faults import store_away

__all__ = [
    "Call",
    "Damage",
    "FakeDeployment",
    "FakeFile",
    "FakeJob",
    "FakeVendor",
    "Fault",
    "FaultKind",
    "Faults",
    "Part",
    "Phase",
    "Refusal",
    "Reply",
    "Required",
    "Role",
    "accept_then_drop",
    "accept_then_hold",
    "call_action",
    "damage_file",
    "disk_full",
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
