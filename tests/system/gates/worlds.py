"""Every provider with its fake vendor, a job there that has succeeded, and answers that can be changed on their way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.dataset import Dataset
from llmtune.errors import LlmtuneError
from llmtune.job.spec import Hyperparameters, TuningJob
from llmtune.planning.plan import read_dataset
from llmtune.provider.protocol import Provider
from llmtune.provider.types import EncodedFile, JobRef, ModelRef, RemoteModel, Request
from llmtune.runs.ids import new_run_id, run_key
from llmtune.runs.plans import plan
from llmtune.testing.fake_provider import FakeProvider, FakeSettings
from llmtune.testing.fake_vendor import FakeVendor
from llmtune.testing.faults import Fault
from llmtune.testing.generic_vendor import Fake
from llmtune.testing.http import Call, Reply

KEY_VARIABLE = "GATES_LOGIN"
Change = Callable[[Any], bytes]


@dataclass
class World:
    """A provider, its vendor, and what was made there."""

    provider: Provider
    vendor: FakeVendor
    job: TuningJob
    dataset: Dataset
    files: tuple[EncodedFile, ...]
    request: Request
    ref: JobRef
    model: ModelRef
    change: dict[str, Change] = field(default_factory=dict)
    """What becomes of JSON answers, by role; "" for all roles."""

    job_id: str = ""
    """The job as its vendor's fake keeps it."""

    remote: RemoteModel | None = None
    """The tuned model as the vendor lists it."""


def _openai(folder: Path) -> tuple[FakeVendor, Callable[[Any], Any], str, str]:
    from llmtune_openai import OpenAIProvider
    from llmtune_openai.fake.service import FakeOpenAI
    from llmtune_openai.settings import OpenAISettings

    def make(vendor: Any) -> Any:
        return OpenAIProvider(
            "openai", OpenAISettings(base_url=f"{vendor.url}/v1", timeout=5, api_key_env=KEY_VARIABLE)
        )

    return FakeOpenAI(), make, "gpt-4.1-mini-2025-04-14", "sft"


def _azure(folder: Path) -> tuple[FakeVendor, Callable[[Any], Any], str, str]:
    from llmtune_azure import AzureProvider
    from llmtune_azure.fake.service import FakeAzure
    from llmtune_azure.settings import AzureSettings

    def make(vendor: Any) -> Any:
        values = {
            "endpoint": vendor.url,
            "management_url": vendor.url,
            "management_token_env": KEY_VARIABLE,
            "api_key_env": KEY_VARIABLE,
            "subscription_id": "11111111-2222-3333-4444-555555555555",
            "resource_group": "tuning",
            "account_name": "mine",
            "timeout": 5,
        }
        return AzureProvider("azure", AzureSettings.model_validate(values))

    return FakeAzure(), make, "gpt-4.1-mini-2025-04-14", "sft"


def _nebius(folder: Path) -> tuple[FakeVendor, Callable[[Any], Any], str, str]:
    from llmtune_nebius.fake.service import FakeNebius
    from llmtune_nebius.provider import NebiusProvider

    def make(vendor: Any) -> Any:
        settings = {"base_url": f"{vendor.url}/v1", "timeout": 5, "api_key_env": KEY_VARIABLE}
        return NebiusProvider("nebius", NebiusProvider.Settings.model_validate(settings))

    return FakeNebius(), make, "meta-llama/Llama-3.3-70B-Instruct", "sft"


def _vertex(folder: Path) -> tuple[FakeVendor, Callable[[Any], Any], str, str]:
    from llmtune_vertex.fake.service import FakeVertex
    from tests.providers.llmtune_vertex.conftest import FLASH, provider_at

    return FakeVertex(), lambda vendor: provider_at(vendor, token_env=KEY_VARIABLE), FLASH, "sft"


def _bedrock(folder: Path) -> tuple[FakeVendor, Callable[[Any], Any], str, str]:
    from llmtune_bedrock.fake.service import FakeBedrock
    from tests.providers.llmtune_bedrock.conftest import NOVA, provider_at

    return FakeBedrock(), provider_at, NOVA, "sft"


