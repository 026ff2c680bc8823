"""Encoders with a head for labels: loaded, given an adapter, run for logits, saved and loaded again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmtune.data.example import Message
from llmtune.errors import InvalidData, InvalidJob
from llmtune_local.models import loading as models
from llmtune_local.models.dropout import set_dropouts
from llmtune_local.models.hub import load_config, locate, no_progress_bars, split_adapter
from llmtune_local.models.peft_adapter import is_plain, load_adapter, make_adapter
from llmtune_local.models.targets import select_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch
    from torch import Tensor

    from llmtune.data.example import Example
    from llmtune_local.run_state.schema import RunRequest, TrainingConfig

#: File beside the weights that names the label of each logit.
LABELS_FILE = "labels.json"

#: Modules between the encoder and the logits; they start untrained or nearly so, and are trained completely.
_HEADS = ("classifier", "score", "pooler", "pre_classifier", "head", "classification_head", "out_proj")


class LabelSet(NamedTuple):
    """The labels in the order of the logits; `several`: a row may have any number of them."""

    labels: tuple[str, ...]
    several: bool = False
    threshold: float = 0.5

    def read(self, logits: Sequence[float]) -> tuple[str, ...]:
        """Return the labels that a row's logits stand for.

        The label of the largest logit; with `several`, each whose sigmoid reaches the threshold.
        """
        values = np.asarray(logits, dtype=np.float64)
        if not self.several:
            return (self.labels[int(values.argmax())],)
        chances = 1 / (1 + np.exp(-values))
        return tuple(label for label, chance in zip(self.labels, chances, strict=True) if chance >= self.threshold)

    def save(self, folder: Path) -> None:
        """Write the label set beside the weights."""
        text = json.dumps(self._asdict(), indent=2, ensure_ascii=False)
        (folder / LABELS_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LabelSet:
        """Read the label set of a folder. Raises `InvalidJob` where there is none."""
        try:
            stored = json.loads((folder / LABELS_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InvalidJob(f"the folder {folder} does not say what its labels are", where="model") from None
        return cls(tuple(stored["labels"]), stored["several"], stored["threshold"])


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A text as tokens, and the indices of its labels in the label set."""

    ids: np.ndarray[Any, np.dtype[np.int32]]
    types: np.ndarray[Any, np.dtype[np.int32]]
    target: tuple[int, ...]
    text: str = ""
    cut: bool = False
    """Whether the text was longer."""


def extract_text(example: Example) -> str:
    """Return the text that an encoder reads of a row: every turn before the answer, separated by empty lines."""
    from llmtune.data.formats.instruct import question_of

    return question_of(example)


def text_to_turns(text: str) -> tuple[Message, ...]:
    """Return a text as the turns of a row, so that `extract_text` gives it back."""
    return (Message("user", text),)


def extract_labels(example: Example) -> tuple[str, ...]:
    """Return the row's labels: its `label` field, or its short answer."""
    if isinstance(example.label, tuple):
        return example.label
    return (example.label if example.label is not None else example.completion().strip(),)


def make_label_set(examples: Iterable[Example], declared: Sequence[str] | None, threshold: float) -> LabelSet:
    """Return the label set of the rows: as declared, else sorted.

    Raises `InvalidData` where there are fewer than two labels (with several labels per row: none).
    """
    several = False
    row_labels: set[str] = set()
    for example in examples:
        several = several or isinstance(example.label, tuple)
        row_labels.update(extract_labels(example))
    labels = tuple(declared) if declared is not None else tuple(sorted(row_labels))
    if len(labels) < (1 if several else 2):
        raise InvalidData(
            f"there is one label only, {labels[0]!r}: there is nothing to tell apart"
            if labels
            else "no row has a label"
        )
    return LabelSet(labels, several, threshold)


