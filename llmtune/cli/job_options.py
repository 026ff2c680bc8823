"""The job of a command: a job file, with single fields changed on the command line."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmtune.cli.completion import complete_job_field, complete_model

if TYPE_CHECKING:
    from llmtune.job.assignments import FieldChange
    from llmtune.job.spec import TuningJob

JOB_PANEL = "Change the job"

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file (YAML or JSON).", show_default=False)]

SetFields = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a field of the job: learning_rate=1e-3, evaluation.max_rows=50. May be repeated.",
        autocompletion=complete_job_field,
        rich_help_panel=JOB_PANEL,
    ),
]
JobName = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Name of the job.", rich_help_panel=JOB_PANEL)
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", min=0, help="Seed of initialisation and row order.", rich_help_panel=JOB_PANEL),
]
LimitRows = Annotated[
    int | None,
    typer.Option(
        "--limit-rows",
        metavar="N",
        min=1,
        help="Use at most this many training rows, the same ones every time.",
        rich_help_panel=JOB_PANEL,
    ),
]
BaseModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Base model, instead of the job's.",
        autocompletion=complete_model,
        rich_help_panel=JOB_PANEL,
    ),
]
#: Endings of files that hold rows and never a job.
_ROWS = (
    ".jsonl",
    ".ndjson",
    ".csv",
    ".tsv",
    ".parquet",
    ".arrow",
    ".txt",
    ".zip",
    ".tar",
    ".gz",
    ".bz2",
    ".xz",
    ".zst",
)


@dataclass(frozen=True)
class JobOptions:
    """What a command line changes of a job; None where an option was not given."""

    fields: list[str] | None = None
    name: str | None = None
    seed: int | None = None
    limit_rows: int | None = None
    model: str | None = None

    def load(
        self, path: Path, command: str, provider: str | None = None, console: Any = None
    ) -> tuple[TuningJob, tuple[FieldChange, ...]]:
        """Load the job file and change it; the changes are shown on `console`, by default standard error.

        Raises `InvalidJob`: the file, a field or a value is wrong, or the file is a dataset.
        """
        from llmtune.cli.output import err
        from llmtune.job.assignments import Assignment, change_job, parse_assignment
        from llmtune.job.spec import TuningJob

        if is_dataset(path):
            path = propose_job(path, command, provider, self.model)
        job = TuningJob.load(path)
        assignments = [parse_assignment(text) for text in self.fields or ()]
        for option, field, value in (
            ("--name", "name", self.name),
            ("--seed", "seed", self.seed),
            ("--limit-rows", "dataset.limit_rows", self.limit_rows),
            ("--model", "model", self.model),
        ):
            if value is not None:
                assignments.append(Assignment(field, value, option))
        if not assignments:
            return job, ()
        job, changes = change_job(job, assignments)
        for change in changes:
            (console or err).print(f"changed: {change.describe()}", markup=False, soft_wrap=True)
        return job, changes


def is_dataset(path: Path) -> bool:
    """Return whether the argument names rows instead of a job: by its ending, or a JSON file that holds a list."""
    if str(path).startswith("hf:/") or path.is_dir() or path.suffix.lower() in _ROWS:
        return True
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def propose_job(path: Path, command: str, provider: str | None, model: str | None) -> Path:
    """Show the job that `llmtune init` would write for a dataset, and write it once that is confirmed.

    Returns the path of the job file.

    Raises:
        InvalidJob: it was declined, or there is no terminal to ask on; the hint is the command to type.
        InvalidData: the dataset cannot be read.
    """
    import shlex

    from llmtune.cli.init import print_reasons, suggest_job
    from llmtune.cli.output import confirm, err
    from llmtune.errors import InvalidJob
    from llmtune.planning.job_template import render_job_template

    data = str(path).replace("hf:/", "hf://", 1) if str(path).startswith("hf:/") else str(path)
    backend = re.split(r"[,:\[]", provider or "local")[0].strip()
    line = f"llmtune init {shlex.quote(data)} --provider {backend}{f' --model {shlex.quote(model)}' if model else ''}"
    refusal = InvalidJob(
        f"{data} is a dataset, not a job file", hint=f"write its job first: {line}; then: llmtune {command} job.yaml"
    )
    if not path.exists() and not data.startswith("hf://"):
        raise InvalidJob(f"{data}: no such file")
    if command != "tune" or "--json" in sys.argv[1:] or not (err.is_terminal and sys.stdin.isatty()):
        raise refusal
    suggestion = suggest_job(data, backend, model)
    file = Path("job.yaml")
    if file.exists():
        file = Path(f"{suggestion.name}.yaml")
    if file.exists():
        raise InvalidJob(
            f"{data} is a dataset, and both job.yaml and {file} exist", hint=f"name one of them, or: {line} --out FILE"
        )
    text = render_job_template(suggestion, relative_to=file.parent)
    print_reasons(suggestion)
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "  #"))]
    err.print("\n" + "\n".join(lines) + "\n", markup=False, soft_wrap=True)
    if not confirm(f"Write this job to {file} and train it at {backend}?"):
        raise refusal
    file.write_text(text, encoding="utf-8")
    err.print(f"wrote {file}", markup=False, soft_wrap=True)
    return file
