"""Each call of a job's whole life, on the wire, against the vendor's published document; and what the fakes answer.

With Prism between provider and fake, where it can be had: a second reading of the same document.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from llmtune.data.example import Message
from llmtune.errors import LlmtuneError
from llmtune.job.spec import Hyperparameters, TuningJob
from llmtune.planning.plan import read_dataset
from llmtune.provider.generation import GenerationRequest, Unavailable
from llmtune.provider.protocol import Provider
from llmtune.provider.registry import get_provider
from llmtune.provider.types import JobRef
from llmtune.runs.ids import new_run_id, run_key
from llmtune.runs.plans import plan
from llmtune.testing.fake_vendor import FakeVendor
from llmtune.testing.faults import Fault
from llmtune.testing.http import Call, Reply
from llmtune_azure.fake.service import FakeAzure
from llmtune_openai.fake.service import FakeOpenAI
from tests.published import Published, prism_proxy

#: Asked before the tests' own home takes the variable away.
REGISTRY = os.environ.get("LLMTUNE_TEST_REGISTRY")
MODEL = "gpt-4.1-mini-2025-04-14"
pytest.importorskip("openai")
pytestmark = pytest.mark.slow

METHODS: dict[str, dict[str, Any]] = {
    "sft": {"epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5},
    "dpo": {"epochs": 2, "dpo_beta": 0.2},
}


#: Where the fake answers otherwise than the document says: recorded answers have an empty `error`, the SDK's types have
#: the first two as optional; that hyperparameters may be absent is a guess that a reader has to stand.
ANSWERED_OTHERWISE = (
    "status_details: None is not of type 'string'",  # deprecated
    "data: None is not of type 'object'",  # of an event without metrics
    "error: {} is not valid under any of the given schemas",  # of a job without one
    "hyperparameters: None is not of type 'object'",  # deprecated: they are in the method
)


class Recorded:
    """A fake whose exchanges are remembered."""

    def __init__(self, vendor: FakeVendor) -> None:
        self.exchanges: list[tuple[Call, Reply]] = []
        answer = vendor.answer_call

        def remember(call: Call, fault: Fault | None) -> Reply:
            reply = answer(call, fault)
            self.exchanges.append((call, reply))
            return reply

        vendor.answer_call = remember  # type: ignore[method-assign]


def write_rows(path: Path, method: str) -> None:
    rows = []
    for number in range(40):
        question = [{"role": "user", "content": f"question {number}"}]
        answer, worse = ({"role": "assistant", "content": text} for text in (f"answer {number}", "no"))
        rows.append(
            {"messages": [*question, answer]}
            if method == "sft"
            else {"input": {"messages": question}, "preferred_output": [answer], "non_preferred_output": [worse]}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def live(provider: Provider, method: str, folder: Path, options: dict[str, Any]) -> None:
    """Upload, tune, cancel, ask, list, download and delete: every call that a provider makes for a job."""
    folder.mkdir(exist_ok=True)
    write_rows(folder / "rows.jsonl", method)
    job = TuningJob(
        name="contract",
        dataset=str(folder / "rows.jsonl"),
        model={provider.name: MODEL},
        method=method,  # type: ignore[arg-type]
        seed=7,
        hyperparameters=Hyperparameters.model_validate(METHODS[method]),
        provider_options={provider.name: options},
    )
    dataset = read_dataset(job)
    assert not isinstance(dataset, Exception), dataset
    receipt = plan(job, provider, dataset=dataset)
    encoded = provider.encode(dataset, receipt, folder / "encoded")
    files = {str(file.role): provider.upload(file) for file in encoded.files}
    assert provider.find_upload(encoded.files[0].sha256) is not None
    provider.find_upload("0" * 64)
    request = provider.build(receipt, files)
    provider.preflight(request)
    keys = [run_key(new_run_id()) for _ in range(2)]
    jobs = [provider.submit(request, key) for key in keys]
    assert provider.find(keys[0]) is not None
    provider.cancel(jobs[1])
    poll_to_the_end(provider, jobs[1])
    model = poll_to_the_end(provider, jobs[0]).model
    assert model is not None
    deployment = provider.deploy(model, keys[0])
    generator = provider.generator(deployment or model)
    assert not isinstance(generator, Unavailable)
    question = Message(role="user", content="question 1")
    asked = [
        GenerationRequest(messages=(question,)),
        GenerationRequest(messages=(question,), temperature=0.5, top_p=0.9, max_tokens=16, seed=7),
    ]
    with generator:
        assert all(generation.text for generation in generator.generate(asked))
    for remote in [remote for remote in provider.inventory() if ":ckpt-" not in remote.id][:2]:
        fetched = provider.fetch(remote)
        for role, file in fetched.files.items():
            provider.download(file, folder / f"{fetched.id}-{role}.jsonl")
    if deployment is not None:
        provider.undeploy(deployment)
    for thing in (model, *files.values()):
        with contextlib.suppress(LlmtuneError):  # some vendors delete no models
            provider.delete(thing)


def poll_to_the_end(provider: Provider, job: JobRef) -> Any:
    cursor = None
    for _ in range(60):
        snapshot = provider.poll(job, cursor)
        cursor = snapshot.cursor or cursor
        if snapshot.state.final:
            return snapshot
    raise AssertionError("the job does not end")


@pytest.fixture
def document(shared: Path) -> Path:
    return shared / "specs" / "openai-finetune-subset.examples.yaml"


@pytest.fixture
def openai_fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    with FakeOpenAI(api_key="sk-test") as fake:
        yield fake


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_call_to_openai_is_as_published(
    openai_fake: FakeOpenAI, method: str, document: Path, tmp_path: Path
) -> None:
    published, recorded = Published(document), Recorded(openai_fake)
    provider = get_provider("openai", base_url=f"{openai_fake.url}/v1", timeout=10)
    live(provider, method, tmp_path / "life", {"wandb": {"project": "p", "tags": ["a"]}})
    assert openai_fake.complaints == []
    faults: list[str] = []
    for call, reply in recorded.exchanges:
        path = call.path.removeprefix("/v1")
        sent = call.data if call.headers.get("content-type", "").startswith("application/json") else None
        found = published.check_request(call.method, path, sent, call.query)
        if isinstance(reply.body, dict):
            answered = published.check_answer(call.method, path, reply.status, reply.body)
            found += [fault for fault in answered if not fault.endswith(ANSWERED_OTHERWISE)]
        faults += [f"{call.method} {path}: {fault}" for fault in found]
    assert not faults, "\n".join(sorted(set(faults)))
    made = {(call.method, call.route) for call, _ in recorded.exchanges}
    assert len(made) >= 11, made


def test_every_call_to_azure_is_one_of_its_paths(shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (shared / "specs" / "azure-openai-finetune-excerpt.yaml").read_text(encoding="utf-8")
    v1 = YAML(typ="safe").load(text)["B_v1"]
    templates = {path.replace("...", "/fine_tuning/jobs/{id}").partition(" ")[0] for path in v1["paths"]}
    # Asked at the data plane's other document: /chat/completions.
    patterns = [re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path)) for path in templates | {"/chat/completions"}]
    for name in ("AZURE_OPENAI_API_KEY", "ARM_TOKEN"):
        monkeypatch.setenv(name, "az-test")
    with FakeAzure(api_key="az-test") as fake:
        recorded = Recorded(fake)
        settings = fake.client_settings() | {"management_token_env": "ARM_TOKEN"}
        provider = get_provider("azure", **settings)
        live(provider, "sft", tmp_path / "life", {"training_type": "GlobalStandard"})
        assert fake.complaints == []
    called = [call for call, _ in recorded.exchanges if "/openai/v1/" in call.path]
    assert len({call.route for call in called}) >= 8
    paths = {call.path.partition("/openai/v1")[2] for call in called}
    assert [path for path in paths if not any(pattern.fullmatch(path) for pattern in patterns)] == []
    assert not any(call.method == "DELETE" and "/files/" not in call.path for call in called)
    assert not any(name.startswith("metadata") for call in called for name in call.query)


@pytest.mark.registry
@pytest.mark.skipif(REGISTRY is None, reason="LLMTUNE_TEST_REGISTRY is not set, and no test goes to a registry unasked")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_prism_between_the_provider_and_openais_fake_sees_no_violation(
    openai_fake: FakeOpenAI, method: str, document: Path, tmp_path: Path
) -> None:
    """Prism refuses nothing here (no --errors); its log has what it sees. Answers: the test of every call above."""
    with prism_proxy(document, f"{openai_fake.url}/v1", tmp_path) as (url, log):
        provider = get_provider("openai", base_url=url, timeout=30)
        live(provider, method, tmp_path / "life", {"wandb": {"project": "p", "tags": ["a"]}})
        violations = [line for line in log.read_text(encoding="utf-8").splitlines() if "Violation: request" in line]
    assert len(openai_fake.requests) > 15
    assert violations == []
