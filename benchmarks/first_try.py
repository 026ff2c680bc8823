"""How good the first result is: a job without any hyperparameter against the best of a small sweep, on twelve tasks.

    python benchmarks/first_try.py --data FOLDER                    # goes on where an earlier call was stopped
    python benchmarks/first_try.py --data FOLDER --minutes 20       # starts no training after 20 minutes
    python benchmarks/first_try.py --tasks extraction,memos --seeds 0 --rows 300
    python benchmarks/first_try.py --table                          # what is measured so far, nothing trained
    python benchmarks/first_try.py --model-folder FOLDER            # three tasks with a larger model, too

FOLDER holds the published sets (banking77, SST-2, SNIPS GetWeather, GSM8K, see `first_try/tasks.py`); tasks whose
files are not there are left out and named. At most 1,000 training and 500 test rows a task. For each task:

* the job at defaults (dataset and model, nothing else), one training a seed;
* the sweep of its model (`first_try/settings.py`) with the first seed; the setting with the best score on the
  validation rows is trained with the other seeds;
* baselines: the most frequent answer, and a linear model of TF-IDF (the nearest training row where answers are text).

Every training is a line of the results file (--out) as soon as it is done, and is not made again. A line holds no text
of a published set: only the score of each test row (where the score is macro F1: the labels that were answered). The
verdict: defaults are good on a task where their mean over the seeds is at most two points below the sweep's best, or
where the paired 95 % interval of the difference holds 0.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from first_try.scoring import baselines, difference_interval, row_results, score
from first_try.settings import DEFAULTS, Setting, sweep_of
from first_try.tasks import LARGER, TASKS, MissingData, Row, Split, Task, answer, canonical_calls, split

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
#: What is measured so far, on the machine that RESULTS.md names.
MEASURED = Path(__file__).resolve().parent / "first_try" / "measured.jsonl"
HEADING = "## The first result"
#: What must hold: points that defaults may lie below the sweep's best, and on how many of the tasks they must.
POINTS, GOOD_TASKS = 0.02, 10
BASELINES = "baselines"


@dataclass(frozen=True)
class Training:
    """One training (or the baselines) of one task: what a line of the results file is about."""

    task: Task
    setting: str
    seed: int
    rows: int | None
    test_rows: int | None

    @property
    def key(self) -> str:
        """What tells it from every other training."""
        return json.dumps([self.task.name, self.task.model, self.setting, self.seed, self.rows, self.test_rows])


class Results:
    """The results file: one JSON line for each training that is done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, dict[str, Any]] = {}
        if path.exists():
            for text in path.read_text(encoding="utf-8").split("\n"):
                try:
                    line = json.loads(text)
                except ValueError:  # empty, or cut when the benchmark was killed
                    continue
                self.lines[line["key"]] = line

    def get(self, training: Training) -> dict[str, Any] | None:
        """Return the line of a training, if it is done."""
        return self.lines.get(training.key)

    def add(self, training: Training, line: dict[str, Any]) -> None:
        """Append the line of a training."""
        line = {"key": training.key, "task": training.task.name, "setting": training.setting} | line
        self.lines[training.key] = line
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut = self.path.exists() and self.path.stat().st_size > 0 and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * cut + json.dumps(line, ensure_ascii=False) + "\n")


