"""Weights in S3: which folder, which files, and nothing that runs code."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtune.errors import VendorError
from llmtune_sagemaker import SageMakerProvider
from llmtune_sagemaker.fake.service import FakeSageMaker

OUT = "s3://my-bucket/out/job/output"


def put(vendor: FakeSageMaker, *names: str, content: bytes = b"{}") -> None:
    for name in names:
        vendor._put("my-bucket", f"out/job/output/{name}", content)


def test_an_adapter_is_taken_before_a_whole_model(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path
) -> None:
    put(vendor, "a/config.json", "a/model-00001-of-00002.safetensors", "a/model.safetensors.index.json")
    put(vendor, "b/adapter_config.json", "b/adapter_model.safetensors", "b/optimizer.bin", "b/tokenizer_config.json")
    assert set(provider._storage.find_weights(OUT)) == {"adapter", "merged"}
    assert provider._storage.fetch_weights(OUT, None, tmp_path / "x") == "adapter"
    assert {path.name for path in (tmp_path / "x").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer_config.json",
    }
    assert provider._storage.fetch_weights(f"{OUT}/", "merged", tmp_path / "y") == "merged"


def test_configurations_without_weights_are_no_model(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path
) -> None:
    put(vendor, "a/config.json", "a/pytorch_model.bin", "model.tar.gz")
    with pytest.raises(VendorError, match="holds no adapter or whole weights as safetensors"):
        provider._storage.fetch_weights(OUT, None, tmp_path / "x")


def test_the_other_form_is_named(vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path) -> None:
    put(vendor, "config.json", "model.safetensors")
    with pytest.raises(VendorError, match="holds no adapter weights as safetensors; it holds merged weights"):
        provider._storage.fetch_weights(OUT, "adapter", tmp_path / "x")


def test_a_neighbour_with_a_longer_name_is_not_taken(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path
) -> None:
    vendor._put("my-bucket", "out/job/output-2/config.json", b"{}")
    vendor._put("my-bucket", "out/job/output-2/model.safetensors", b"w")
    assert provider._storage.find_weights(OUT) == {}


def test_files_that_are_here_are_not_brought_again(
    vendor: FakeSageMaker, provider: SageMakerProvider, tmp_path: Path
) -> None:
    put(vendor, "config.json", "model.safetensors")
    provider._storage.fetch_weights(OUT, None, tmp_path / "x")
    reads = vendor.counts["get_object"]
    (tmp_path / "x" / "model.safetensors").write_bytes(b"half of it")
    provider._storage.fetch_weights(OUT, None, tmp_path / "x")
    assert vendor.counts["get_object"] == reads + 1
    assert (tmp_path / "x" / "model.safetensors").read_bytes() == b"{}"
