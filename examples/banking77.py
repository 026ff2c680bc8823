"""Tune the embedded base model on banking77: 77 intents of bank customers, 9,000 training rows.

The dataset (Casanueva et al., arXiv:2003.04807, CC BY 4.0) is not part of llmtune. Put it into a folder as chat rows
(user: the query, assistant: the intent) in train.jsonl, validation.jsonl and test.jsonl, and run

    python examples/banking77.py FOLDER [--report banking77.md]

It trains on this machine through the Python API and prints accuracy and macro-F1 of the base and of the tuned model
with 95 % intervals. The report goes where --report says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmtune import DatasetSpec, EvaluationSpec, Hyperparameters, TuningJob, tune


def main() -> None:
    """Train, print the report, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--report", type=Path, help="write the report here (.md, .json or .txt)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    asked = parser.parse_args()
    job = TuningJob(
        name="banking77",
        dataset=DatasetSpec(
            train=str(asked.folder / "train.jsonl"),
            validation=str(asked.folder / "validation.jsonl"),
            test=str(asked.folder / "test.jsonl"),
        ),
        model="tiny",
        hyperparameters=Hyperparameters(
            epochs=asked.epochs,
            batch_size=16,
            learning_rate=asked.learning_rate,
            warmup_ratio=0.05,
            lora_rank=32,
        ),
        evaluation=EvaluationSpec(max_rows=3080),
        seed=0,
    )
    report = tune(job, provider="local")
    print(report.to_text())
    if asked.report:
        report.save(asked.report)


if __name__ == "__main__":
    main()
