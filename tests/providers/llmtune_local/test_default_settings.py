"""What the local trainer chooses where a job leaves it open."""

import json
from pathlib import Path

import pytest

from llmtune.job.spec import TuningJob
from llmtune.planning.plan import plan
from llmtune_local.default_settings import choose_adapter, choose_settings, count_parameters, peak_rate


def job(folder: Path, rows: int = 100, **fields: object) -> TuningJob:
    """A job on generated rows, with nothing chosen but what `fields` say."""
    path = folder / "rows.jsonl"
    lines = ({"prompt": f"Number {number}?", "completion": f"It is {number}."} for number in range(rows))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return TuningJob.model_validate({"name": "numbers", "dataset": str(path), "model": "tiny"} | fields)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("Qwen/Qwen3-0.6B", 600_000_000),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 135_000_000),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_000_000_000),
        ("acme/some-model", None),
        ("acme/v2-3b4", None),
    ],
)
def test_a_model_that_is_not_here_has_the_size_that_its_name_says(model: str, parameters: int | None) -> None:
    assert count_parameters(model) == parameters


@pytest.mark.parametrize(
    ("model", "method", "adapter"),
    [
        ("tiny", "sft", "full"),
        ("tiny-encoder", "classification", "full"),
        ("acme/bert-110M", "classification", "full"),
        ("acme/encoder-700M", "classification", "lora"),
        ("acme/chat-135M", "sft", "lora"),
        ("acme/chat-8B", "dpo", "lora"),
        ("acme/some-model", "sft", "lora"),
    ],
)
def test_small_models_are_trained_whole_and_the_others_by_lora(model: str, method: str, adapter: str) -> None:
    assert choose_adapter(model, method) == adapter


@pytest.mark.parametrize(("settings", "kind"), [({"use_dora": True}, "dora"), ({}, "lora")])
def test_an_adapters_folder_is_trained_on_as_what_it_is(tmp_path: Path, settings: dict[str, bool], kind: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "tiny"} | settings))

    assert choose_adapter(str(tmp_path), "sft") == kind


@pytest.mark.parametrize(
    ("parameters", "method", "adapter", "published"),
    [
        (7_000_000_000, "sft", "qlora", 2e-4),  # QLoRA, table 9
        (7_000_000_000, "sft", "full", 2e-5),  # Alpaca
        (7_000_000_000, "dpo", "lora", 1e-5),
        (110_000_000, "classification", "full", 3e-5),  # BERT base: 2e-5 to 5e-5
        (340_000_000, "classification", "full", 2e-5),  # BERT large
        (110_000_000, "classification", "lora", 3e-4),
    ],
)
def test_rates_of_known_models_are_the_published_ones(
    parameters: int, method: str, adapter: str, published: float
) -> None:
    assert peak_rate(parameters, method, adapter) == pytest.approx(published, rel=0.01)


def test_few_rows_are_trained_for_more_epochs_in_smaller_batches() -> None:
    few, many = (choose_settings("tiny", "sft", "full", {"train": rows}) for rows in (60, 100_000))

    assert (few.batch_size, few.epochs) == (8, 30)
    assert (many.batch_size, many.epochs) == (16, 3)


@pytest.mark.parametrize(
    ("model", "method", "epochs"),
    [("tiny", "sft", 7), ("tiny-encoder", "classification", 13), ("acme/chat-8B", "sft", 3)],
)
def test_small_encoders_get_twice_the_steps(model: str, method: str, epochs: int) -> None:
    assert choose_settings(model, method, "full", {"train": 1000}).epochs == epochs


def test_a_run_stops_by_itself_only_where_validation_rows_suffice_and_no_length_is_given(tmp_path: Path) -> None:
    def patience(rows: int, **hyperparameters: int) -> object:
        return plan(job(tmp_path, rows, hyperparameters=hyperparameters), "local").effective("early_stopping_patience")

    assert patience(400) == 3
    assert patience(50) is None
    assert patience(400, epochs=2) is None
    assert patience(400, max_steps=10) is None
    assert patience(400, epochs=2, early_stopping_patience=5) == 5


def test_the_plan_says_what_was_chosen_and_by_what(tmp_path: Path) -> None:
    receipt = plan(job(tmp_path), "local")

    assert receipt.target.adapter == "full"
    assert (receipt["adapter"].support, receipt["adapter"].requested) == ("default", None)
    assert receipt["learning_rate"].effective == pytest.approx(2e-3)
    assert receipt["learning_rate"].rule == "all weights of 3.41 M parameters, sft"
    assert receipt.request is not None
    sent = receipt.request.body["hyperparameters"]
    assert (sent["learning_rate"], sent["epochs"], sent["batch_size"]) == (2e-3, 30, 8)


def test_a_job_that_sets_a_rank_is_trained_with_an_adapter(tmp_path: Path) -> None:
    receipt = plan(job(tmp_path, hyperparameters={"lora_rank": 4}), "local")

    assert receipt.target.adapter == "lora"
    assert receipt["lora_rank"].support == "sent"


@pytest.mark.parametrize("setting", [{"lora_rank": 8}, {"lora_target_modules": "attention"}])
def test_a_job_that_sets_a_field_of_lora_is_trained_by_it(tmp_path: Path, setting: dict[str, object]) -> None:
    receipt = plan(job(tmp_path, hyperparameters=setting), "local")

    assert receipt.target.adapter == "lora"
    assert receipt.request is not None
    assert receipt.request.body["hyperparameters"].items() >= setting.items()
    assert plan(job(tmp_path, hyperparameters=setting, adapter="dora"), "local").target.adapter == "dora"
    other = {"overrides": {"openai": setting}}
    assert plan(job(tmp_path, **other), "local").target.adapter == "full"


def test_what_a_job_sets_is_what_is_sent(tmp_path: Path) -> None:
    settings = {"learning_rate_multiplier": 2.0, "warmup_steps": 5, "epochs": 1}
    receipt = plan(job(tmp_path, adapter="lora", hyperparameters=settings), "local")

    assert receipt.target.adapter == "lora"
    assert receipt.request is not None
    sent = receipt.request.body["hyperparameters"]
    assert sent["learning_rate"] == pytest.approx(2 * peak_rate(3_410_176, "sft", "lora"))
    assert (sent["warmup_steps"], sent["epochs"]) == (5, 1)
    assert "warmup_ratio" not in sent
