"""The estimate of training beside the bill: recorded jobs, and whole jobs on the fakes, which count otherwise.

Predicted is within 10 % of billed in at least 80 % of them; those that are further off are listed with the cause.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.dataset import Dataset
from llmtune.data.formats.registry import vendors
from llmtune.job.spec import DatasetSpec, TuningJob
from llmtune.planning.dataset_limits import count_dataset_tokens
from llmtune.provider.protocol import Provider
from llmtune.runs.api import tune
from llmtune.runs.costs import cost_run
from llmtune.runs.store.store import open_store
from llmtune.testing.token_counts import count_file_tokens
from llmtune_azure.fake.service import FakeAzure
from llmtune_azure.provider import AzureProvider
from llmtune_nebius.fake.service import FakeNebius
from llmtune_nebius.provider import NebiusProvider
from llmtune_openai import OpenAIProvider
from llmtune_openai.automatic_epochs import count_automatic_epochs
from llmtune_openai.fake.service import FakeOpenAI
from llmtune_together import TogetherProvider
from llmtune_together.fake.service import FakeTogether
from tests.system.azure.test_conformance import settings_for

FILES = Path(__file__).parents[4] / "shared" / "data" / "vendor_training" / "openai"

#: File, and the epochs and tokens of the job that OpenAI ran on it. Both are within 10 %.
RECORDED = [("sdk_fine_tuning_sample.jsonl", 10, 5_830), ("drone_training.jsonl", 3, 145_983)]


@pytest.mark.skipif(not FILES.is_dir(), reason="the material folder beside the checkout is not here")
@pytest.mark.parametrize(("file", "epochs", "tokens"), RECORDED)
def test_recorded_jobs_are_predicted_within_a_tenth(file: str, epochs: int, tokens: int) -> None:
    dataset = Dataset.from_spec(DatasetSpec(path=str(FILES / file)))
    counted = count_dataset_tokens(dataset, vendors()["openai"])
    predicted = sum(counted[part] for part in ("train", "validation", "test")) * epochs
    assert count_automatic_epochs(sum(dataset.counts.values())) == epochs
    assert predicted == pytest.approx(tokens, rel=0.1)


def write_tickets(row: int) -> tuple[str, str]:
    return (
        f"Order {4700 + row} should have arrived last Tuesday, but the parcel tracking page still says that it waits in"
        " Rotterdam. Could you look into it, please, and tell me when it will be here?",
        f"I am sorry about the delay. Your parcel left our warehouse {row % 9 + 2} days ago and is expected on Friday.",
    )


def write_code(row: int) -> tuple[str, str]:
    return (
        f"Write a function that returns the first {row + 3} even numbers.",
        f"def first_even(count: int = {row + 3}) -> list[int]:\n    return [2 * number for number in range(count)]\n",
    )


def write_json(row: int) -> tuple[str, str]:
    answer = {"customer": f"Weber {row}", "total": 12.5 * row, "currency": "EUR", "paid": row % 2 == 0}
    return f"Extract the invoice: Weber {row} owes us {12.5 * row} euros.", json.dumps(answer)


def write_sums(row: int) -> tuple[str, str]:
    return (
        f"A baker sells {row + 12} loaves in the morning and {3 * row + 7} in the afternoon. How many in all?",
        f"{row + 12} + {3 * row + 7} = {4 * row + 19}. The answer is {4 * row + 19}.",
    )


def write_labels(row: int) -> tuple[str, str]:
    return f"My card was declined in shop number {row}, what can I do?", ("declined card", "lost card")[row % 2]


def write_german(row: int) -> tuple[str, str]:
    return (
        f"Wann wird die Lieferung {row} an die neue Anschrift in München zugestellt?",
        f"Die Lieferung {row} wird voraussichtlich übermorgen zugestellt; eine Bestätigung folgt.",
    )


MATERIAL: dict[str, Callable[[int], tuple[str, str]]] = {
    "tickets": write_tickets,
    "code": write_code,
    "json": write_json,
    "sums": write_sums,
    "labels": write_labels,
    "german": write_german,
}

#: Material that is further off, and why.
FURTHER_OFF = {"german": "the fakes split German words into fewer tokens than the vendors' tokenizers do"}


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[Provider, str]]]:
    """The providers whose fakes count the tokens of the training file, each with a model that has a price."""
    for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "ARM_TOKEN", "NEBIUS_API_KEY", "TOGETHER_API_KEY"):
        monkeypatch.setenv(name, "key-for-tests")
    with ExitStack() as stack:
        openai = stack.enter_context(FakeOpenAI(api_key="key-for-tests"))
        azure = stack.enter_context(FakeAzure(api_key="key-for-tests"))
        nebius = stack.enter_context(FakeNebius(api_key="key-for-tests"))
        together = stack.enter_context(FakeTogether(api_key="key-for-tests"))
        made: dict[str, tuple[Any, str]] = {
            "openai": (
                OpenAIProvider("openai", OpenAIProvider.Settings(base_url=f"{openai.url}/v1", timeout=5)),
                "gpt-4.1-mini-2025-04-14",
            ),
            "azure": (AzureProvider("azure", settings_for(azure)), "gpt-4.1-mini-2025-04-14"),
            "nebius": (
                NebiusProvider("nebius", NebiusProvider.Settings(base_url=f"{nebius.url}/v1", timeout=5)),
                "meta-llama/Llama-3.1-8B-Instruct",
            ),
            "together": (
                TogetherProvider(
                    settings=TogetherProvider.Settings(
                        base_url=together.url, project_id="proj-1", poll_interval=0.01, file_wait=2, timeout=5
                    )
                ),
                "Qwen/Qwen3-8B",
            ),
        }
        yield made


def write_rows(material: str) -> bytes:
    """Return 40 rows of one material as a training file."""
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in map(MATERIAL[material], range(40))
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_every_material_is_predicted_as_the_fakes_count_it(tmp_path: Path) -> None:
    shares = {}
    for material in MATERIAL:
        path = tmp_path / f"{material}.jsonl"
        path.write_bytes(write_rows(material))
        dataset = Dataset.from_spec(DatasetSpec(train=str(path)))
        predicted = sum(dataset.estimated_tokens[part] for part in ("train", "validation", "test"))
        shares[material] = predicted / count_file_tokens(path.read_bytes())
    off = {material: share for material, share in shares.items() if not 0.9 <= share <= 1.1}
    assert len(off) <= 0.2 * len(shares), off
    assert set(off) <= set(FURTHER_OFF), off


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openai", "azure", "nebius", "together"])
@pytest.mark.usefixtures("no_long_pauses")
@pytest.mark.filterwarnings("ignore::llmtune.errors.LlmtuneWarning")
def test_a_whole_job_on_a_fake_is_predicted_within_a_tenth(
    name: str, providers: dict[str, tuple[Provider, str]], tmp_path: Path
) -> None:
    path = tmp_path / "tickets.jsonl"
    path.write_bytes(write_rows("tickets"))
    provider, model = providers[name]
    job = TuningJob.model_validate(
        {
            "name": "tickets",
            "dataset": {"train": str(path)},
            "model": model,
            "hyperparameters": {"epochs": 2},
        }
    )
    report = tune(job, provider, allow_unknown_cost=True)
    bill = cost_run(open_store().get(report.identity.run_id)).bill
    assert bill.high
    assert bill.actual == pytest.approx(bill.high, rel=0.1)
