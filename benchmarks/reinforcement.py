"""Does reinforcement on this machine teach: digits sorted by the embedded model, after 200 rows of supervised tuning?

    python benchmarks/reinforcement.py                 # three seeds
    python benchmarks/reinforcement.py --seeds 7       # one seed of its own

Each seed has rows of its own: 200 are learned from by `method: sft`, briefly, so that the model knows the form; the run
continues on prompts alone by `method: reinforcement` (GRPO). The grader pays 0.2 for the form (single digits with
blanks between) and the rest by the share of places that hold the right digit. What must hold: a mean reward of at least
0.9 on 100 unseen prompts, greedy, and at most ten minutes of reinforcement on two cores, in all seeds.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmtune import Run

LEAST_REWARD, MOST_SECONDS = 0.9, 600.0

SFT_ROWS, PROMPTS, VALIDATION_ROWS, TEST_ROWS = 200, 1200, 40, 100
SFT_EPOCHS, STEPS, ANSWER_TOKENS = 6, 200, 24

GRADER = {
    "kind": "python",
    "reference": "sorted",
    "source": """\
import re

def grade(row, answer):
    answer = answer.strip()
    if re.fullmatch(r"\\d( \\d)*", answer) is None:
        return 0.0
    right, given = row["sorted"].split(), answer.split()
    places = sum(digit == answered for digit, answered in zip(right, given))
    return 0.2 + 0.8 * (places / max(len(right), len(given)))
""",
}


@dataclass(frozen=True)
class Outcome:
    """Mean rewards on unseen prompts before and after, share of fully right answers after, steps and seconds.

    `sampled` is that of sampled answers before; the others are of greedy ones.
    """

    seed: int
    sampled: float
    before: float
    after: float
    right: float
    steps: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Return whether this seed does what must hold."""
        return self.after >= LEAST_REWARD and self.seconds <= MOST_SECONDS


def make_rows(seed: int, count: int) -> list[dict[str, Any]]:
    """Return different questions of 4 to 7 digits, with their digits sorted."""
    draw = random.Random(seed)
    questions: dict[str, None] = {}
    while len(questions) < count:
        questions["".join(draw.choice("0123456789") for _ in range(draw.randint(4, 7)))] = None
    return [
        {
            "messages": [{"role": "user", "content": f"sort {' '.join(digits)}"}],
            "sorted": " ".join(sorted(digits)),
        }
        for digits in questions
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write rows as JSON lines; return the path as a job names it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def mean_reward(run: Run, rows: list[dict[str, Any]], temperature: float = 0.0) -> tuple[float, float]:
    """Return mean reward and share of fully right answers of a run's model."""
    from llmtune.graders import Answer, GraderProcess, make_grader

    questions = [row["messages"][0]["content"] for row in rows]
    with run.model() as model, GraderProcess(make_grader(GRADER)) as grader:
        answers = model.generate(questions, temperature=temperature, max_tokens=ANSWER_TOKENS, seed=0)
        scores = [
            grader.score(row, Answer(answer.text)).value or 0.0 for row, answer in zip(rows, answers, strict=True)
        ]
    return sum(scores) / len(scores), sum(score == 1 for score in scores) / len(scores)


def run_seed(seed: int, folder: Path) -> Outcome:
    """Tune by rows, then by rewards; measure the model before and after."""
    import llmtune
    from llmtune.job.spec import TuningJob

    rows = make_rows(seed, SFT_ROWS + PROMPTS + VALIDATION_ROWS + TEST_ROWS)
    test, validation = rows[:TEST_ROWS], rows[TEST_ROWS : TEST_ROWS + VALIDATION_ROWS]
    prompts, shown = rows[TEST_ROWS + VALIDATION_ROWS : -SFT_ROWS], rows[-SFT_ROWS:]
    taught = [
        {"messages": [*row["messages"], {"role": "assistant", "content": row["sorted"]}]} for row in (*shown, *test)
    ]
    unevaluated = {"max_rows": 1, "fit_rows": 0, "calibration_rows": 0, "baselines": []}
    common: dict[str, Any] = {"seed": seed, "evaluation": unevaluated}
    data = {
        "train": write_rows(folder / f"sft{seed}.jsonl", taught[:SFT_ROWS]),
        "test": write_rows(folder / f"sft-test{seed}.jsonl", taught[SFT_ROWS:]),
        "split": [1, 0, 0],
    }
    sft = TuningJob.model_validate(
        {
            "name": "sorting-sft",
            "dataset": data,
            "model": "tiny",
            "adapter": "full",
            "hyperparameters": {"epochs": SFT_EPOCHS, "batch_size": 16, "learning_rate": 2e-3},
        }
        | common
    )
    first = llmtune.start(sft, "local")
    first.wait()
    data = {
        "train": write_rows(folder / f"prompts{seed}.jsonl", prompts),
        "validation": write_rows(folder / f"validation{seed}.jsonl", validation),
        "test": write_rows(folder / f"test{seed}.jsonl", test),
    }
    job = TuningJob.model_validate(
        {
            "name": "sorting-grpo",
            "dataset": data,
            "model": f"run:{first.id}",
            "method": "reinforcement",
            "adapter": "full",
            "grader": GRADER,
            "hyperparameters": {"max_steps": STEPS, "batch_size": 8, "learning_rate": 3e-4, "eval_every": 50},
            "provider_options": {"local": {"answer_tokens": ANSWER_TOKENS, "samples_per_prompt": 8}},
        }
        | common
    )
    began = time.monotonic()
    second = llmtune.start(job, "local")
    second.wait()
    seconds = time.monotonic() - began
    steps = max(point.step for point in second.metrics() if point.series == "train/reward")
    sampled, _ = mean_reward(first, test, temperature=1.0)
    before, _ = mean_reward(first, test)
    after, right = mean_reward(second, test)
    return Outcome(seed, sampled, before, after, right, steps, seconds)


def main() -> int:
    """Run the seeds, print the table; return 0 where all seeds do what must hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    outcomes = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["LLMTUNE_HOME"] = home
        print("seed  sampled before  greedy before  after  all right  steps  seconds", flush=True)
        for seed in seeds:
            outcome = run_seed(seed, Path(home))
            outcomes.append(outcome)
            figures = f"{outcome.seed:4}  {outcome.sampled:14.3f}  {outcome.before:13.3f}  {outcome.after:5.3f}"
            print(f"{figures}  {outcome.right:9.0%}  {outcome.steps:5}  {outcome.seconds:7.0f}", flush=True)
    held = sum(outcome.holds for outcome in outcomes)
    print(f"{held} of {len(outcomes)} seeds: at least {LEAST_REWARD} in at most {MOST_SECONDS:.0f} s")
    return 0 if held == len(outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
