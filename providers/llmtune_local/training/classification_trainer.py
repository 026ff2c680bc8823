"""Method classification: an encoder and a head for labels, trained by cross-entropy over labels.

    one label a row       loss = sum(w_y * -log softmax(z)_y) / sum(w_y)
    several labels a row  loss = mean over rows and labels of the binary cross-entropy of sigmoid(z), the positive part
                          times w_label

z are the logits, y the row's label, w the class weights (1 unless `class_weights` says otherwise). Sums run over the
whole optimizer step, so micro-batches change speed and never the gradient. The logits of the validation rows are kept
in the run folder, and every figure is computed from them by scikit-learn.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

from llmtune.data.io.reading import load
from llmtune.errors import InvalidJob
from llmtune_local.models import encoder
from llmtune_local.models import loading as models
from llmtune_local.models.encoder import LabelledRow, LabelSet
from llmtune_local.run_state.run_dir import write_atomically
from llmtune_local.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmtune.metrics.classification import ClassificationResult


class Rows(list[tuple[LabelledRow, ...]]):
    """The rows of one file, as the training loop expects them."""

    dropped = 0
    truncated = 0

    @property
    def rows(self) -> Rows:
        return self

    @property
    def tokens(self) -> int:
        """Count the tokens of all rows."""
        return sum(self.row_tokens())

    def row_tokens(self) -> list[int]:
        """Count the tokens of each row."""
        return [len(row.ids) for (row,) in self]

    def release(self) -> None:
        """Do nothing: the rows are in memory alone."""

    def select(self, indices: Sequence[int]) -> Rows:
        """Return some of the rows, with the counts of the whole file."""
        chosen = Rows(self[index] for index in indices)
        chosen.dropped, chosen.truncated = self.dropped, self.truncated
        return chosen


class TextStep(NamedTuple):
    """One optimizer step: batches of rows; counts as in `batching.Step`, a label counting as a trained token."""

    batches: list[list[LabelledRow]]
    weight: float
    tokens: int
    completion_tokens: int


class _Encoder:
    """The attributes of a network that the training loop reads."""

    packed = shares_prefixes = False

    def __init__(self, dtype: torch.dtype, *, several: bool, weighted: bool) -> None:
        self.features = (
            "padded batches of like length",
            *(("several labels a row",) if several else ()),
            *(("class weights",) if weighted else ()),
            *(("bfloat16",) if dtype == torch.bfloat16 else ()),
        )


class ClassificationTrainer(Trainer):
    """Trainer of an encoder's head, with an adapter or with all of its weights."""

    train: Any
    validation: Any
    other_validation_passes = 2
    """The one before the first step, and the one by the weights that were kept."""

    shares_validation = False

    def _choose_samples(self) -> None:
        """Choose none: labels are no text to look at."""

    def _read_rows(self, path: str) -> Any:
        examples = load(path)
        if not hasattr(self, "labels"):
            files = self.request.files
            every = [*examples, *(load(files.validation) if files.validation else ())]
            self.labels = encoder.make_label_set(every, self.request.labels, self.request.options.threshold)
        rows = Rows()
        too_long = self.request.on_too_long
        for row in encoder.read_texts(
            self.tokenizer, examples, self.labels, file=path, limit=self.limit, on_too_long=too_long
        ):
            if row is None:
                rows.dropped += 1
                continue
            rows.truncated += row.cut
            rows.append((row,))
        self._report_long_rows(path, rows)
        return rows

    def read_ahead(self) -> None:
        """Read tokenizer and rows alone: the head that an encoder is loaded with depends on the run's seed."""
        self.read()

    def _resolve_settings(self, threads: int) -> None:
        super()._resolve_settings(threads)
        labels = self.labels.labels
        counts = Counter(index for (row,) in self.train.rows for index in row.target)
        missing = [label for index, label in enumerate(labels) if not counts[index]]
        if missing:
            named = ", ".join(map(repr, missing[:3]))
            self.status_writer.event(f"no training row has the label {named}: it cannot be learned", "warning")
        self.weights = torch.tensor(
            _class_weights(self.labels, counts, len(self.train), self.request.options.class_weights),
            dtype=torch.float32,
        )
        self.resolved["labels"] = len(labels)
        if self.request.options.class_weights is not None:
            self.resolved["class_weights"] = {
                label: round(weight, 4) for label, weight in zip(labels, self.weights.tolist(), strict=True)
            }

    def _build_model(self) -> Any:
        request = self.request
        torch.manual_seed(request.seed)  # the head is drawn
        base = encoder.load_classifier(
            request.model,
            request.revision,
            self.labels,
            device=self.device,
            tokenizer=self.tokenizer,
            recipe=self.recipe,
        )
        torch.manual_seed(request.seed)
        return encoder.add_adapter(base, request, self.status_writer.event)

    def _make_network(self) -> Any:
        self.weights = self.weights.to(self.device)
        return _Encoder(
            self.dtype, several=self.labels.several, weighted=self.request.options.class_weights is not None
        )

    def _make_validation_batches(self) -> list[Any]:
        return self._batch_rows([row for (row,) in self.validation.rows], None)

    def _batch_rows(self, rows: list[LabelledRow], count: int | None) -> list[list[LabelledRow]]:
        groups = encoder.make_batches([len(row.ids) for row in rows], self.budget, count)
        return [[rows[index] for index in group] for group in groups]

    def _make_micro_batches(self, indices: Sequence[int], number: int, micro_batches: int | None) -> Any:
        rows: list[LabelledRow] = [self.train.rows[index][0] for index in indices]
        if self.labels.several:
            weight = float(len(rows) * len(self.labels.labels))
        else:
            weight = float(sum(self.weights[row.target[0]] for row in rows))
        return TextStep(
            self._batch_rows(rows, micro_batches),
            weight=weight,
            tokens=sum(len(row.ids) for row in rows),
            completion_tokens=len(rows),
        )

    def _logits(self, rows: list[LabelledRow]) -> torch.Tensor:
        with torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return encoder.compute_logits(self.model, rows, self.tokenizer.pad_token_id or 0, self.device)

    def _loss(self, logits: torch.Tensor, rows: list[LabelledRow], *, smoothing: float = 0.0) -> torch.Tensor:
        """Return the weighted sum of the rows' losses."""
        if self.labels.several:
            goal = torch.zeros_like(logits)
            for index, row in enumerate(rows):
                goal[index, list(row.target)] = 1.0
            goal = goal * (1 - smoothing) + smoothing / 2
            return functional.binary_cross_entropy_with_logits(logits, goal, pos_weight=self.weights, reduction="sum")
        goal = torch.tensor([row.target[0] for row in rows], device=logits.device)
        losses = functional.cross_entropy(logits, goal, reduction="none", label_smoothing=smoothing)
        return (self.weights[goal] * losses).sum()

    def _count_correct(self, logits: torch.Tensor, rows: list[LabelledRow]) -> int:
        read = (self.labels.read(row_logits) for row_logits in logits.detach().cpu().tolist())
        names = self.labels.labels
        return sum(
            set(predicted) == {names[index] for index in row.target} for predicted, row in zip(read, rows, strict=True)
        )

    def _backward(self, step: Any, batches: Sequence[Any]) -> dict[str, float]:
        total, right = 0.0, 0
        for rows in batches:
            self.status_writer.update()
            logits = self._logits(rows)
            loss: Any = self._loss(logits, rows, smoothing=self.recipe.label_smoothing) / step.weight
            loss.backward()
            total += float(loss.detach())
            right += self._count_correct(logits, rows)
        return {"train/loss": total, "train/accuracy": right / step.completion_tokens}

    def _measure(self) -> dict[str, float]:
        total, weight = 0.0, 0.0
        self._held: list[tuple[LabelledRow, list[float]]] = []
        for rows in self.validation_batches:
            self.status_writer.update()
            logits = self._logits(rows)
            total += float(self._loss(logits, rows))
            several = len(rows) * len(self.labels.labels)
            weight += several if self.labels.several else float(sum(self.weights[row.target[0]] for row in rows))
            self._held += zip(rows, logits.cpu().tolist(), strict=True)
        figures = self._score_rows(self._held)
        return {
            "validation/loss": total / weight,
            "validation/accuracy": figures.accuracy,
            "validation/macro_precision": figures.macro.precision,
            "validation/macro_recall": figures.macro.recall,
            "validation/macro_f1": figures.macro.f1,
        }

    def _accuracy(self, values: dict[str, float]) -> float | None:
        return values.get("validation/accuracy")

    def _score_rows(self, held: Sequence[tuple[LabelledRow, list[float]]]) -> ClassificationResult:
        return score(self.labels, [row.target for row, _ in held], [logits for _, logits in held])

    def _save(self, path: Any) -> None:
        # In float32 also where the base was published in half precision: the logits kept are those of these weights.
        models.save_artefact(self.model, self.tokenizer, path)
        self.labels.save(path)

    def finish(self) -> Any:
        """Write the result; then the validation rows' logits and figures by the weights that were kept."""
        result = super().finish()
        if self.validation_batches:
            self.model.eval()
            with torch.no_grad():
                self._measure()
            by_row = {id(row): logits for row, logits in self._held}
            held = [(row, by_row[id(row)]) for (row,) in self.validation.rows]
            store_logits(self.folder.path / "logits" / "validation.jsonl", self.labels, held)
            figures = self._score_rows(held)
            write_atomically(self.folder.path / "validation.json", figures.model_dump_json(indent=2))
        return result


