"""Train the models of the decisions benchmark, and write how likely they find each label of each row of the pool.

    python benchmarks/decisions/collect.py --data FOLDER --keep FOLDER [--sets banking77,sst2]

A set whose file is in the folder --keep is not trained again; a training that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from first_try.tasks import MissingData

from decisions.sets import SETS, DecisionSet, job_settings, split_rows

#: Probability that stands for 0 of the linear model.
SMALLEST = 1e-12


def main() -> int:
    """Collect what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the published sets")
    parser.add_argument("--keep", type=Path, required=True, help="folder of the run store and of what is collected")
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated (%(default)s)")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    for name in options.sets.split(","):
        collect_once(name, options.data, options.keep)
    return 0


def collect_once(name: str, data: Path | None, keep: Path) -> None:
    """Collect a set where that is not done yet; a set whose files are missing is named."""
    if scores_file(keep, name).exists():
        return
    os.environ["LLMTUNE_HOME"] = str((keep / "home").resolve())
    try:
        collect(SETS[name], data, keep)
    except MissingData as problem:
        print(f"{name} is left out: {problem}", flush=True)


def scores_file(keep: Path, name: str) -> Path:
    """Return the file of a set."""
    return keep / f"{name.replace(' ', '-')}.json"


def collect(decision_set: DecisionSet, data: Path | None, keep: Path) -> None:
    """Train a model, ask it and the linear one every row of the pool, and write the log-likelihoods."""
    import math

    from llmtune import DatasetSpec, EvaluationSpec, Hyperparameters, TuningJob, start
    from llmtune.data.dataset import Dataset
    from llmtune.data.hashing import label_of
    from llmtune.evaluation.cheap_models import predict_probabilities
    from llmtune.evaluation.sampling import build_requests

    train, pool = split_rows(decision_set, data)
    folder = keep / decision_set.name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    for part, rows in (("train", train), ("pool", pool)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{part}.jsonl").write_text(text, encoding="utf-8")
    more: dict[str, Any] = {"split": (1.0, 0.0, 0.0), "on_too_long": "truncate"}
    job = TuningJob(
        name=f"decisions-{folder.name}",
        dataset=DatasetSpec(train=str(folder / "train.jsonl"), **more),
        model=decision_set.model,
        method=decision_set.method,  # type: ignore[arg-type]
        adapter="full",
        hyperparameters=Hyperparameters(**job_settings(decision_set)),
        seed=0,
    )
    began = time.monotonic()
    run = start(job, "local", reuse=True)
    run.wait()
    trained = time.monotonic()
    rows = Dataset.from_spec(
        DatasetSpec(train=str(folder / "train.jsonl"), test=str(folder / "pool.jsonl"), **more),
        method=decision_set.method,  # type: ignore[arg-type]
    )
    labels = list(rows.labels or ())
    requests = build_requests(rows.test, EvaluationSpec(), max_tokens=1, seed=0)
    scores: list[list[float]] = []
    with run.model() as model:
        for first in range(0, len(requests), 200):
            scores += model.generator.score_labels(requests[first : first + 200], labels)  # type: ignore[attr-defined]
    linear = predict_probabilities(rows.train, rows.test, labels)
    assert not isinstance(linear, str), linear
    document = {
        "labels": labels,
        "truth": [labels.index(label_of(row) or "") for row in rows.test],
        "trained_rows": len(rows.train),
        "seconds": round(trained - began),
        "tuned": [[round(value, 4) for value in row] for row in scores],
        "linear": [[round(math.log(max(SMALLEST, value)), 4) for value in row] for row in linear],
    }
    scores_file(keep, decision_set.name).write_text(json.dumps(document), encoding="utf-8")
    right = [
        max(range(len(labels)), key=row.__getitem__) == true
        for row, true in zip(scores, document["truth"], strict=True)
    ]
    print(f"{decision_set.name}: {sum(right) / len(right):.3f} right, {document['seconds']} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
