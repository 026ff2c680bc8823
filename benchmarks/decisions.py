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
import platform
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from decisions import collect
from decisions.sets import SETS

from llmtune.evaluation.decisions import LabelledScores, calibrate
from llmtune.metrics.abstention import choose_threshold
from llmtune.metrics.calibration import SMALLEST, calibration_error_of
from llmtune.metrics.calibrators import Calibrator, normalise_scores
from llmtune.metrics.decisions import assign_options, find_questions, sum_options

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
HEADING = "## Decisions"
#: How to read the table.
READING = """\
Means over the resplits. A pool is the rows that were not trained on; "held" of them are drawn in each resplit to
calibrate on and to choose the thresholds, the others are test rows. "Answered" is the share of the whole pool that is
answered under the promise, 0 where it was refused; "promised" counts the resplits in which it was not; "broken" those
in which more of the pool's answers were wrong than was promised. The held rows are part of the pool, which favours
the promise, most where they are a large part of it."""
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
    text, failed = table(lines)
    print(text)
    if options.write:
        write(text)
    return int(failed)


def figures_of(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of a set, one entry for each question and system; what is not measured yet is measured now."""
    source = collect.scores_file(options.keep, name)
    if not source.exists():
        return []
    document = json.loads(source.read_text(encoding="utf-8"))
    labels = document["labels"]
    questions = find_questions(labels)
    done = source.with_suffix(".resplits.jsonl")
    lines = read_lines(done)
    entries = []
    for question, assigned in zip(questions, assign_options(labels, questions), strict=True):
        truth = np.asarray([assigned[label] for label in document["truth"]])
        for system in ("tuned", "linear"):
            scores = normalise_scores(sum_options(document[system], assigned, len(question.options)))
            for seed in range(options.resplits):
                key = f"{question.name}/{system}/{seed}"
                if key in lines or options.table:
                    continue
                lines[key] = measure(scores, truth, seed)
                with done.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key} | lines[key]) + "\n")
            prefix = f"{question.name}/{system}/"
            measured = [lines[f"{prefix}{seed}"] for seed in range(options.resplits) if f"{prefix}{seed}" in lines]
            entry = {"set": name, "question": question.name, "labels": len(question.options), "system": system}
            if measured:
                entries.append(entry | {"pool": len(truth), "held": held_rows(len(truth))} | summarise(measured))
    return entries


def read_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Read what an earlier call measured; a line that was cut when it was killed is left out."""
    lines = {}
    for text in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        lines[line.pop("key")] = line
    return lines


def held_rows(pool: int) -> int:
    """Return how many rows of a pool a resplit calibrates on."""
    return min(MOST_HELD, 2 * pool // 3)


def measure(scores: np.ndarray, truth: np.ndarray, seed: int) -> dict[str, Any]:
    """Calibrate and promise on one resplit of the pool."""
    order = np.random.default_rng(seed).permutation(len(truth))
    held, test = order[: held_rows(len(truth))], order[held_rows(len(truth)) :]
    calibrator, rated = calibrate(LabelledScores(scores[held].tolist(), truth[held].tolist()))
    before, after = (np.asarray(kind.apply(scores)) for kind in (Calibrator(rows=0), calibrator))
    figures: dict[str, Any] = {"method": calibrator.method}
    for when, probabilities in (("before", before[test]), ("after", after[test])):
        sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth[test]
        error = calibration_error_of(sure.tolist(), right.astype(float).tolist())(np.arange(len(test))[None, :])[0]
        true_shares = np.maximum(probabilities[np.arange(len(test)), truth[test]], SMALLEST)
        figures |= {f"accuracy_{when}": float(right.mean()), f"ece_{when}": float(error)}
        figures[f"loss_{when}"] = float(-np.log(true_shares).mean())
    sure, wrong = after.max(axis=1), after.argmax(axis=1) != truth
    confidences, hits = zip(*rated, strict=True)
    for promised in ERRORS:
        threshold = choose_threshold(confidences, hits, error=promised, confidence=0.95).value
        given = sure >= threshold if threshold is not None else np.zeros(len(truth), dtype=bool)
        figures[f"promised_{promised}"] = threshold is not None
        figures[f"broken_{promised}"] = bool(given.any() and wrong[given].mean() > promised)
        figures[f"answered_{promised}"] = float(given.mean())
    return figures


def summarise(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over the resplits, and how many promises were given and broken."""
    methods = [line["method"] for line in measured]
    names = [f"{name}_{when}" for name in ("accuracy", "ece", "loss") for when in ("before", "after")]
    return {
        "resplits": len(measured),
        "methods": {method: methods.count(method) for method in methods},
        **{name: float(np.mean([line[name] for line in measured])) for name in names},
        "ece_worst": float(np.quantile([line["ece_after"] for line in measured], 0.95)),
        "promised": {error: sum(line[f"promised_{error}"] for line in measured) for error in ERRORS},
        "broken": {error: sum(line[f"broken_{error}"] for line in measured) for error in ERRORS},
        "coverage": {error: float(np.mean([line[f"answered_{error}"] for line in measured])) for error in ERRORS},
    }


def table(entries: list[dict[str, Any]]) -> tuple[str, bool]:
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
            f"{100 * entry['coverage'][error]:.1f}%, {entry['promised'][error]} of {entry['resplits']},"
            f" {entry['broken'][error]}"
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
            f"{where}: a promise of {error:g} is broken in {entry['broken'][error]} of {entry['resplits']}"
            for error in ERRORS
            if entry["broken"][error] > GOAL_BROKEN * entry["resplits"]
        ]
        if SETS[entry["set"]].large:
            if entry["ece_after"] > GOAL_ECE:
                missed.append(f"{where}: calibration error {entry['ece_after']:.3f}")
            if entry["accuracy_after"] < entry["accuracy_before"] - GOAL_LOSS:
                missed.append(f"{where}: accuracy fell")
    measured = {entry["set"] for entry in entries}
    missed += [f"{name} is not measured" for name in SETS if name not in measured]
    goals = (
        f"Goals: calibration error after at most {GOAL_ECE:g} and accuracy not below on the large sets, promises broken"
        f" in at most {100 * GOAL_BROKEN:.0f} % of the resplits: "
    )
    return "\n".join([*lines, "", goals + ("; ".join(missed) or "all met") + "."]), bool(missed)


def write(text: str) -> None:
    """Put the table under its heading in RESULTS.md, in place of an earlier one."""
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, scikit-learn {sklearn.__version__}"
    command = "`python benchmarks/decisions.py --data FOLDER --keep FOLDER`"
    text = f"{command}, {date.today()}, {versions}.\n\n{READING}\n\n{text}"
    before, _, after = RESULTS.read_text(encoding="utf-8").partition(f"{HEADING}\n")
    rest = after[after.index("\n## ") + 1 :] if "\n## " in after else ""
    RESULTS.write_text(f"{before.rstrip()}\n\n{HEADING}\n\n{text}\n" + (f"\n{rest}" if rest else ""), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
