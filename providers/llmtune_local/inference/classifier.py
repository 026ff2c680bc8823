"""A tuned encoder in use: it answers with labels and returns the likelihood of each.

The logits behind every answer are written to the run folder (`logits/asked.jsonl`, one JSON line per text), so that
each figure of a report can be computed again without the model.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmtune._safety.private_files import make_private_folder, open_private
from llmtune.data.example import Example
from llmtune.provider import CheckResult, Generation, GenerationRequest
from llmtune_local.inference.base import LocalModel
from llmtune_local.models import encoder
from llmtune_local.models import loading as models
from llmtune_local.models.hardware import resolve_device, set_threads
from llmtune_local.models.hub import LOADING

if TYPE_CHECKING:
    from llmtune_local.models.encoder import LabelledRow, LabelSet

#: Tokens in one forward pass.
_TOKENS = 8192
#: Log-likelihood of a label that the head does not have: finite, so that it can be stored and compared.
IMPOSSIBLE = -1e4
#: Largest difference between stored logits and those of the saved weights that counts as equal.
_SAME = 1e-3


class LocalClassifier(LocalModel):
    """A tuned encoder on this machine, loaded at its first use. Use as a context manager."""

    artefact: Path

    def __init__(self, *, artefact: Path, keep: Path | None = None, **settings: Any) -> None:
        super().__init__(artefact=artefact, **settings)
        self.keep = keep
        self._loaded: tuple[Any, Any, LabelSet, str, int | None] | None = None

    def close(self) -> None:
        """Free the model."""
        self._loaded = None
        gc.collect()

    @property
    def labels(self) -> LabelSet:
        """Return the labels that the logits stand for."""
        return self._load()[2]

    def logits(self, texts: Sequence[str]) -> list[list[float]]:
        """Return logits [texts, labels] in float32; a text longer than the model's context is cut at its end."""
        import torch

        network, tokenizer, labels, device, limit = self._load()
        examples = [Example(messages=encoder.text_to_turns(text)) for text in texts]
        rows: list[LabelledRow] = [
            row
            for row in encoder.read_texts(tokenizer, examples, None, file=None, limit=limit, on_too_long="truncate")
            if row is not None
        ]
        logits_by_text: list[list[float]] = [[] for _ in texts]
        dtype = models.choose_dtype(self.options.dtype, device, self.model, self.revision)
        with torch.no_grad(), torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            for group in encoder.make_batches([len(row.ids) for row in rows], _TOKENS):
                values = encoder.compute_logits(
                    network, [rows[index] for index in group], tokenizer.pad_token_id or 0, device
                )
                for index, row_logits in zip(group, values.cpu().tolist(), strict=True):
                    logits_by_text[index] = row_logits
        self._store_logits(texts, logits_by_text, labels)
        return logits_by_text

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """Answer with the label of the largest logit; with several labels per row, those that reach the threshold,
        joined by commas."""
        began = time.perf_counter()
        logits = self.logits([_request_text(request) for request in requests])
        seconds = (time.perf_counter() - began) / max(1, len(requests))
        return [
            Generation(text=", ".join(self.labels.read(row_logits)), finish_reason="stop", seconds=seconds)
            for row_logits in logits
        ]

    def _load(self) -> tuple[Any, Any, LabelSet, str, int | None]:
        if self._loaded is None:
            with LOADING:
                return self._load_once()
        return self._loaded

    def _load_once(self) -> tuple[Any, Any, LabelSet, str, int | None]:
        if self._loaded is None:
            set_threads(self.options)
            device = resolve_device(self.options.device)
            tokenizer = models.load_tokenizer(str(self.artefact))
            network, labels = encoder.load_tuned(self.model, self.artefact, self.revision, device, tokenizer)
            limit = models.context_length(network.config, tokenizer, None)
            self._loaded = (network, tokenizer, labels, device, limit)
        return self._loaded

    def _store_logits(self, texts: Sequence[str], logits: Sequence[Sequence[float]], labels: LabelSet) -> None:
        if self.keep is None:
            return
        make_private_folder(self.keep.parent)
        labels.save(self.keep.parent)
        lines = [
            json.dumps({"text": text, "logits": list(values)}, ensure_ascii=False)
            for text, values in zip(texts, logits, strict=True)
        ]
        with open_private(self.keep, "ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())


class LocalLabelScorer(LocalClassifier):
    """The same for rows with one label: it also returns the likelihood of each label."""

    def score_labels(self, requests: Sequence[GenerationRequest], labels: Sequence[str]) -> list[list[float]]:
        """Return the log softmax of the logits, [requests][labels]; a label that the head does not have is
        `IMPOSSIBLE`."""
        import torch

        rows = torch.tensor(self.logits([_request_text(request) for request in requests]), dtype=torch.float64)
        chances = torch.log_softmax(rows, dim=-1).tolist()
        column = {label: index for index, label in enumerate(self.labels.labels)}
        return [[row[column[label]] if label in column else IMPOSSIBLE for label in labels] for row in chances]


def classifier(*, artefact: Path, **settings: Any) -> LocalClassifier:
    """Return the tuned encoder in a folder."""
    several = encoder.LabelSet.load(artefact).several
    return (LocalClassifier if several else LocalLabelScorer)(artefact=artefact, **settings)


def logits_agree(generator: LocalClassifier, folder: Path) -> CheckResult | None:
    """Check that the saved weights give the logits that the run stored. None where it stored none."""
    path = folder / "logits" / "validation.jsonl"
    if not path.exists():
        return None
    with path.open(encoding="utf-8") as file:
        stored_rows = [json.loads(line) for line, _ in zip(file, range(20), strict=False)]
    recomputed = generator.logits([stored["text"] for stored in stored_rows])
    worst = max(
        abs(stored_logit - logit)
        for stored, row in zip(stored_rows, recomputed, strict=True)
        for stored_logit, logit in zip(stored["logits"], row, strict=True)
    )
    return CheckResult(
        name="logits kept",
        passed=worst < _SAME,
        says=f"the saved model gives the logits kept of {len(stored_rows)} validation rows, to {worst:.1g}",
    )


def _request_text(request: GenerationRequest) -> str:
    return encoder.extract_text(Example(messages=tuple(request.messages)))
