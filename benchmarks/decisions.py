"""Decisions with a promise: calibration and abstention on six sets, for a tuned and for a linear model.

    python benchmarks/decisions.py --data FOLDER --keep FOLDER            # goes on where an earlier call was stopped
    python benchmarks/decisions.py --keep FOLDER --sets tickets --resplits 20
    python benchmarks/decisions.py --keep FOLDER --table --write          # what is measured so far, nothing trained

FOLDER of --data holds the published sets (banking77, SST-2); sets whose files are not there are left out and named. In
the folder --keep is all that takes long: the trained models, how likely they find each label of each row that they were
not trained on (the pool; `decisions/collect.py`), and the figures of each set.

A resplit draws two thirds of the pool, at most 2,000 rows, to calibrate on and to choose the thresholds; the others are
test rows. Calibration is measured on these. A promise is tested on the whole pool: it is broken where, of all rows that
are answered at the chosen threshold, more are wrong than was promised. The large sets are held to three goals:
calibration error at most 0.05, accuracy not below, and a broken promise in at most 8 % of the resplits.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
from decisions import collect
from decisions.sets import SETS

from llmtune.evaluation.decisions import LabelledScores, calibrate
from llmtune.metrics.abstention import choose_threshold
from llmtune.metrics.calibration import calibration_error_of, log_losses
from llmtune.metrics.calibrators import Calibrator
from llmtune.metrics.decisions import assign_options, find_questions, sum_options

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
HEADING = "## Decisions"
#: Promised shares of wrong answers.
ERRORS = (0.05, 0.02)
#: Rows to calibrate on at most.
MOST_HELD = 2000
#: Goals: calibration error after, accuracy lost at most (one row in a thousand), broken promises.
GOAL_ECE, GOAL_LOSS, GOAL_BROKEN = 0.05, 0.001, 0.08


def main() -> int:
    """Collect and measure what is left, and print the table; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the published sets")
    parser.add_argument("--keep", type=Path, required=True, help="folder of models, likelihoods and figures")
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated (%(default)s)")
    parser.add_argument("--resplits", type=int, default=200)
    parser.add_argument("--table", action="store_true", help="print the table, train and measure nothing")
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args()
    names = options.sets.split(",")
    if unknown := [name for name in names if name not in SETS]:
        parser.error(f"there is no set {unknown[0]!r}: {', '.join(SETS)}")
    options.keep.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for name in names:
        if not options.table:
            collect.collect_once(name, options.data, options.keep)
        lines += figures_of(name, options)
    text, failed = table(lines, options.resplits)
    print(text)
    if options.write:
        write(text)
    return int(failed)


