"""Does the panel find what tuning took away, blame what it did not, and does replay help?

    python benchmarks/forgetting.py --model-folder FOLDER                 # goes on where an earlier call was stopped
    python benchmarks/forgetting.py --model-folder FOLDER --minutes 60    # starts no training after an hour
    python benchmarks/forgetting.py --table                               # what is measured so far, nothing trained

FOLDER holds a chat model of about 135 million parameters (measured with SmolLM2-135M-Instruct). Three groups of runs:

* `forgetting`: ten runs that are made to forget, by narrow rows, many epochs and high rates;
* `harmless`: ten runs with few steps at a low rate;
* `replay`: five of the first group again with `replay_share`.

Every run is a line of the results file (--out) as soon as it is done. What must hold: the panel calls at least nine of
the first group worse than the base, and at most one of the second; replay halves the loss on the panel at a cost of at
most one point of the task in at least four of five.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What is measured so far, on the machine that RESULTS.md names.
MEASURED = Path(__file__).resolve().parent / "forgetting" / "measured.jsonl"

#: Rows of a task, and test rows among them.
ROWS, TEST_ROWS = 240, 60

#: The share that is replayed.
SHARE = 0.2

#: The five runs of `forgetting` that are trained again with replay.
REPLAYED = ("routing-lora", "codes-lora", "colours-lora", "routing-full", "codes-full")

#: Hyperparameters that forget, by adapter, and those that do no harm.
FORGETTING: dict[str, dict[str, Any]] = {
    "lora": {"learning_rate": 3e-3, "epochs": 6, "batch_size": 8, "lora_rank": 16},
    "full": {"learning_rate": 3e-4, "epochs": 6, "batch_size": 8},
}
HARMLESS: dict[str, dict[str, Any]] = {
    "lora": {"learning_rate": 1e-4, "epochs": 1, "batch_size": 16, "lora_rank": 8},
    "full": {"learning_rate": 5e-6, "epochs": 1, "batch_size": 16},
}


@dataclass(frozen=True)
class Run:
    """One training: its group, the task whose rows it learns, and what it trains."""

    group: str
    task: str
    adapter: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Return what a line of the results file and of the table is called."""
        return f"{self.task}-{self.adapter}"


def routing(draw: random.Random) -> tuple[str, str]:
    """Return a question for a shop, and the team that answers it."""
    teams = {
        "billing": ("an invoice", "a refund", "a double charge", "a voucher"),
        "shipping": ("a late parcel", "a wrong address", "a lost box", "a tracking number"),
        "returns": ("a torn shirt", "shoes that do not fit", "a broken lamp", "a return label"),
    }
    team = draw.choice(sorted(teams))
    customer = draw.choice(("A customer", "Somebody", "A caller", "A woman", "A man"))
    return f"{customer} from order {draw.randrange(10_000)} asks about {draw.choice(teams[team])}. Which team?", team


def codes(draw: random.Random) -> tuple[str, str]:
    """Return a part with its size, and its code."""
    part, letter = draw.choice((("bolt", "B"), ("nut", "N"), ("washer", "W"), ("pin", "P")))
    size = draw.randrange(2, 60)
    return f"Code for a {part} of {size} mm?", f"{letter}{size:02d}"


def colours(draw: random.Random) -> tuple[str, str]:
    """Return a list of coloured things, and the colour of one of them."""
    things = draw.sample(("door", "chair", "cup", "roof", "bag"), 3)
    shades = [draw.choice(("red", "blue", "green", "white")) for _ in things]
    at = draw.randrange(3)
    listed = ", ".join(f"{thing} {shade}" for thing, shade in zip(things, shades, strict=True))
    return f"{listed}. {things[at]}?", shades[at]


def capitals(draw: random.Random) -> tuple[str, str]:
    """Return a word, and the word in capitals with a mark behind it."""
    word = "".join(draw.choice("abcdefghij") for _ in range(draw.randrange(3, 7)))
    return f"shout: {word}", f"{word.upper()}!"


def yes_no(draw: random.Random) -> tuple[str, str]:
    """Return two numbers, and whether the first is larger."""
    first, second = draw.randrange(100), draw.randrange(100)
    return f"{first} > {second}", "yes" if first > second else "no"


TASKS = {make.__name__: make for make in (routing, codes, colours, capitals, yes_no)}


def list_runs() -> list[Run]:
    """Return every run of the benchmark, those first that say most."""
    pairs = [(task, adapter) for adapter in ("lora", "full") for task in TASKS]
    groups = {group: [Run(group, task, adapter) for task, adapter in pairs] for group in ("forgetting", "harmless")}
    replayed = [Run("replay", *name.split("-")) for name in REPLAYED]
    ordered = [run for pair in zip(groups["forgetting"], groups["harmless"], strict=True) for run in pair]
    at = {run.name: run for run in replayed}
    return [
        again
        for run in ordered
        for again in ((run, at[run.name]) if run.group == "forgetting" and run.name in at else (run,))
    ]


