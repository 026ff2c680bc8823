"""A tuned model on this machine: only where that is allowed, and by whichever backend loads models here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import llmtune.provider as core
from llmtune.provider.generation import Unavailable
from llmtune.provider.types import DeploymentRef, ModelRef
from llmtune_sagemaker import inference
from llmtune_sagemaker.fake.service import FakeSageMaker
from tests.providers.llmtune_sagemaker.conftest import NOVA, QWEN, provider_at, receipt_for

OUT = "s3://my-bucket/out"


class Loader:
    """In the place of the local backend."""

    def __init__(self) -> None:
        self.asked: list[ModelRef] = []

    def generator(self, ref: ModelRef) -> Any:
        self.asked.append(ref)
        return f"generator of {ref.id}"


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    loader = Loader()
    monkeypatch.setattr(core, "get_provider", lambda name: loader)
    return loader


def put(vendor: FakeSageMaker, *names: str) -> None:
    for name in names:
        vendor._put("my-bucket", f"out/{name}", b"{}")


def tuned(base: str = QWEN) -> ModelRef:
    return ModelRef(id=OUT, base=base, data={"artefacts": OUT})


def test_an_adapter_is_loaded_over_its_base(vendor: FakeSageMaker, loader: Loader) -> None:
    put(vendor, "adapter_config.json", "adapter_model.safetensors")
    assert provider_at(vendor, evaluate_locally=True).generator(tuned())
    (ref,) = loader.asked
    assert ref.data == {"model": "Qwen/Qwen3-8B", "options": {}, "tuned": True}
    assert (Path(ref.id) / "adapter_model.safetensors").is_file()


def test_a_whole_model_needs_no_base(vendor: FakeSageMaker, loader: Loader) -> None:
    put(vendor, "config.json", "model.safetensors")
    assert provider_at(vendor, evaluate_locally=True).generator(tuned("a-model-of-nobody"))
    (ref,) = loader.asked
    assert ref.data["model"] == ref.id


def test_an_adapter_of_an_unknown_base_says_what_is_missing(vendor: FakeSageMaker, loader: Loader) -> None:
    put(vendor, "adapter_config.json", "adapter_model.safetensors")
    answer = provider_at(vendor, evaluate_locally=True).generator(tuned(NOVA))
    assert isinstance(answer, Unavailable)
    assert "hugging_face" in answer.reason
    assert loader.asked == []


def test_the_base_is_asked_under_its_name_at_the_hub(vendor: FakeSageMaker, loader: Loader) -> None:
    provider = provider_at(vendor, evaluate_locally=True)
    base = provider.base_model(receipt_for(provider))
    assert isinstance(base, ModelRef)
    assert provider.generator(base) == "generator of Qwen/Qwen3-8B"
    assert loader.asked[0].data["tuned"] is False
    assert isinstance(provider.base_model(receipt_for(provider, NOVA)), Unavailable)


def test_nothing_is_downloaded_without_leave(vendor: FakeSageMaker, loader: Loader) -> None:
    put(vendor, "config.json", "model.safetensors")
    assert isinstance(provider_at(vendor).generator(tuned()), Unavailable)
    allowed = provider_at(vendor, evaluate_locally=True)
    assert isinstance(allowed.generator(DeploymentRef(id="d")), Unavailable)
    assert vendor.counts["get_object"] == 0
    assert not inference.weights_folder(OUT).exists()
