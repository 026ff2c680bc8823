"""What each process holds is chosen by memory, and what cannot be cut up is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmtune.errors import DeviceUnavailable, InvalidJob
from llmtune_local.models import memory_estimate
from llmtune_local.models.memory_estimate import Plan, check_memory, choose_sharding_of, estimate
from llmtune_local.models.sharding_choice import check_sharding, choose_sharding
from llmtune_local.run_state.schema import WorkerOptions

FOUR = {"device": "cpu", "dtype": "float32", "processes": 4}


@pytest.mark.parametrize(
    ("options", "available", "chosen"),
    [
        ({"processes": 4}, 101, "replicate"),
        ({"processes": 4}, 99, "shard"),
        ({"processes": 4}, None, "replicate"),
        ({"processes": 1}, 50, "replicate"),
        ({"processes": 4, "sharding": "replicate"}, 50, "replicate"),
        ({"processes": 4, "sharding": "shard"}, 500, "shard"),
        ({"processes": 4, "offload": True}, 500, "shard"),
    ],
)
def test_models_are_cut_up_where_whole_ones_leave_too_little_memory(
    options: dict[str, Any], available: int | None, chosen: str
) -> None:
    assert choose_sharding(WorkerOptions(**options), None, needed=80, available=available) == chosen


def test_what_cannot_be_cut_up_stays_whole() -> None:
    assert choose_sharding(WorkerOptions(processes=4), "it is so", needed=80, available=1) == "replicate"


def test_the_worker_chooses_as_the_plan_does(
    make_request: Callable[..., Any], base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request({"options": FOUR, "adapter": "full"})
    shape = memory_estimate.read_shape(str(base_folder))
    assert shape is not None
    needed = 4 * 16 * shape.parameters  # weights, gradients and two figures of AdamW, in float32, in four processes
    monkeypatch.setattr(memory_estimate, "available_memory", lambda device: round(needed / 0.79))
    assert choose_sharding_of(request, "cpu") == "replicate"
    monkeypatch.setattr(memory_estimate, "available_memory", lambda device: round(needed / 0.81))
    assert choose_sharding_of(request, "cpu") == "shard"
    assert choose_sharding_of(request.model_copy(update={"model": "not/here"}), "cpu") == "replicate"


@pytest.mark.parametrize(
    ("request_fields", "settings", "says"),
    [
        ({"options": {"processes": 1}}, {}, "it takes several processes"),
        ({"method": "dpo"}, {}, "method dpo needs the whole model in every process"),
        ({"adapter": "dora"}, {}, "adapter dora is not trained in parts"),
        ({"adapter": "qlora"}, {}, "adapter qlora is not trained in parts"),
        ({}, {"optimizer": "adafactor"}, "optimizer adafactor needs whole matrices"),
        ({}, {"replay_share": 0.1}, "replay_share has the model answer prompts before training"),
    ],
)
def test_a_reason_is_given_where_it_cannot_be(
    make_request: Callable[..., Any], request_fields: dict[str, Any], settings: dict[str, Any], says: str
) -> None:
    options = FOUR | request_fields.get("options", {}) | {"sharding": "shard"}
    with pytest.raises(InvalidJob, match=f"shard: {says}"):
        check_sharding(make_request(request_fields | {"options": options}, **settings), "cpu")


@pytest.mark.parametrize(
    ("options", "device"), [({}, "cpu"), ({"processes": 1}, "cuda"), ({"sharding": "replicate"}, "cuda")]
)
def test_only_parts_on_cuda_devices_are_offloaded(
    make_request: Callable[..., Any], options: dict[str, Any], device: str
) -> None:
    check_sharding(make_request({"options": FOUR | {"offload": True}}), "cuda")
    with pytest.raises(InvalidJob, match="offload is for a model that is cut up over several CUDA devices"):
        check_sharding(make_request({"options": FOUR | options | {"offload": True}}), device)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_each_device_holds_its_share_and_a_few_layers(base_folder: Path, adapter: str) -> None:
    shape = memory_estimate.read_shape(str(base_folder))
    assert shape is not None
    whole = Plan(adapter=adapter, tokens=16, trained_tokens=4, device="cuda")

    def parts(plan: Plan) -> dict[str, int]:
        return {part.name: part.bytes for part in estimate(shape, plan).parts}

    one, four = parts(whole), parts(replace(whole, shards=4))
    assert one["gathered layers"] == 0
    for name in ("weights", "adapters", "gradients and optimizer"):
        assert four[name] == pytest.approx(one[name] / 4, abs=1), name
    assert four["activations"] == one["activations"]
    # Both layers of this model, its embeddings and its head, all of them in float32; with full their gradients twice.
    assert four["gathered layers"] == pytest.approx(4 * shape.parameters * (3 if adapter == "full" else 1), rel=0.01)
    offloaded = parts(replace(whole, shards=4, offload=True))
    assert offloaded["weights"] == offloaded["gradients and optimizer"] == 0
    assert offloaded["gathered layers"] == four["gathered layers"]


def test_a_model_too_large_for_one_gpu_is_given_the_number_that_suffices(
    make_request: Callable[..., Any], base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = memory_estimate.read_shape(str(base_folder))
    assert shape is not None
    # Each weight has a gradient and two figures of AdamW, 16 bytes; gathered it takes 8 in bfloat16, and two layers are
    # all of this model. Four fifths of 13 are more than 16 / 8 + 8, and less than 16 / 4 + 8.
    monkeypatch.setattr(memory_estimate, "available_memory", lambda device: 16 * shape.parameters)
    request = make_request({"adapter": "full", "options": {"device": "cuda"}})
    check_memory(request, "cuda")
    monkeypatch.setattr(memory_estimate, "available_memory", lambda device: 13 * shape.parameters)
    with pytest.raises(DeviceUnavailable) as caught:
        check_memory(request, "cuda")
    assert "provider_options.local.processes: 8 (a part of the model on each of 8 GPUs)" in str(caught.value.hint)
