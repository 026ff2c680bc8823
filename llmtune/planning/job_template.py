"""`llmtune init`: a commented job file, drawn from what the dataset turns out to be."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from llmtune.job.spec import DatasetSpec


@dataclass(frozen=True)
class Suggestion:
    """What the dataset is, in words, and the job's fields that follow from it."""

    path: Path
    rows: int
    labels: tuple[str, ...]
    method: str
    summary: str


def suggest(path: Path) -> Suggestion:
    """Read a dataset and say what it is. Raises `InvalidData` with the findings when it cannot be trained on."""
    from llmtune.data.dataset import Dataset

    dataset = Dataset.from_spec(DatasetSpec(path=str(path)))
    rows = len(dataset.train) + len(dataset.validation) + len(dataset.test)
    preference = any(example.preference is not None for example in dataset.train)
    labels = tuple(dataset.labels or ())
    kind = "preference rows" if preference else f"rows with {len(labels)} labels" if labels else "rows"
    return Suggestion(
        path=path,
        rows=rows,
        labels=labels,
        method="dpo" if preference else "sft",
        summary=f"{path}: {rows:,} {kind}, split into {len(dataset.train):,} train,"
        f" {len(dataset.validation):,} validation and {len(dataset.test):,} test",
    )


def starter_job(found: Suggestion, *, provider: str, model: str, relative_to: Path) -> str:
    """The text of a job file that `llmtune tune` accepts as it is, with the choices explained beside them."""
    name = re.sub(r"[^A-Za-z0-9-]+", "-", found.path.stem).strip("-").lower() or "my-job"
    path = os.path.relpath(found.path, relative_to)
    epochs = 3 if found.rows >= 500 else 5
    return f"""\
# A fine-tuning job for any backend. `llmtune plan` shows what each of them does with every field;
# docs/hyperparameters.md says what each field means.
name: {name}
dataset: {_quoted(path)}  # {found.rows:,} rows; or {{train: ..., validation: ..., test: ...}}
model: {_quoted(model)}  # or one per provider: {{{provider}: {_quoted(model)}, other: its-own-id}}
method: {found.method}
adapter: lora

hyperparameters:
  epochs: {epochs}
  batch_size: 16
  # learning_rate: 2e-4              # absolute, or ...
  # learning_rate_multiplier: 1.0    # ... a factor on what the backend would choose
  # lora_rank: 16
  # prompt_loss_weight: 0            # 0: learn from the answers alone

# Other values for one backend only:
# overrides:
#   local: {{learning_rate: 1e-3}}

evaluation:
  max_rows: 200                      # test rows asked, of the base and of the tuned model
  # baselines: [base, majority, linear]   # and few_shot, nearest: what tuning has to beat
"""


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_./-]+", text) and not text.startswith("-") else f'"{text}"'
