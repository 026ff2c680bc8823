"""What is suggested for a dataset, by its rows and by what a backend could train."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmtune.data.facts import DatasetFacts
from llmtune.job.spec import TuningJob
from llmtune.planning.job_reasons import LinearResult, choose_model, describe_model, give_advice
from llmtune.planning.job_suggestion import JobDraft, JobSuggestion
from llmtune.planning.job_template import render_job_template
from llmtune.provider.abilities import ModelSuggestion
from llmtune.testing.fake_provider import FakeProvider

Write = Callable[..., Path]


def model(name: str, method: str = "sft", **fields: Any) -> ModelSuggestion:
    values = {"source": "cache", "parameters": 100_000_000, "seconds": 60.0, **fields}
    return ModelSuggestion.model_validate({"model": name, "method": method, **values})


def chosen(*models: ModelSuggestion) -> str | None:
    best = choose_model(models)
    return best.model if best else None


class Backend(FakeProvider):
    """A backend on this machine that suggests fixed models."""

    hosted = False
    models: Sequence[ModelSuggestion] = ()

    def suggest_models(self, facts: DatasetFacts, named: str | None = None) -> Sequence[ModelSuggestion]:
        return [*([model(named, source="folder")] if named else ()), *self.models]

    def list_local_models(self) -> Sequence[str]:
        return [suggestion.model for suggestion in self.models]


def suggest(path: Path, *models: ModelSuggestion, named: str | None = None) -> JobSuggestion:
    backend = Backend("fake")
    backend.models = models
    draft = JobDraft(str(path))
    return draft.suggest(backend, draft.list_models(backend, named), named, draft.measure_linear())


def read_back(suggestion: JobSuggestion, folder: Path) -> TuningJob:
    file = folder / "job.yaml"
    file.write_text(render_job_template(suggestion, relative_to=folder), encoding="utf-8")
    return TuningJob.load(file)


# --- the model
def test_the_largest_model_that_trains_in_reasonable_time_is_taken() -> None:
    small, large, slow = model("small", parameters=10**7), model("large"), model("slow", parameters=10**9, seconds=7200)
    assert chosen(small, large, slow) == "large"


@pytest.mark.parametrize(
    "unusable", [{"source": "hub"}, {"obstacle": "it has no chat template"}, {"warning": "it was made for English"}]
)
def test_what_is_not_here_or_cannot_or_should_not_be_trained_is_not_taken(unusable: dict[str, str]) -> None:
    assert chosen(model("small", parameters=10**6), model("large", **unusable)) == "small"


def test_a_model_with_a_warning_is_better_than_none() -> None:
    assert chosen(model("only", warning="it was made for English"), model("other", source="hub")) == "only"


def test_where_nothing_qualifies_the_quickest_is_taken_and_where_nothing_is_here_none() -> None:
    assert chosen(model("large", seconds=9000), model("small", seconds=4000)) == "small"
    assert chosen(model("far", source="hub")) is None
    assert chosen() is None


def test_an_encoder_is_taken_for_labels_up_to_three_times_its_size() -> None:
    encoder = model("encoder", "classification", parameters=110_000_000)
    assert chosen(encoder, model("chat", parameters=300_000_000)) == "encoder"
    assert chosen(encoder, model("chat", parameters=360_000_000)) == "chat"


def test_a_very_small_encoder_is_taken_only_where_there_is_no_chat_model() -> None:
    encoder = model("encoder", "classification", parameters=2_700_000)
    assert chosen(encoder, model("chat", parameters=1_000_000)) == "chat"
    assert chosen(encoder) == "encoder"


def test_a_model_is_described_by_size_time_and_memory() -> None:
    described = describe_model(model("a/b", parameters=596_049_920, seconds=400.0, memory=3 << 30))
    assert described == "a/b (596 M parameters, about 7 min, 3.0 GiB)"
    assert describe_model(model("a/b", parameters=None, seconds=None)) == "a/b"


# --- the job
def test_labelled_rows_are_measured_by_a_linear_model(tmp_path: Path, tickets_csv: Write) -> None:
    suggestion = suggest(tickets_csv(tmp_path / "tickets.csv"), model("chat"))
    assert (suggestion.name, suggestion.method, suggestion.model) == ("tickets", "sft", "chat")
    assert suggestion.linear is not None
    assert 0.9 <= suggestion.linear.accuracy < 1
    assert suggestion.linear.rows == suggestion.facts.rows["validation"]
    advice = suggestion.reasons["advice"][0]
    assert advice.startswith(f"a linear model reached {suggestion.linear.accuracy:.1%} on your")
    assert "it may be all you need" in advice
    assert suggestion.baselines is not None
    assert "linear" in suggestion.baselines
    assert read_back(suggestion, tmp_path).evaluation.baselines == suggestion.baselines


def test_a_weak_linear_model_is_what_tuning_has_to_beat() -> None:
    facts = DatasetFacts(rows={"train": 100, "validation": 20, "test": 20}, kind="chat")
    [sentence] = give_advice(facts, LinearResult(accuracy=0.55, rows=20, seconds=0.3))
    assert sentence.startswith("a linear model reached 55.0% on your 20 validation rows in 0.3 s: the tuned model has")


def test_rows_without_labels_are_not_measured(tmp_path: Path, json_lines: Write) -> None:
    rows = [{"prompt": f"say {n}", "completion": f"this is number {n}"} for n in range(60)]
    suggestion = suggest(json_lines(tmp_path / "sayings.jsonl", rows), model("chat"))
    assert (suggestion.linear, suggestion.baselines) == (None, None)
    assert read_back(suggestion, tmp_path).evaluation.baselines is None


def test_few_rows_and_rare_labels_are_said(tmp_path: Path, json_lines: Write) -> None:
    few = [{"prompt": f"is {n} even", "completion": "yes" if n % 2 else "no"} for n in range(12)]
    suggestion = suggest(json_lines(tmp_path / "few.jsonl", few), model("chat"))
    assert "training rows are few" in suggestion.reasons["advice"][0]
    many = [
        {"prompt": f"is {n} even", "completion": "maybe" if n < 4 else "yes" if n % 2 else "no"} for n in range(200)
    ]
    suggestion = suggest(json_lines(tmp_path / "many.jsonl", many), model("chat"))
    assert any("fewer than 8 training rows ('maybe')" in sentence for sentence in suggestion.reasons["advice"])


def test_an_encoder_that_suits_the_labels_makes_it_a_classification(tmp_path: Path, tickets_csv: Write) -> None:
    path = tickets_csv(tmp_path / "tickets.csv", 120)
    suggestion = suggest(path, model("encoder", "classification"), model("chat"))
    assert (suggestion.model, suggestion.method) == ("encoder", "classification")
    assert "encoder" in suggestion.reasons["method"][0]
    job = read_back(suggestion, tmp_path)
    assert (job.method, job.evaluation.baselines) == ("classification", ("majority", "linear"))


def test_the_model_that_the_user_names_is_taken(tmp_path: Path, tickets_csv: Write) -> None:
    suggestion = suggest(tickets_csv(tmp_path / "tickets.csv", 120), model("chat"), named="./mine")
    assert suggestion.model == "./mine"
    assert read_back(suggestion, tmp_path).model == "./mine"


def test_preference_rows_are_tuned_by_dpo(tmp_path: Path, json_lines: Write) -> None:
    rows = [{"prompt": f"greet {n}", "chosen": f"hello {n}", "rejected": f"go away {n}"} for n in range(60)]
    suggestion = suggest(json_lines(tmp_path / "pairs.jsonl", rows), model("chat", "dpo"))
    assert suggestion.method == "dpo"
    assert read_back(suggestion, tmp_path).method == "dpo"


def test_rows_that_are_probably_too_long_are_dropped_and_that_is_said(tmp_path: Path, json_lines: Write) -> None:
    rows = [{"prompt": f"say {n}", "completion": f"this is number {n}"} for n in range(60)]
    short = model("short", rows_too_long=True, warning="it takes rows of at most 128 tokens")
    suggestion = suggest(json_lines(tmp_path / "sayings.jsonl", rows), short)
    job = read_back(suggestion, tmp_path)
    assert (job.dataset.path, job.dataset.on_too_long) == (str(tmp_path / "sayings.jsonl"), "drop")
    assert any("dropped" in sentence for sentence in suggestion.reasons["model"])


def test_a_backend_that_knows_no_models_gets_a_placeholder(tmp_path: Path, tickets_csv: Write) -> None:
    draft = JobDraft(str(tickets_csv(tmp_path / "tickets.csv", 120)))
    hosted = FakeProvider("fake")
    suggestion = draft.suggest(hosted, draft.list_models(hosted))
    assert (suggestion.model, suggestion.models) == ("MODEL_ID", ())
    assert suggestion.baselines == ("base", "majority", "linear")  # few_shot would cost money there
    assert "llmtune providers fake" in suggestion.reasons["model"][0]


def test_no_hyperparameter_is_set_so_that_the_backend_chooses(tmp_path: Path, tickets_csv: Write) -> None:
    job = read_back(suggest(tickets_csv(tmp_path / "tickets.csv", 120), model("chat")), tmp_path)
    assert job.adapter is None
    assert job.hyperparameters.model_dump(exclude_none=True) == {}
    assert job.overrides == {}


@pytest.mark.parametrize("name", ["two words.jsonl", "it's #1: rows.jsonl", "yes.jsonl", "été.jsonl", "007.jsonl"])
def test_names_of_files_are_quoted_where_yaml_needs_it(name: str, tmp_path: Path, json_lines: Write) -> None:
    rows = [{"prompt": f"say {n}", "completion": f"this is number {n}"} for n in range(60)]
    path = json_lines(tmp_path / name, rows)
    job = read_back(suggest(path, model("some/model:7b")), tmp_path)
    assert job.dataset.path == str(path)
    assert job.model == "some/model:7b"


def test_reasons_stand_in_the_file_as_comments(tmp_path: Path, tickets_csv: Write) -> None:
    suggestion = suggest(tickets_csv(tmp_path / "tickets.csv"), model("chat"))
    text = render_job_template(suggestion, relative_to=tmp_path)
    comments = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    for sentences in suggestion.reasons.values():
        for sentence in sentences:
            assert " ".join(sentence.split()) in comments
    assert max(map(len, text.splitlines())) <= 120


def test_the_suggestion_is_data(tmp_path: Path, tickets_csv: Write) -> None:
    suggestion = suggest(tickets_csv(tmp_path / "tickets.csv", 120), model("chat"))
    assert JobSuggestion.model_validate(json.loads(suggestion.model_dump_json())) == suggestion
