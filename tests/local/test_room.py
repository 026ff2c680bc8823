"""What surely does not fit this machine is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.errors import DeviceUnavailable
from llmtune_local import room


@pytest.fixture
def config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )


def test_weights_are_counted_without_being_made(config: Any) -> None:
    from transformers import AutoModelForCausalLM

    made = AutoModelForCausalLM.from_config(config)
    assert room.parameters(config) == sum(each.numel() for each in made.parameters())


def test_a_model_that_cannot_fit_is_refused_with_both_figures(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = room.parameters(config)
    monkeypatch.setattr(room, "device_memory", lambda device: weights * 4)
    room.check_room(config, device="cpu", adapter="lora", dtype="auto")
    with pytest.raises(DeviceUnavailable, match=r"at least .* GiB on cpu") as caught:
        room.check_room(config, device="cpu", adapter="full", dtype="auto")
    assert "lora instead of full" in (caught.value.hint or "")
    monkeypatch.setattr(room, "device_memory", lambda device: weights * 3)
    room.check_room(config, device="cpu", adapter="lora", dtype="bfloat16")
    with pytest.raises(DeviceUnavailable):
        room.check_room(config, device="cpu", adapter="lora", dtype="float32")


def test_this_machine_says_how_much_memory_it_has() -> None:
    found = room.device_memory("cpu")
    assert found is None or found > 2**28