def read_texts(
    tokenizer: Any,
    examples: Sequence[Example],
    labels: LabelSet | None,
    *,
    file: str | None,
    limit: int | None,
    on_too_long: str,
) -> Iterator[LabelledRow | None]:
    """Yield each row as tokens, truncated at its end where that is allowed; None where it was dropped.

    Raises `InvalidData` with file and line.
    """
    texts = [extract_text(example) for example in examples]
    for start in range(0, len(texts), 256):
        part = texts[start : start + 256]
        encoded = tokenizer(part, verbose=False)["input_ids"]
        cut = tokenizer(part, truncation=True, max_length=limit, return_token_type_ids=True) if limit else None
        for offset, ids in enumerate(encoded):
            example = examples[start + offset]
            if limit is not None and len(ids) > limit:
                if on_too_long == "drop":
                    yield None
                    continue
                if on_too_long == "error":
                    where = _location(file, example, start + offset)
                    raise InvalidData(
                        f"{where}: this row has {len(ids)} tokens and the limit is {limit}",
                        hint="set on_too_long to truncate or drop, or raise max_sequence_length, up to the context",
                    )
            fitted_ids = cut["input_ids"][offset] if cut is not None else ids
            types = cut["token_type_ids"][offset] if cut is not None else [0] * len(fitted_ids)
            yield LabelledRow(
                np.array(fitted_ids, dtype=np.int32),
                np.array(types, dtype=np.int32),
                () if labels is None else _label_indices(example, labels, _location(file, example, start + offset)),
                part[offset],
                cut=len(fitted_ids) < len(ids),
            )


def _location(file: str | None, example: Example, index: int) -> str:
    return f"{file or 'the rows'}:{example.line or index + 1}"


def _label_indices(example: Example, labels: LabelSet, where: str) -> tuple[int, ...]:
    row_labels = extract_labels(example)
    unknown = [label for label in row_labels if label not in labels.labels]
    if unknown:
        raise InvalidData(
            f"{where}: the label {unknown[0]!r} is not in the label set",
            hint="add it to evaluation.labels, or leave that out to take the labels of the dataset",
        )
    if not labels.several and len(row_labels) != 1:
        raise InvalidData(f"{where}: this row has {len(row_labels)} labels where others have one")
    return tuple(sorted(labels.labels.index(label) for label in row_labels))


def check_rows(
    model: str,
    parts: Sequence[Sequence[Example]],
    *,
    source: str | None,
    revision: str | None,
    labels: Sequence[str] | None,
    max_sequence_length: int | None,
    on_too_long: str,
) -> None:
    """Read every row once, as training will. Raises `InvalidData` with file, line and remedy."""
    tokenizer = models.load_tokenizer(model, revision)
    config = load_config(model, revision, "classification")
    limit = models.context_length(config, tokenizer, max_sequence_length)
    label_set = make_label_set((row for rows in parts for row in rows), labels, 0.5)
    for rows in parts:
        for _ in read_texts(tokenizer, rows, label_set, file=source, limit=limit, on_too_long=on_too_long):
            pass


def load_classifier(
    model: str,
    revision: str | None,
    labels: LabelSet,
    *,
    device: str,
    tokenizer: Any,
    recipe: TrainingConfig | None = None,
) -> Any:
    """Load the encoder, in float32 and frozen, with a new head for these labels or the head that is saved with it."""
    import torch
    from transformers import AutoModelForSequenceClassification

    base, _ = split_adapter(model)
    config = load_config(model, revision, "classification")
    config.id2label = dict(enumerate(labels.labels))
    config.label2id = {label: index for index, label in enumerate(labels.labels)}
    config.problem_type = "multi_label_classification" if labels.several else "single_label_classification"
    set_padding_token(config, tokenizer)
    hidden = set_dropouts(config, recipe) if recipe is not None else None
    if hidden is not None:
        raise InvalidJob(f"{config.model_type} models have no place for dropout", where="hyperparameters.dropout")
    network: Any
    try:
        with no_progress_bars(warnings=False):  # a head that is not in the file is made here
            network = AutoModelForSequenceClassification.from_pretrained(
                locate(base),
                config=config,
                revision=revision,
                dtype=torch.float32,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
            )
    except (OSError, ValueError) as problem:
        raise InvalidJob(f"the model {base!r} cannot be loaded: {problem}", where="model") from None
    return network.requires_grad_(False).to(device).eval()


