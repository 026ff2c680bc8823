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


class TextStep(NamedTuple):
    """One optimizer step: groups of rows; counts as in `batching.Step`, a label counting as a trained token."""

    batches: list[list[LabelledRow]]
    weight: float
    tokens: int
    completion_tokens: int


class _Encoder:
    """What the training loop asks of a network."""

    packed = shares = False

    def __init__(self, dtype: torch.dtype, *, several: bool, weighted: bool) -> None:
        self.features = (
            "padded batches of like length",
            *(("several labels a row",) if several else ()),
            *(("class weights",) if weighted else ()),
            *(("bfloat16",) if dtype == torch.bfloat16 else ()),
        )


class ClassificationTrainer(Trainer):
    """Trains an encoder's head, with an adapter or with all of its weights."""

    train: Any
    validation: Any

    def _rows(self, path: str) -> Any:
        examples = load(path)
        if not hasattr(self, "labels"):
            files = self.request.files
            every = [*examples, *(load(files.validation) if files.validation else ())]
            self.labels = encoder.label_set_of(every, self.request.labels, self.request.options.threshold)
        found = Rows()
        too_long = self.request.on_too_long
        for row in encoder.read_texts(
            self.tokenizer, examples, self.labels, file=path, limit=self.limit, on_too_long=too_long
        ):
            if row is None:
                found.dropped += 1
                continue
            found.truncated += row.cut
            found.append((row,))
        self._report_long_rows(path, found)
        return found

    def read_ahead(self) -> None:
        """Tokenizer and libraries alone: the head that an encoder is loaded with depends on the run's seed."""
        self.read()

    def _settle(self, threads: int) -> None:
        super()._settle(threads)
        labels = self.labels.labels
        counts = Counter(place for (row,) in self.train.rows for place in row.target)
        missing = [label for place, label in enumerate(labels) if not counts[place]]
        if missing:
            named = ", ".join(map(repr, missing[:3]))
            self.journal.event(f"no training row has the label {named}: it cannot be learned", "warning")
        self.weights = torch.tensor(
            _weights(self.labels, counts, len(self.train), self.request.options.class_weights), dtype=torch.float32
        )
        self.resolved["labels"] = len(labels)
        if self.request.options.class_weights is not None:
            self.resolved["class_weights"] = {
                label: round(weight, 4) for label, weight in zip(labels, self.weights.tolist(), strict=True)
            }

    def _build(self) -> Any:
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
        return encoder.add_adapter(base, request, self.journal.event)

    def _wrap(self) -> Any:
        self.weights = self.weights.to(self.device)
        return _Encoder(
            self.dtype, several=self.labels.several, weighted=self.request.options.class_weights is not None
        )

    def _hold_out(self) -> list[Any]:
        return self._groups([row for (row,) in self.validation.rows], None)

    def _groups(self, rows: list[LabelledRow], most: int | None) -> list[list[LabelledRow]]:
        groups = encoder.batches_of([len(row.ids) for row in rows], self.budget, most)
        return [[rows[index] for index in group] for group in groups]

    def _cut_into(self, indices: Sequence[int], micro_batches: int | None) -> Any:
        rows: list[LabelledRow] = [self.train.rows[index][0] for index in indices]
        if self.labels.several:
            weight = float(len(rows) * len(self.labels.labels))
        else:
            weight = float(sum(self.weights[row.target[0]] for row in rows))
        return TextStep(
            self._groups(rows, micro_batches),
            weight=weight,
            tokens=sum(len(row.ids) for row in rows),
            completion_tokens=len(rows),
        )

    def _logits(self, rows: list[LabelledRow]) -> torch.Tensor:
        with torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return encoder.logits_of(self.model, rows, self.tokenizer.pad_token_id or 0, self.device)

    def _loss(self, logits: torch.Tensor, rows: list[LabelledRow], *, smoothing: float = 0.0) -> torch.Tensor:
        """The weighted sum of the rows' losses."""
        if self.labels.several:
            goal = torch.zeros_like(logits)
            for index, row in enumerate(rows):
                goal[index, list(row.target)] = 1.0
            goal = goal * (1 - smoothing) + smoothing / 2
            return functional.binary_cross_entropy_with_logits(logits, goal, pos_weight=self.weights, reduction="sum")
        goal = torch.tensor([row.target[0] for row in rows], device=logits.device)
        each = functional.cross_entropy(logits, goal, reduction="none", label_smoothing=smoothing)
        return (self.weights[goal] * each).sum()

    def _right(self, logits: torch.Tensor, rows: list[LabelledRow]) -> int:
        read = (self.labels.read(each) for each in logits.detach().cpu().tolist())
        names = self.labels.labels
        return sum(set(said) == {names[place] for place in row.target} for said, row in zip(read, rows, strict=True))

    def _backward(self, step: Any, batches: Sequence[Any]) -> dict[str, float]:
        total, right = 0.0, 0
        for rows in batches:
            self.journal.update()
            logits = self._logits(rows)
            loss: Any = self._loss(logits, rows, smoothing=self.recipe.label_smoothing) / step.weight
            loss.backward()
            total += float(loss.detach())
            right += self._right(logits, rows)
        return {"train/loss": total, "train/accuracy": right / step.completion_tokens}

    def _measure(self) -> dict[str, float]:
        total, weight = 0.0, 0.0
        self._held: list[tuple[LabelledRow, list[float]]] = []
        for rows in self.held_out:
            self.journal.update()
            logits = self._logits(rows)
            total += float(self._loss(logits, rows))
            several = len(rows) * len(self.labels.labels)
            weight += several if self.labels.several else float(sum(self.weights[row.target[0]] for row in rows))
            self._held += zip(rows, logits.cpu().tolist(), strict=True)
        found = self._scored(self._held)
        return {
            "validation/loss": total / weight,
            "validation/accuracy": found.accuracy,
            "validation/macro_precision": found.macro.precision,
            "validation/macro_recall": found.macro.recall,
            "validation/macro_f1": found.macro.f1,
        }

    def _scored(self, held: Sequence[tuple[LabelledRow, list[float]]]) -> ClassificationResult:
        return score(self.labels, [row.target for row, _ in held], [logits for _, logits in held])

    def _save(self, path: Any) -> None:
        # In float32 also where the base was published in half precision: the logits kept are those of these weights.
        models.save_artefact(self.model, self.tokenizer, path)
        self.labels.save(path)

    def finish(self) -> Any:
        """Write the result; then the validation rows' logits and figures by the weights that were kept."""
        result = super().finish()
        if self.held_out:
            self.model.eval()
            with torch.no_grad():
                self._measure()
            by_row = {id(row): logits for row, logits in self._held}
            held = [(row, by_row[id(row)]) for (row,) in self.validation.rows]
            keep_logits(self.folder.path / "logits" / "validation.jsonl", self.labels, held)
            found = self._scored(held)
            write_atomically(self.folder.path / "validation.json", found.model_dump_json(indent=2))
        return result


