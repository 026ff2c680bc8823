"""What Together's declarations say moves, moves in the request body; nothing else does."""

from __future__ import annotations

import pytest

from llmtune.testing.wire_check import check_request_fields
from llmtune_together import TogetherProvider


@pytest.mark.parametrize(("method", "adapter"), [("sft", "lora"), ("sft", "full"), ("dpo", "lora"), ("dpo", "full")])
def test_declared_is_moved(method: str, adapter: str) -> None:
    mismatches = check_request_fields(TogetherProvider(), "Qwen/Qwen3-8B", method=method, adapter=adapter)
    assert not mismatches, "\n".join(map(str, mismatches))


def test_counts_given_as_options_silence_the_intervals() -> None:
    mismatches = check_request_fields(
        TogetherProvider(),
        "Qwen/Qwen3-8B",
        options={"n_evals": 9, "n_checkpoints": 3, "early_stopping_warmup_evals": 0},
    )
    assert not mismatches, "\n".join(map(str, mismatches))
