"""Classification with an encoder: figures that are scikit-learn's on the logits kept, weights, and several labels."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, fbeta_score, precision_recall_fscore_support
from torch.nn import functional

from llmtune.errors import InvalidData, InvalidJob
from llmtune_local.batching import step_order
from llmtune_local.run_state.run_dir import RunDir
from llmtune_local.run_state.status_writer import StatusWriter
from llmtune_local.training.classification_trainer import ClassificationTrainer
from llmtune_local.training.progress import Stopped

WORDS = {
    "storage": ["bucket", "file", "object", "volume"],
    "network": ["address", "route", "subnet", "gateway"],
    "access": ["role", "policy", "user", "permission"],
}


def write_texts(path: Path, count: int, seed: int = 0, several: bool = False, rare: int = 1) -> str:
    """Sentences that name things of one kind (or of several); `rare` makes the kind "access" so many times rarer."""
    draw = random.Random(seed)
    kinds = [kind for kind in WORDS for _ in range(1 if kind == "access" else rare)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            chosen = draw.sample(list(WORDS), draw.randint(0, 2)) if several else [draw.choice(kinds)]
            named = [draw.choice(WORDS[kind]) for kind in chosen] + draw.choices(["update", "list", "the", "new"], k=3)
            draw.shuffle(named)
            label: Any = chosen if several else chosen[0]
            file.write(json.dumps({"text": " ".join(named), "label": label}) + "\n")
    return str(path)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("texts")
    return {
        "train": write_texts(folder / "train.jsonl", 64),
        "validation": write_texts(folder / "validation.jsonl", 30, seed=1),
    }


@pytest.fixture
def label(train: Callable[..., Any], texts: dict[str, str]) -> Callable[..., ClassificationTrainer]:
    def run(request: dict[str, Any] | None = None, **hyperparameters: Any) -> ClassificationTrainer:
        body = {"method": "classification", "model": "tiny-encoder", "files": texts} | (request or {})
        trainer = train(body, **({"batch_size": 16, "learning_rate": 3e-3} | hyperparameters))
        assert isinstance(trainer, ClassificationTrainer)
        return trainer

    return run


def series(trainer: Any, name: str) -> dict[int, float]:
    return {line.step: line.value for line in trainer.folder.read_metrics()[0] if line.series == name}


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "logits" / "validation.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "dora", "full"])
def test_learns_and_its_figures_are_scikit_learns(label: Callable[..., ClassificationTrainer], adapter: str) -> None:
    trainer = label({"adapter": adapter}, epochs=6, learning_rate=1e-3 if adapter == "full" else 5e-3)
    rows = kept(trainer.folder.path)
    names = json.loads((trainer.folder.path / "logits" / "labels.json").read_text())["labels"]
    assert names == sorted(WORDS)
    truth = [row["labels"][0] for row in rows]
    predicted = [names[int(np.argmax(row["logits"]))] for row in rows]
    assert accuracy_score(truth, predicted) > 0.9
    last = max(series(trainer, "validation/accuracy"))
    assert series(trainer, "validation/accuracy")[last] == accuracy_score(truth, predicted)
    assert series(trainer, "validation/macro_f1")[last] == pytest.approx(f1_score(truth, predicted, average="macro"))
    figures = json.loads((trainer.folder.path / "validation.json").read_text())
    precision, recall, f1, support = precision_recall_fscore_support(truth, predicted, labels=names, zero_division=0.0)
    for index, row in enumerate(figures["classes"]):
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx(
            (precision[index], recall[index], f1[index])
        )
        assert row["support"] == support[index]
    assert series(trainer, "validation/loss")[last] < series(trainer, "validation/loss")[0]


@pytest.mark.slow
def test_the_loss_and_its_gradient_are_plain_cross_entropy(label: Callable[..., ClassificationTrainer]) -> None:
    for how in ({}, {"gradient_accumulation_steps": 3}, {"label_smoothing": 0.2}):
        how = how | {"dropout": 0.0, "attention_dropout": 0.0}  # so that both see the same network
        trainer = label({"options": {"device": "cpu", "num_threads": 1, "token_budget": 64}}, max_steps=1, **how)
        _, values = trainer._compute_gradient(0)
        gradients = [parameter.grad.clone() for parameter in trainer.trained]
        rows = [trainer.train.rows[index][0] for index in step_order.rows_of_step(64, 16, 0, 0)]
        loss: Any = torch.stack(
            [
                functional.cross_entropy(
                    trainer._logits([row]), torch.tensor(row.target), label_smoothing=how.get("label_smoothing", 0.0)
                )
                for row in rows
            ]
        ).mean()
        trainer.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        assert values["train/loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
        for gradient, parameter in zip(gradients, trainer.trained, strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_class_weights(label: Callable[..., ClassificationTrainer], tmp_path: Path) -> None:
    files = {"train": write_texts(tmp_path / "rare.jsonl", 80, rare=6)}
    counts = dict.fromkeys(sorted(WORDS), 0)
    for line in Path(files["train"]).read_text().splitlines():
        counts[json.loads(line)["label"]] += 1

    def weights(class_weights: Any) -> dict[str, float]:
        options = {"device": "cpu", "num_threads": 1, "class_weights": class_weights}
        trainer = label({"files": files, "options": options}, max_steps=1)
        return dict(zip(trainer.labels.labels, trainer.weights.tolist(), strict=True))

    assert weights("balanced") == pytest.approx({name: 80 / (3 * count) for name, count in counts.items()})
    assert weights({"access": 4.0}) == {"access": 4.0, "network": 1.0, "storage": 1.0}
    assert weights(None) == dict.fromkeys(sorted(WORDS), 1.0)
    with pytest.raises(InvalidJob, match="class_weights names 'acess'"):
        weights({"acess": 2.0})
    plain = label({"files": files}, epochs=2)
    heavy = label(
        {"files": files, "options": {"device": "cpu", "num_threads": 1, "class_weights": {"access": 50.0}}}, epochs=2
    )
    text = [write_row["text"] for write_row in map(json.loads, Path(files["train"]).read_text().splitlines())]

    def said_access(trainer: ClassificationTrainer) -> int:
        from llmtune_local.inference.classifier import classifier

        with classifier(artefact=trainer.folder.artefact, model="tiny-encoder") as tuned:
            return sum(tuned.labels.read(row) == ("access",) for row in tuned.logits(text))

    assert said_access(heavy) > said_access(plain)


@pytest.mark.slow
def test_several_labels_a_row(label: Callable[..., ClassificationTrainer], tmp_path: Path) -> None:
    files = {
        "train": write_texts(tmp_path / "train.jsonl", 120, several=True),
        "validation": write_texts(tmp_path / "validation.jsonl", 40, seed=1, several=True),
    }
    trainer = label({"files": files, "options": {"device": "cpu", "num_threads": 1, "threshold": 0.4}}, epochs=8)
    rows = kept(trainer.folder.path)
    names = trainer.labels.labels
    truth = np.array([[name in row["labels"] for name in names] for row in rows], dtype=int)
    predicted = (1 / (1 + np.exp(-np.array([row["logits"] for row in rows]))) >= 0.4).astype(int)
    last = max(series(trainer, "validation/accuracy"))
    assert series(trainer, "validation/accuracy")[last] == accuracy_score(truth, predicted)  # every label right
    assert series(trainer, "validation/macro_f1")[last] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert f1_score(truth, predicted, average="micro") > 0.8
    loss = functional.binary_cross_entropy_with_logits(
        torch.tensor([row["logits"] for row in rows]), torch.tensor(truth, dtype=torch.float32)
    )
    assert series(trainer, "validation/loss")[last] == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_stopped_and_resumed_ends_like_one_that_was_not(
    make_request: Callable[..., Any],
    label: Callable[..., ClassificationTrainer],
    texts: dict[str, str],
    tmp_path: Path,
    adapter: str,
) -> None:
    run_request: dict[str, Any] = {
        "method": "classification",
        "model": "tiny-encoder",
        "adapter": adapter,
        "files": texts,
    }
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3}
    straight = label(run_request, **settings)
    folder = RunDir(tmp_path / adapter)
    request = make_request(run_request, **settings)
    folder.write_request(request)
    with StatusWriter(folder) as journal:
        trainer = ClassificationTrainer(folder, request, journal, lambda: trainer.progress.step >= 5)
        with pytest.raises(Stopped):
            trainer.run()
    with StatusWriter(folder) as journal:
        again = ClassificationTrainer(folder, request, journal, lambda: False)
        again.run(resume=True)
    assert series(again, "train/loss") == pytest.approx(series(straight, "train/loss"), rel=1e-4)
    for actual, expected in zip(kept(folder.path), kept(straight.folder.path), strict=True):
        assert actual["logits"] == pytest.approx(expected["logits"], abs=1e-3)


@pytest.mark.slow
def test_hyperparameters_of_an_encoder(label: Callable[..., ClassificationTrainer]) -> None:
    plain = series(label(), "train/loss")
    for change in (
        {"dropout": 0.4},
        {"attention_dropout": 0.4},
        {"lora_dropout": 0.4},
        {"lora_target_modules": "attention"},
        {"lora_target_modules": ["query", "value"]},
        {"layer_lr_multipliers": {"0-1": 0.0}},
        {"lora_rank": 8},
    ):
        assert series(label(**change), "train/loss")[4] != plain[4], change
    assert series(label({"options": {"device": "cpu", "num_threads": 1, "rslora": True}}), "train/loss")[4] != plain[4]
    short = label({"on_too_long": "truncate"}, max_sequence_length=4)
    assert max(len(row.ids) for (row,) in short.train.rows) == 4
    assert short.train.truncated > 0


def test_what_goes_wrong_is_said(label: Callable[..., ClassificationTrainer], tmp_path: Path) -> None:
    def with_rows(*rows: dict[str, Any], **request: Any) -> ClassificationTrainer:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return label({"files": {"train": str(path)}} | request)

    with pytest.raises(InvalidData, match="one label only, 'a'"):
        with_rows({"text": "one", "label": "a"}, {"text": "two", "label": "a"})
    with pytest.raises(InvalidData, match=r"rows.jsonl:2: the label 'b' is not in the label set"):
        with_rows({"text": "one", "label": "a"}, {"text": "two", "label": "b"}, labels=("a", "c"))
    with pytest.raises(InvalidData, match=r"rows.jsonl:2: this row has \d+ tokens and the limit is 512"):
        with_rows({"text": "one", "label": "a"}, {"text": "two " * 600, "label": "b"})
    with pytest.raises(InvalidJob, match="does not generate text") as refused:
        label({"method": "sft"})
    assert "classification" in (refused.value.hint or "")


def test_an_empty_cell_of_a_table_is_no_label_without_a_word(tmp_path: Path) -> None:
    from llmtune.data.checks.check import check

    path = tmp_path / "rows.jsonl"
    rows = [{"text": "one", "label": "nan"}, {"text": "two", "label": "none"}, {"text": "three", "label": "None"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(finding.line, finding.code) for finding in check(path).findings] == [
        (1, "label-empty-cell"),
        (3, "label-empty-cell"),
    ]


def test_a_decoder_without_padding_trains_through_and_is_asked(
    label: Callable[..., ClassificationTrainer], random_model: Callable[..., Any], new_tokenizer: Any, tmp_path: Path
) -> None:
    from llmtune_local.models.encoder import load_tuned

    tokenizer = new_tokenizer(None, (), None, "<|endoftext|>")
    tokenizer.pad_token = None
    random_model("gpt2", vocab_size=len(tokenizer), pad_token_id=None, eos_token_id=3).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    trainer = label({"model": str(tmp_path / "m")}, max_steps=2)
    saved = trainer.tokenizer
    assert saved.pad_token_id == saved.eos_token_id
    network, _ = load_tuned(str(tmp_path / "m"), trainer.folder.artefact, None, "cpu", saved)
    assert network.config.pad_token_id == saved.eos_token_id


def test_a_decoder_takes_a_head_too(label: Callable[..., ClassificationTrainer]) -> None:
    trainer = label({"model": "tiny"}, epochs=2)
    assert series(trainer, "validation/loss")[8] < series(trainer, "validation/loss")[0]


# Through the job


def job_of(path: str, **changes: Any) -> Any:
    from llmtune import TuningJob

    return TuningJob.model_validate(
        {
            "name": "kinds",
            "dataset": path,
            "model": "tiny-encoder",
            "method": "classification",
            "hyperparameters": {"epochs": 6, "batch_size": 16, "learning_rate": 5e-3, "lora_rank": 8},
            "provider_options": {"local": {"device": "cpu", "num_threads": 1}},
        }
        | changes
    )


def asked_of(report: Any) -> dict[str, list[float]]:
    folder = Path(report.identity.tuned_model).parent
    lines = (folder / "logits" / "asked.jsonl").read_text().splitlines()
    return {line["text"]: line["logits"] for line in map(json.loads, lines)}


@pytest.mark.slow
def test_the_whole_way_of_a_job(tmp_path: Path) -> None:
    from llmtune import tune
    from llmtune.data.dataset import Dataset

    path = write_texts(tmp_path / "rows.jsonl", 160)
    job = job_of(path, evaluation={"metrics": ["accuracy", "macro_precision", "macro_recall", "macro_f1", "macro_f2"]})
    report = tune(job, "local")
    logits = asked_of(report)
    names = sorted(WORDS)
    test = Dataset.from_spec(job.dataset, method="classification").test
    truth = [str(row.label) for row in test]
    predicted = [names[int(np.argmax(logits[row.messages[0].words]))] for row in test]
    tuned = report.evaluation.system("tuned")
    precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0.0)
    for name, expected in {
        "accuracy": accuracy_score(truth, predicted),
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
        "macro_f2": fbeta_score(truth, predicted, beta=2, average="macro"),
    }.items():
        assert tuned[name].value == pytest.approx(expected)
    per_label = precision_recall_fscore_support(truth, predicted, labels=names, beta=2, zero_division=0.0)
    for index, row in enumerate(tuned.classification.classes):
        assert (row.precision, row.recall, row.f_beta, row.support) == pytest.approx(
            [part[index] for part in per_label]
        )
    assert report.series["validation/macro_f1"].values
    assert report.checks[0].passed
    assert report.checks[0].name == "logits kept"
    assert "no head for these labels" in str(report.evaluation.systems["base"])
    assert "F2" in report.to_markdown()
    scope: dict[str, Any] = {}
    exec(str(report.snippet).replace('"..."', '"update the bucket"'), scope)
    assert scope["labels"][scope["logits"].argmax(-1).item()] in names


@pytest.mark.slow
def test_several_labels_through_a_job(tmp_path: Path) -> None:
    from llmtune import tune
    from llmtune.data.dataset import Dataset

    job = job_of(write_texts(tmp_path / "rows.jsonl", 160, several=True))
    report = tune(job, "local")
    logits = asked_of(report)
    names = sorted(WORDS)
    test = Dataset.from_spec(job.dataset, method="classification").test
    truth = np.array([[name in (row.label or ()) for name in names] for row in test], dtype=int)
    predicted = np.array([[value >= 0 for value in logits[row.messages[0].words]] for row in test], dtype=int)
    tuned = report.evaluation.system("tuned")
    assert tuned["subset_accuracy"].value == pytest.approx(accuracy_score(truth, predicted))
    assert tuned["samples_f1"].value == pytest.approx(f1_score(truth, predicted, average="samples", zero_division=1.0))
    assert tuned.classification.several
    assert tuned.classification.micro.f1 == pytest.approx(f1_score(truth, predicted, average="micro"))
    support = precision_recall_fscore_support(truth, predicted, zero_division=0.0)[3]
    assert [row.support for row in tuned.classification.classes] == list(support)


def test_the_plan(tmp_path: Path) -> None:
    from llmtune import plan

    receipt = plan(job_of(write_texts(tmp_path / "rows.jsonl", 40), hyperparameters={}), "local")
    assert receipt["learning_rate"].effective == 5e-4
    assert receipt["packing"].support == "not_applicable"
    assert receipt.data.format == "labelled"
    unlabelled = tmp_path / "chat.jsonl"
    long = "a rather long answer that is no label at all, since it says many things about many others"
    row = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": long}]}
    unlabelled.write_text("".join(json.dumps(row) + "\n" for _ in range(4)))
    verdict = plan(job_of(str(unlabelled)), "local").data
    assert any("method classification needs a label" in line for line in verdict.findings)