def main() -> int:
    """Measure what is left, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the published sets")
    parser.add_argument("--out", type=Path, default=MEASURED, help="results file (%(default)s)")
    parser.add_argument("--minutes", type=float, default=180.0, help="start no training after (%(default)s)")
    parser.add_argument("--tasks", help=f"comma-separated, of {', '.join(TASKS)}")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated (%(default)s)")
    parser.add_argument("--rows", type=int, help="training rows a task, at most")
    parser.add_argument("--test-rows", type=int, help="test rows a task, at most")
    parser.add_argument("--model-folder", type=Path, help=f"a larger model's folder, for {', '.join(LARGER)}")
    parser.add_argument("--table", action="store_true", help="print the table, train nothing")
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    tasks = _chosen(options.tasks, options.model_folder, parser)
    results = Results(options.out)
    splits = _splits(tasks, options)
    tasks = [task for task in tasks if task.name in splits]
    if not options.table:
        measure(tasks, splits, seeds, options, results)
    lines = table(tasks, splits, seeds, options, results)
    print("\n" + "\n".join(lines))
    if options.write:
        _write("\n".join(lines))
    return 0


def _chosen(names: str | None, folder: Path | None, parser: argparse.ArgumentParser) -> list[Task]:
    chosen = names.split(",") if names else list(TASKS)
    if unknown := [name for name in chosen if name not in TASKS]:
        parser.error(f"there is no task {unknown[0]!r}: {', '.join(TASKS)}")
    tasks = [TASKS[name] for name in chosen]
    if folder is not None:
        tasks += [
            replace(TASKS[name], name=f"{name} ({folder.name})", model=str(folder.resolve()), train=300, test=200)
            for name in LARGER
            if name in chosen
        ]
    return tasks


def _splits(tasks: list[Task], options: argparse.Namespace) -> dict[str, Split]:
    splits = {}
    for task in tasks:
        try:
            splits[task.name] = split(task, options.data, rows=options.rows, test_rows=options.test_rows)
        except MissingData as problem:
            print(f"{task.name} is left out: {problem}", flush=True)
    return splits


# --- measuring --------------------------------------------------------------------------------------------------------
def measure(
    tasks: list[Task], splits: dict[str, Split], seeds: list[int], options: argparse.Namespace, results: Results
) -> None:
    """Train what is not in the results yet, in an order that gives a whole table early."""
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="llmtune-first-try-") as home:
        os.environ["LLMTUNE_HOME"] = home
        from llmtune import get_provider

        local = get_provider("local")
        with local.warm():  # workers are forked from one process that has the libraries loaded
            for training in _in_order(tasks, seeds, options, results):
                if results.get(training) is not None:
                    continue
                if time.monotonic() > end:
                    print("the time is over; the same call goes on from here", flush=True)
                    return
                line = run(training, splits[training.task.name], Path(home), local)
                results.add(training, line)
                print(f"{training.task.name}, {training.setting}, seed {training.seed}: {_shown(line)}", flush=True)


def _shown(line: dict[str, Any]) -> str:
    names = ("majority", "linear", "score", "validation", "seconds", "error")
    return ", ".join(f"{name} {line[name]:.4g}" if name != "error" else line[name] for name in names if name in line)


def _in_order(tasks: list[Task], seeds: list[int], options: argparse.Namespace, results: Results) -> Iterator[Training]:
    """Yield all trainings: the first seed of everything, then the other seeds of what the sweep has shown best."""
    yield from _first_round(tasks, seeds, options)
    yield from _other_seeds(tasks, seeds, options, results)


def _training(task: Task, setting: str, seed: int, options: argparse.Namespace) -> Training:
    return Training(task, setting, seed, options.rows, options.test_rows)


def _first_round(tasks: list[Task], seeds: list[int], options: argparse.Namespace) -> Iterator[Training]:
    for task in tasks:
        yield _training(task, BASELINES, 0, options)
    for setting in (DEFAULTS, *range(max(len(sweep_of(task.model)) for task in tasks))):
        for task in tasks:
            names = [DEFAULTS] if setting == DEFAULTS else list(sweep_of(task.model))[setting : setting + 1]
            yield from (_training(task, name, seeds[0], options) for name in names)


def _other_seeds(
    tasks: list[Task], seeds: list[int], options: argparse.Namespace, results: Results
) -> Iterator[Training]:
    for seed in seeds[1:]:
        for task in tasks:
            yield _training(task, DEFAULTS, seed, options)
            if (best := best_setting(task, seeds, options, results)) is not None:
                yield _training(task, best, seed, options)


def best_setting(task: Task, seeds: list[int], options: argparse.Namespace, results: Results) -> str | None:
    """Return the sweep's setting with the best score on the validation rows; None until one is measured."""
    measured = {
        name: line["validation"]
        for name in sweep_of(task.model)
        if (line := results.get(_training(task, name, seeds[0], options))) is not None and "validation" in line
    }
    return max(measured, key=lambda name: measured[name]) if measured else None


def run(training: Training, rows: Split, home: Path, local: Any) -> dict[str, Any]:
    """Train as a user would, through the Python API, and ask the tuned model the validation and the test rows."""
    task = training.task
    if training.setting == BASELINES:
        return baselines(task.metric, rows.train, rows.test)
    from llmtune import LlmtuneError, start

    folder = home / "rows"
    for role in ("train", "validation"):
        folder.mkdir(exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in getattr(rows, role))
        (folder / f"{role}.jsonl").write_text(text, encoding="utf-8")
    setting = {} if training.setting == DEFAULTS else sweep_of(task.model)[training.setting]
    began = time.monotonic()
    try:
        tuned = start(_job(task, setting, training.seed, folder, len(rows.train)), local, new=True)
        report = tuned.wait()
        trained = time.monotonic()
        with tuned.model() as model:
            asked = [*rows.validation, *rows.test]
            answers = _answers(model.generator, asked, task.method)
    except LlmtuneError as problem:
        return {"error": str(problem)}
    finally:
        shutil.rmtree(folder)
    held = len(rows.validation)
    expected = [answer(row) for row in asked]
    return {
        "seed": training.seed,
        "validation": score(task.metric, expected[:held], answers[:held]),
        "score": score(task.metric, expected[held:], answers[held:]),
        "seconds": round(trained - began, 1),
        "asking_seconds": round(time.monotonic() - trained, 1),
        "used": {row.field: row.effective for row in report.receipt if row.field in USED},
        "rows": row_results(task.metric, expected[held:], answers[held:]),
    }


#: Fields of the receipt that are kept with a result.
USED = ("adapter", "epochs", "max_steps", "batch_size", "learning_rate", "warmup_ratio", "lora_rank")