def _sagemaker(folder: Path) -> tuple[FakeVendor, Callable[[Any], Any], str, str]:
    from llmtune_sagemaker.fake.service import FakeSageMaker
    from tests.providers.llmtune_sagemaker.conftest import QWEN, provider_at

    return FakeSageMaker(), provider_at, QWEN, "sft"


def _tinker(folder: Path) -> tuple[FakeVendor, Callable[[Any], Any], str, str]:
    from llmtune_local.worker import supervisor
    from llmtune_local.worker.main import work
    from llmtune_tinker import TinkerProvider
    from llmtune_tinker.fake.service import FakeTinker
    from llmtune_tinker.settings import TinkerSettings
    from llmtune_tinker.worker.main import make_trainer

    class Inline(TinkerProvider):
        """Its first loop runs while the job is submitted, in this process; the SDK wants keys of Tinker's own form."""

        trained = False

        def submit(self, request: Request, key: Any) -> JobRef:
            def train(folder: Any) -> bool:
                self.trained = True
                return work(folder, lambda: False, resume=False, make_trainer=make_trainer) == 0

            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(KEY_VARIABLE, f"tml-{os.environ[KEY_VARIABLE]}")
                patch.setenv("TINKER_TELEMETRY", "0")
                patch.setattr(supervisor, "keep_alive", (lambda folder: False) if self.trained else train)
                return super().submit(request, key)

    def make(vendor: Any) -> Any:
        values = {"base_url": vendor.url, "timeout": 5, "api_key_env": KEY_VARIABLE}
        return Inline("tinker", TinkerSettings.model_validate(values))

    return FakeTinker(), make, "Qwen/Qwen3-8B", "sft"


def _together(folder: Path) -> tuple[FakeVendor, Callable[[Any], Any], str, str]:
    from llmtune_together import TogetherProvider
    from llmtune_together.fake.service import FakeTogether
    from llmtune_together.settings import TogetherSettings

    def make(vendor: Any) -> Any:
        values = {
            "base_url": vendor.url,
            "project_id": "proj-1",
            "poll_interval": 0.01,
            "file_wait": 0.02,
            "timeout": 5,
        }
        return TogetherProvider(settings=TogetherSettings.model_validate(values | {"api_key_env": KEY_VARIABLE}))

    return FakeTogether(), make, "Qwen/Qwen3-8B", "sft"


def _cohere(folder: Path) -> tuple[FakeVendor, Callable[[Any], Any], str, str]:
    from llmtune_cohere import CohereProvider
    from llmtune_cohere.fake.service import FakeCohere
    from llmtune_cohere.settings import CohereSettings

    def make(vendor: Any) -> Any:
        values = {"base_url": vendor.url, "poll_interval": 0.01, "dataset_wait": 0.02, "timeout": 5}
        return CohereProvider(settings=CohereSettings.model_validate(values | {"api_key_env": KEY_VARIABLE}))

    return FakeCohere(), make, "command-r-08-2024", "sft"


def _self_hosted(folder: Path) -> tuple[FakeVendor, Callable[[Any], Any], str, str]:
    from llmtune_cohere import CohereProvider
    from llmtune_cohere.fake.service import FakeCohereFinetune
    from llmtune_cohere.settings import CohereSettings

    root = folder / "finetuning"
    root.mkdir()

    def make(vendor: Any) -> Any:
        values = {"service_url": vendor.url, "inference_url": vendor.url, "data_root": root, "timeout": 5}
        return CohereProvider(settings=CohereSettings.model_validate(values))

    return FakeCohereFinetune(root), make, "aya-expanse-8b", "sft"


def _fake(folder: Path) -> tuple[FakeVendor, Callable[[Any], Any], str, str]:
    def make(vendor: Any) -> Any:
        return FakeProvider("fake", FakeSettings.model_validate({"base_url": vendor.url, "timeout": 5}))

    return Fake(), make, "m-1", "sft"


#: Options that a job needs where no network is at hand.
OPTIONS = {"tinker": {"tokenizer": "tiny"}}