def figures_of(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of a set, one entry for each question and system; measured now where they are not there."""
    path = options.keep / f"{name.replace(' ', '-')}-{options.resplits}.figures.json"
    if path.exists():
        stored: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return stored
    source = collect.scores_file(options.keep, name)
    if options.table or not source.exists():
        return []
    document = json.loads(source.read_text(encoding="utf-8"))
    labels = document["labels"]
    questions = find_questions(labels)
    entries = []
    for question, assigned in zip(questions, assign_options(labels, questions), strict=True):
        truth = [assigned[label] for label in document["truth"]]
        for system in ("tuned", "linear"):
            scores = sum_options(document[system], assigned, len(question.options))
            measured = measure(np.asarray(scores), truth, options.resplits)
            entry = {"set": name, "question": question.name, "labels": len(question.options), "system": system}
            entries.append(entry | measured)
            print(json.dumps(entries[-1]), flush=True)
    path.write_text(json.dumps(entries), encoding="utf-8")
    return entries


def measure(scores: np.ndarray, truth: list[int], resplits: int) -> dict[str, Any]:
    """Calibrate and promise on each resplit of the pool."""
    pool = len(truth)
    held_rows = min(MOST_HELD, 2 * pool // 3)
    columns: dict[str, list[float]] = {}
    promised = dict.fromkeys(ERRORS, 0)
    broken = dict.fromkeys(ERRORS, 0)
    answered: dict[float, list[float]] = {error: [] for error in ERRORS}
    methods: dict[str, int] = {}

    def add(name: str, value: float) -> None:
        columns.setdefault(name, []).append(value)

    for seed in range(resplits):
        order = list(range(pool))
        random.Random(seed).shuffle(order)
        held, test = order[:held_rows], order[held_rows:]
        calibrator, rated = calibrate(LabelledScores(scores[held].tolist(), [truth[row] for row in held]))
        methods[calibrator.method] = methods.get(calibrator.method, 0) + 1
        test_truth = [truth[row] for row in test]
        after = calibrator.apply(scores.tolist())
        before = Calibrator(rows=0).apply(scores[test].tolist())
        for when, rows in (("before", before), ("after", [after[row] for row in test])):
            confidences = [max(row) for row in rows]
            right = [float(row.index(max(row)) == true) for row, true in zip(rows, test_truth, strict=True)]
            add(f"accuracy_{when}", sum(right) / len(right))
            add(f"ece_{when}", float(calibration_error_of(confidences, right)(np.arange(len(test))[None, :])[0]))
            add(f"loss_{when}", sum(log_losses(rows, test_truth)) / len(test))
        sure = np.asarray([max(row) for row in after])
        wrong = np.asarray([row.index(max(row)) != true for row, true in zip(after, truth, strict=True)])
        confidences, right = zip(*rated, strict=True)
        for error in ERRORS:
            threshold = choose_threshold(confidences, right, error=error, confidence=0.95).value
            given = sure >= threshold if threshold is not None else np.zeros(pool, dtype=bool)
            promised[error] += threshold is not None
            broken[error] += bool(given.any() and wrong[given].mean() > error)
            answered[error].append(float(given.mean()))
    return {
        "pool": pool,
        "held": held_rows,
        "methods": methods,
        **{name: float(np.mean(values)) for name, values in columns.items()},
        "ece_worst": float(np.quantile(columns["ece_after"], 0.95)),
        "promised": {str(error): promised[error] for error in ERRORS},
        "broken": {str(error): broken[error] for error in ERRORS},
        "coverage": {str(error): float(np.mean(answered[error])) for error in ERRORS},
    }


def table(entries: list[dict[str, Any]], resplits: int) -> tuple[str, bool]:
    """Return the table with its verdict, and whether a goal was missed."""
    lines = [
        "| set | question | pool / held | model | accuracy before, after | calibration error before, after (95 % of"
        " resplits below) | log loss before, after | calibrator | at 5 %: answered, promised, broken | at 2 %:"
        " answered, promised, broken |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    missed = []
    for entry in entries:
        where = f"{entry['set']}, {entry['question']}, {entry['system']}"
        promises = [
            f"{100 * entry['coverage'][str(error)]:.1f}%, {entry['promised'][str(error)]} of {resplits},"
            f" {entry['broken'][str(error)]}"
            for error in ERRORS
        ]
        methods = ", ".join(sorted(entry["methods"], key=lambda method: -entry["methods"][method]))
        cells = [
            entry["set"],
            f"{entry['question']} ({entry['labels']})",
            f"{entry['pool']:,} / {entry['held']:,}",
            entry["system"],
            f"{100 * entry['accuracy_before']:.1f}%, {100 * entry['accuracy_after']:.1f}%",
            f"{entry['ece_before']:.3f}, {entry['ece_after']:.3f} ({entry['ece_worst']:.3f})",
            f"{entry['loss_before']:.3f}, {entry['loss_after']:.3f}",
            methods,
            *promises,
        ]
        lines.append("| " + " | ".join(cells) + " |")
        missed += [
            f"{where}: a promise of {error:g} is broken in {entry['broken'][str(error)]} of {resplits}"
            for error in ERRORS
            if entry["broken"][str(error)] > GOAL_BROKEN * resplits
        ]
        if SETS[entry["set"]].large:
            if entry["ece_after"] > GOAL_ECE:
                missed.append(f"{where}: calibration error {entry['ece_after']:.3f}")
            if entry["accuracy_after"] < entry["accuracy_before"] - GOAL_LOSS:
                missed.append(f"{where}: accuracy fell")
    goals = (
        f"Goals: calibration error after at most {GOAL_ECE:g} and accuracy not below on the large sets, promises broken"
        f" in at most {100 * GOAL_BROKEN:.0f} % of the resplits: "
    )
    return "\n".join([*lines, "", goals + ("; ".join(missed) or "all met") + "."]), bool(missed)


def write(text: str) -> None:
    """Put the table under its heading in RESULTS.md, in place of an earlier one."""
    before, _, after = RESULTS.read_text(encoding="utf-8").partition(f"{HEADING}\n")
    rest = after[after.index("\n## ") + 1 :] if "\n## " in after else ""
    RESULTS.write_text(f"{before.rstrip()}\n\n{HEADING}\n\n{text}\n" + (f"\n{rest}" if rest else ""), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