def _job(task: Task, setting: Setting, seed: int, folder: Path, rows: int) -> Any:
    from llmtune import DatasetSpec, Hyperparameters, TuningJob

    settings = dict(setting)
    more: dict[str, Any] = {"adapter": settings.pop("adapter")} if "adapter" in settings else {}
    if "max_steps" in settings:  # enough epochs for the steps
        per_epoch = -(-rows // settings["batch_size"])
        settings["epochs"] = -(-settings["max_steps"] // per_epoch)
    if settings:
        more["hyperparameters"] = Hyperparameters(**settings)
    return TuningJob(
        name="first-try",
        dataset=DatasetSpec(
            train=str(folder / "train.jsonl"),
            validation=str(folder / "validation.jsonl"),
            split=(1.0, 0.0, 0.0),
            on_too_long="truncate",
        ),
        model=task.model,
        method=task.method,
        seed=seed,
        **more,
    )


def _answers(generator: Any, rows: list[Row], method: str) -> list[str]:
    """Ask all rows at once; a tool call is answered as canonical JSON, as references are."""
    from llmtune import Message
    from llmtune.provider import GenerationRequest

    # A token is seldom less than one and a half characters, and an answer that does not end is wrong anyway.
    longest = 16 + int(max(len(answer(row)) for row in rows) / 1.5)
    requests = []
    for row in rows:
        turns = [{"role": "user", "content": row["text"]}] if method == "classification" else row["messages"][:-1]
        messages = tuple(Message(role=turn["role"], content=turn["content"]) for turn in turns)
        requests.append(GenerationRequest(messages=messages, tools=tuple(row.get("tools", ())), max_tokens=longest))
    return [
        canonical_calls((call.name, call.arguments) for call in each.tool_calls) if each.tool_calls else each.text
        for each in generator.generate(requests)
    ]


# --- the table --------------------------------------------------------------------------------------------------------
def table(
    tasks: list[Task], splits: dict[str, Split], seeds: list[int], options: argparse.Namespace, results: Results
) -> list[str]:
    """Return the table of what is measured, and the verdict."""
    lines = [
        "| task | model | rows | metric | majority | linear | defaults (seeds) | s | sweep's best (seeds) | s | setting"
        " | difference, 95 % | good |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    good = counted = 0
    for task in tasks:
        verdict, line = _table_line(task, splits[task.name], seeds, options, results)
        lines.append(line)
        if verdict is not None and task.name in TASKS:
            counted += 1
            good += verdict
    lines += [
        "",
        f"Defaults within {100 * POINTS:.0f} points of the sweep's best, or the paired interval contains 0: "
        f"**{good} of {counted}** tasks (wanted: {GOOD_TASKS} of {len(TASKS)}).",
    ]
    return lines


def _table_line(
    task: Task, rows: Split, seeds: list[int], options: argparse.Namespace, results: Results
) -> tuple[bool | None, str]:
    """Return whether defaults are good (None: not measured yet) and the line."""
    cheap = results.get(_training(task, BASELINES, 0, options)) or {}
    best = best_setting(task, seeds, options, results)
    ours = _measured(task, DEFAULTS, seeds, options, results)
    theirs = _measured(task, best, seeds, options, results) if best else {}
    cells = [
        task.name,
        task.model if task.name in TASKS else Path(task.model).name,
        f"{len(rows.train)} / {len(rows.test)}",
        task.metric.replace("_", " "),
        *(_percent(cheap[name]) if name in cheap else "" for name in ("majority", "linear")),
        *_score_cells(ours),
        *_score_cells(theirs),
        best or "",
    ]
    verdict = None
    both = sorted(set(ours) & set(theirs))
    if both:
        difference, low, high = difference_interval(
            task.metric,
            [answer(row) for row in rows.test],
            [ours[seed]["rows"] for seed in both],
            [theirs[seed]["rows"] for seed in both],
        )
        verdict = difference >= -POINTS or low <= 0 <= high
        cells += [f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})", "yes" if verdict else "no"]
    else:
        cells += ["", ""]
    return verdict, "| " + " | ".join(cells) + " |"


def _measured(
    task: Task, setting: str, seeds: list[int], options: argparse.Namespace, results: Results
) -> dict[int, dict[str, Any]]:
    found = {seed: results.get(_training(task, setting, seed, options)) for seed in seeds}
    return {seed: line for seed, line in found.items() if line is not None and "rows" in line}


def _score_cells(lines: dict[int, dict[str, Any]]) -> list[str]:
    if not lines:
        return ["", ""]
    scores = [line["score"] for line in lines.values()]
    # None where other work ran beside it: the score stands, the time says nothing.
    times = [line["seconds"] for line in lines.values() if line["seconds"] is not None]
    seconds = f"{sum(times) / len(times):.0f}" if times else ""
    spread = f" ({', '.join(_percent(value) for value in scores)})" if len(scores) > 1 else ""
    return [_percent(sum(scores) / len(scores)) + spread, seconds]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _write(text: str) -> None:
    """Put the table under its heading in RESULTS.md, in place of an earlier one."""
    before, _, after = RESULTS.read_text(encoding="utf-8").partition(f"{HEADING}\n")
    rest = after[after.index("\n## ") + 1 :] if "\n## " in after else ""
    RESULTS.write_text(f"{before.rstrip()}\n\n{HEADING}\n\n{text}\n" + (f"\n{rest}" if rest else ""), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
