"""What `llmtune init` suggests for a dataset: its files, method, model and what to expect, each with its reason."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module

from llmtune._models import DocumentedModel
from llmtune.data.dataset import Dataset
from llmtune.data.facts import DatasetFacts, describe_dataset
from llmtune.data.hashing import label_of
from llmtune.job.spec import Baseline, DatasetSpec
from llmtune.planning.dataset_files import name_job, open_dataset
from llmtune.planning.job_reasons import (
    LinearResult,
    choose_model,
    describe_rows,
    explain_method,
    explain_model,
    give_advice,
)
from llmtune.provider.abilities import ModelSuggestion, SuggestsModels
from llmtune.provider.protocol import Provider
from llmtune.provider.receipt import PLACEHOLDER

#: Rows from which the linear model is measured, and those that it learns from at most.
LINEAR_VALIDATION, LINEAR_TRAINING = 20, 20_000


class JobSuggestion(DocumentedModel):
    """A job for a dataset, with the reasons of each choice."""

    schema_version: int = 1
    file: str = ""
    """The job file that was written."""

    name: str
    dataset: dict[str, str]
    """The files by role: path, or train with validation and test."""

    on_too_long: str = "error"
    """What happens to rows that are longer than the model takes: error, or drop where some probably are."""

    provider: str
    model: str
    method: str
    facts: DatasetFacts
    linear: LinearResult | None = None
    """None where rows have no labels, or too few of them are held out."""

    models: tuple[ModelSuggestion, ...] = ()
    """The models that were considered, those on this machine first."""

    baselines: tuple[Baseline, ...] | None = None
    """What the tuned model is measured against, where rows have labels; None leaves it to the evaluation."""

    reasons: dict[str, tuple[str, ...]] = {}
    """Short sentences by what they are about: data, method, model, advice."""


class JobDraft:
    """A dataset that has been read, and the models of one backend for it; `suggest` makes a job of it.

    Raises `InvalidData` with the findings when the dataset cannot be trained on.
    """

    def __init__(self, path: str) -> None:
        files = open_dataset(path)
        self.path = path
        self.name = name_job(path)
        self.spec: DatasetSpec = files.spec
        self.dataset: Dataset = files.dataset
        self.notes: tuple[str, ...] = files.notes
        self.facts: DatasetFacts = describe_dataset(files.dataset)

    def list_models(self, provider: Provider, named: str | None = None) -> list[ModelSuggestion]:
        """Return the models that a backend suggests for these rows; empty where it does not know."""
        if not isinstance(provider, SuggestsModels):
            return []
        return list(provider.suggest_models(self.facts, named))

    def measure_linear(self) -> LinearResult | None:
        """Fit a linear model on the training rows and score it on the validation rows; None without labels."""
        rows, labels = self.dataset.validation, self.facts.labels
        if len(labels) < 2 or self.facts.several_labels or len(rows) < LINEAR_VALIDATION:
            return None
        from llmtune.evaluation.cheap_models import predict_labels

        train = self.dataset.train[:: max(1, -(-len(self.dataset.train) // LINEAR_TRAINING))]
        import_module("sklearn.linear_model")  # before the clock starts
        start = time.perf_counter()
        predicted = predict_labels(train, rows, labels)
        if isinstance(predicted, str):
            return None
        right = sum(labels[index] == label_of(row) for index, row in zip(predicted, rows, strict=True))
        seconds = round(time.perf_counter() - start, 2)
        return LinearResult(accuracy=right / len(rows), rows=len(rows), seconds=seconds)

    def suggest(
        self,
        provider: Provider,
        models: Sequence[ModelSuggestion],
        named: str | None = None,
        linear: LinearResult | None = None,
    ) -> JobSuggestion:
        """Choose method and model; `named` is the model that the user named."""
        chosen = next((model for model in models if model.model == named), None)
        if named is None:
            chosen = choose_model(models)
        method = chosen.method if chosen else "dpo" if self.facts.kind == "preference" else "sft"
        too_long = chosen is not None and chosen.rows_too_long
        return JobSuggestion(
            name=self.name,
            dataset=self.spec.paths,
            on_too_long="drop" if too_long else "error",
            provider=provider.name,
            model=named or (chosen.model if chosen else PLACEHOLDER),
            method=method,
            facts=self.facts,
            linear=linear,
            baselines=self._choose_baselines(provider, method) if self.facts.labels else None,
            models=tuple(models),
            reasons={
                "data": (*describe_rows(self.facts, self.path, split=self.spec.path is not None), *self.notes),
                "method": (explain_method(self.facts, method, models),),
                "model": tuple(explain_model(chosen, models, named, provider.name)),
                "advice": tuple(give_advice(self.facts, linear)),
            },
        )

    def _choose_baselines(self, provider: Provider, method: str) -> tuple[Baseline, ...]:
        """Return the baselines of rows with labels, which the evaluation would take by itself: written out, so that
        they are seen."""
        if method == "classification":  # an untuned encoder has no head to answer with
            return ("majority", "linear")
        return ("base", "majority", "linear", *(("few_shot",) if not provider.hosted else ()))