WORLDS = {
    "openai": _openai,
    "azure": _azure,
    "nebius": _nebius,
    "vertex": _vertex,
    "bedrock": _bedrock,
    "sagemaker": _sagemaker,
    "tinker": _tinker,
    "together": _together,
    "cohere": _cohere,
    "cohere, self-hosted": _self_hosted,
    "fake": _fake,
}


@contextmanager
def opened(name: str, folder: Path, key: str = "gates-key-0123456789abcdef") -> Iterator[World]:
    """A world with a job that has succeeded, until it is left."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in {
            KEY_VARIABLE: key,
            "AWS_ACCESS_KEY_ID": "AKIAFAKE",
            "AWS_SECRET_ACCESS_KEY": key,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(folder / "no-aws-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-aws-credentials"),
            "LLMTUNE_HOME": str(folder / "home"),
            "LLMTUNE_CONFIG": str(folder / "no-config.toml"),
            "LLMTUNE_CATALOG": str(folder / "no-catalog.toml"),
        }.items():
            patch.setenv(variable, value)
        vendor, make, model, method = WORLDS[name](folder)
        with vendor:
            world = _with_a_job(make(vendor), vendor, model, method, folder)
            patch.setattr("llmtune_openai.files.LONGEST_WAIT", 0.04)  # a state that nobody knows is waited for
            yield world


def _with_a_job(provider: Provider, vendor: FakeVendor, model: str, method: str, folder: Path) -> World:
    path = folder / "rows.jsonl"
    turns = [[("system", "Name it."), ("user", f"case {n}"), ("assistant", f"team {n % 3}")] for n in range(120)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in each]} for each in turns]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = TuningJob.model_validate(
        {
            "name": "gates",
            "dataset": str(path),
            "model": {provider.name: model},
            "method": method,
            "hyperparameters": Hyperparameters(epochs=2),
            "provider_options": {name: options for name, options in OPTIONS.items() if name == provider.name},
        }
    )
    dataset = read_dataset(job)
    assert not isinstance(dataset, LlmtuneError)
    receipt = plan(job, provider, dataset=dataset)
    encoded = provider.encode(dataset, receipt, folder / "encoded")
    files = {str(file.role): provider.upload(file) for file in encoded.files}
    request = provider.build(receipt, files)
    ref = provider.submit(request, run_key(new_run_id()))
    snapshot = provider.poll(ref, None)
    for _ in range(60):
        if snapshot.state.final and snapshot.model is not None:
            break
        snapshot = provider.poll(ref, snapshot.cursor)
    assert snapshot.model is not None
    world = World(provider, vendor, job, dataset, encoded.files, request, ref, snapshot.model)
    world.job_id = next(iter(vendor.jobs), "")
    world.remote = next((model for model in provider.inventory() if model.checkpoint_of is None), None)
    answer = vendor.answer_call

    def changed(call: Call, fault: Fault | None) -> Reply:
        reply = answer(call, fault)
        change = world.change.get(call.role) or world.change.get("")
        if change is not None and isinstance(reply.body, dict | list) and reply.status < 400:
            headers = {name: value for name, value in reply.headers.items() if name.lower() != "content-length"}
            reply = Reply(change(reply.body), reply.status, {"Content-Type": "application/json"} | headers)
        return reply

    vendor.answer_call = changed  # type: ignore[method-assign]
    return world


def leaves(data: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of the texts, numbers and nulls in JSON data."""
    if isinstance(data, dict):
        return [place for name, inner in data.items() for place in leaves(inner, (*where, name))]
    if isinstance(data, list):
        return [place for at, inner in enumerate(data) for place in leaves(inner, (*where, at))]
    return [where]


def replaced(data: Any, places: list[tuple[Any, ...]], raw: str) -> bytes:
    """The data as JSON, with the JSON text `raw` at these places."""
    mark = "the-place-of-an-odd-value"
    data = json.loads(json.dumps(data))
    for place in places:
        if not place:
            return raw.encode()
        inner = data
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = mark
    return json.dumps(data).replace(f'"{mark}"', raw).encode()
