"""What surely does not fit this machine is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from llmtune.errors import DeviceUnavailable
from llmtune_local.models import memory_estimate


def body(adapter: str) -> dict[str, Any]:
    return {"model": "tiny", "adapter": adapter, "options": {}, "hyperparameters": {"lora_rank": 8}}


def test_a_model_that_cannot_fit_is_refused_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = memory_estimate.shape_of("tiny")
    assert shape is not None
    monkeypatch.setattr(memory_estimate, "room", lambda device: shape.parameters * 8)
    memory_estimate.refuse_what_cannot_fit(body("lora"), "cpu")
    with pytest.raises(DeviceUnavailable, match=r"needs at least .* on cpu and there are") as caught:
        memory_estimate.refuse_what_cannot_fit(body("full"), "cpu")
    assert "adapter: lora" in (caught.value.hint or "")
    monkeypatch.setattr(memory_estimate, "room", lambda device: None)
    memory_estimate.refuse_what_cannot_fit(body("full"), "cpu")