def set_padding_token(config: Any, tokenizer: Any) -> None:
    """Give configuration and tokenizer one padding token: a decoder reads its labels at the last token that is no
    padding.

    Base models often have none; their end of text is used then, as usual. Raises `InvalidJob` where there is neither.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    number = getattr(text, "pad_token_id", None)
    if number is None or number < 0:
        number = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if number is None:
        raise InvalidJob(
            f"the tokenizer of this {config.model_type} model has neither a padding token nor an end of text, so rows"
            " of different length cannot be put side by side",
            where="model",
            hint="set pad_token in its tokenizer_config.json",
        )
    config.pad_token_id = text.pad_token_id = number
    if tokenizer.pad_token_id != number:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(number)


def add_adapter(network: Any, request: RunRequest, report: Callable[[str], None] = lambda _: None) -> Any:
    """Return the model to train: the head and, in the encoder, a new adapter, one to continue with, or all weights."""
    import peft

    recipe = request.hyperparameters
    _, folder = split_adapter(request.model)
    if request.adapter == "full":
        if folder is not None:
            network = peft.PeftModel.from_pretrained(network, folder).merge_and_unload()
        return network.requires_grad_(True)
    if folder is not None:
        return load_adapter(network, request, folder)
    heads = [name for name, _ in network.named_children() if name in _HEADS]
    base = getattr(network, network.base_model_prefix, None)
    if base is not None:
        heads += [name for name, _ in base.named_children() if name in _HEADS]
    targets = select_targets(network, recipe.lora_target_modules, exclude=heads, plain=is_plain(request))
    for note in targets.notes:
        report(note)
    return make_adapter(network, request, targets, task="SEQ_CLS", modules_to_save=heads)


def load_tuned(model: str, artefact: Path, revision: str | None, device: str, tokenizer: Any) -> tuple[Any, LabelSet]:
    """Load a tuned classifier from its folder: an adapter over its base, or a whole model."""
    labels = LabelSet.load(artefact)
    is_full_model = not (artefact / "adapter_config.json").exists()
    source, revision = (str(artefact), None) if is_full_model else (model, revision)
    network = load_classifier(source, revision, labels, device=device, tokenizer=tokenizer)
    if not is_full_model:
        import peft

        network = peft.PeftModel.from_pretrained(network, artefact).merge_and_unload()
    return network.eval(), labels


def make_batches(lengths: Sequence[int], budget: int, count: int | None = None) -> list[list[int]]:
    """Group rows of similar length: `count` groups, or as many as keep each padded area within the budget.

    A row longer than the budget is a group of its own.
    """
    from llmtune_local.batching.packing import group_by_length

    if count is None:
        return group_by_length(lengths, budget)
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    size = -(-len(order) // count)
    return [order[start : start + size] for start in range(0, len(order), size)]


def compute_logits(network: Any, rows: Sequence[LabelledRow], pad: int, device: str) -> Tensor:
    """Return the logits [rows, labels], in float32, of rows that go through the model together."""
    import torch

    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad, dtype=torch.int64)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    types = torch.zeros((len(rows), longest), dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.from_numpy(row.ids.astype(np.int64))
        types[index, : len(row.ids)] = torch.from_numpy(row.types.astype(np.int64))
        mask[index, : len(row.ids)] = 1
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    if getattr(network.config, "type_vocab_size", 0):
        inputs["token_type_ids"] = types.to(device)
    logits: torch.Tensor = network(**inputs).logits
    return logits.float()
