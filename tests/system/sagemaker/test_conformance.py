"""The suite that every provider passes, through the real boto3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import llmtune.provider as core
from llmtune.graders import make_grader
from llmtune.testing.conformance import ConformanceSuite, never
from llmtune_bedrock.graders import write_grader_source
from llmtune_sagemaker import SageMakerProvider, inference
from llmtune_sagemaker.fake.service import FakeSageMaker
from tests.providers.llmtune_sagemaker.conftest import LLAMA, MLFLOW, NOVA, QWEN, provider_at
from tests.system.sagemaker.test_reinforcement import EVALUATOR, FUNCTION


class OnThisMachine(core.BaseGenerator):
    """In the place of the local backend: it answers once the weights have come."""

    def __init__(self, ref: core.ModelRef, vendor: FakeSageMaker) -> None:
        self._ref, self._vendor = ref, vendor
        if ref.data["tuned"]:
            names = {path.name for path in Path(ref.id).iterdir()}
            assert names & {"adapter_config.json", "config.json"}
            assert any(name.endswith(".safetensors") for name in names)
            assert not any(name.endswith(".bin") for name in names)

    def answer(self, request: core.GenerationRequest) -> core.Generation:
        text = self._vendor.say(request.messages[-1].words, tuned=bool(self._ref.data["tuned"]))
        return core.Generation(text=text, finish_reason="stop")


class TestQwen(ConformanceSuite):
    model = QWEN

    @pytest.fixture
    def vendor(self) -> Iterator[FakeSageMaker]:
        with FakeSageMaker() as fake:
            yield fake

    @pytest.fixture
    def provider(self, vendor: FakeSageMaker, monkeypatch: pytest.MonkeyPatch) -> SageMakerProvider:
        monkeypatch.setattr(inference, "_open", lambda ref: OnThisMachine(ref, vendor))
        return provider_at(vendor, evaluate_locally=True, mlflow_arn=MLFLOW)


@pytest.mark.slow
class TestReinforcement(TestQwen):
    """Reinforcement jobs, whose answers a Lambda function of the user's scores."""

    method = "reinforcement"
    test_the_whole_way_past_a_fault = None  # the same code as for the other methods
    provider_options = {"evaluator_arn": EVALUATOR}
    rows = 200

    @pytest.fixture
    def vendor(self) -> Iterator[FakeSageMaker]:
        with FakeSageMaker() as fake:
            fake.functions[FUNCTION] = write_grader_source(make_grader(self.grader), wrapped=True)
            fake.evaluators[EVALUATOR] = FUNCTION
            yield fake


class TestQwenInFull(TestQwen):
    adapter = "full"


class TestLlamaWithItsLicence(TestQwen):
    """A gated model, and nothing but the final metrics."""

    model = LLAMA
    provider_options = {"accept_eula": True}

    @pytest.fixture
    def provider(self, vendor: FakeSageMaker, monkeypatch: pytest.MonkeyPatch) -> SageMakerProvider:
        monkeypatch.setattr(inference, "_open", lambda ref: OnThisMachine(ref, vendor))
        return provider_at(vendor, evaluate_locally=True)


class TestNova(TestQwen):
    """Converse rows, and a length in steps."""

    model = NOVA
    hyperparameters = {"max_steps": 10}
    marks = {
        "test_the_tuned_model_answers_and_the_base_model_does_or_says_why_not": never(
            "Nova cannot be loaded on this machine"
        )
    }