def score(labels: LabelSet, truth: Sequence[Sequence[int]], logits: Sequence[Sequence[float]]) -> ClassificationResult:
    """Compute accuracy, precision, recall, F and support from logits, through scikit-learn."""
    from llmtune.metrics.classification import classify, classify_sets

    predicted = [labels.read(row) for row in logits]
    true = [tuple(labels.labels[index] for index in row) for row in truth]
    if labels.several:
        return classify_sets(true, predicted, labels.labels)
    return classify([row[0] for row in true], [row[0] for row in predicted], labels.labels, rule="exact")


def store_logits(path: Path, labels: LabelSet, held: Sequence[tuple[LabelledRow, list[float]]]) -> None:
    """Write one JSON line per row: its text, its labels, its logits in the order of `labels.json`."""
    path.parent.mkdir(exist_ok=True)
    lines = [
        json.dumps(
            {"text": row.text, "labels": [labels.labels[index] for index in row.target], "logits": list(values)},
            ensure_ascii=False,
        )
        for row, values in held
    ]
    write_atomically(path, "".join(f"{line}\n" for line in lines))
    labels.save(path.parent)


def _class_weights(
    labels: LabelSet, counts: Counter[int], rows: int, class_weights: str | dict[str, float] | None
) -> list[float]:
    """Return the weight of each label.

    balanced: rows / (labels * rows of the label), as scikit-learn's `class_weight`; with several labels per row, rows
    without the label / rows with it.
    """
    names = labels.labels
    if class_weights is None:
        return [1.0] * len(names)
    if isinstance(class_weights, dict):
        unknown = [name for name in class_weights if name not in names]
        if unknown:
            raise InvalidJob(
                f"class_weights names {unknown[0]!r}, and the labels are {', '.join(names[:8])}",
                where="provider_options.local.class_weights",
            )
        return [float(class_weights.get(name, 1.0)) for name in names]
    if labels.several:
        return [(rows - counts[index]) / max(1, counts[index]) or 1.0 for index in range(len(names))]
    present = sum(counts[index] > 0 for index in range(len(names)))
    return [rows / (present * counts[index]) if counts[index] else 1.0 for index in range(len(names))]
