"""Train the demo's two jobs on this machine, offline, and print what came of them: `make demo`.

    python tools/demo.py [--out demo]

Extracting an order as JSON (examples/extraction) is no task for a linear model; routing a ticket (examples/tickets) is,
and the report says so. Both jobs leave every setting to the trainer's defaults.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from llmtune import Report
from llmtune.evaluation.results import EvaluationResult
from llmtune.metrics.points import NotReported
from llmtune.report.format import number, seconds, spread

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"

#: What is measured, in the order of the summary, and how the summary calls it.
SYSTEMS = {
    "tuned": "the tuned model",
    "base": "the same model before tuning",
    "few_shot": "the same model with examples in its prompt",
    "nearest": "copying the answer of the most similar training row",
    "linear": "a linear model (TF-IDF and logistic regression)",
}


def main(argv: list[str] | None = None) -> int:
    """Train both jobs, write both reports and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for rows and reports")
    out = parser.parse_args(argv).out
    orders = out / "extraction"
    shutil.copytree(EXAMPLES / "extraction", orders, dirs_exist_ok=True)
    subprocess.run([sys.executable, "make.py"], cwd=orders, check=True, stdout=subprocess.DEVNULL)
    extraction = tune_job("1 of 2: order extraction", orders, out / "extraction.html")
    routing = tune_job("2 of 2: ticket routing", EXAMPLES / "tickets", out / "routing.html")
    print(summarise(extraction, routing, out), flush=True)
    return 0


def tune_job(title: str, folder: Path, page: Path) -> Report:
    """Run `llmtune tune job.yaml` in a folder with its progress on the terminal; write the report's page, return it."""
    print(f"{title} (llmtune tune job.yaml, in {os.path.relpath(folder)})", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "llmtune", "tune", "job.yaml", "--provider", "local", "--json"]
    result = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        sys.exit(result.returncode)
    report = Report.from_json(result.stdout)
    report.save(page)
    return report


def summarise(extraction: Report, routing: Report, out: Path) -> str:
    """Return the summary of both runs: how often each model is right, beside what costs less."""
    orders, tickets = _evaluation(extraction), _evaluation(routing)
    trained = [t for report in (extraction, routing) if not isinstance(t := report.timing.training, NotReported)]
    return "\n".join(
        (
            "",
            f"Two models were trained here in {seconds(sum(trained))}, with the default settings.",
            "",
            f"1. An order in words becomes JSON. {orders.rows} orders were held out: no training row has",
            "   any two of their values together. The JSON is exactly right in",
            *_shares(orders),
            f"   Single fields are right in {number(orders.systems['tuned']['fields:right'].value, 'share')}."
            f" The whole report: {out / 'extraction.html'}",
            "",
            f"2. A support ticket goes to one of eight teams. {tickets.rows} tickets were held out. The team is right"
            " in",
            *_shares(tickets),
            f"   {_linear_sentence(tickets)} The whole report: {out / 'routing.html'}",
            "",
            "Ask one yourself: .venv/bin/llmtune chat order-extraction \\",
            '  --system "Answer with the order as JSON: name, city, item, count." "Three mugs for Nadia in Porto."',
        )
    )


def _evaluation(report: Report) -> EvaluationResult:
    if isinstance(report.evaluation, NotReported):
        sys.exit(f"{report.identity.job_name} was not evaluated: {report.evaluation.reason}")
    return report.evaluation


def _shares(result: EvaluationResult) -> list[str]:
    """Return a line for each system that answered: how much of the rows it has right, with the interval."""
    lines = []
    for name, title in SYSTEMS.items():
        system = result.system(name)
        if system is not None and (metric := system.get(result.main)) is not None:
            interval = f"95% interval {spread(metric.interval, metric.unit)}"
            lines.append(f"     {number(metric.value, metric.unit):>6}  {title} ({interval})")
    return lines


def _linear_sentence(result: EvaluationResult) -> str:
    comparison = result.comparison(a="linear")
    if comparison is None or comparison.verdict == "better":
        return "Tuning is worth it here."
    return "Where the answer is a label, try a linear model first: it takes a second."


if __name__ == "__main__":
    sys.exit(main())
