"""Reports of use are off, unless the user has said something else."""

from __future__ import annotations

from llmtune._safety.telemetry import OFF, turn_off_telemetry


def test_what_is_unset_is_set_and_what_is_set_stands() -> None:
    environment = {"HF_HUB_DISABLE_TELEMETRY": "0", "OTHER": "x"}
    turn_off_telemetry(environment)
    assert environment == {**OFF, "HF_HUB_DISABLE_TELEMETRY": "0", "OTHER": "x"}