def score(labels: LabelSet, truth: Sequence[Sequence[int]], logits: Sequence[Sequence[float]]) -> ClassificationResult:
    """Accuracy, precision, recall, F and support from logits, through scikit-learn."""
    from llmtune.metrics.classification import classify, classify_sets

    said = [labels.read(row) for row in logits]
    true = [tuple(labels.labels[place] for place in row) for row in truth]
    if labels.several:
        return classify_sets(true, said, labels.labels)
    return classify([row[0] for row in true], [row[0] for row in said], labels.labels, rule="exact")


def keep_logits(path: Path, labels: LabelSet, held: Sequence[tuple[LabelledRow, list[float]]]) -> None:
    """Write one JSON line a row: its text, its labels, its logits in the order of `labels.json`."""
    path.parent.mkdir(exist_ok=True)
    lines = [
        json.dumps(
            {"text": row.text, "labels": [labels.labels[place] for place in row.target], "logits": list(values)},
            ensure_ascii=False,
        )
        for row, values in held
    ]
    write_atomically(path, "".join(f"{line}\n" for line in lines))
    labels.save(path.parent)


def _weights(labels: LabelSet, counts: Counter[int], rows: int, asked: str | dict[str, float] | None) -> list[float]:
    """The weight of each label. balanced: rows / (labels * rows of the label), as scikit-learn's `class_weight`; with
    several labels a row, rows without the label / rows with it."""
    names = labels.labels
    if asked is None:
        return [1.0] * len(names)
    if isinstance(asked, dict):
        unknown = [name for name in asked if name not in names]
        if unknown:
            raise InvalidJob(
                f"class_weights names {unknown[0]!r}, and the labels are {', '.join(names[:8])}",
                where="provider_options.local.class_weights",
            )
        return [float(asked.get(name, 1.0)) for name in names]
    if labels.several:
        return [(rows - counts[place]) / max(1, counts[place]) or 1.0 for place in range(len(names))]
    present = sum(counts[place] > 0 for place in range(len(names)))
    return [rows / (present * counts[place]) if counts[place] else 1.0 for place in range(len(names))]