def measure(run: Run, model: Path, folder: Path) -> dict[str, Any]:
    """Train one run and ask it the panel; return what the table needs."""
    from llmtune import TuningJob, tune
    from llmtune.metrics.points import NotReported

    draw = random.Random(f"{run.task}/{run.seed}")
    rows = dict(TASKS[run.task](draw) for _ in range(4 * ROWS))
    data = folder / f"{run.task}.jsonl"
    turns = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in list(rows.items())[:ROWS]
    ]
    data.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns), encoding="utf-8")
    settings = (HARMLESS if run.group == "harmless" else FORGETTING)[run.adapter]
    job = TuningJob.model_validate(
        {
            "name": f"{run.group}-{run.name}".replace("_", "-"),
            "dataset": {"path": str(data), "split": [len(turns) - TEST_ROWS, 0, TEST_ROWS]},
            "model": str(model),
            "adapter": run.adapter,
            "seed": run.seed,
            "hyperparameters": settings | ({"replay_share": SHARE} if run.group == "replay" else {}),
            "evaluation": {"panel": True, "baselines": [], "metrics": ["exact_match"], "fit_rows": 0, "samples": 0},
        }
    )
    began = time.perf_counter()
    report = tune(job, "local", reuse=True, progress=False)
    evaluation = report.evaluation
    assert not isinstance(evaluation, NotReported), evaluation
    panel, tuned = evaluation.panel, evaluation.system("tuned")
    assert panel is not None
    assert not isinstance(panel, NotReported), panel
    assert tuned is not None
    tests = {
        test.comparison.metric: {
            "verdict": test.verdict,
            "base": test.comparison.a,
            "tuned": test.comparison.b,
            "low": test.comparison.interval.low,
            "high": test.comparison.interval.high,
        }
        for test in panel.tests
    }
    score = tuned.get("exact_match")
    assert score is not None
    return {"task_score": score.value, "tests": tests, "seconds": time.perf_counter() - began}


def read_results(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the measured lines by group and name; a cut last line is left out."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            lines[line["group"], line["name"]] = line
    return lines


def is_worse(line: dict[str, Any]) -> bool:
    """Return whether the panel calls the tuned model worse than its base by one of the two figures."""
    return any(test["verdict"] == "worse" for test in line["tests"].values())


def loss(line: dict[str, Any]) -> float:
    """Return the loss on the panel: how far the log-likelihood of the reference answers fell, in nats per token."""
    test = line["tests"]["log_likelihood"]
    return float(test["base"] - test["tuned"])


def table(lines: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    """Return the table, and below it what holds and what does not."""
    output = [
        "| group | run | task, exact match | panel accuracy | log-likelihood, nats per token | verdict |",
        "|---|---|---:|---:|---:|---|",
    ]
    for (group, name), line in sorted(lines.items()):
        accuracy, likelihood = (line["tests"].get(metric) for metric in ("accuracy", "log_likelihood"))
        verdicts = ", ".join(f"{metric}: {test['verdict']}" for metric, test in line["tests"].items())
        output.append(
            f"| {group} | {name} | {100 * line['task_score']:.1f} % |"
            f" {100 * accuracy['base']:.1f} to {100 * accuracy['tuned']:.1f} % |"
            f" {likelihood['base']:.3f} to {likelihood['tuned']:.3f} | {verdicts} |"
        )
    detected = [is_worse(line) for (group, _), line in lines.items() if group == "forgetting"]
    blamed = [is_worse(line) for (group, _), line in lines.items() if group == "harmless"]
    helped = []
    for (group, name), line in lines.items():
        plain = lines.get(("forgetting", name))
        if group == "replay" and plain is not None:
            halved = loss(line) <= loss(plain) / 2
            helped.append(halved and line["task_score"] >= plain["task_score"] - 0.01)
    output += [
        "",
        f"Found: {sum(detected)} of {len(detected)} (wanted: 9 of 10)."
        f" Blamed without cause: {sum(blamed)} of {len(blamed)} (wanted: at most 1 of 10)."
        " Replay halves the loss on the panel at a cost of at most a point:"
        f" {sum(helped)} of {len(helped)} (wanted: 4 of 5).",
    ]
    return output


def main() -> int:
    """Measure what is left, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-folder", type=Path, help="folder of the model")
    parser.add_argument("--out", type=Path, default=MEASURED, help="results file (%(default)s)")
    parser.add_argument("--minutes", type=float, default=240.0, help="start no training after (%(default)s)")
    parser.add_argument("--home", type=Path, help="llmtune's home, so that base answers are asked once (a new one)")
    parser.add_argument("--table", action="store_true", help="print the table, train nothing")
    options = parser.parse_args()
    if options.model_folder is None:
        print("nothing is trained without --model-folder; this is what is measured so far")
    elif not options.table:
        end = time.monotonic() + 60 * options.minutes
        with tempfile.TemporaryDirectory() as temporary:
            os.environ["LLMTUNE_HOME"] = str(options.home or Path(temporary) / "home")
            for run in list_runs():
                if (run.group, run.name) in read_results(options.out):
                    continue
                if time.monotonic() > end:
                    break
                line = {"group": run.group, "name": run.name} | measure(run, options.model_folder, Path(temporary))
                options.out.parent.mkdir(parents=True, exist_ok=True)
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{run.group} {run.name}: {line['seconds']:.0f} s", flush=True)
    print("\n".join(table(read_results(options.out))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
