"""Nebius through the real SDK, against a stateful fake that answers as the vendor's own saved runs do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtune.data.dataset import Dataset
from llmtune.data.formats.registry import get_format
from llmtune.errors import InvalidJob, VendorError
from llmtune.provider.abilities import Exporting
from llmtune.provider.encoding import encode_dataset
from llmtune.provider.generation import Unavailable
from llmtune.provider.types import DeploymentRef, ModelRef, RunState, Target, UploadRef
from llmtune_nebius.fake.service import FakeNebius
from llmtune_nebius.provider import NebiusProvider
from llmtune_openai import OpenAIProvider
from llmtune_openai.settings import OpenAISettings
from tests.providers.llmtune_nebius.conftest import LLAMA
from tests.providers.llmtune_openai.conftest import ROWS, encoded, receipt
from tests.providers.llmtune_openai.test_provider import KEY, ask, followed, started

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
LLAMA_8B_ANSWERS = "meta-llama/Meta-Llama-3.1-8B-Instruct"


def tuned(nebius: NebiusProvider, folder: Path, model: str = LLAMA_8B, **job: object) -> ModelRef:
    last = followed(nebius, started(nebius, folder, model, **job))[-1]
    assert last.model is not None
    return last.model


def preflight(nebius: NebiusProvider, model: str, **job: object) -> list[str]:
    request = nebius.build(receipt(nebius, model, **job), {"train": UploadRef(id="file-1")})
    return [finding.message for finding in nebius.preflight(request)]


def test_a_whole_run_at_nebius(nebius: NebiusProvider, nebius_vendor: FakeNebius, tmp_path: Path) -> None:
    job = started(nebius, tmp_path, LLAMA, hyperparameters={"lora_rank": 16, "epochs": 2}, tags={"team": "search"})
    (sent,) = [call.data for call in nebius_vendor.requests if call.route == "create_job"]
    assert sent["suffix"] == f"router-{KEY}"
    assert sent["hyperparameters"] == {"lora": True, "lora_r": 16, "n_epochs": 2}
    snapshots = followed(nebius, job)
    last = snapshots[-1]
    assert last.state is RunState.SUCCEEDED
    assert last.progress.step == 10
    assert last.resolved["lora_rank"] == 16
    assert {(point.series, point.step) for point in last.points} >= {("train/loss", 5), ("validation/full_loss", 10)}
    assert last.model is not None
    assert last.model == last.checkpoints[-1]
    assert [checkpoint.data["step"] for checkpoint in last.checkpoints] == [5, 10]
    events = [event.message for snapshot in snapshots for event in snapshot.events]
    assert events[0] == "Job is submitted"
    assert events[-1] == "Training completed successfully"
    assert len(events) == len(set(events)), "nothing is reported twice"
    same_job = nebius.find(KEY)
    assert same_job is not None
    assert same_job.id == job.id


def test_a_tuned_model_answers_once_its_adapter_is_registered(
    nebius: NebiusProvider, nebius_vendor: FakeNebius, tmp_path: Path
) -> None:
    model = tuned(nebius, tmp_path)
    unregistered = nebius.generator(model)
    assert isinstance(unregistered, Unavailable)
    assert "registered" in unregistered.reason
    deployment = nebius.deploy(model, KEY)
    assert deployment is not None
    assert deployment.id == f"{LLAMA_8B_ANSWERS}-LoRa:llmtune-{KEY}-JuNN"
    (sent,) = [call.data for call in nebius_vendor.requests if call.route == "create_model"]
    assert (sent["base_model"], sent["source"]) == (LLAMA_8B_ANSWERS, model.id)
    question, answer = ROWS[3]
    with nebius.generator(deployment) as opened:  # type: ignore[union-attr]
        (generation,) = opened.generate([ask(question, max_tokens=9)])
    assert generation.text == answer
    assert nebius.deploy(model, KEY) == nebius.find_deployment(KEY), "a lost answer registers nothing twice"
    assert len(nebius_vendor.standing) == 1
    nebius.undeploy(deployment)
    assert nebius.find_deployment(KEY) is None


def test_the_base_model_is_asked_under_its_id_for_inference(nebius: NebiusProvider) -> None:
    base = nebius.base_model(receipt(nebius, LLAMA_8B))
    assert isinstance(base, ModelRef)
    assert base.id == LLAMA_8B_ANSWERS
    (answer,) = nebius.generator(base).generate([ask("hello")])  # type: ignore[union-attr]
    assert answer.text == "I am not sure."
    capabilities = nebius.capabilities(Target(provider="nebius", kind="nebius", model=LLAMA_8B_ANSWERS))
    assert any(f"the one for tuning is {LLAMA_8B!r}" in warning for warning in capabilities.warnings)


def test_an_adapter_that_is_refused_says_why(nebius: NebiusProvider, nebius_vendor: FakeNebius, tmp_path: Path) -> None:
    model = tuned(nebius, tmp_path)
    nebius_vendor.adapter_fault = "rank 256 is not served"
    deployment = nebius.deploy(model, KEY)
    assert deployment is not None
    with pytest.raises(VendorError, match="rank 256 is not served"), nebius.generator(deployment):  # type: ignore[union-attr]
        pass


def test_a_base_that_takes_no_adapters_is_told_before_and_after(
    nebius: NebiusProvider, nebius_vendor: FakeNebius, tmp_path: Path
) -> None:
    nebius_vendor.takes_adapters[LLAMA_8B] = False
    assert any("takes adapters" in message for message in preflight(nebius, LLAMA_8B))
    model = tuned(nebius, tmp_path)
    with pytest.raises(VendorError, match="no variant of") as caught:
        nebius.deploy(model, KEY)
    assert "llmtune export" in str(caught.value.hint)


def test_preflight_has_the_live_price_and_the_id_for_tuning(nebius: NebiusProvider) -> None:
    assert preflight(nebius, LLAMA_8B) == []  # the catalogue has the same 0.40
    (price,) = preflight(nebius, LLAMA)
    assert "asks 2.8 USD for a million trained tokens" in price
    assert any(f"is tuned under the id {LLAMA_8B!r}" in message for message in preflight(nebius, LLAMA_8B_ANSWERS))
    (unknown,) = preflight(nebius, "some/other-model")
    assert "does not show some/other-model" in unknown


def test_trained_tokens_are_billed_at_the_price_of_the_catalogue(nebius: NebiusProvider, tmp_path: Path) -> None:
    billed = followed(nebius, started(nebius, tmp_path, LLAMA_8B))[-1].billed
    assert billed is not None
    assert billed.tokens
    assert billed.amount == pytest.approx(billed.tokens * 0.4 / 1e6)


def test_an_adapter_comes_home_as_peft_loads_it(
    nebius: NebiusProvider, nebius_vendor: FakeNebius, tmp_path: Path
) -> None:
    assert isinstance(nebius, Exporting)
    model = tuned(nebius, tmp_path)
    pickled = nebius_vendor.new_file(b"code", name="../../optimizer.bin")
    with_pickle = model.model_copy(update={"data": {**model.data, "files": [*model.data["files"], pickled.id]}})
    notes = nebius.export(with_pickle, "adapter", tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert "PeftModel.from_pretrained" in notes[0]
    assert "optimizer.bin" in notes[1]
    forgotten = model.model_copy(update={"data": {**model.data, "files": []}})
    nebius.export(forgotten, "adapter", tmp_path / "again")
    assert (tmp_path / "again" / "adapter_model.safetensors").read_bytes() == b"weights of step 10"
    with pytest.raises(InvalidJob, match="not a merged model"):
        nebius.export(model, "merged", tmp_path / "merged")
    with pytest.raises(InvalidJob, match="not empty"):
        nebius.export(model, "adapter", tmp_path / "adapter")


def test_a_model_tuned_in_full_is_exported_and_not_served(nebius: NebiusProvider, tmp_path: Path) -> None:
    model = tuned(nebius, tmp_path, adapter="full")
    assert nebius.deploy(model, KEY) is None
    assert isinstance(nebius.generator(model), Unavailable)
    nebius.export(model, "merged", tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file()
    with pytest.raises(InvalidJob, match="no adapter"):
        nebius.export(model, "adapter", tmp_path / "adapter")
    abilities = nebius.capabilities(receipt(nebius, LLAMA_8B, adapter="full").target).abilities
    assert not abilities.serving
    assert abilities.deployment == "none"


@pytest.mark.parametrize(
    ("model", "row", "sent"),
    [
        (LLAMA_8B, {"text": "once"}, {"text": "once"}),
        ("meta-llama/Llama-3.1-8B", {"text": "once"}, {"text": "once"}),
        ("meta-llama/Llama-3.1-8B", {"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a"}),
        (
            LLAMA_8B,
            {"prompt": "q", "completion": "a"},
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        ),
    ],
)
def test_text_and_prompt_rows_go_as_the_vendor_takes_them(
    nebius: NebiusProvider, tmp_path: Path, model: str, row: dict[str, str], sent: dict[str, object]
) -> None:
    examples = [get_format("nebius", model=model).read({**row, next(iter(row)): f"{at}"}, at, []) for at in range(12)]
    target = Target(provider="nebius", kind="nebius", model=model)
    format_name = nebius.capabilities(target).limits.format
    assert get_format("nebius", model=model).name == format_name
    encoding = encode_dataset(Dataset(examples), format_name, tmp_path / "out", validation=False, target=target)
    assert encoding.lossy == ()
    written = json.loads(encoding.files[0].path.read_text().splitlines()[0])
    assert written.keys() == sent.keys()
    assert nebius.upload(encoding.files[0]).id


def test_an_openai_instance_at_nebius_trains_and_sends_serving_elsewhere() -> None:
    provider = OpenAIProvider("neb", OpenAISettings(base_url="https://api.tokenfactory.nebius.com/v1/"))
    abilities = provider.capabilities(Target(provider="neb", kind="openai", model=LLAMA_8B)).abilities
    assert abilities.deployment == "none"
    assert "'nebius'" in abilities.serving.reason  # type: ignore[union-attr]


def test_a_file_without_a_status_is_ready(nebius: NebiusProvider, tmp_path: Path) -> None:
    file = encoded(tmp_path)
    ref = nebius.upload(file)
    assert nebius.find_upload(file.sha256) == ref.model_copy(update={"role": "train"})


def test_a_deployment_of_another_run_is_not_ours(nebius: NebiusProvider, tmp_path: Path) -> None:
    nebius.deploy(tuned(nebius, tmp_path), KEY)
    assert nebius.find_deployment("lt9999999999") is None  # type: ignore[arg-type]
    found = nebius.find_deployment(KEY)
    assert isinstance(found, DeploymentRef)
    assert found.data["model"].startswith("ftjob-")
