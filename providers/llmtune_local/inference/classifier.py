"""A tuned encoder in hand: it answers with labels and tells how likely it finds each.

The logits behind every answer are kept in the run folder (`logits/asked.jsonl`, one JSON line a text), so that each
figure of a report can be computed again without the model.
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
from llmtune_local.models.hardware import check_device, set_threads

if TYPE_CHECKING:
    from llmtune_local.models.encoder import LabelledRow, LabelSet

#: Tokens in one forward pass.
_TOKENS = 8192
#: Log-likelihood of a label that the head does not have: finite, so that it can be kept and compared.
IMPOSSIBLE = -1e4
#: Difference between logits kept and logits of the saved weights, up to which they are the same.
_SAME = 1e-3


class LocalClassifier(LocalModel):
    """A tuned encoder on this machine, loaded when it is first asked. Use as a context manager."""

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
        """What the logits stand for."""
        return self._load()[2]

    def logits(self, texts: Sequence[str]) -> list[list[float]]:
        """Logits [texts, labels] in float32; a text longer than the model's context is cut at its end."""
        import torch

        network, tokenizer, labels, device, limit = self._load()
        examples = [Example(messages=encoder.as_turns(text)) for text in texts]
        rows: list[LabelledRow] = [
            row
            for row in encoder.read_texts(tokenizer, examples, None, file=None, limit=limit, on_too_long="truncate")
            if row is not None
        ]
        found: list[list[float]] = [[] for _ in texts]
        dtype = models.choose_dtype(self.options.dtype, device, self.model, self.revision)
        with torch.no_grad(), torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            for group in encoder.batches_of([len(row.ids) for row in rows], _TOKENS):
                values = encoder.logits_of(
                    network, [rows[index] for index in group], tokenizer.pad_token_id or 0, device
                )
                for index, each in zip(group, values.cpu().tolist(), strict=True):
                    found[index] = each
        self._kept(texts, found, labels)
        return found

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """The label of the largest logit; with several labels a row, those that reach the threshold, with commas."""
        began = time.perf_counter()
        found = self.logits([_text(request) for request in requests])
        seconds = (time.perf_counter() - began) / max(1, len(requests))
        return [
            Generation(text=", ".join(self.labels.read(each)), finish_reason="stop", seconds=seconds) for each in found
        ]

    def _load(self) -> tuple[Any, Any, LabelSet, str, int | None]:
        if self._loaded is None:
            set_threads(self.options)
            device = check_device(self.options.device)
            tokenizer = models.load_tokenizer(str(self.artefact))
            network, labels = encoder.load_tuned(self.model, self.artefact, self.revision, device, tokenizer)
            limit = models.context_length(network.config, tokenizer, None)
            self._loaded = (network, tokenizer, labels, device, limit)
        return self._loaded

    def _kept(self, texts: Sequence[str], found: Sequence[Sequence[float]], labels: LabelSet) -> None:
        if self.keep is None:
            return
        make_private_folder(self.keep.parent)
        labels.save(self.keep.parent)
        lines = [
            json.dumps({"text": text, "logits": list(values)}, ensure_ascii=False)
            for text, values in zip(texts, found, strict=True)
        ]
        with open_private(self.keep, "ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())


class LocalLabelScorer(LocalClassifier):
    """The same where a row has one label: it also tells the likelihood of each."""

    def score_labels(self, requests: Sequence[GenerationRequest], labels: Sequence[str]) -> list[list[float]]:
        """log softmax of the logits, [requests][labels]; a label that the head does not have is `IMPOSSIBLE`."""
        import torch

        rows = torch.tensor(self.logits([_text(request) for request in requests]), dtype=torch.float64)
        chances = torch.log_softmax(rows, dim=-1).tolist()
        place = {label: index for index, label in enumerate(self.labels.labels)}
        return [[row[place[label]] if label in place else IMPOSSIBLE for label in labels] for row in chances]


def classifier(*, artefact: Path, **settings: Any) -> LocalClassifier:
    """The tuned encoder in a folder."""
    several = encoder.LabelSet.load(artefact).several
    return (LocalClassifier if several else LocalLabelScorer)(artefact=artefact, **settings)


def logits_agree(generator: LocalClassifier, folder: Path) -> CheckResult | None:
    """The saved weights must give the logits that the run kept. None where it kept none."""
    path = folder / "logits" / "validation.jsonl"
    if not path.exists():
        return None
    with path.open(encoding="utf-8") as file:
        kept = [json.loads(line) for line, _ in zip(file, range(20), strict=False)]
    again = generator.logits([each["text"] for each in kept])
    worst = max(
        abs(one - other)
        for each, row in zip(kept, again, strict=True)
        for one, other in zip(each["logits"], row, strict=True)
    )
    return CheckResult(
        name="logits kept",
        passed=worst < _SAME,
        says=f"the saved model gives the logits kept of {len(kept)} validation rows, to {worst:.1g}",
    )


def _text(request: GenerationRequest) -> str:
    return encoder.text_of(Example(messages=tuple(request.messages)))
