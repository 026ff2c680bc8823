"""A tuned model's weights, brought from S3 and asked by the real local backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmtune.data.example import Message
from llmtune.provider.generation import GenerationRequest, Unavailable
from llmtune.provider.types import ModelRef
from llmtune_sagemaker.fake.service import FakeSageMaker
from tests.providers.llmtune_sagemaker.conftest import QWEN, provider_at, receipt_for

peft = pytest.importorskip("peft", reason="the local trainer's packages are not installed")

OUT = "s3://my-bucket/out/job"


def put_adapter(vendor: FakeSageMaker, folder: Path) -> None:
    """Put a LoRA adapter of the embedded model where a recipe would leave one."""
    from transformers import AutoModelForCausalLM

    from llmtune_local.models.hub import locate_for_loading

    base, _ = locate_for_loading("tiny")
    model: Any = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    model.save_pretrained(folder)
    for path in folder.iterdir():
        vendor._put("my-bucket", f"out/job/checkpoints/hf/{path.name}", path.read_bytes())


@pytest.mark.slow
def test_an_adapter_answers_here(vendor: FakeSageMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = tmp_path / "catalog.toml"
    overlay.write_text(f'[sagemaker.models.{QWEN}]\nhugging_face = "tiny"\nsource = "a test"\n')
    monkeypatch.setenv("LLMTUNE_CATALOG", str(overlay))
    put_adapter(vendor, tmp_path / "adapter")
    provider = provider_at(vendor, evaluate_locally=True)
    tuned = ModelRef(id=OUT, base=QWEN, data={"artefacts": OUT})
    base = provider.base_model(receipt_for(provider))
    assert isinstance(base, ModelRef)
    question = GenerationRequest(messages=(Message("user", "When does the ferry leave?"),), max_tokens=4)
    for ref in (tuned, base):
        generator = provider.generator(ref)
        assert not isinstance(generator, Unavailable), generator
        with generator as opened:
            (answer,) = opened.generate([question])
        assert answer.completion_tokens is None or answer.completion_tokens <= 4
