"""What Together's declarations say moves, moves in the request body; nothing else does."""

from __future__ import annotations

import pytest

from llmtune.testing.wire import check_wire_truth
from llmtune_together import TogetherProvider

COMPANIONS = {
    "gradient_accumulation_steps": {"batch_size": 8},
    "early_stopping_threshold": {"early_stopping_patience": 2, "batch_size": 8, "epochs": 2, "eval_every": 50},
}


@pytest.mark.parametrize(("method", "adapter"), [("sft", "lora"), ("sft", "full"), ("dpo", "lora"), ("dpo", "full")])
def test_declared_is_moved(method: str, adapter: str) -> None:
    found = check_wire_truth(TogetherProvider(), "Qwen/Qwen3-8B", method=method, adapter=adapter, companions=COMPANIONS)
    assert not found, "\n".join(map(str, found))


def test_counts_given_as_options_silence_the_intervals() -> None:
    found = check_wire_truth(
        TogetherProvider(),
        "Qwen/Qwen3-8B",
        options={"n_evals": 9, "n_checkpoints": 3, "early_stopping_warmup_evals": 0},
        companions=COMPANIONS,
    )
    assert not found, "\n".join(map(str, found))
